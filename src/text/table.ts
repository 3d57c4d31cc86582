// Tables and labelled lines as Multipass aligns them: in bytes, so that scripts that cut by bytes
// find their columns.

import { byteLength } from "./name.ts";

export interface Column {
  readonly title: string;
  /** The least width. */
  readonly minimum?: number;
}

const GAP = 3;
const LABEL_WIDTH = 16;

/** A header and lines. The last cell of a line is never padded; a line may have fewer cells. */
export function formatTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
): string {
  const lines = [columns.map(({ title }) => title), ...rows];
  const lengths = lines.map((cells) => cells.map(byteLength));
  const widths = columns.map(({ minimum = 0 }, at) =>
    lengths.reduce((width, line) => Math.max(width, (line[at] ?? 0) + GAP), minimum),
  );
  const texts = lines.map((cells, line) => {
    const last = cells.length - 1;
    const padded = cells.map((cell, at) =>
      at === last ? cell : cell + " ".repeat(widths[at]! - lengths[line]![at]!),
    );
    return `${padded.join("")}\n`;
  });
  return texts.join("");
}

/** `Label:` and its value; the lines of a value stand below each other. */
export function labelled(label: string, lines: readonly string[]): string {
  return `${pad(`${label}:`, LABEL_WIDTH)}${lines.join(`\n${" ".repeat(LABEL_WIDTH)}`)}\n`;
}

/** A text filled up to a width. */
export function pad(text: string, width: number): string {
  return text + " ".repeat(Math.max(0, width - byteLength(text)));
}
