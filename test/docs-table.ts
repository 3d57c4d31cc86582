// The tables in docs/ of which each cell is a test.

import { readFileSync } from "node:fs";

export interface Table {
  /** What the columns between the first and the last are about. */
  operations: readonly string[];
  /** The cells of each row. */
  lines: readonly string[][];
}

/** The table of a page: its lines are those that `isLine` takes, the heads first. */
export function docsTable(page: string, isLine: (line: string) => boolean): Table {
  const [heads, ...lines] = readFileSync(page, "utf8").split("\n").filter(isLine).map(cellsOf);
  return { operations: heads!.slice(1, -1).map((head) => head.replaceAll("`", "")), lines };
}

/** The sentences that a row gives for what it refuses. */
export function reasonsOf(cells: readonly string[]): string[] {
  return [...cells.at(-1)!.matchAll(/`([^`]+)`/g)].map(([, text]) => text!);
}

function cellsOf(line: string): string[] {
  return line
    .split("|")
    .slice(1, -1)
    .map((cell) => cell.trim());
}
