// `image check`: whether the tables of an image agree, as `qemu-img check` reports it.

import { Command } from "../../command/command.ts";
import type { Context } from "../../context.ts";
import { CommandError, UsageError } from "../../failure.ts";
import { type CheckReport, unwrap } from "../../native.ts";
import { formatJson, type Json } from "../../text/json.ts";
import { percentage } from "../../text/number.ts";
import { attempt } from "./failure.ts";
import {
  FORCE_SHARE_HELP,
  FORMAT_HELP,
  noImageOptions,
  noObjects,
  oneFile,
  OUTPUT_HELP,
  parseOutput,
  QUIET_HELP,
  refusal,
  requireQcow2,
} from "./options.ts";

/** The status for what cannot be checked at all. */
const NOT_SUPPORTED = 63;

export default new Command("image check", "getopt")
  .usage("[-q] [-f qcow2] [-U] [--output human|json] FILE")
  .description(
    `Check an image for errors. Nothing is written.

The exit status says what was found:

  0   no errors
  1   the check was not completed
  2   corruptions: data may be damaged
  3   leaked clusters: space is wasted, data is not in danger
  63  the image cannot be checked`,
  )
  .option("-q, --quiet", QUIET_HELP)
  .option("-f, --format <format>", FORMAT_HELP)
  .option("-U, --force-share", FORCE_SHARE_HELP)
  .option("--output <format>", OUTPUT_HELP, parseOutput)
  .refuse(
    "-r, --repair <what>",
    refusal("--repair", "repairing is left to `qemu-img check -r`", NOT_SUPPORTED),
    requireRepair,
  )
  .refuse("-T, --cache <mode>", refusal("--cache", "a check has no cache modes"))
  .refuse("--object <objdef>", noObjects)
  .refuse("--image-opts", noImageOptions)
  .operand("FILE", "The image")
  .example("image check disk.qcow2", "Check a disk that nobody uses")
  .example("image check -q disk.qcow2 && echo clean", "Ask in a script")
  .action(({ options, operands }, context) => {
    const file = oneFile(operands);
    if (options.format === "raw") {
      throw new CommandError("This image format does not support checks", {
        status: NOT_SUPPORTED,
      });
    }
    requireQcow2(options.format, file, NOT_SUPPORTED);
    const { forceShare } = options;
    const report = attempt(
      context,
      () => unwrap(context.native.imageCheck({ path: file, forceShare })),
      {
        path: file,
        sentence: ({ reason }) => `Check failed: ${reason}`,
        status: ({ code, stage }) =>
          code === "unsupported-feature" && stage === "operation" ? NOT_SUPPORTED : 1,
      },
    );
    sayProblems(report, context);
    if (!options.quiet) {
      const json = options.output === "json";
      context.stdout.write(json ? formatJson(asJson(report, file)) : asText(report));
    }
    if (report.checkErrors > 0) return 1;
    if (report.corruptions > 0) return 2;
    return report.leaks > 0 ? 3 : 0;
  });

/** What qemu-img does not know either is a mistake in the command line. */
function requireRepair(text: string): void {
  if (text === "leaks" || text === "all") return;
  throw new UsageError(`--repair (-r) expects 'leaks' or 'all' not '${text}'`);
}

function sayProblems(report: CheckReport, { stderr }: Context): void {
  const lines = report.problems.map((problem) => stderr.name(problem));
  if (report.problemsOmitted > 0) lines.push(`... and ${report.problemsOmitted} more problems`);
  if (report.checkErrors > 0) lines.push("error: Check failed");
  if (lines.length > 0) stderr.write(`${lines.join("\n")}\n`);
}

function asText(report: CheckReport): string {
  const { corruptions, leaks, checkErrors, allocatedClusters, totalClusters } = report;
  const lines: string[] = [];
  if (corruptions > 0) {
    lines.push(
      "",
      `${corruptions} errors were found on the image.`,
      "Data may be corrupted, or further writes to the image may corrupt it.",
    );
  }
  if (leaks > 0) {
    lines.push(
      "",
      `${leaks} leaked clusters were found on the image.`,
      "This means waste of disk space, but no harm to data.",
    );
  }
  if (checkErrors > 0) {
    lines.push("", `${checkErrors} internal errors have occurred during the check.`);
  }
  if (lines.length === 0) lines.push("No errors were found on the image.");
  if (allocatedClusters > 0 && totalClusters > 0) {
    const shares = [
      `${allocatedClusters}/${totalClusters} = ${percentage(allocatedClusters, totalClusters)}% allocated`,
      `${percentage(report.fragmentedClusters, allocatedClusters)}% fragmented`,
      `${percentage(report.compressedClusters, allocatedClusters)}% compressed clusters`,
    ];
    lines.push(shares.join(", "));
  }
  lines.push(`Image end offset: ${report.imageEndOffset}`, "");
  return lines.join("\n");
}

/** The keys stand in qemu-img's order; most are there only when they are not 0. */
function asJson(report: CheckReport, file: string): Json {
  return {
    "image-end-offset": report.imageEndOffset,
    "compressed-clusters": unlessZero(report.compressedClusters),
    "total-clusters": unlessZero(report.totalClusters),
    corruptions: unlessZero(report.corruptions),
    "check-errors": report.checkErrors,
    leaks: unlessZero(report.leaks),
    "allocated-clusters": unlessZero(report.allocatedClusters),
    filename: file,
    format: "qcow2",
    "fragmented-clusters": unlessZero(report.fragmentedClusters),
  };
}

function unlessZero(count: number): number | undefined {
  return count === 0 ? undefined : count;
}
