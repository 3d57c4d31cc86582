// `delete`: instances to the trash, or out of the store for ever; snapshots for ever.
//
// Everything is looked at before anything goes: that it is there, that nobody uses it, that the
// user means it.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { failed, UsageError } from "../failure.ts";
import { displayName, type Listed, unusable } from "../state/list.ts";
import { findSnapshot, type SnapshotView } from "../state/snapshots.ts";
import type { Store } from "../state/store.ts";
import { sentence } from "../text/sentences.ts";
import { canAsk, confirm } from "./confirm.ts";
import { ensureUnused, requireNamesOrAll, severalErrors, splitTarget, withStore } from "./store.ts";
import { type Newest, newestOf, tellNewest } from "./trashed.ts";

export default new Command("delete")
  .usage("[options] <instance>[.snapshot] [<instance>[.snapshot] ...]")
  .description(
    `Delete instances and snapshots (in stopped instances). Instances can be purged immediately or later on,
with the "purge" command. Until they are purged, instances can be recovered
with the "recover" command. Snapshots cannot be recovered after deletion and must be purged at once.`,
  )
  .option("--all", "Delete all instances and snapshots")
  .option("-p, --purge", "Permanently delete specified instances and snapshots immediately")
  .operand("name", "Names of instances and snapshots to delete")
  .example("delete web-1", "Move an instance to the trash")
  .example("delete --purge web-1.clean", "Delete a snapshot")
  .action(({ options, operands }, context) => {
    requireNamesOrAll(operands, options.all);
    const mode = options.purge ? "purge" : "trash";
    return withStore("delete", context, async (store) => {
      const goals = options.all ? everything(store, mode) : findAll(store, operands, mode);
      ensureDeletable(store, goals);
      if (mode === "trash" && goals.snapshots.size > 0) {
        if (!(await ask(goals, context))) throw failed("delete", sentence("delete.cancelled"));
        // The answer may have taken its time.
        ensureDeletable(store, goals);
      }
      carryOut(store, goals, mode);
      if (mode === "purge") tellNewest(goals.newest, "purged", context);
      return 0;
    });
  });

/** What becomes of instances. */
type Mode = "trash" | "purge";

interface Goals {
  instances: Listed[];
  /** Of live instances that stay, by name: selectors. */
  snapshots: Map<string, string[]>;
  /** Instances of which the trash has several. */
  newest: Newest[];
}

/** What is in the trash already stays there, if nothing is to be purged. */
function everything(store: Store, mode: Mode): Goals {
  const instances = store.list().filter(({ id }) => mode === "purge" || id === undefined);
  return { instances, snapshots: new Map(), newest: [] };
}

/** Everything that was named; it is all there, or nothing is deleted. */
function findAll(store: Store, operands: readonly string[], mode: Mode): Goals {
  const targets = operands.map(splitTarget);
  const found = new Map<string, Listed>();
  for (const name of new Set(targets.map(({ instance }) => instance))) {
    const listed = store.find(name);
    if (listed !== undefined) found.set(name, listed);
  }
  const missing = targets.filter(({ instance }) => !found.has(instance));
  if (missing.length > 0) {
    const names = new Set(missing.map(({ instance }) => instance));
    const errors = [...names].map((instance) => sentence("instance.missing", { instance }));
    throw severalErrors("delete", errors);
  }

  const instances = new Map<string, Listed>();
  const selectors = new Map<string, Set<string>>();
  for (const { instance, snapshot } of targets) {
    if (snapshot === undefined) instances.set(instance, found.get(instance)!);
    else selectors.set(instance, (selectors.get(instance) ?? new Set()).add(snapshot));
  }
  for (const [instance, wanted] of selectors) {
    const view = store.view(found.get(instance)!);
    for (const selector of wanted) findSnapshot(view, selector);
  }
  // They go with their instance, if that is purged; and in the trash they stay.
  const isTrashed = (name: string): boolean => found.get(name)!.id !== undefined;
  const lost = [...selectors].filter(([name]) => isTrashed(name) && !instances.has(name));
  if (lost.length > 0) {
    const snapshots = lost.flatMap(([name, wanted]) => [...wanted].map((one) => `${name}.${one}`));
    throw failed("delete", sentence("delete.of-deleted", { snapshots: snapshots.join(", ") }));
  }
  const isKept = (name: string): boolean =>
    !isTrashed(name) && (mode === "trash" || !instances.has(name));
  return {
    instances: [...instances.values()],
    snapshots: new Map(
      [...selectors].filter(([name]) => isKept(name)).map(([name, wanted]) => [name, [...wanted]]),
    ),
    newest: [...instances].flatMap(([name, listed]) => newestOf(store, name, listed)),
  };
}

/** Whether the user means it. */
async function ask({ instances, snapshots }: Goals, context: Context): Promise<boolean> {
  if (canAsk(context)) return confirm(sentence("delete.question"), "no", context);
  const { program } = context;
  if (instances.length === 0) {
    throw new UsageError(`${sentence("delete.unasked")}.`, { lines: [""] });
  }
  const words = [...snapshots].flatMap(([instance, selectors]) =>
    selectors.map((selector) => `${instance}.${selector}`),
  );
  // Multipass puts a space behind each name.
  throw new UsageError(`${sentence("delete.unasked")}:`, {
    lines: [
      "",
      `\t${program} delete --purge ${words.join(" ")} `,
      "",
      sentence("delete.separately"),
      "",
      `\t${program} delete ${instances.map(displayName).join(" ")} `,
      "",
    ],
  });
}

/** Refuses what a later look would refuse, before the first is gone. */
function ensureDeletable(store: Store, { instances, snapshots }: Goals): void {
  for (const listed of instances) {
    if (listed.problem?.kind === "newer") throw unusable(listed, listed.problem);
  }
  const holders = [...snapshots.keys()].map((name) => store.living(name));
  ensureUnused(store, [...instances, ...holders]);
}

function carryOut(store: Store, { instances, snapshots }: Goals, mode: Mode): void {
  for (const [instance, selectors] of snapshots) {
    using change = store.change(instance);
    // One of them may have been named twice, by its name and by its id.
    const chosen = new Map<string, SnapshotView>();
    for (const selector of selectors) {
      const snapshot = findSnapshot(change.view, selector);
      chosen.set(snapshot.id, snapshot);
    }
    for (const snapshot of chosen.values()) change.deleteSnapshot(snapshot);
  }
  for (const listed of instances) {
    if (mode === "purge") store.purge(listed);
    else if (listed.id === undefined) store.trash(listed.name);
  }
}
