// Whole processes, measured by the small program `bench` of native/qcow2/examples, which starts
// them, waits for them and asks the kernel what they used.

import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { setImmediate } from "node:timers/promises";

import { capture, fail } from "../tools.ts";

/** One run of a process. Times in nanoseconds. */
export interface Sample {
  wallNs: number;
  userNs: number;
  systemNs: number;
  peakBytes: number;
  /** It was ended before it was done: the time is a lower bound. */
  stopped?: boolean;
}

/** A program with its arguments. */
export type Call = [program: string, ...args: string[]];

/** The sync calls that count, as strace names them. */
const SYNCS = ["fdatasync", "fsync", "syncfs"];

/** What the program `bench` can do; its first lines say how. */
export class Bench {
  readonly #program: string;

  constructor(program: string) {
    this.#program = program;
  }

  /** Runs a process that has to succeed. */
  measure(call: Call, how: "measure" | "measure-without-punching" = "measure"): Sample {
    const { exit, ...sample } = this.ask(how, ...call) as Sample & { exit: number };
    // Once more, for what it says.
    if (exit !== 0) fail(`\`${call.join(" ")}\` ended with ${exit}: ${spoken(call)}`);
    return sample;
  }

  /** Runs a process that has to succeed, unless it takes longer than some seconds. */
  measureAtMost(patienceSeconds: number, call: Call): Sample {
    const answer = this.ask("measure-at-most", String(patienceSeconds), ...call);
    const { exit, ...sample } = answer as Sample & { exit: number };
    if (exit !== 0 && sample.stopped !== true) {
      fail(`\`${call.join(" ")}\` ended with ${exit}: ${spoken(call)}`);
    }
    return sample;
  }

  /** Calls one of its commands; each answers with an object. */
  ask(...args: string[]): unknown {
    return JSON.parse(capture(this.#program, args));
  }
}

function spoken([program, ...args]: Call): string {
  return spawnSync(program, args, { encoding: "utf8" }).stderr;
}

/** Runs a process under strace and counts its syncs; undefined where there is no strace. */
export function countSyncs(call: Call, scratch: string): number | undefined {
  const trace = `${scratch}/syncs.strace`;
  const options = ["-f", "-qq", "--seccomp-bpf", "-o", trace, "-e", `trace=${SYNCS.join(",")}`];
  const { error, status, stderr } = spawnSync("strace", [...options, "--", ...call], {
    encoding: "utf8",
    stdio: ["ignore", "ignore", "pipe"],
  });
  if (error) return undefined;
  if (status !== 0) fail(`\`strace … ${call.join(" ")}\` ended with ${status}: ${stderr}`);
  const calls = readFileSync(trace, "utf8").match(/\b(?:fdatasync|fsync|syncfs)\(/g);
  rmSync(trace);
  return calls?.length ?? 0;
}

/** A copy of a file with its holes, on the medium before anybody measures anything. */
export function freshCopy(from: string, to: string): void {
  rmSync(to, { force: true });
  capture("cp", ["--sparse=always", "--reflink=never", from, to]);
  capture("sync", [to]);
}

/** The middle one, or the mean of the middle two. */
export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Runs the contestants one after the other; from round to round somebody else is first. */
export async function inTurns(
  round: number,
  contestants: readonly (() => unknown)[],
): Promise<void> {
  for (let place = 0; place < contestants.length; place += 1) {
    contestants[(round + place) % contestants.length]!();
    // Everything else here is synchronous; this is when a signal is heard.
    await setImmediate();
  }
}
