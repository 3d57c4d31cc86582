// `create`: an instance with an empty disk, to be installed on.

import { Command } from "../command/command.ts";
import { UsageError } from "../failure.ts";
import { newRecord } from "../state/identity.ts";
import { sentence } from "../text/sentences.ts";
import { parseCpus, parseDisk, parseMemory } from "./hardware.ts";
import { displayed, unwrapStaged, withStore } from "./store.ts";

/** As qemu-img makes images by itself. */
const LAYOUT = {
  clusterSize: 65_536,
  compat: "1.1",
  refcountBits: 16,
  lazyRefcounts: false,
  extendedEntries: false,
  compressionType: "zlib",
} as const;

export default new Command("create")
  .usage("[options] <name> --disk <size>")
  .description(
    `Create an instance with an empty disk, to be installed on: \`{program} path\` says
where it is.`,
  )
  .option(
    "-d, --disk <size>",
    "Disk space to allocate. Positive integers, in bytes, or decimals, with K, M, G suffix",
    parseDisk,
  )
  .option("-c, --cpus <number>", "Number of CPUs to allocate. Minimum: 1, default: 1.", parseCpus)
  .option(
    "-m, --memory <size>",
    "Amount of memory to allocate. Minimum: 128M, default: 1G.",
    parseMemory,
  )
  .operand("name", "The name of the instance")
  .example("create web-1 --disk 20G", "An empty disk of 20 GiB")
  .example("create db --disk 100G --cpus 4 --memory 8G", "With what it should run on")
  .action(({ options, operands }, context) => {
    const [name, ...others] = operands;
    if (name === undefined) throw new UsageError(sentence("create.name"));
    if (others.length > 0) throw new UsageError(sentence("arguments.too-many"));
    const { disk, cpus = 1, memory = 2 ** 30 } = options;
    if (disk === undefined) throw new UsageError(sentence("create.disk"));
    return withStore("create", context, (store) => {
      using stage = store.reserve([name]);
      const path = stage.diskPath(name);
      const created = context.native.imageCreate({ path, size: disk, ...LAYOUT });
      const { virtualSize: diskBytes } = unwrapStaged(created, [path]);
      const origin = { kind: "create" } as const;
      const record = newRecord(store.maker(), { name, cpus, memoryBytes: memory, origin });
      stage.write(name, record, { event: { operation: "create", diskBytes } });
      stage.commit();
      displayed(context, sentence("create.created", { instance: name }));
      return 0;
    });
  });
