// How attempts in trouble ended, for `npm run faults`, which makes tables of the rows.

import { appendFileSync } from "node:fs";
import process from "node:process";

/** Endings of the attempts of one sweep that met their trouble. */
export interface Tally {
  /** An error and the old state; of a command that was killed, a file without any difference. */
  refused: number;
  /** The new state; of a command that was killed, a file that differs, in one of the two states. */
  done: number;
}

/** Appends a row to the file that CALQUE_SWEEPS names, if it names one. */
export function keep(
  who: "executable" | "killed",
  trouble: string,
  change: string,
  { refused, done }: Tally,
): void {
  const file = process.env.CALQUE_SWEEPS;
  const row = [who, trouble, change, refused, done, 0].join("\t");
  if (file !== undefined) appendFileSync(file, `${row}\n`);
}
