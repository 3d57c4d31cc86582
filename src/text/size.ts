// Sizes as qemu-img writes and reads them.

import { fixed } from "./number.ts";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/**
 * Three significant digits and a binary unit: `0 B`, `1.5 MiB`, `115 GiB`. The unit goes up from
 * 1000 on, so that 1000 KiB is `0.977 MiB`; between 999.5 and 1000 the digits overflow to `1e+03`.
 */
export function formatSize(bytes: number): string {
  let unit = 0;
  let divisor = 1;
  while (bytes / divisor >= 1000) {
    unit += 1;
    divisor *= 1024;
  }
  const value = bytes / divisor;
  const decimals = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  const digits = fixed(bytes, divisor, unit === 0 ? 0 : decimals);
  const plain = digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
  return `${plain === "1000" ? "1e+03" : plain} ${UNITS[unit]}`;
}

/** Why a text is no size: `range` when it is a number, but not one that 64 bits hold. */
export type NoSize = "syntax" | "range";

/**
 * Reads a size: `512`, `0x200`, `1.5G`, one of the suffixes b k m g t p e in either case. Fractions
 * need a suffix that leaves them whole bytes to be rounded to.
 */
export function parseSize(text: string): bigint | NoSize {
  const trimmed = text.replace(/^[ \t-\r]+/, "");
  if (/^-(0x[0-9a-f]+|\d+)$/i.test(trimmed)) return "range";
  const hexadecimal = /^\+?(0x[0-9a-f]+)$/i.exec(trimmed);
  if (hexadecimal) return inRange(BigInt(hexadecimal[1]!));
  const decimal = /^\+?(\d*)(?:\.(\d*))?([bkmgtpe]?)$/i.exec(trimmed);
  if (!decimal) return "syntax";
  const [, whole = "", fraction = "", suffix = ""] = decimal;
  if (whole === "" && fraction === "") return "syntax";
  const unit = 1n << BigInt(10 * Math.max(0, "bkmgtpe".indexOf(suffix.toLowerCase() || "b")));
  const part = Number(`0.${fraction || "0"}`);
  if (part > 0 && unit === 1n) return "syntax";
  const units = BigInt(whole || "0");
  // With anything behind it, a number beyond 64 bits is not even read as one.
  if (units > MAX_UNSIGNED && /\D$|\./.test(trimmed)) return "syntax";
  return inRange(units * unit + BigInt(Math.floor(part * Number(unit) + 0.5)));
}

const MAX_UNSIGNED = (1n << 64n) - 1n;

function inRange(size: bigint): bigint | NoSize {
  return size > MAX_UNSIGNED ? "range" : size;
}
