// `image clone`: copies of an image that share its blocks where the file system can. Ours.

import { Command } from "../../command/command.ts";
import type { Context } from "../../context.ts";
import { UsageError } from "../../failure.ts";
import {
  type CloneInfo,
  type CloneReport,
  type Failure,
  type ImageCloneRequest,
  unwrap,
} from "../../native.ts";
import { formatJson } from "../../text/json.ts";
import { formatSize } from "../../text/size.ts";
import { copyProgress } from "../progress.ts";
import { attempt } from "./failure.ts";
import {
  FORMAT_HELP,
  NO_WAIT_HELP,
  noImageOptions,
  noObjects,
  OUTPUT_HELP,
  parseOutput,
  QUIET_HELP,
  refusal,
  requireQcow2,
} from "./options.ts";

export default new Command("image clone", "getopt")
  .usage(
    "[-q] [-f qcow2] [--strategy auto|reflink|copy] [--from-snapshot NAME | --keep-snapshots] " +
      "[--output human|json] [--no-wait] SOURCE TARGET...",
  )
  .description(
    `Make clones of an image that nobody writes to. All of them are made, or none.

Where the file system can do that, a clone shares the blocks of its source
until one of them is changed; otherwise it is a copy of what the source uses,
and the reason is printed. A target that exists is never replaced.`,
  )
  .option("-q, --quiet", QUIET_HELP)
  .option("-f, --format <format>", FORMAT_HELP)
  .option(
    "--strategy <strategy>",
    "How: share blocks or else copy (auto, the default), share them or fail (reflink), or copy",
    parseStrategy,
  )
  .option(
    "--from-snapshot <name>",
    "Clone what the disk held at the snapshot of this ID or, if there is none, this name",
  )
  .option("--keep-snapshots", "Give the clones the snapshots of the source, too")
  .option("--output <format>", OUTPUT_HELP, parseOutput)
  .option("--no-wait", NO_WAIT_HELP)
  .refuse(
    "-U, --force-share",
    refusal("--force-share", "a clone of a disk that somebody writes to would be torn"),
  )
  .refuse("--object <objdef>", noObjects)
  .refuse("--image-opts", noImageOptions)
  .operand("SOURCE", "The image to clone")
  .operand("TARGET", "The files to make")
  .example("image clone disk.qcow2 copy.qcow2", "One clone")
  .example("image clone base.qcow2 web-1.qcow2 web-2.qcow2 web-3.qcow2", "Three at once")
  .example("image clone --from-snapshot v1 disk.qcow2 old.qcow2", "The disk as it was")
  .example("image clone --output json disk.qcow2 copy.qcow2", "Say it for a program")
  .action(({ options, operands }, context) => {
    const [source, ...targets] = operands;
    if (source === undefined || targets.length === 0) {
      throw new UsageError("Expecting an image file name and at least one target");
    }
    if (options.fromSnapshot !== undefined && options.keepSnapshots) {
      throw new UsageError("Cannot mix '--from-snapshot' and '--keep-snapshots'");
    }
    requireQcow2(options.format, source);
    const { fromSnapshot, keepSnapshots, strategy = "auto", noWait } = options;
    const report = cloneWithProgress(
      {
        source,
        targets,
        strategy,
        keepSnapshots,
        ...(fromSnapshot === undefined ? {} : { fromSnapshot }),
        noWait,
      },
      context,
    );
    if (!options.quiet) {
      const text = options.output === "json" ? asJson(report) : asText(report, context);
      context.stdout.write(
        text,
        targets.length > 1 ? "the clones were made" : "the clone was made",
      );
    }
    if (strategy === "auto" && !options.quiet) sayWhatWouldShare(report, context);
    return 0;
  });

function parseStrategy(text: string): ImageCloneRequest["strategy"] {
  if (text === "auto" || text === "reflink" || text === "copy") return text;
  throw new UsageError(`--strategy expects 'auto', 'reflink' or 'copy' not '${text}'`);
}

function cloneWithProgress(request: ImageCloneRequest, context: Context): CloneReport {
  const { source } = request;
  using progress = copyProgress(context, source, formatSize);
  return attempt(context, () => unwrap(context.native.imageClone(request, progress.show)), {
    path: source,
    sentence: (failure) =>
      `Cannot clone ${content(request)}${destination(failure, source)}: ${failure.reason}`,
  });
}

/** What was to be cloned. */
function content({ source, fromSnapshot }: ImageCloneRequest): string {
  return fromSnapshot === undefined ? `"${source}"` : `snapshot "${fromSnapshot}" of "${source}"`;
}

/** The target that a failure is about, if it is about one; the source may be named as one, too. */
function destination({ code, path }: Failure, source: string): string {
  const isTarget = code === "target-exists" || path !== source;
  return path !== undefined && isTarget ? ` to "${path}"` : "";
}

function asJson({ source, clones }: CloneReport): string {
  return formatJson({
    source,
    clones: clones.map((clone) => ({
      target: clone.target,
      strategy: clone.strategy,
      reason: clone.reason,
      "copied-bytes": clone.copiedBytes,
      "shared-bytes": clone.sharedBytes,
      "backing-filename": clone.backingFile,
    })),
  });
}

function asText({ clones }: CloneReport, { stdout }: Context): string {
  const lines = clones.map((clone) => `${stdout.name(clone.target)}: ${summary(clone, stdout)}\n`);
  return lines.join("");
}

function summary(clone: CloneInfo, { name }: Context["stdout"]): string {
  const { strategy, reason, copiedBytes, sharedBytes, backingFile } = clone;
  const how = reason === undefined ? strategy : `${strategy} (${reason})`;
  const isShared = sharedBytes !== undefined && (sharedBytes > 0 || strategy === "reflink");
  return [
    how,
    ...(isShared ? [`${formatSize(sharedBytes)} shared`] : []),
    `${formatSize(copiedBytes)} copied`,
    ...(backingFile === undefined ? [] : [`backing file: ${name(backingFile)}`]),
  ].join(", ");
}

/** Said once, when something had to be copied that could have been shared elsewhere. */
function sayWhatWouldShare({ clones }: CloneReport, { stderr }: Context): void {
  if (clones.some(({ strategy, reason }) => strategy === "copy" && reason !== undefined)) {
    stderr.write(
      "hint: source and targets on one XFS or btrfs file system would share their blocks\n",
    );
  }
}
