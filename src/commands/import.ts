// `import`: a disk that somebody has becomes an instance.
//
// The disk is copied, or its blocks are shared, into a stage. One that is moved is linked into the
// stage, so that it is never in there alone: its own name goes after the commit, and only if the
// file is still what was imported. A crash in between leaves two names of one file; the same
// command again removes the one outside.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { failed, UsageError } from "../failure.ts";
import { type DiskFormat, type ImageInfo, NativeFailure, unwrap } from "../native.ts";
import { newRecord } from "../state/identity.ts";
import { isName } from "../state/names.ts";
import { DISK } from "../state/paths.ts";
import type { Store } from "../state/store.ts";
import { humanSize } from "../text/human-size.ts";
import { sentence } from "../text/sentences.ts";
import { parseCpus, parseDiskFormat, parseMemory } from "./hardware.ts";
import { copyProgress } from "./progress.ts";
import { displayed, hintLines, tellHint, warn, withStore } from "./store.ts";

export default new Command("import")
  .usage("[options] <file>")
  .description(
    `Make an instance of a disk. The file stays as it is, unless it is to be moved.

A qcow2 image keeps its snapshots, and becomes version 3 if it is older. What is not
on the disk does not come along: firmware variables, other disks, how it was run.`,
  )
  .option("-n, --name <name>", "The name of the instance. Default: the name of the file")
  .option(
    "--format <format>",
    "What the file is: qcow2 (default) or raw; it is never guessed",
    parseDiskFormat,
  )
  .option("--move", "Take the file itself into the store")
  .option(
    "--flatten",
    "Open the files that the image is backed by, and take the content of all of them",
  )
  .option("-c, --cpus <number>", "Number of CPUs to allocate. Minimum: 1, default: 1.", parseCpus)
  .option(
    "-m, --memory <size>",
    "Amount of memory to allocate. Minimum: 128M, default: 1G.",
    parseMemory,
  )
  .operand("file", "The disk to import")
  .example("import web-1.qcow2", "An instance called web-1")
  .example("import disk.img --format raw --name db", "A raw disk")
  .example("import overlay.qcow2 --flatten", "An image with backing files, made whole")
  .action(({ options, operands }, context) => {
    const [file, ...others] = operands;
    if (file === undefined) throw new UsageError(sentence("import.file"));
    if (others.length > 0) throw new UsageError(sentence("arguments.too-many"));
    const { name = nameOf(file), format = "qcow2", cpus = 1, memory = 2 ** 30 } = options;
    const { move, flatten } = options;
    if (options.name === undefined && !isName(name)) {
      throw failed("import", sentence("import.no-name", { file }), [
        sentence("hint", { text: sentence("import.name-it") }),
      ]);
    }
    const order = { file, name, format, isMove: move, flatten, cpus, memoryBytes: memory };
    return withStore("import", context, (store) => {
      importDisk(store, order, context);
      return 0;
    });
  });

interface Order {
  file: string;
  name: string;
  format: DiskFormat;
  isMove: boolean;
  flatten: boolean;
  cpus: number;
  memoryBytes: number;
}

/** How the disk came in. */
interface Arrival {
  how: "link" | "reflink" | "copy";
  reason?: string | undefined;
  copiedBytes: number;
  isUpgraded?: boolean | undefined;
  /** Snapshots of the file that the instance does not have. */
  lostSnapshots?: number;
  /** The files that were read, the disk first. */
  opened: readonly string[];
}

function importDisk(store: Store, order: Order, context: Context): void {
  const { file, name, isMove, cpus, memoryBytes } = order;
  if (isMove && finishMove(store, order, context)) return;
  using stage = store.reserve([name]);
  const target = stage.diskPath(name);
  let arrival: Arrival;
  let stamp: string | undefined;
  try {
    if (isMove) stamp = mark(store, order, context);
    arrival = bringIn(store, order, target, context);
  } catch (error) {
    throw asFailure(error, order, target);
  }
  const origin = { kind: "import", source: file } as const;
  const record = newRecord(store.maker(), { name, cpus, memoryBytes, origin });
  const { how, copiedBytes } = arrival;
  stage.write(name, record, { event: { operation: "import", file, how, copiedBytes } });
  stage.commit();
  displayed(context, sentence("import.imported", { instance: name }));
  tell(arrival, context);
  if (stamp !== undefined) removeSource({ path: file, stamp }, arrival, context);
}

/** Ends a move that was interrupted: the instance is there, and its disk is this very file. */
function finishMove(store: Store, order: Order, context: Context): boolean {
  const { file, name } = order;
  const there = store.find(name);
  if (there === undefined || there.id !== undefined || !there.isLinked) return false;
  const path = `${store.root}/${there.directory}/${DISK}`;
  const { report } = context.native.fileStamp({ path });
  const source = context.native.fileStamp({ path: file });
  if (report === undefined || report.stamp !== source.report?.stamp) return false;
  let stamp: string;
  try {
    stamp = mark(store, order, context);
  } catch (error) {
    throw asFailure(error, order, path);
  }
  displayed(context, sentence("import.imported", { instance: name }));
  removeSource({ path: file, stamp }, { how: "link", copiedBytes: 0, opened: [file] }, context);
  return true;
}

/** What tells later that the file still is what was imported. One of the store has its place. */
function mark(store: Store, { file }: Order, { native }: Context): string {
  const { path, stamp } = unwrap(native.fileStamp({ path: file }));
  if (path.startsWith(`${store.root}/`)) throw refused(file, sentence("import.within"));
  return stamp;
}

/** Gets the disk to `target`, by the shortest way that makes it whole, qcow2 and version 3. */
function bringIn(store: Store, order: Order, target: string, context: Context): Arrival {
  const { file, format, isMove, flatten } = order;
  if (format === "raw") return convert(order, target, context);
  const info = unwrap(context.native.imageInfo({ path: file }));
  if (info.backingFile !== undefined) {
    if (!flatten) throw backed(order, info.backingFile);
    const lostSnapshots = info.snapshotCount;
    if (isMove && lostSnapshots > 0) {
      throw refused(file, sentence("import.loses", { count: lostSnapshots }));
    }
    return { ...convert(order, target, context), lostSnapshots };
  }
  if (isMove && isSound(info) && link(store, file, target, context)) {
    return { how: "link", copiedBytes: 0, opened: [file] };
  }
  return copy(order, target, context);
}

/** Whether the store can have the file itself; what else there is, the core refuses or mends. */
function isSound({ compat, dirty, corrupt, dataFile }: ImageInfo): boolean {
  return compat === "1.1" && !dirty && !corrupt && dataFile === undefined;
}

function convert({ file, format, flatten }: Order, target: string, context: Context): Arrival {
  using progress = copyProgress(context, file);
  const { strategy, reason, copiedBytes, opened } = unwrap(
    context.native.imageConvert(
      { source: file, sourceFormat: format, flatten, target, targetFormat: "qcow2" },
      ({ doneBytes, ...rest }) => progress.show({ copiedBytes: doneBytes, ...rest }),
    ),
  );
  return { how: strategy, reason, copiedBytes, opened };
}

function copy({ file }: Order, target: string, context: Context): Arrival {
  using progress = copyProgress(context, file);
  const { clones } = unwrap(
    context.native.imageClone(
      { source: file, targets: [target], strategy: "auto", keepSnapshots: true, upgrade: true },
      progress.show,
    ),
  );
  const { strategy: how, reason, copiedBytes, upgraded: isUpgraded } = clones[0]!;
  return { how, reason, copiedBytes, isUpgraded, opened: [file] };
}

/** Whether the file itself is in the stage now; not if it lies on another file system. */
function link(store: Store, file: string, target: string, { native }: Context): boolean {
  const path = target.slice(store.root.length + 1);
  const { failure } = native.storeLink({ root: store.root, source: file, target: path });
  if (failure?.code === "cannot-share") return false;
  if (failure !== undefined) throw new NativeFailure(failure);
  return true;
}

/** Says what is not as the user might think. */
function tell(arrival: Arrival, context: Context): void {
  const { how, reason, copiedBytes, isUpgraded, lostSnapshots = 0, opened } = arrival;
  const { stderr } = context;
  if (how === "copy" && reason !== undefined) {
    tellHint(context, sentence("clone.copied", { copied: humanSize(copiedBytes), reason }));
  }
  if (isUpgraded === true) tellHint(context, sentence("import.upgraded"));
  if (opened.length > 1) {
    const files = opened.map((file) => stderr.name(file)).join(", ");
    tellHint(context, sentence("import.opened", { files }));
  }
  if (lostSnapshots > 0) {
    tellHint(context, sentence("import.left-snapshots", { count: lostSnapshots }));
  }
}

/** The instance is there; whatever becomes of the file, nothing is lost. */
function removeSource(
  source: { path: string; stamp: string },
  { how }: Arrival,
  context: Context,
): void {
  const { failure } = context.native.fileRemove(source);
  if (failure === undefined) return;
  const { path } = source;
  const { stderr } = context;
  warn(context, sentence("import.left", { path, reason: failure.reason }));
  for (const line of hintLines(failure)) stderr.write(`${stderr.name(line)}\n`);
  if (how === "link") tellHint(context, sentence("import.one-file", { path }));
}

function backed({ file }: Order, backing: string): Error {
  const lines = [sentence("hint", { text: sentence("import.flatten-it") })];
  return refused(file, sentence("import.backed", { backing }), lines);
}

function refused(file: string, reason: string, lines: readonly string[] = []): Error {
  return failed("import", sentence("import.failed", { file, reason }), lines);
}

function asFailure(error: unknown, { file, format }: Order, target: string): unknown {
  if (!(error instanceof NativeFailure)) return error;
  const { failure } = error;
  const { code, path = file, reason } = failure;
  if (code === "wrong-format" && format === "qcow2" && path === file) {
    const lines = [sentence("hint", { text: sentence("import.raw-it") })];
    return refused(file, sentence("import.not-qcow2"), lines);
  }
  // A file behind the one that was named; but not the one that nobody will see.
  const isOther = path !== file && path !== target;
  const text = isOther ? sentence("store.failure", { path, reason }) : reason;
  return refused(file, text, hintLines(failure));
}

/** `web-1` of `/srv/web-1.qcow2`. */
function nameOf(file: string): string {
  const base = file.slice(file.lastIndexOf("/") + 1);
  return base.replace(/\.(qcow2|img|raw)$/i, "");
}
