// Sizes as Multipass reads them: `1234B`, `42MiB`, `0.5G`; powers of 1024, rounded down.

const UNITS: Readonly<Record<string, number>> = { b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 };

/** The bytes, or undefined where the text is no size or one that no number holds exactly. */
export function parseMemorySize(text: string): number | undefined {
  const match = /^ *(\d+)(?:\.(\d+))? *(?:([kmg])(?:i?b)?|(b))? *$/i.exec(text);
  if (match === null) return undefined;
  const [, whole = "", fraction, unit = "", plain = ""] = match;
  // A fraction of a byte is nothing.
  if (fraction !== undefined && unit === "") return undefined;
  const scale = UNITS[(unit || plain || "b").toLowerCase()]!;
  const bytes =
    BigInt(whole) * BigInt(scale) +
    (BigInt(fraction ?? "0") * BigInt(scale)) / 10n ** BigInt(fraction?.length ?? 0);
  const size = Number(bytes);
  return Number.isSafeInteger(size) ? size : undefined;
}
