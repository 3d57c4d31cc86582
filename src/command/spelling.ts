// What options may look like on a command line, and the one form that all are brought to.

/** How an option may be written. */
export interface Spelling {
  readonly name: string;
  readonly letters: string;
  readonly takesValue: boolean;
}

/** A command line with its options spelled out. */
export interface Normalized {
  /** Long names only; a value stands behind `=`. */
  readonly options: string[];
  readonly operands: string[];
}
