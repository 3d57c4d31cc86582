// How getopt_long reads a command line: options anywhere before `--`, values attached or following,
// letters in bundles, long names cut short while they are unambiguous. Messages are getopt's.

import { UsageError } from "../failure.ts";
import type { Normalized, Spelling } from "./spelling.ts";

/** Reads from left to right and stops at the first mistake or request for help. */
export function normalizeGetopt(
  args: readonly string[],
  spellings: readonly Spelling[],
): Normalized | "help" {
  const options: string[] = [];
  const operands: string[] = [];
  const rest = [...args];
  const take = (spelling: Spelling, attached: string | undefined, spelled: string): void => {
    if (!spelling.takesValue) {
      options.push(`--${spelling.name}`);
      return;
    }
    const value = attached ?? rest.shift();
    if (value === undefined) throw new UsageError(spelled);
    options.push(`--${spelling.name}=${value}`);
  };

  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === "--") {
      operands.push(...rest);
      break;
    }
    if (arg.startsWith("--")) {
      const [, typed = "", attached] = /^--([^=]*)(?:=([^]*))?$/.exec(arg)!;
      const spelling = findLong(typed, spellings);
      if (attached !== undefined && !spelling.takesValue) {
        throw new UsageError(`option '--${spelling.name}' doesn't allow an argument`);
      }
      if (spelling.name === "help") return "help";
      take(spelling, attached, `option '--${spelling.name}' requires an argument`);
    } else if (arg.startsWith("-") && arg !== "-") {
      const letters = Array.from(arg.slice(1));
      for (const [at, letter] of letters.entries()) {
        const spelling = spellings.find((candidate) => candidate.letters.includes(letter));
        if (spelling === undefined) throw new UsageError(`invalid option -- '${letter}'`);
        if (spelling.name === "help") return "help";
        const attached = letters.slice(at + 1).join("") || undefined;
        take(spelling, attached, `option requires an argument -- '${letter}'`);
        if (spelling.takesValue) break;
      }
    } else {
      operands.push(arg);
    }
  }
  return { options, operands };
}

function findLong(typed: string, spellings: readonly Spelling[]): Spelling {
  const exact = spellings.find(({ name }) => name === typed);
  if (exact !== undefined) return exact;
  const [first, ...others] = spellings.filter(({ name }) => name.startsWith(typed));
  if (first === undefined) throw new UsageError(`unrecognized option '--${typed}'`);
  if (others.length > 0) {
    const names = [first, ...others].map(({ name }) => `'--${name}'`).join(" ");
    throw new UsageError(`option '--${typed}' is ambiguous; possibilities: ${names}`);
  }
  return first;
}
