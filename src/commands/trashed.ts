// Names of what is in the trash, where several may have one.

import type { Context } from "../context.ts";
import { displayName, type Listed } from "../state/list.ts";
import type { Store } from "../state/store.ts";
import { sentence } from "../text/sentences.ts";
import { tellHint } from "./store.ts";

/** The newest of the namesakes of one in the trash, who said just their name. */
export interface Newest {
  readonly name: string;
  readonly trashed: string;
}

/** What a name alone meant, if it could have meant others in the trash as well; else nothing. */
export function newestOf(store: Store, name: string, listed: Listed): Newest[] {
  if (listed.id === undefined || name !== listed.name) return [];
  if (store.trashedNamesakes(name).length < 2) return [];
  return [{ name, trashed: displayName(listed) }];
}

/** Tells which ones were meant; `done` is what happened to them. */
export function tellNewest(newest: readonly Newest[], done: string, context: Context): void {
  for (const { name, trashed } of newest) {
    tellHint(context, sentence("trash.newest", { instance: name, done, trashed }));
  }
}
