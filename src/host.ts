// The world as commands see it. `cli.ts` makes one for Node, Deno and Bun, `embedded.ts` one for
// the executable, tests a fake one. Whatever is on disk is the business of `native.ts`.

export interface Host {
  /** The program's name as it was called, then its arguments. */
  readonly argv: readonly string[];
  /** An environment variable; undefined when it is not set. */
  env(name: string): string | undefined;
  readonly stdout: Stream;
  readonly stderr: Stream;
  readonly stdin: { readonly isTerminal: boolean };
  /** The time since 1970, UTC. */
  now(): { sec: number; nsec: number };
  /** Bytes that nobody can guess; at most 65 536. */
  randomBytes(count: number): Uint8Array;
  /** Asks for a line of input; undefined at the end of it. */
  readLine(prompt: string): Promise<string | undefined>;
}

/** An output stream. */
export interface Stream {
  /**
   * Writes everything before it returns; strings as UTF-8, bytes for names that are not UTF-8.
   *
   * On stdout, a reader that went away ends the process quietly, as SIGPIPE would; anything else
   * that keeps the text from being written is said on stderr, `hint` on a line behind it, and ends
   * the process with status 1. What cannot be written to stderr is lost, and the work goes on.
   */
  write(data: string | Uint8Array, hint?: string): void;
  readonly isTerminal: boolean;
  /** The width of the terminal, where there is one. */
  readonly columns: number | undefined;
}
