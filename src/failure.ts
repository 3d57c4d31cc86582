// What ends a command early: a sentence for the user and the status to end with.

interface Details {
  status?: number;
  /** Sentences that are shown before, each after an `error: ` of its own. */
  causes?: readonly string[];
  /** Complete lines that follow. */
  lines?: readonly string[];
}

/** A sentence that is shown after `error: `. Names in it stand as they are. */
export class CommandError extends Error {
  override readonly name: string = "CommandError";
  readonly status: number;
  readonly causes: readonly string[];
  readonly lines: readonly string[];

  constructor(message: string, { status = 1, causes = [], lines = [] }: Details = {}) {
    super(message);
    this.status = status;
    this.causes = causes;
    this.lines = lines;
  }
}

/** A command line that makes no sense; what follows the sentence says where help is. */
export class UsageError extends CommandError {
  override readonly name = "UsageError";
}
