// What the user reads when a command ends early.

import type { Dialect } from "./command/command.ts";
import type { Context } from "./context.ts";
import { CommandError, UsageError } from "./failure.ts";
import { escapeControls } from "./text/name.ts";

/** The command that the line has led to so far, for those who must say how it is called. */
export interface Place {
  path: string;
  dialect: Dialect;
}

/** Says on stderr what went wrong; returns the status to end with. Throws what is a bug of ours. */
export function report(error: unknown, { program, stderr }: Context, place: Place): number {
  // Each is one line, whatever names are in it; what Multipass indents, it indents with a tab.
  const say = (line: string): void => {
    const text = line.split("\t").map(escapeControls).join("\t");
    stderr.write(`${stderr.isTerminal ? text : line}\n`);
  };
  if (error instanceof UsageError && place.dialect === "qt") {
    for (const line of [error.message, ...error.lines]) say(line);
    return error.status;
  }
  if (!(error instanceof CommandError)) throw error;
  for (const sentence of [...error.causes, error.message]) say(`${error.title}: ${sentence}`);
  for (const line of error.lines) say(line);
  if (error instanceof UsageError) {
    say(`Try '${[program, place.path, "--help"].join(" ")}' for more info`);
  }
  return error.status;
}
