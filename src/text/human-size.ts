// Sizes as Multipass shows them: the largest of GiB, MiB and KiB that fits once, one decimal.

import { fixed } from "./number.ts";

const UNITS = [
  ["GiB", 2 ** 30],
  ["MiB", 2 ** 20],
  ["KiB", 2 ** 10],
] as const;

/** `5.0GiB`, `950.4MiB`, `1024.0GiB`, `1023B`. */
export function humanSize(bytes: number): string {
  const unit = UNITS.find(([, size]) => bytes >= size);
  // Multipass divides in single precision.
  return unit === undefined ? `${bytes}B` : `${fixed(Math.fround(bytes), unit[1], 1)}${unit[0]}`;
}
