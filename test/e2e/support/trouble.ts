// System calls that go wrong in a command, one after the other, by way of strace.

import { readFileSync, rmSync, writeFileSync } from "node:fs";

import { type Ending, executable, run } from "./programs.ts";

/** How a system call goes wrong in a traced command. */
export interface Trouble {
  call: string;
  /** As strace writes it: `error=EIO`, `signal=SIGKILL`, `retval=0`. */
  what: string;
  /** The number of the call, from 1; with a `+`, that one and all that follow. */
  when: string;
}

/** Runs `calque image …` in trouble; whether it met any is the second answer. */
export async function inTrouble(
  args: readonly string[],
  { call, what, when }: Trouble,
  cwd: string,
): Promise<[Ending, boolean]> {
  const trace = `${cwd}.trace`;
  writeFileSync(trace, "");
  // With a filter in the kernel other calls are not slowed down, but no signal is sent.
  const filter = what.startsWith("signal=") ? [] : ["--seccomp-bpf"];
  const strace = ["strace", "-f", ...filter, "-o", trace, "-e", `trace=${call}`];
  const inject = ["-e", `inject=${call}:${what}:when=${when}`];
  const ending = await run([...strace, ...inject, executable, "image", ...args], { cwd });
  const text = readFileSync(trace, "utf8");
  rmSync(trace);
  return [ending, /\(INJECTED\)|killed by SIGKILL/.test(text)];
}

/** Which calls go wrong in turn: the 1st, the 2nd, the 3rd …, alone or with all that follow. */
export interface Sweep extends Omit<Trouble, "when"> {
  each?: "alone" | "with all that follow";
}

/** One run of a sweep. */
export interface Attempt {
  /** The directory that the command ran in, as it left it. */
  place: string;
  ending: Ending;
  /** Whether it met its trouble. The last attempt of a sweep did not. */
  met: boolean;
  /** What was done to it, for messages. */
  story: string;
}

/**
 * Runs a command in one new place after the other, each time with the next call going wrong, until
 * it gets through untouched. A place is gone when the next attempt begins.
 */
export async function* sweep(
  args: readonly string[],
  { call, what, each = "alone" }: Sweep,
  newPlace: () => string,
): AsyncGenerator<Attempt> {
  for (let number = 1; ; number += 1) {
    const place = newPlace();
    const when = each === "alone" ? `${number}` : `${number}+`;
    const [ending, met] = await inTrouble(args, { call, what, when }, place);
    const story = `${call}:${what}:when=${when} in ${args.join(" ")}`;
    try {
      yield { place, ending, met, story };
    } finally {
      rmSync(place, { recursive: true });
    }
    if (!met) return;
  }
}
