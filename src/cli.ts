// The entry for Node, Deno and Bun: makes a `Host` of what they provide, loads the addon when it is
// needed, and does nothing else. The only file of `src/` that imports from `node:`.

import { writeSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { createInterface } from "node:readline/promises";
import { isatty } from "node:tty";
import { fileURLToPath } from "node:url";

import { main } from "./app.ts";
import type { Host, Stream } from "./host.ts";
import type { Native } from "./native.ts";

/** Runs the program, whose core `loadNative` loads on first use, and sets the exit status. */
export async function start(loadNative: () => Native): Promise<void> {
  try {
    process.exitCode = await main(host, lazily(loadNative));
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    host.stderr.write(`calque: internal error: ${text}\nThis is a bug in Calque.\n`);
    process.exitCode = 70;
  }
}

const host: Host = {
  // Packed by Bun, the first of the two is the name that was typed; otherwise the second may be.
  argv: [
    [process.argv0, process.argv[1]].find((name) => /(?:^|\/)multipass$/.test(name ?? "")) ??
      "calque",
    ...process.argv.slice(2),
  ],
  env: (name) => process.env[name],
  stdout: stream(1, () => process.stdout.columns),
  stderr: stream(2, () => process.stderr.columns),
  stdin: {
    get isTerminal() {
      return isatty(0);
    },
  },
  now() {
    const milliseconds = Date.now();
    const sec = Math.floor(milliseconds / 1000);
    // The clock has no more digits; the performance counter tells apart what falls into one.
    const fraction = Math.floor((performance.now() % 1) * 1e6);
    return { sec, nsec: (milliseconds - sec * 1000) * 1e6 + fraction };
  },
  randomBytes: (count) => crypto.getRandomValues(new Uint8Array(count)),
  async readLine(prompt) {
    // The terminal lets its user edit the line; readline would move the cursor about to do so.
    const [input, output] = [process.stdin, process.stdout];
    const lines = createInterface({ input, output, terminal: false });
    try {
      return await Promise.race([
        lines.question(prompt),
        new Promise<undefined>((resolve) => lines.once("close", () => resolve(undefined))),
      ]);
    } finally {
      lines.close();
    }
  },
};

function stream(fd: 1 | 2, columns: () => number | undefined): Stream {
  return {
    write(data, hint) {
      const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
      for (let done = 0; done < bytes.length;) {
        try {
          done += writeSync(fd, bytes, done);
        } catch (error) {
          const { code, message } = error as NodeJS.ErrnoException;
          if (code === "EAGAIN") waitForReader();
          else if (fd === 2) return;
          else if (code === "EPIPE") process.exit(CLOSED_PIPE);
          else giveUp(message, hint);
        }
      }
    },
    get isTerminal() {
      return isatty(fd);
    },
    get columns() {
      return isatty(fd) ? columns() : undefined;
    },
  };
}

/** What a shell shows for a program that SIGPIPE ended. */
const CLOSED_PIPE = 141;

/** Waits a little, because a pipe is full. */
function waitForReader(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
}

/** Ends the process because a result cannot be written. */
function giveUp(reason: string, hint: string | undefined): never {
  const lines = [`error: Cannot write to standard output: ${reason}`];
  if (hint !== undefined) lines.push(`hint: ${hint}`);
  host.stderr.write(`${lines.join("\n")}\n`);
  process.exit(1);
}

/** The core, loaded when the first of its functions is asked for. */
function lazily(load: () => Native): Native {
  let native: Native | undefined;
  return new Proxy({} as Native, {
    get: (_, name) => Reflect.get((native ??= load()), name),
  });
}

/** The addon that `scripts/addon.ts` builds. */
function loadAddon(): Native {
  const addon = new URL("../native/binding/calque.node", import.meta.url);
  return createRequire(import.meta.url)(fileURLToPath(addon)) as Native;
}

if (import.meta.main) await start(loadAddon);
