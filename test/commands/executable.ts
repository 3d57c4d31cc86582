// The built executable, called by a line: through a link of the wanted name, with no environment
// but the one that the test gives, on terminals of its own where the test wants some. What it says
// is told as `app` tells it.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import os from "node:os";
import path from "node:path";

import { afterAll } from "vitest";

import { isoTimestamp, localTimestamp } from "../../src/text/timestamp.ts";
import { executable as built } from "../e2e/support.ts";
import { onTerminals, type Options } from "./terminals.ts";
import { NOW, type Surroundings, transcript } from "./transcript.ts";

/** Nothing that the golden tests do takes so long. */
const TIMEOUT_MS = 60_000;

/** The executable, called with the words of a line. */
export function executable({ argv0, ...surroundings }: Surroundings) {
  return async (...args: readonly string[]): Promise<string> =>
    settled(await converse([link(path.basename(argv0)), ...args], surroundings));
}

/** Runs a program, and answers when it asks. */
export async function converse(
  command: readonly string[],
  { env, ...surroundings }: Omit<Surroundings, "argv0">,
): Promise<string> {
  const { terminal, typed, answers } = surroundings;
  const start = terminal || typed ? onTerminals : onPipes;
  const options = { env: { ...env, TZ: "UTC" }, timeout: TIMEOUT_MS };
  const { child, stdin, stdout, stderr } = start(command, options, surroundings);
  const ended = new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => {
      resolve(child.killed ? "killed, because it took too long" : (status ?? signal));
    });
  });
  const results: Buffer[] = [];
  const messages: Buffer[] = [];
  const lines = answers.values();
  stderr.on("data", (data: Buffer) => void messages.push(data));
  stdout.on("data", (data: Buffer) => {
    results.push(data);
    if (!Buffer.concat(results).toString().endsWith(": ")) return;
    // It asks. The answer stands where it is given, as a terminal shows it.
    const answer = lines.next().value;
    results.push(Buffer.from(`${answer ?? "^D"}\n`));
    if (answer !== undefined) stdin.write(`${answer}\n`);
    else if (typed) stdin.write(END_OF_INPUT);
    else stdin.end();
  });
  return transcript(results, messages, await ended);
}

/** What ends the input on a terminal. */
const END_OF_INPUT = "\u0004";

function onPipes([program = "", ...args]: readonly string[], options: Options) {
  const child = spawn(program, args, options);
  return { child, stdin: child.stdin, stdout: child.stdout, stderr: child.stderr };
}

let links: string | undefined;
const linked = new Set<string>();

/** The executable by another name. */
function link(name: string): string {
  links ??= mkdtempSync(path.join(os.tmpdir(), "calque-links-"));
  const file = path.join(links, name);
  if (!linked.has(name)) symlinkSync(built, file);
  linked.add(name);
  return file;
}

afterAll(() => {
  if (links !== undefined) rmSync(links, { recursive: true });
});

const began = Math.floor(Date.now() / 1000);

/**
 * A text in which it is the same each time when the executable did what it did, and how much of a
 * disk the file system shared: as it is in process.
 */
function settled(text: string): string {
  return text
    .replace(/\w{3} \w{3} [ \d]\d [\d:]{8} \d{4} UTC/g, (time) =>
      isRecent(time) ? localTimestamp(NOW.sec) : time,
    )
    .replace(/\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z/g, (time) =>
      isRecent(time) ? isoTimestamp(NOW) : time,
    )
    .replace(/^! hint: (?:\S+ copied, not|no blocks are) shared: .*\n/gm, "")
    .replace(/\bstrategy: (?:reflink|copy), copiedBytes: \d+/g, SHARED.history)
    .replace(/\((?:reflink|copy), \S+ copied\)/g, SHARED.export);
}

const SHARED = {
  history: "strategy: reflink, copiedBytes: 65536",
  export: "(reflink, 64.0KiB copied)",
};

function isRecent(time: string): boolean {
  const milliseconds = Date.parse(time);
  return milliseconds >= began * 1000 && milliseconds <= Date.now();
}
