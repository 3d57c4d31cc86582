// The two programs, and what makes their endings comparable: standard output and exit status are
// the same, and standard error is qemu-img's after our `error: `. Lines of ours that begin with
// `hint: ` are extra.

import { spawnSync } from "node:child_process";
import path from "node:path";
import process from "node:process";

import { expect } from "vitest";

/** The executable under test; CALQUE names another one, as one word. */
export const calque = path.resolve(process.env.CALQUE ?? "dist/calque");

// So that dates show whether both know the time zone.
export const env = { PATH: process.env.PATH ?? "", TZ: "America/St_Johns" };

export interface Ending {
  stdout: string;
  stderr: string;
  status: number | null;
}

/** Runs a program in the directory `cwd`. */
export function run(program: string, args: readonly string[], cwd: string): Ending {
  // Latin-1 keeps bytes that are not UTF-8 apart.
  const result = spawnSync(program, args, { cwd, env, encoding: "latin1", maxBuffer: 1 << 28 });
  if (result.error) throw result.error;
  return { stdout: result.stdout, stderr: result.stderr, status: result.status };
}

/** What our program should end with, where qemu-img ended so. */
export function translated({ stdout, stderr, status }: Ending): Ending {
  const lines = stderr
    .replace(/^qemu-img(?: \w+)?: /gm, "error: ")
    .replace(/^Try 'qemu-img /gm, "Try 'calque image ");
  return { stdout, stderr: lines, status };
}

export function withoutHints(ending: Ending): Ending {
  return { ...ending, stderr: ending.stderr.replace(/^hint: .*\n/gm, "") };
}

/** Runs the same line with both programs, which have to end alike. */
export function expectSame(args: readonly string[], cwd: string): void {
  const theirs = translated(run("qemu-img", args, cwd));
  expect(withoutHints(run(calque, ["image", ...args], cwd))).toEqual(theirs);
}
