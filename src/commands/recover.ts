// `recover`: instances out of the trash.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { failed, UsageError } from "../failure.ts";
import { StateError } from "../state/errors.ts";
import { displayName, type Listed, unusable } from "../state/list.ts";
import type { Store } from "../state/store.ts";
import { sentence } from "../text/sentences.ts";
import {
  ensureUnused,
  refusalLines,
  refusalText,
  requireNamesOrAll,
  severalErrors,
  withStore,
} from "./store.ts";
import { type Newest, newestOf, tellNewest } from "./trashed.ts";

export default new Command("recover")
  .usage("[options] <name> [<name> ...]")
  .description("Recover deleted instances so they can be used again.")
  .option("--all", "Recover all deleted instances")
  .addition("--name <name>", "Give the recovered instance this name")
  .operand("name", "Names of instances to recover")
  .example("recover web-1", "Get it back; of several that had the name, the newest")
  .example("recover web-1 --name web-old", "Get it back beside the one that has its name now")
  .action(({ options, operands }, context) => {
    requireNamesOrAll(operands, options.all);
    const { name } = options;
    if (name !== undefined && (options.all || operands.length !== 1)) {
      throw new UsageError(sentence("recover.one-name"));
    }
    return withStore("recover", context, (store) => {
      if (options.all) {
        recoverAll(store, context);
      } else {
        const { wanted, newest } = findAll(store, operands, name, context);
        for (const { listed, target } of wanted) store.recover(listed, target);
        tellNewest(newest, "recovered", context);
      }
      return 0;
    });
  });

/** An instance in the trash, and the name that it is to have. */
interface Goal {
  listed: Listed;
  target: string;
}

/** Every one that can come back does: of namesakes the newest. */
function recoverAll(store: Store, context: Context): void {
  const errors: string[] = [];
  for (const listed of store.list()) {
    if (listed.id === undefined) continue;
    try {
      store.recover(listed);
    } catch (error) {
      if (!(error instanceof StateError)) throw error;
      errors.push(...reasons(store, listed, error, context));
    }
  }
  if (errors.length > 0) throw severalErrors("recover", errors);
}

/** What is in the trash of these; all of them can come back, or none does. */
function findAll(
  store: Store,
  names: readonly string[],
  target: string | undefined,
  context: Context,
): { wanted: Goal[]; newest: Newest[] } {
  // Whoever names a live instance means the one in the trash, if there is one.
  const find = (name: string): Listed | undefined =>
    store.trashedNamesakes(name)[0] ?? store.find(name);
  const found = new Map([...new Set(names)].map((name) => [name, find(name)]));
  const missing = [...found].flatMap(([name, listed]) => (listed === undefined ? [name] : []));
  if (missing.length > 0) {
    const errors = missing.map((instance) => sentence("instance.missing", { instance }));
    throw severalErrors("recover", errors);
  }

  const wanted = new Map<string, Goal>();
  const newest: Newest[] = [];
  for (const [name, listed] of found) {
    if (listed?.id !== undefined) {
      wanted.set(displayName(listed), { listed, target: target ?? listed.name });
      newest.push(...newestOf(store, name, listed));
    } else if (target !== undefined) {
      // Multipass says so too, to itself: without another name there is nothing to do.
      throw failed("recover", sentence("recover.unneeded", { instance: name }));
    }
  }
  const goals = [...wanted.values()];
  ensureRecoverable(store, goals, context);
  return { wanted: goals, newest };
}

/** Refuses what a later look would refuse, before the first is back. */
function ensureRecoverable(store: Store, goals: readonly Goal[], context: Context): void {
  ensureUnused(
    store,
    goals.map(({ listed }) => listed),
  );
  const targets: string[] = [];
  for (const { listed, target } of goals) {
    try {
      if (listed.problem?.kind === "newer") throw unusable(listed, listed.problem);
      targets.push(target);
      store.ensureFree(targets);
    } catch (error) {
      if (!(error instanceof StateError)) throw error;
      const [message = "", ...lines] = reasons(store, listed, error, context);
      throw failed("recover", message, lines);
    }
  }
}

/** Why one cannot come back; and how it can, where only the name is in its way. */
function reasons(
  store: Store,
  listed: Listed,
  { details }: StateError,
  { program }: Context,
): string[] {
  const lines = [refusalText(details), ...refusalLines(details)];
  if (details.code !== "name-taken") return lines;
  const name = store.freeName(details.name);
  const command = `${program} recover ${displayName(listed)} --name ${name}`;
  return [...lines, sentence("hint", { text: sentence("recover.offer", { command }) })];
}
