// What a command may use besides its request.

import type { Host, Stream } from "./host.ts";
import type { Native } from "./native.ts";
import { escapeControls, toBytes } from "./text/name.ts";

export interface Context {
  /** The name that the program answers by: `multipass` if it was called so, else `calque`. */
  readonly program: string;
  readonly native: Native;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly stdin: Host["stdin"];
  /** Asks for a line of input; undefined at the end of it. */
  readLine(prompt: string): Promise<string | undefined>;
  now(): { sec: number; nsec: number };
  randomBytes(count: number): Uint8Array;
  /** An environment variable; undefined when it is not set. */
  env(name: string): string | undefined;
}

/** An output stream that knows how names of others may appear on it. */
export interface Output {
  readonly isTerminal: boolean;
  /** See `Stream.write`. */
  readonly write: (text: string, hint?: string) => void;
  /**
   * A name that somebody else chose, as it may be written here: on a terminal with control
   * characters escaped, so that it cannot move the cursor or say something else; otherwise as it
   * is.
   */
  readonly name: (text: string) => string;
}

export function createContext(host: Host, native: Native): Context {
  return {
    program: baseName(host.argv[0] ?? "") === "multipass" ? "multipass" : "calque",
    native,
    stdout: output(host.stdout),
    stderr: output(host.stderr),
    stdin: host.stdin,
    readLine: (prompt) => host.readLine(prompt),
    now: () => host.now(),
    randomBytes: (count) => host.randomBytes(count),
    env: (name) => host.env(name),
  };
}

function output(stream: Stream): Output {
  return {
    get isTerminal() {
      return stream.isTerminal;
    },
    write: (text, hint) => stream.write(text.isWellFormed() ? text : toBytes(text), hint),
    name: (text) => (stream.isTerminal ? escapeControls(text) : text),
  };
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
