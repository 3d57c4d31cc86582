// `clone`: standalone replicas of an instance, one or many, all of them or none.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { UsageError } from "../failure.ts";
import type { CloneInfo, CloneProgress, ImageCloneRequest } from "../native.ts";
import { replica } from "../state/identity.ts";
import { numberedNames } from "../state/names.ts";
import { findSnapshot, type InstanceView, type SnapshotView } from "../state/snapshots.ts";
import type { Stage } from "../state/stage.ts";
import type { Store } from "../state/store.ts";
import { humanSize } from "../text/human-size.ts";
import { sentence } from "../text/sentences.ts";
import { shownSnapshots } from "./entries.ts";
import { copyProgress } from "./progress.ts";
import { warnOfSnapshot } from "./reading.ts";
import { displayed, programName, tellHint, unwrapStaged, withStore } from "./store.ts";

export default new Command("clone")
  .usage("[options] <source_name>")
  .description("Create an independent copy of an existing (stopped) instance.")
  .option(
    "-n, --name <destination-name>",
    "An optional custom name for the cloned instance. The name must follow the usual validity " +
      'rules (see "help launch"). Default: "<source_name>-cloneN", where N is the Nth cloned ' +
      "instance.",
  )
  .addition(
    "--count <number>",
    "How many clones to make; with `--name web` they are called web-1, web-2 and so on",
    parseCount,
  )
  .addition(
    "--strategy <strategy>",
    "How: share blocks or else copy (auto, the default), share them or fail (reflink), or copy",
    parseStrategy,
  )
  .addition("--from-snapshot <snapshot>", "Clone what the instance was at this snapshot")
  .addition("--keep-snapshots", "Give the clones the snapshots of the source, too")
  .operand("source_name", "The name of the source instance to be cloned")
  .example("clone web-1", "One clone, called web-1-clone1")
  .example("clone web-1 --name worker --count 20", "Twenty: worker-1 to worker-20")
  .example("clone web-1 --from-snapshot clean", "A clone of what it was")
  .action(({ options, operands }, context) => {
    const [source, ...others] = operands;
    if (source === undefined) throw new UsageError(sentence("clone.name"));
    if (others.length > 0) throw new UsageError(sentence("clone.too-many-arguments"));
    if (options.fromSnapshot !== undefined && options.keepSnapshots) {
      throw new UsageError(sentence("clone.snapshots"));
    }
    const { name, count = 1, strategy = "auto", fromSnapshot, keepSnapshots } = options;
    const order = { source, name, count, strategy, fromSnapshot, keepSnapshots };
    return withStore(
      "clone",
      context,
      (store) => {
        makeClones(store, order, context);
        return 0;
      },
      {
        "in-use": () => sentence("clone.in-use", programName(context)),
        "invalid-name": (refusal) => sentence("clone.invalid-name", refusal),
      },
    );
  });

interface Order {
  source: string;
  name: string | undefined;
  count: number;
  strategy: ImageCloneRequest["strategy"];
  fromSnapshot: string | undefined;
  keepSnapshots: boolean;
}

function makeClones(store: Store, order: Order, context: Context): void {
  const { source } = order;
  const names = countClones(store, order);
  using stage = store.reserve(names);
  const { original, snapshot, clones } = copyDisk(store, order, stage, context);
  const maker = store.maker();
  const snapshots = order.keepSnapshots ? "keep" : "drop";
  const used = shownSnapshots(original).filter(
    (shown) => order.keepSnapshots || shown.snapshot === snapshot,
  );
  for (const shown of used) warnOfSnapshot(source, shown, context);
  for (const [index, name] of names.entries()) {
    const clone = replica(original, maker, {
      name,
      snapshots,
      ...(snapshot === undefined ? {} : { snapshot }),
    });
    const { strategy, copiedBytes } = clones[index]!;
    const event = { operation: "clone", source, strategy, copiedBytes };
    stage.write(name, clone.record, { event, snapshots: clone.snapshots });
  }
  stage.commit();
  for (const target of names) displayed(context, sentence("clone.cloned", { source, target }));
  if (order.strategy === "auto") tellOfCopies(clones, context);
}

/**
 * The names of the clones; the source has counted them. Nobody who can be refused is refused later:
 * a clone that fails leaves a gap in the names.
 */
function countClones(store: Store, { source, name, count, fromSnapshot }: Order): string[] {
  using change = store.change(source);
  change.ensureStopped();
  if (fromSnapshot !== undefined) findSnapshot(change.view, fromSnapshot);
  if (name === undefined) return change.nameClones(count);
  const names = numberedNames(name, count);
  store.ensureFree(names);
  change.countClones(count);
  return names;
}

/**
 * Copies the disk, and says of which instance: of one moment, because the source is ours until the
 * core has its image. From then on others may change it again, or clone it, as soon as the image
 * lets them.
 */
function copyDisk(
  store: Store,
  order: Order,
  stage: Stage,
  context: Context,
): { original: InstanceView; snapshot: SnapshotView | undefined; clones: readonly CloneInfo[] } {
  const { source, strategy, fromSnapshot, keepSnapshots } = order;
  using change = store.change(source);
  change.ensureStopped();
  const original = change.view;
  const snapshot = fromSnapshot === undefined ? undefined : findSnapshot(original, fromSnapshot);
  const targets = stage.names.map((name) => stage.diskPath(name));
  const content = snapshot === undefined ? { keepSnapshots } : { fromSnapshot: snapshot.id };
  using shown = copyProgress(context, original.diskPath);
  const progress = (now: CloneProgress): void => {
    if (now.waitingFor === undefined) change[Symbol.dispose]();
    shown.show(now);
  };
  const request = { source: original.diskPath, targets, strategy, ...content };
  const reply = context.native.imageClone(request, progress);
  // Somebody came between our look and the core's: who it is, is worth more than that.
  if (reply.failure?.code === "in-use") change.ensureStopped();
  const { clones } = unwrapStaged(reply, targets);
  return { original, snapshot, clones };
}

/** A copy takes time and space that sharing would not: said, with the reason. */
function tellOfCopies(clones: readonly CloneInfo[], context: Context): void {
  const copies = clones.filter(({ strategy }) => strategy === "copy");
  const reason = copies.find((copy) => copy.reason !== undefined)?.reason;
  if (reason === undefined) return;
  const bytes = copies.reduce((sum, { copiedBytes }) => sum + copiedBytes, 0);
  tellHint(context, sentence("clone.copied", { copied: humanSize(bytes), reason }));
}

function parseCount(value: string): number {
  if (/^[1-9]\d{0,5}$/.test(value)) return Number(value);
  throw new UsageError(sentence("clone.count", { value }));
}

function parseStrategy(value: string): ImageCloneRequest["strategy"] {
  if (value === "auto" || value === "reflink" || value === "copy") return value;
  throw new UsageError(sentence("clone.strategy", { value }));
}
