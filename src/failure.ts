// What ends a command early: a sentence for the user and the status to end with.

interface Details {
  status?: number;
  /** What stands before the sentence instead of `error`. */
  title?: string;
  /** Sentences that are shown before, each after an `error: ` of its own. */
  causes?: readonly string[];
  /** Complete lines that follow. */
  lines?: readonly string[];
}

/** A sentence that is shown after `error: ` or what stands for it. Names in it stand as they are. */
export class CommandError extends Error {
  override readonly name: string = "CommandError";
  readonly status: number;
  readonly title: string;
  readonly causes: readonly string[];
  readonly lines: readonly string[];

  constructor(
    message: string,
    { status = 1, title = "error", causes = [], lines = [] }: Details = {},
  ) {
    super(message);
    this.status = status;
    this.title = title;
    this.causes = causes;
    this.lines = lines;
  }
}

/** A command line that makes no sense; what follows the sentence says where help is. */
export class UsageError extends CommandError {
  override readonly name = "UsageError";
}

/** How a command on instances fails, as in Multipass: `clone failed: …`, further lines, status 2. */
export function failed(
  command: string,
  message: string,
  lines: readonly string[] = [],
): CommandError {
  return new CommandError(message, { title: `${command} failed`, status: 2, lines });
}
