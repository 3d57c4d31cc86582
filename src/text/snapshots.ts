// The list of snapshots as `qemu-img snapshot -l` and `qemu-img info` print it. Widths count bytes,
// longer values push the rest to the right.

import type { SnapshotInfo } from "../native.ts";
import { asWritten, byteLength } from "./name.ts";
import { formatSize } from "./size.ts";

/** What stands before the rows; nothing when there are none. */
export function snapshotHeading(count: number): string {
  if (count === 0) return "";
  return `Snapshot list:\n${row(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"])}\n`;
}

/** A line for each. `show` makes a name printable, see `Output.name`. */
export function snapshotRows(
  snapshots: readonly SnapshotInfo[],
  show: (name: string) => string,
): string {
  const rows = snapshots.map((snapshot) =>
    row([
      show(snapshotId(snapshot)),
      show(snapshotName(snapshot)),
      formatSize(snapshot.vmStateSize),
      localDate(snapshot.dateSec),
      clock(snapshot.vmClockSec, snapshot.vmClockNsec),
      snapshot.icount ?? "--",
    ]),
  );
  return rows.map((line) => `${line}\n`).join("");
}

/** The name as it stands in the image, byte for byte. */
export function snapshotName({ name, nameJson }: SnapshotInfo): string {
  return asWritten(name, nameJson);
}

/** The id, likewise. */
export function snapshotId({ id, idJson }: SnapshotInfo): string {
  return asWritten(id, idJson);
}

const WIDTHS = [-7, -16, 8, 19, 15, 10];

/** Cells in their columns; a negative width means left-aligned. */
function row(cells: readonly string[]): string {
  const padded = cells.map((cell, column) => {
    const width = WIDTHS[column]!;
    // Nothing has fewer bytes than units, and a long name need not be counted.
    const isShort = cell.length < Math.abs(width);
    const missing = isShort ? Math.abs(width) - byteLength(cell) : 0;
    const padding = " ".repeat(Math.max(0, missing));
    return width < 0 ? cell + padding : padding + cell;
  });
  return padded.join(" ");
}

/** `2026-11-22 06:09:43`, in the local time zone. */
function localDate(seconds: number): string {
  const date = new Date(seconds * 1000);
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}

/** `0000:00:01.234`: hours, minutes, seconds, milliseconds, cut and not rounded. */
function clock(seconds: number, nanoseconds: number): string {
  const hours = Math.floor(seconds / 3600)
    .toString()
    .padStart(4, "0");
  const milliseconds = Math.floor(nanoseconds / 1e6)
    .toString()
    .padStart(3, "0");
  return `${hours}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}.${milliseconds}`;
}

function two(value: number): string {
  return value.toString().padStart(2, "0");
}
