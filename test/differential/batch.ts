// Thousands of command lines, with few processes of our own: a shell runs them, and leaves what
// they said in files. As many shells as there are processors, so that neither waits.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";

import { calque, type Ending, env, translated, withoutHints } from "./programs.ts";

/** What both programs end with, made comparable. */
export interface Pair {
  theirs: Ending;
  ours: Ending;
}

/** Runs every line, `check -q disk.qcow2`, with both programs in the directory `place`. */
export async function endings(lines: readonly string[], place: string): Promise<Pair[]> {
  const programs = ["qemu-img", `'${calque}' image`];
  const commands = lines.flatMap((line) => programs.map((program) => `${program} ${line}`));
  const all = await inShells(commands, place);
  return lines.map((_, at) => ({
    theirs: translated(all[at * 2]!),
    ours: withoutHints(all[at * 2 + 1]!),
  }));
}

/** Runs shell commands in the directory `place`; their endings in the same order. */
export async function inShells(commands: readonly string[], place: string): Promise<Ending[]> {
  const results = path.join(place, ".results");
  mkdirSync(results, { recursive: true });
  const count = Math.max(1, Math.min(os.cpus().length, commands.length));
  const numbered = commands.map((command, n) => ({ command, n }));
  await Promise.all(
    Array.from({ length: count }, (_, shell) => {
      const mine = numbered.slice(
        Math.ceil((shell * commands.length) / count),
        Math.ceil(((shell + 1) * commands.length) / count),
      );
      const script = mine.map(
        ({ command, n }) =>
          `${command} >.results/${n}.out 2>.results/${n}.err; echo $? >.results/${n}.status`,
      );
      const file = path.join(results, `${shell}.sh`);
      writeFileSync(file, `${script.join("\n")}\n`);
      return finished(file, place);
    }),
  );
  // Latin-1 keeps bytes that are not UTF-8 apart.
  const read = (name: string): string => readFileSync(path.join(results, name), "latin1");
  const all = commands.map((_, n) => ({
    stdout: read(`${n}.out`),
    stderr: read(`${n}.err`),
    status: Number(read(`${n}.status`)),
  }));
  rmSync(results, { recursive: true });
  return all;
}

function finished(script: string, cwd: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn("sh", [script], { cwd, env, stdio: ["ignore", "ignore", "inherit"] });
    child.once("error", reject);
    child.once("exit", () => resolve());
  });
}
