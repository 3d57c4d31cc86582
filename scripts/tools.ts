// What the scripts share: running other programs and giving up.

import { spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import path from "node:path";
import process from "node:process";

/** The repository; scripts run in it, wherever they were called. */
export const root = path.resolve(import.meta.dirname, "..");
process.chdir(root);

/** Where cargo puts what it builds. */
export const cargoTarget = process.env.CARGO_TARGET_DIR ?? path.join(root, "target");

/** The Rust name of this machine. */
export const triple = `${process.arch === "arm64" ? "aarch64" : "x86_64"}-unknown-linux-gnu`;

/** Ends the script with a sentence. */
export function fail(message: string): never {
  console.error(`error: ${message}`);
  process.exit(1);
}

/** The value of an option that is a number from 1 on; ends the script if it is none. */
export function positive(option: string, text: string): number {
  const number = Number(text);
  return Number.isSafeInteger(number) && number > 0 ? number : fail(`${option} ${text}: a number`);
}

/** Runs a program in view of the user; ends the script if it fails. */
export function run(program: string, args: string[], env: Record<string, string> = {}): void {
  const status = tryRun(program, args, env);
  if (status !== 0) fail(`\`${program} ${args[0] ?? ""}\` ended with ${status}`);
}

/** Runs a program in view of the user and returns its status. */
export function tryRun(
  program: string,
  args: string[],
  env: Record<string, string> = {},
): number | string {
  const result = spawnSync(program, args, {
    stdio: "inherit",
    env: { ...process.env, ...env },
  });
  if (result.error) return result.error.message;
  return result.status ?? result.signal ?? "no status";
}

/** Runs a program and returns what it printed; ends the script if it fails. */
export function capture(program: string, args: string[]): string {
  const result = spawnSync(program, args, { encoding: "utf8", maxBuffer: 1 << 28 });
  if (result.status === 0) return result.stdout;
  return fail(
    `\`${program} ${args[0] ?? ""}\` ended with ${result.status ?? result.signal}: ` +
      (result.error?.message ?? result.stderr),
  );
}

/** Makes a directory of a name of its own in `parent`; who asked for it removes it. */
export function temporaryDirectory(parent: string, prefix: string): string {
  try {
    return mkdtempSync(path.resolve(parent, prefix));
  } catch (error) {
    return fail(`Cannot make a directory in "${parent}": ${(error as Error).message}`);
  }
}
