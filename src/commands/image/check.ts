// `image check`: whether the tables of an image agree, as `qemu-img check` reports it; and with
// `-r`, putting right what does not.

import { Command } from "../../command/command.ts";
import type { Context } from "../../context.ts";
import { CommandError, UsageError } from "../../failure.ts";
import { type CheckReport, type RepairKind, type RepairReport, unwrap } from "../../native.ts";
import { checkStatus, checkText, omissions, repairText } from "../../text/check.ts";
import { formatJson, type Json } from "../../text/json.ts";
import { sayLines } from "../problems.ts";
import { attempt, sayWaiting } from "./failure.ts";
import {
  FORCE_SHARE_HELP,
  FORMAT_HELP,
  NO_WAIT_HELP,
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
  .usage(
    "[-q] [-f qcow2] [-U] [--output human|json] FILE",
    "-r leaks|all [-q] [-f qcow2] [--no-wait] [--output human|json] FILE",
  )
  .description(
    `Check an image for errors; without -r, nothing is written.

What -r repairs changes in one step: whatever interrupts it leaves the image as
it was, or repaired. No data is changed; entries that lead nowhere stay errors.

The exit status says what was found, after a repair what is left:

  0   no errors
  1   the check was not completed
  2   corruptions: data may be damaged
  3   leaked clusters: space is wasted, data is not in danger
  63  the image cannot be checked`,
  )
  .option("-q, --quiet", QUIET_HELP)
  .option("-f, --format <format>", FORMAT_HELP)
  .option("-U, --force-share", `${FORCE_SHARE_HELP} (not with -r)`)
  .option("--output <format>", OUTPUT_HELP, parseOutput)
  .option(
    "-r, --repair <what>",
    "Repair leaked clusters (leaks), or everything that can be repaired (all)",
    parseRepair,
  )
  .option("--no-wait", `${NO_WAIT_HELP} (only with -r)`)
  .refuse("-T, --cache <mode>", refusal("--cache", "a check has no cache modes"))
  .refuse("--object <objdef>", noObjects)
  .refuse("--image-opts", noImageOptions)
  .operand("FILE", "The image")
  .example("image check disk.qcow2", "Check a disk that nobody uses")
  .example("image check -q disk.qcow2 && echo clean", "Ask in a script")
  .example("image check -r leaks disk.qcow2", "Free what is counted and unused")
  .example("image check -r all disk.qcow2", "Repair a disk after a crash of its last user")
  .action(({ options, operands }, context) => {
    const file = oneFile(operands);
    const { format, forceShare, repair, noWait, output, quiet } = options;
    if (noWait && repair === undefined) {
      throw new UsageError("Cannot use '--no-wait' without '-r'");
    }
    if (format === "raw") {
      throw new CommandError("This image format does not support checks", {
        status: NOT_SUPPORTED,
      });
    }
    requireQcow2(format, file, NOT_SUPPORTED);
    if (repair !== undefined && forceShare) {
      throw new CommandError(
        `Could not open '${file}': force-share=on can only be used with read-only images`,
      );
    }
    const sheet = { file, context, output: quiet ? undefined : (output ?? "human") } as const;
    if (repair !== undefined) return repaired(sheet, { repair, noWait });
    const report = attempting(sheet, () =>
      unwrap(
        context.native.imageCheck({ path: file, forceShare }, (problems) =>
          sayLines(problems, context),
        ),
      ),
    );
    return concluded(sheet, report);
  });

/** What qemu-img does not know either is a mistake in the command line. */
function parseRepair(text: string): RepairKind {
  if (text === "leaks" || text === "all") return text;
  throw new UsageError(`--repair (-r) expects 'leaks' or 'all' not '${text}'`);
}

/** What is written about which image. */
interface Sheet {
  readonly file: string;
  readonly context: Context;
  /** Undefined: nothing but problems. */
  readonly output: "human" | "json" | undefined;
}

function attempting<Report>({ file, context }: Sheet, operation: () => Report): Report {
  return attempt(context, operation, {
    path: file,
    sentence: ({ reason }) => `Check failed: ${reason}`,
    status: ({ code, stage }) =>
      code === "unsupported-feature" && stage === "operation" ? NOT_SUPPORTED : 1,
  });
}

/** Repairs, tells it, and returns the status. */
function repaired(sheet: Sheet, request: { repair: RepairKind; noWait: boolean }): number {
  const { file: path, context, output } = sheet;
  const { stdout, stderr } = context;
  const report = attempting(sheet, () =>
    unwrap(context.native.imageRepair({ path, ...request }, sayWaiting(context, path))),
  );
  const { found, mustRebuild, checked, commit } = report;
  if (mustRebuild) {
    sayProblems(found, context);
    throw new CommandError("Check failed: Input/output error", {
      lines: [`hint: \`${context.program} image check -r all\` makes the reference counts anew`],
    });
  }
  let status: number;
  if (checked === undefined) {
    status = concluded(sheet, found);
  } else {
    sayProblems(found, context);
    if (output === "human") stdout.write(repairText(report));
    status = concluded(sheet, checked, report);
  }
  if (commit?.punchFailure !== undefined) {
    const reason = stderr.name(commit.punchFailure);
    stderr.write(`hint: the freed space still belongs to the file: ${reason}\n`);
  }
  return status;
}

/** Tells the result of a check, after which nothing changes. */
function concluded(
  { file, context, output }: Sheet,
  report: CheckReport,
  fixed?: RepairReport,
): number {
  sayProblems(report, context);
  if (output === "json") context.stdout.write(formatJson(asJson(report, file, fixed)));
  if (output === "human") context.stdout.write(checkText(report));
  return checkStatus(report);
}

function sayProblems(report: CheckReport, context: Context): void {
  const lines = [...report.problems, ...omissions(report)];
  if (report.checkErrors > 0) lines.push("error: Check failed");
  sayLines(lines, context);
}

/** The keys stand in qemu-img's order; most are there only when they are not 0. */
function asJson(report: CheckReport, file: string, fixed: RepairReport | undefined): Json {
  return {
    "image-end-offset": report.imageEndOffset,
    "compressed-clusters": unlessZero(report.compressedClusters),
    "total-clusters": unlessZero(report.totalClusters),
    corruptions: unlessZero(report.corruptions),
    "corruptions-fixed": unlessZero(fixed?.corruptionsFixed),
    "check-errors": report.checkErrors,
    "leaks-fixed": unlessZero(fixed?.leaksFixed),
    leaks: unlessZero(report.leaks),
    "allocated-clusters": unlessZero(report.allocatedClusters),
    filename: file,
    format: "qcow2",
    "fragmented-clusters": unlessZero(report.fragmentedClusters),
  };
}

function unlessZero(count: number | undefined): number | undefined {
  return count === 0 ? undefined : count;
}
