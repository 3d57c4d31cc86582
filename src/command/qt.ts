// How Qt, and so Multipass, reads a command line: `-nv`, `-n=v`, `-n v`, `--name v`, `--name=v`, no
// abbreviations, every unknown option named at once, and mistakes win over a request for help.

import { UsageError } from "../failure.ts";
import type { Normalized, Spelling } from "./spelling.ts";

export function normalizeQt(
  args: readonly string[],
  spellings: readonly Spelling[],
): Normalized | "help" {
  const options: string[] = [];
  const operands: string[] = [];
  const unknown: string[] = [];
  const mistakes: string[] = [];
  const rest = [...args];
  const take = (spelling: Spelling, attached: string | undefined, typed: string): void => {
    if (!spelling.takesValue) {
      if (attached !== undefined) mistakes.push(`Unexpected value after '${typed}'.`);
      options.push(`--${spelling.name}`);
      return;
    }
    const value = attached ?? rest.shift();
    if (value === undefined) mistakes.push(`Missing value after '${typed}'.`);
    else options.push(`--${spelling.name}=${value}`);
  };

  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === "--") {
      operands.push(...rest);
      break;
    }
    if (arg.startsWith("--")) {
      const [, name = "", attached] = /^--([^=]*)(?:=([^]*))?$/.exec(arg)!;
      const spelling = spellings.find((candidate) => candidate.name === name);
      if (spelling === undefined) unknown.push(name);
      else take(spelling, attached, `--${name}`);
    } else if (arg.startsWith("-") && arg !== "-") {
      const letters = Array.from(arg.slice(1));
      for (const [at, letter] of letters.entries()) {
        const spelling = spellings.find((candidate) => candidate.letters.includes(letter));
        if (spelling === undefined) {
          unknown.push(letter);
          continue;
        }
        const tail = letters.slice(at + 1).join("");
        const attached = tail.startsWith("=") ? tail.slice(1) : undefined;
        const value = spelling.takesValue ? (attached ?? (tail || undefined)) : attached;
        take(spelling, value, `-${letter}`);
        if (spelling.takesValue || attached !== undefined) break;
      }
    } else {
      operands.push(arg);
    }
  }
  if (unknown.length === 1) mistakes.unshift(`Unknown option '${unknown[0]}'.`);
  if (unknown.length > 1) mistakes.unshift(`Unknown options: ${unknown.join(", ")}.`);
  if (mistakes[0] !== undefined) throw new UsageError(mistakes[0]);
  return options.includes("--help") ? "help" : { options, operands };
}
