// What the two vehicles of the golden tests share: what a call has around it, and how it is told.

/** What a call has around it. */
export interface Surroundings {
  /** The name by which the program is called. */
  argv0: string;
  /** Whether all streams are terminals. */
  terminal: boolean;
  /** Whether standard input is one, if that is not as with the others. */
  typed: boolean;
  /** What is typed, a line for each question; then the input ends. */
  answers: readonly string[];
  env: Readonly<Record<string, string>>;
}

/** The time of everything that a command does. */
export const NOW = { sec: 1_795_606_149, nsec: 330_473_000 } as const;

/** A call as the tests show it. */
export function transcript(
  stdout: readonly Buffer[],
  stderr: readonly Buffer[],
  status: unknown,
): string {
  return `${text(stdout)}${text(stderr).replace(/^(?=[^])/gm, "! ")}= ${String(status)}`;
}

function text(written: readonly Buffer[]): string {
  const bytes = Buffer.concat(written);
  const decoded = bytes.toString("utf8");
  // Latin-1 keeps bytes that are not UTF-8 apart.
  return decoded.includes("\ufffd") ? bytes.toString("latin1") : decoded;
}
