// Failures of the core in qemu-img's sentences.

import type { Context } from "../../context.ts";
import { CommandError } from "../../failure.ts";
import { type Failure, type FailureCode, NativeFailure, type OnChange } from "../../native.ts";

/** What a command says of a failure on the image at `path`, and the status that it ends with. */
interface Wording {
  readonly path: string;
  readonly sentence: (failure: Failure) => string;
  readonly status?: (failure: Failure) => number;
}

/**
 * Calls the core. A failure to open the image becomes qemu-img's sentence for that, any other what
 * `sentence` makes of it.
 */
export function attempt<Report>(
  context: Context,
  operation: () => Report,
  { path, sentence, status = () => 1 }: Wording,
): Report {
  return translate(context, operation, path, (failure, file) => ({
    message:
      failure.stage === "open" && file === path
        ? `Could not open '${file}': ${openReason(failure, file)}`
        : sentence(failure),
    status: status(failure),
  }));
}

/** Calls the core; `word` finds the words for a failure, about the file that it names or `path`. */
export function translate<Report>(
  { program }: Context,
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
    throw new CommandError(message, { status, causes, lines: hints(failure, file, program) });
  }
}

/** What the system refuses, qemu-img reports twice: by the format and by the file below it. */
function openReason({ code, reason }: Failure, file: string): string {
  const bySystem = code === "not-found" || code === "permission-denied" || code === "read-only";
  return bySystem && !/^(Could not open|The device is not writable)/.test(reason)
    ? `Could not open '${file}': ${reason}`
    : reason;
}

/** The lines after the sentence: qemu-img's own as they are, ours marked as hints. */
function hints({ code, reason, hint = "" }: Failure, file: string, program: string): string[] {
  const lines = hint.split("\n").filter((line) => line !== "");
  if (code === "in-use" && reason.startsWith("Failed to get") && !lines.some(isQemus)) {
    lines.unshift(`Is another process using the image [${file}]?`);
  }
  const wayOut = WAYS_OUT.get(code);
  if (wayOut !== undefined) lines.push(wayOut(`${program} image`));
  return lines.map((line) => (line.startsWith("hint: ") || isQemus(line) ? line : `hint: ${line}`));
}

/** What leads on: the core does not know how its operations are typed. */
const WAYS_OUT = new Map<FailureCode, (image: string) => string>([
  ["snapshot-not-found", (image) => `\`${image} snapshot -l FILE\` lists what there is`],
  [
    "snapshot-exists",
    (image) => `\`${image} snapshot --rename OLD NEW FILE\` gives it another name`,
  ],
  [
    "snapshot-ambiguous",
    (image) => `\`${image} snapshot --rename ID NEW FILE\` gives one of them a name of its own`,
  ],
  ["cannot-share", () => "`--strategy auto` copies where blocks cannot be shared"],
]);

function isQemus(line: string): boolean {
  return /^(Is another process using the image \[|You can force-remove )/.test(line);
}

/** Says once, after a while, what a command is waiting for. */
export function sayWaiting({ stderr }: Context, path: string): OnChange {
  return ({ waitingFor }) => {
    if (waitingFor === undefined) return;
    stderr.write(`Waiting for ${stderr.name(waitingFor)} to finish with "${stderr.name(path)}"\n`);
  };
}
