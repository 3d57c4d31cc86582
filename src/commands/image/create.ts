// `image create`: an empty image, announced and refused as `qemu-img create` does it.

import { Command } from "../../command/command.ts";
import { CommandError, UsageError } from "../../failure.ts";
import { type Failure, unwrap } from "../../native.ts";
import { parseSize } from "../../text/size.ts";
import { sayWaiting, translate } from "./failure.ts";
import {
  checkLayout,
  isOptionList,
  type Layout,
  layoutHelp,
  readLayout,
  splitOptions,
} from "./layout.ts";
import { isOtherFormat, NO_WAIT_HELP, noObjects, QUIET_HELP, refusal } from "./options.ts";

const noBacking = refusal("--backing", "images with a backing file cannot be created yet");

export default new Command("image create", "getopt")
  .usage("[-q] [-f qcow2] [-o OPTIONS] [--no-wait] FILE [SIZE]", "-o help")
  .description("Create an empty image. A file that exists is overwritten, unless it is in use.")
  .option("-q, --quiet", QUIET_HELP)
  .option("-f, --format <format>", "The format of the image; only qcow2, which is the default")
  .option<"-o, --options <options>", string[]>(
    "-o, --options <options>",
    "Options of the format, as NAME=VALUE,NAME=VALUE: cluster_size, compat, compression_type, " +
      "extended_l2, lazy_refcounts, refcount_bits, size; `help` lists them",
    (text, previous = []) => {
      if (!isOptionList(text)) throw new CommandError(`Invalid option list: ${text}`);
      return [...previous, text];
    },
  )
  .option("--no-wait", NO_WAIT_HELP)
  .refuse("-b, --backing <file>", noBacking)
  .refuse("-F, --backing-format <format>", noBacking)
  .refuse("-u, --backing-unsafe", noBacking)
  .refuse("--object <objdef>", noObjects)
  .operand("FILE", "The image to create")
  .operand(
    "SIZE",
    "The size of the disk, unless `-o size=SIZE` gives it; b, k, M, G, T, P and E are powers of " +
      "1024, 1.5G works",
  )
  .example("image create disk.qcow2 20G", "An empty disk of 20 GiB")
  .example("image create -o cluster_size=2M disk.qcow2 4T", "A large one, with larger clusters")
  .action(({ options, operands }, context) => {
    const { native, stdout } = context;
    const layoutOptions = (options.options ?? []).flatMap(splitOptions);
    if (layoutOptions.some(([name]) => name === "help" || name === "?")) {
      stdout.write(layoutHelp());
      return 0;
    }
    const [file, sizeText, ...others] = operands;
    if (file === undefined) throw new UsageError("Expecting image file name");
    const size = sizeText === undefined ? undefined : readSize(sizeText);
    if (others[0] !== undefined) throw new UsageError(`Unexpected argument: ${others[0]}`);
    requireCreatable(options.format ?? "qcow2", file);
    const layout = readLayout(layoutOptions, file);
    if (size !== undefined && layout.size !== undefined) {
      throw new CommandError(`${file}: The image size must be specified only once`);
    }
    const disk = size ?? layout.size;
    if (disk === undefined) {
      throw new CommandError(`${file}: Image creation needs a size parameter`);
    }
    if (!options.quiet) stdout.write(announcement(stdout.name(file), layout, disk, stdout.name));
    const checked = checkLayout(layout, file);
    if (disk > LARGEST) throw new CommandError(`${file}: ${TOO_LARGE}`);
    const request = { path: file, size: Number(disk), ...checked, noWait: options.noWait };
    translate(
      context,
      () => unwrap(native.imageCreate(request, sayWaiting(context, file))),
      file,
      (failure) => ({ message: `${file}: ${createReason(failure, file)}` }),
    );
    return 0;
  });

/** The largest size that crosses to the core, in whole sectors: 8 PiB. */
const LARGEST = BigInt(Number.MAX_SAFE_INTEGER - 511);

const TOO_LARGE =
  "The image size is too large for file format 'qcow2' (try using a larger cluster size)";

function readSize(text: string): bigint {
  const size = parseSize(text);
  if (size === "syntax") throw new CommandError(`Invalid image size specified: '${text}'.`);
  if (size === "range" || size >= 1n << 63n) {
    throw new CommandError(
      "Invalid image size specified. Must be between 0 and 9223372036854775807.",
    );
  }
  return size;
}

function requireCreatable(format: string, file: string): void {
  if (format === "qcow2") return;
  throw new CommandError(
    isOtherFormat(format)
      ? `${file}: Only qcow2 images can be created, not ${format}`
      : `${file}: Unknown file format '${format}'`,
  );
}

/** What qemu-img says before it tries anything. */
function announcement(
  file: string,
  layout: Layout,
  size: bigint,
  show: (text: string) => string,
): string {
  const escaped = (text: string): string => show(text.replaceAll(",", ",,"));
  const fields = [
    "fmt=qcow2",
    `cluster_size=${BigInt.asIntN(64, layout.clusterSize)}`,
    `extended_l2=${layout.extendedEntries}`,
    `compression_type=${escaped(layout.compressionType)}`,
    `size=${BigInt.asIntN(64, size)}`,
    ...(layout.compat === undefined ? [] : [`compat=${escaped(layout.compat)}`]),
    `lazy_refcounts=${layout.lazyRefcounts}`,
    `refcount_bits=${layout.refcountBits}`,
  ];
  return `Formatting '${file}', ${fields.join(" ")}\n`;
}

/** What the system refuses is the creation. */
function createReason({ code, stage, reason }: Failure, file: string): string {
  const refused = ["not-found", "permission-denied", "read-only", "no-space", "io"].includes(code);
  return stage === "open" && refused && !reason.startsWith("Could not")
    ? `Could not create '${file}': ${reason}`
    : reason;
}
