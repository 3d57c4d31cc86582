// `image snapshot`: the snapshots inside an image, in `qemu-img snapshot`'s words; renaming is
// ours.

import { Command } from "../../command/command.ts";
import type { Context } from "../../context.ts";
import { CommandError, UsageError } from "../../failure.ts";
import {
  type OnChange,
  type Reply,
  type SnapshotListReport,
  type SnapshotReport,
  unwrap,
} from "../../native.ts";
import { snapshotHeading, snapshotRows } from "../../text/snapshots.ts";
import { attempt, sayWaiting } from "./failure.ts";
import {
  FORCE_SHARE_HELP,
  FORMAT_HELP,
  NO_WAIT_HELP,
  noImageOptions,
  noObjects,
  oneFile,
  requireQcow2,
} from "./options.ts";

const OPERATIONS = new Set(["list", "create", "apply", "delete", "rename"]);

export default new Command("image snapshot", "getopt")
  .usage(
    "[-l] [-q] [-f qcow2] [-U] FILE",
    "-c NAME [-q] [-f qcow2] [--no-wait] FILE",
    "-a NAME [--drop-bitmaps] [-q] [-f qcow2] [--no-wait] FILE",
    "-d NAME [-q] [-f qcow2] [--no-wait] FILE",
    "--rename OLD NEW [-q] [-f qcow2] [--no-wait] FILE",
  )
  .description(
    `List, take, apply, delete and rename the snapshots inside an image.

Each change happens completely or not at all, whatever interrupts it.`,
  )
  .option("-l, --list", "List the snapshots (the default)")
  .option("-c, --create <name>", "Take a snapshot of what the disk holds now")
  .option(
    "-a, --apply <name>",
    "Make the disk hold what it held at the snapshot of this ID or, if there is none, this name; " +
      "what it holds now is lost unless it is in a snapshot",
  )
  .option(
    "--drop-bitmaps",
    "With -a, give up the image's dirty bitmaps, which would be wrong afterwards (an addition to " +
      "qemu-img, which refuses)",
  )
  .option("-d, --delete <name>", "Delete the snapshot of this name")
  .option(
    "--rename <old>",
    "Give the snapshot of this ID or, if there is none, this name the name NEW (an addition to " +
      "qemu-img)",
  )
  .option("-q, --quiet", "Accepted as by qemu-img; there is nothing to be quiet about")
  .option("-f, --format <format>", FORMAT_HELP)
  .option("-U, --force-share", `${FORCE_SHARE_HELP} (only with -l)`)
  .option("--no-wait", `${NO_WAIT_HELP} (only with changes)`)
  .refuse("--object <objdef>", noObjects)
  .refuse("--image-opts", noImageOptions)
  .operand("NEW", "With --rename, the new name")
  .operand("FILE", "The image")
  .example("image snapshot -c before-upgrade disk.qcow2", "Take a snapshot")
  .example("image snapshot disk.qcow2", "List what there is")
  .example("image snapshot -a before-upgrade disk.qcow2", "Go back to it")
  .example("image snapshot --rename before-upgrade v1 disk.qcow2", "Call it v1")
  .action(({ options, given, operands }, context) => {
    if (given.filter((name) => OPERATIONS.has(name)).length > 1) {
      const renaming = given.includes("rename") ? ", '--rename'" : "";
      throw new UsageError(`Cannot mix '-l', '-a', '-c', '-d'${renaming}`);
    }
    const { create, apply, delete: remove, rename, noWait, dropBitmaps } = options;
    const [newName, ...rest] = operands;
    if (rename !== undefined && (newName === undefined || rest.length !== 1)) {
      throw new UsageError("Expecting a new name and one image file name");
    }
    const path = oneFile(rename === undefined ? operands : rest);
    requireQcow2(options.format, path);
    const writes = given.some((name) => name !== "list" && OPERATIONS.has(name));
    if (writes && options.forceShare) {
      throw new CommandError(
        `Could not open '${path}': force-share=on can only be used with read-only images`,
      );
    }
    if (noWait && !writes) {
      throw new UsageError("Cannot use '--no-wait' without '-c', '-a', '-d' or '--rename'");
    }

    if (dropBitmaps && apply === undefined) {
      throw new UsageError("Cannot use '--drop-bitmaps' without '-a'");
    }

    const { native } = context;
    const change = changing(context, path);
    if (create !== undefined) {
      const { sec: dateSec, nsec: dateNsec } = context.now();
      const request = { path, name: create, dateSec, dateNsec, noWait };
      return change(`create snapshot '${create}'`, (event) =>
        native.snapshotCreate(request, event),
      );
    }
    if (apply !== undefined) {
      const request = { path, selector: apply, noWait, dropBitmaps };
      return change(`apply snapshot '${apply}'`, (event) => native.snapshotApply(request, event));
    }
    if (remove !== undefined) {
      const request = { path, selector: remove, noWait };
      return change(`delete snapshot '${remove}'`, (event) =>
        native.snapshotDelete(request, event),
      );
    }
    if (rename !== undefined) {
      const request = { path, selector: rename, name: newName!, noWait };
      return change(`rename snapshot '${rename}' to '${newName}'`, (event) =>
        native.snapshotRename(request, event),
      );
    }
    const { stdout } = context;
    let hasBegun = false;
    const show = ({ snapshots }: SnapshotListReport): void => {
      const heading = hasBegun ? "" : snapshotHeading(snapshots.length);
      hasBegun = true;
      stdout.write(heading + snapshotRows(snapshots, stdout.name));
    };
    const request = { path, forceShare: options.forceShare };
    const last = attempt(context, () => unwrap(native.snapshotList(request, show)), {
      path,
      sentence: ({ reason }) => `Could not list snapshots: ${reason}`,
    });
    show(last);
    return 0;
  });

/** Makes a change to the image at `path`; silent when it succeeds, as qemu-img is. */
function changing(context: Context, path: string) {
  const { stderr } = context;
  return (what: string, operation: (event: OnChange) => Reply<SnapshotReport>): number => {
    const { commit } = attempt(context, () => unwrap(operation(sayWaiting(context, path))), {
      path,
      sentence: ({ reason }) => `Could not ${what}: ${reason}`,
    });
    if (commit.punchFailure !== undefined) {
      const reason = stderr.name(commit.punchFailure);
      stderr.write(`hint: the freed space still belongs to the file: ${reason}\n`);
    }
    if (commit.recountFailure !== undefined) {
      const reason = stderr.name(commit.recountFailure);
      stderr.write(`hint: the freed space comes back with the next change: ${reason}\n`);
    }
    return 0;
  };
}
