// Programs on terminals of their own, made by `script` of util-linux.

import { spawn } from "node:child_process";
import type { Duplex } from "node:stream";

import { env as judges } from "../e2e/support.ts";
import type { Surroundings } from "./transcript.ts";

export interface Options {
  env: Readonly<Record<string, string>>;
  /** After this many milliseconds it is killed. */
  timeout: number;
}

/**
 * Runs a program whose standard input and output are a terminal, and its standard error another
 * one, so that the two can be told apart: `script` within `script`. Where only standard input is to
 * be a terminal, the outputs pass by them.
 */
export function onTerminals(
  command: readonly string[],
  { env, timeout }: Options,
  { terminal, typed }: Pick<Surroundings, "terminal" | "typed">,
) {
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const words = ["env", "-i", ...variables, ...command].map(quoted).join(" ");
  const redirected = `${typed ? "" : "</dev/null"} ${terminal ? "2>&7" : ">&5 2>&6"}`;
  const inner = `${PLAIN} && exec ${words} ${redirected}`;
  const outer = `${PLAIN} && exec ${SCRIPT} ${quoted(inner)} /dev/null <&3 >&4 7>&2`;
  const child = spawn("/bin/sh", ["-c", `exec ${SCRIPT} ${quoted(outer)} /dev/null`], {
    stdio: ["pipe", "pipe", "inherit", "pipe", "pipe", "pipe", "pipe"],
    env: { ...judges, SHELL: "/bin/sh" },
    timeout,
  });
  const streams = child.stdio as unknown as readonly Duplex[];
  const [, messages, , stdin, results, passedResults, passedMessages] = streams;
  // Also those that nobody listens to are to end.
  for (const output of [messages, results, passedResults, passedMessages]) output!.resume();
  return {
    child,
    stdin: stdin!,
    stdout: (terminal ? results : passedResults)!,
    stderr: (terminal ? messages : passedMessages)!,
  };
}

/** A terminal of its own for a line of the shell. */
const SCRIPT = "script --quiet --flush --return --command";

/** Bytes pass a terminal as they are, and only the test shows what is typed. */
const PLAIN = "stty -opost -echo cols 80";

/** A word as a shell reads it. */
function quoted(word: string): string {
  return /^[\w/=.-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
