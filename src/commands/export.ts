// `export`: the disk of an instance, or what it was at a snapshot, as a file of its own.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { failed, UsageError } from "../failure.ts";
import { type DiskFormat, NativeFailure, unwrap } from "../native.ts";
import { findSnapshot } from "../state/snapshots.ts";
import type { Store } from "../state/store.ts";
import { humanSize } from "../text/human-size.ts";
import { sentence } from "../text/sentences.ts";
import { parseDiskFormat } from "./hardware.ts";
import { copyProgress } from "./progress.ts";
import {
  displayed,
  ensureUnused,
  hintLines,
  programName,
  splitTarget,
  tellHint,
  withStore,
} from "./store.ts";

export default new Command("export")
  .usage("[options] <instance>[.<snapshot>] <file>")
  .description("Write the disk of a stopped instance to a new file, whole and without snapshots.")
  .option("--format <format>", "What the file is to be: qcow2 (default) or raw", parseDiskFormat)
  .option("--keep-snapshots", "Write the snapshots, too; not in raw")
  .operand("instance.snapshot", "The instance, or one of its snapshots")
  .operand("file", "The file to make; one that exists is not replaced")
  .example("export web-1 web-1.qcow2", "The disk as it is now")
  .example("export web-1.clean disk.img --format raw", "The disk as it was, raw")
  .action(({ options, operands }, context) => {
    const [target, file, ...others] = operands;
    if (target === undefined || file === undefined) throw new UsageError(sentence("export.names"));
    if (others.length > 0) throw new UsageError(sentence("arguments.too-many"));
    const { format = "qcow2", keepSnapshots } = options;
    const { instance, snapshot } = splitTarget(target);
    if (keepSnapshots && (format === "raw" || snapshot !== undefined)) {
      throw new UsageError(sentence("export.keep"));
    }
    const order = { instance, snapshot, file, format, keepSnapshots };
    return withStore(
      "export",
      context,
      (store) => {
        exportDisk(store, order, context);
        return 0;
      },
      { "in-use": () => sentence("export.in-use", programName(context)) },
    );
  });

interface Order {
  instance: string;
  snapshot: string | undefined;
  file: string;
  format: DiskFormat;
  keepSnapshots: boolean;
}

function exportDisk(store: Store, order: Order, context: Context): void {
  const { instance, snapshot, file } = order;
  const listed = store.living(instance);
  const view = store.view(listed);
  const selection = snapshot === undefined ? {} : { fromSnapshot: findSnapshot(view, snapshot).id };
  ensureUnused(store, [listed]);
  const { strategy, reason, copiedBytes } = write(view.diskPath, selection, order, context);
  const source = snapshot === undefined ? instance : `${instance}.${snapshot}`;
  const copied = humanSize(copiedBytes);
  displayed(context, sentence("export.exported", { source, file, strategy, copied }));
  if (strategy === "copy" && reason !== undefined) {
    tellHint(context, sentence("export.not-shared", { reason }));
  }
}

function write(
  source: string,
  selection: { fromSnapshot?: string },
  { file, format, keepSnapshots }: Order,
  context: Context,
): { strategy: string; reason?: string | undefined; copiedBytes: number } {
  const { native } = context;
  using progress = copyProgress(context, source);
  try {
    if (format === "raw") {
      return unwrap(
        native.imageConvert(
          { source, sourceFormat: "qcow2", ...selection, target: file, targetFormat: "raw" },
          ({ doneBytes, ...rest }) => progress.show({ copiedBytes: doneBytes, ...rest }),
        ),
      );
    }
    const { clones } = unwrap(
      native.imageClone(
        { source, targets: [file], strategy: "auto", keepSnapshots, ...selection },
        progress.show,
      ),
    );
    return clones[0]!;
  } catch (error) {
    throw asFailure(error, file);
  }
}

/** What went wrong with the new file; what did with the instance stays as it is. */
function asFailure(error: unknown, file: string): unknown {
  if (!(error instanceof NativeFailure) || error.failure.path !== file) return error;
  const { failure } = error;
  const message = sentence("export.failed", { file, reason: failure.reason });
  return failed("export", message, hintLines(failure));
}
