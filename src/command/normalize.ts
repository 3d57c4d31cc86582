// What the two ways of reading a command line have in common: both bring it to one form.

import type { Dialect } from "./command.ts";
import { normalizeGetopt } from "./getopt.ts";
import { normalizeQt } from "./qt.ts";
import type { Normalized, Spelling } from "./spelling.ts";

/** Brings a line to that form; `help` if that is what it asks for; throws a `UsageError`. */
export type Normalize = (
  args: readonly string[],
  spellings: readonly Spelling[],
) => Normalized | "help";

export const normalize: Readonly<Record<Dialect, Normalize>> = {
  getopt: normalizeGetopt,
  qt: normalizeQt,
};

/** The options that every command has and that are not in its description. */
export function standardSpellings(dialect: Dialect): Spelling[] {
  const help = { name: "help", letters: "h", takesValue: false };
  // Multipass logs more with each -v; here it is accepted and there is nothing to log.
  const verbose = { name: "verbose", letters: "v", takesValue: false };
  return dialect === "qt" ? [help, verbose] : [help];
}
