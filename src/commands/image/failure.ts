// Failures of the core in qemu-img's sentences.

import type { Context } from "../../context.ts";
import { CommandError } from "../../failure.ts";
import { type Failure, NativeFailure, type Waiting } from "../../native.ts";

/**
 * Calls the core. A failure to open the image becomes qemu-img's sentence for that, any other what
 * `sentence` makes of it; `status` says what to end with.
 */
export function attempt<Report>(
  operation: () => Report,
  path: string,
  sentence: (failure: Failure) => string,
  status: (failure: Failure) => number = () => 1,
): Report {
  return translate(operation, path, (failure, file) => ({
    message:
      failure.stage === "open" && file === path
        ? `Could not open '${file}': ${openReason(failure, file)}`
        : sentence(failure),
    status: status(failure),
  }));
}

/** Calls the core; `word` finds the words for a failure, about the file that it names or `path`. */
export function translate<Report>(
  operation: () => Report,
  path: string,
  word: (failure: Failure, file: string) => { message: string; status?: number },
): Report {
  try {
    return operation();
  } catch (error) {
    if (!(error instanceof NativeFailure)) throw error;
    const { failure } = error;
    const file = failure.path ?? path;
    const { message, status = 1 } = word(failure, file);
    const causes = failure.preface === undefined ? [] : [failure.preface];
    throw new CommandError(message, { status, causes, lines: hints(failure, file) });
  }
}

/** What the system refuses, qemu-img reports twice: by the format and by the file below it. */
function openReason({ code, reason }: Failure, file: string): string {
  const bySystem = code === "not-found" || code === "permission-denied" || code === "read-only";
  return bySystem && !reason.startsWith("Could not open")
    ? `Could not open '${file}': ${reason}`
    : reason;
}

/** The lines after the sentence: qemu-img's own as they are, ours marked as hints. */
function hints({ code, reason, hint = "" }: Failure, file: string): string[] {
  const lines = hint.split("\n").filter((line) => line !== "");
  if (code === "in-use" && reason.startsWith("Failed to get") && !lines.some(isQemus)) {
    lines.unshift(`Is another process using the image [${file}]?`);
  }
  if (code === "snapshot-ambiguous") {
    lines.push("`image snapshot --rename ID NEW FILE` gives one of them a name of its own");
  }
  return lines.map((line) => (line.startsWith("hint: ") || isQemus(line) ? line : `hint: ${line}`));
}

function isQemus(line: string): boolean {
  return /^(Is another process using the image \[|You can force-remove )/.test(line);
}

/** Says once, after a while, what a command is waiting for. */
export function sayWaiting({ stderr }: Context, path: string): Waiting {
  return (holder) => {
    stderr.write(`Waiting for ${stderr.name(holder)} to finish with "${stderr.name(path)}"\n`);
  };
}
