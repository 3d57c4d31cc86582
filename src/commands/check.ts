// `check`: whether the disk of an instance is in order; and with `--repair`, putting right what is
// not. What is said of the disk is said in `qemu-img check`'s words.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { CommandError, failed, UsageError } from "../failure.ts";
import { type CheckReport, type RepairKind, unwrap } from "../native.ts";
import type { Store } from "../state/store.ts";
import { checkStatus, checkText, omissions, repairText } from "../text/check.ts";
import { sentence } from "../text/sentences.ts";
import { sayLines } from "./problems.ts";
import { programName, withStore } from "./store.ts";

export default new Command("check")
  .usage("[options] <instance>")
  .description(
    `Check the disk of an instance for errors; without --repair, nothing is written.

A repair changes the disk in one step: whatever interrupts it leaves the disk as
it was, or repaired. No data is changed. The instance must be stopped.

The exit status says what was found, after a repair what is left: 0 for no
errors, 2 for corruptions, 3 for leaked clusters, which waste space and endanger
nothing. It is 1 where the check was not completed.`,
  )
  .addition(
    "-r, --repair <what>",
    "Repair leaked clusters (leaks), or everything that can be repaired (all)",
    parseRepair,
  )
  .operand("instance", "The name of an instance")
  .example("check web-1", "Look whether its disk is in order")
  .example("check web-1 --repair all", "Repair it")
  .action(async ({ options, operands }, context) => {
    const [name, ...others] = operands;
    if (name === undefined) throw new UsageError(sentence("check.name"));
    if (others.length > 0) throw new UsageError(sentence("arguments.too-many"));
    const { repair: kind } = options;
    try {
      return await withStore(
        "check",
        context,
        (store) => {
          ensureThere(store, name, context);
          return kind === undefined
            ? check(store, name, context)
            : repair(store, name, kind, context);
        },
        { "in-use": () => sentence("check.in-use", programName(context)) },
      );
    } catch (error) {
      throw incomplete(error);
    }
  });

/** With the 2 that other commands fail with, `check` says that it has found corruptions. */
function incomplete(error: unknown): unknown {
  if (!(error instanceof CommandError)) return error;
  const { message, title, causes, lines } = error;
  return new CommandError(message, { status: 1, title, causes, lines });
}

function parseRepair(text: string): RepairKind {
  if (text === "leaks" || text === "all") return text;
  throw new UsageError(sentence("check.repair", { value: text }));
}

/** Whoever names a file may want the other `check`. */
function ensureThere(store: Store, name: string, { program }: Context): void {
  if (store.find(name) !== undefined || !/[./]/.test(name)) return;
  const text = sentence("check.hint", { program });
  throw failed("check", sentence("instance.missing", { instance: name }), [
    sentence("hint", { text }),
  ]);
}

function check(store: Store, name: string, context: Context): number {
  const path = store.summary(store.living(name)).diskPath;
  const say = (problems: string[]): void => sayLines(problems, context);
  return concluded(unwrap(context.native.imageCheck({ path }, say)), context);
}

function repair(store: Store, name: string, kind: RepairKind, context: Context): number {
  using change = store.change(name);
  change.ensureStopped();
  const report = change.repair(kind);
  const { found, mustRebuild, checked } = report;
  if (mustRebuild) {
    sayProblems(found, context);
    const { program } = context;
    throw failed("check", sentence("check.rebuild"), [
      sentence("hint", { text: sentence("check.rebuild-it", { program, instance: name }) }),
    ]);
  }
  if (checked === undefined) return concluded(found, context);
  sayProblems(found, context);
  context.stdout.write(repairText(report));
  return concluded(checked, context);
}

function concluded(report: CheckReport, context: Context): number {
  sayProblems(report, context);
  context.stdout.write(checkText(report));
  return checkStatus(report);
}

function sayProblems(report: CheckReport, context: Context): void {
  sayLines([...report.problems, ...omissions(report)], context);
}
