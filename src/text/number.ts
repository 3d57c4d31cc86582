// Numbers as C's printf writes them, which rounds exact halves to the even digit.

/** `value / divisor` with `digits` decimals; `divisor` is not 0, both are whole. */
export function fixed(value: number, divisor: number, digits: number): string {
  const scale = 10n ** BigInt(digits);
  const scaled = BigInt(value) * scale;
  const by = BigInt(divisor);
  const rest = (scaled % by) * 2n;
  let whole = scaled / by;
  if (rest > by || (rest === by && whole % 2n === 1n)) whole += 1n;
  const fraction = (whole % scale).toString().padStart(digits, "0");
  return digits === 0 ? whole.toString() : `${whole / scale}.${fraction}`;
}

/** `100 * part / whole` as `%.2f`. */
export function percentage(part: number, whole: number): string {
  const value = (part * 100) / whole;
  // The only halves of a hundredth that a double can hold are odd multiples of an eighth; all
  // other values round the same way everywhere.
  return Math.abs((value * 8) % 2) === 1 ? fixed(value * 8, 8, 2) : value.toFixed(2);
}
