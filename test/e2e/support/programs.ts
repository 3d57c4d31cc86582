// Programs: the built executable, qemu-img and qemu-io, and how a run of one ends.

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { expect } from "vitest";

const root = path.resolve(import.meta.dirname, "../../..");
/** The program under test; CALQUE names another one. */
export const executable = path.resolve(process.env.CALQUE ?? path.join(root, "dist/calque"));
export const isRoot = process.getuid?.() === 0;
export const nobody = 65534;

export const env = { PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin`, LC_ALL: "C", TZ: "UTC" };

/** Whether all these programs are installed. */
export function have(...programs: string[]): boolean {
  return programs.every((name) => env.PATH.split(":").some((dir) => existsSync(`${dir}/${name}`)));
}

/** Without these nothing here can be made or judged. */
export const judged = have("qemu-img", "qemu-io");

export interface Ending {
  status: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

interface Surroundings {
  cwd?: string;
  /** After this many milliseconds it is killed, and `signal` says so. */
  timeout?: number;
}

/** Runs a program to its end, however it ends. */
export function run(
  command: string[],
  { cwd, timeout = 60_000 }: Surroundings = {},
): Promise<Ending> {
  const [program = "", ...args] = command;
  const options = { cwd, env, timeout, killSignal: "SIGKILL", maxBuffer: 1 << 28 } as const;
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      if (error !== null && typeof error.code === "string") reject(error);
      else resolve({ status: child.exitCode, signal: child.signalCode, stdout, stderr });
    });
    child.stdin?.end();
  });
}

/** `calque image …` on the built executable. */
export function image(args: string[], where: Surroundings = {}): Promise<Ending> {
  return run([executable, "image", ...args], where);
}

/** Runs a program that has to succeed; what it wrote to stdout. */
export async function must(command: string[], where: Surroundings = {}): Promise<string> {
  const { status, signal, stdout, stderr } = await run(command, where);
  if (status !== 0) {
    throw new Error(`${command.join(" ")}: ${status ?? signal}\n${stdout}${stderr}`);
  }
  return stdout;
}

/** `calque image …` that has to succeed. */
export function mustImage(args: string[], where: Surroundings = {}): Promise<string> {
  return must([executable, "image", ...args], where);
}

/** Commands of a guest that has the image; `write -P 7 0 64k` and the like. */
export async function guest(file: string, ...commands: string[]): Promise<void> {
  const list = commands.flatMap((command) => ["-c", command]);
  const said = await must(["qemu-io", "-f", "qcow2", ...list, file]);
  if (/failed|error/i.test(said)) throw new Error(`qemu-io on ${file}: ${said}`);
}

export function qemuImg(...args: string[]): Promise<string> {
  return must(["qemu-img", ...args]);
}

/** A command that refuses: a clear error, no panic, not killed by the clock. */
export function expectRefusal(ending: Ending, because?: RegExp | string): void {
  expect(ending).toMatchObject({ status: 1, signal: null });
  expect(ending.stderr).toMatch(/^error: \S/m);
  expect(ending.stderr).not.toMatch(/panicked|internal error|RUST_BACKTRACE/i);
  if (because !== undefined) expect(ending.stderr).toMatch(because);
}
