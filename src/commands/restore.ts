// `restore`: an instance becomes what it was at a snapshot; what it is now is kept in a snapshot,
// unless the user says otherwise.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { UsageError } from "../failure.ts";
import { findSnapshot } from "../state/snapshots.ts";
import type { Store } from "../state/store.ts";
import { sentence } from "../text/sentences.ts";
import { canAsk, confirm } from "./confirm.ts";
import { warnOfSnapshot } from "./reading.ts";
import { displayed, programName, tellHint, withStore } from "./store.ts";

export default new Command("restore")
  .usage("[options] <instance>.<snapshot>")
  .description("Restore a stopped instance to the state of a previously taken snapshot.")
  .option("-d, --destructive", "Discard the current state of the instance")
  .addition(
    "--drop-bitmaps",
    "Give up the disk's dirty bitmaps, which would be wrong afterwards; without this, a disk that " +
      "has some is not restored",
  )
  .operand(
    "instance.snapshot",
    "The instance to restore and snapshot to use, in <instance>.<snapshot> format, where " +
      "<instance> is the name of an instance, and <snapshot> is the name of a snapshot",
  )
  .example("restore web-1.clean", "Go back; take a snapshot of what is now, if wanted")
  .example("restore --destructive web-1.clean", "Go back without asking")
  .action(({ options, operands }, context) => {
    const goal = parseGoal(operands);
    return withStore(
      "restore",
      context,
      async (store) => {
        const preservation = options.destructive ? "discard" : await ask(store, goal, context);
        const bitmaps = options.dropBitmaps ? "drop" : "refuse";
        restore(store, { ...goal, preservation, bitmaps }, context);
        return 0;
      },
      { "in-use": () => sentence("restore.in-use", programName(context)) },
    );
  });

interface Goal {
  instance: string;
  snapshot: string;
}

interface Wanted extends Goal {
  /** What becomes of the present state. */
  preservation: "keep" | "discard";
  /** And of the disk's bitmaps. */
  bitmaps: "refuse" | "drop";
}

function parseGoal(operands: readonly string[]): Goal {
  const [operand, ...others] = operands;
  if (operand === undefined) throw new UsageError(sentence("restore.name"));
  if (others.length > 0) throw new UsageError(sentence("arguments.too-many"));
  const [instance = "", snapshot = "", ...rest] = operand.split(".");
  if (instance === "" || snapshot === "" || rest.length > 0) {
    throw new UsageError(sentence("restore.format"));
  }
  return { instance, snapshot };
}

/** What becomes of the present state. Nothing is locked while the user thinks. */
async function ask(store: Store, goal: Goal, context: Context): Promise<"keep" | "discard"> {
  prepare(store, goal)[Symbol.dispose]();
  if (!canAsk(context)) throw new UsageError(sentence("restore.unasked"));
  const { instance } = goal;
  const question = sentence("restore.question", { instance: context.stdout.name(instance) });
  return (await confirm(question, "yes", context)) ? "keep" : "discard";
}

function restore(store: Store, wanted: Wanted, context: Context): void {
  const { instance, preservation, bitmaps } = wanted;
  using change = prepare(store, wanted);
  if (preservation === "keep") {
    const comment = sentence("restore.comment", { snapshot: wanted.snapshot });
    const { name } = change.takeSnapshot({ comment });
    displayed(context, sentence("snapshot.taken", { instance, snapshot: name }));
  }
  const snapshot = findSnapshot(change.view, wanted.snapshot);
  warnOfSnapshot(instance, { name: wanted.snapshot, snapshot }, context);
  change.restoreSnapshot(snapshot, bitmaps);
  if (snapshot.problem !== undefined) tellHint(context, sentence("restore.disk-alone"));
  displayed(context, sentence("restore.restored", { instance, snapshot: wanted.snapshot }));
}

/** The right to change the instance, which has that snapshot and is stopped; in this order. */
function prepare(store: Store, { instance, snapshot }: Goal): ReturnType<Store["change"]> {
  const change = store.change(instance);
  try {
    findSnapshot(change.view, snapshot);
    change.ensureStopped();
    return change;
  } catch (error) {
    change[Symbol.dispose]();
    throw error;
  }
}
