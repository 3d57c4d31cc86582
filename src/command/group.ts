// A word that another one must follow, like `image`, or the program's name itself; the commands
// behind it are loaded when they are needed.

import type { Context } from "../context.ts";
import type { Command, Dialect } from "./command.ts";

export interface Group {
  readonly kind: "group";
  /** What is typed after the program's name; empty at the top. */
  readonly path: string;
  readonly dialect: Dialect;
  readonly description: string;
  /** In the order of the help. */
  readonly entries: readonly Entry[];
  readonly examples: readonly { line: string; text: string }[];
  /** Answers when no word follows; the status to end with. */
  missing(context: Context): number | Promise<number>;
  /** Answers to a word that is none of the entries. */
  unknown(word: string, context: Context): number | Promise<number>;
}

export interface Entry {
  readonly name: string;
  /** Other words for it; the help does not list them. */
  readonly aliases?: readonly string[];
  readonly summary: string;
  readonly load: () => Promise<{ default: Command | Group }>;
}

/** The command that a word means. */
export function findEntry({ entries }: Group, word: string): Entry | undefined {
  return entries.find(({ name, aliases }) => name === word || aliases?.includes(word) === true);
}
