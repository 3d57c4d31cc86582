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
  now(): { sec: number; nsec: number };
}

/** An output stream that knows how names of others may appear on it. */
export interface Output {
  readonly isTerminal: boolean;
  readonly write: (text: string) => void;
  /**
   * A name that somebody else chose, as it may be written here: on a terminal with control
   * characters escaped, so that it cannot move the cursor or say something else; otherwise as it is.
   */
  readonly name: (text: string) => string;
}

export function createContext(host: Host, native: Native): Context {
  return {
    program: baseName(host.argv[0] ?? "") === "multipass" ? "multipass" : "calque",
    native,
    stdout: output(host.stdout),
    stderr: output(host.stderr),
    now: () => host.now(),
  };
}

function output(stream: Stream): Output {
  return {
    get isTerminal() {
      return stream.isTerminal;
    },
    write: (text) => stream.write(text.isWellFormed() ? text : toBytes(text)),
    name: (text) => (stream.isTerminal ? escapeControls(text) : text),
  };
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
