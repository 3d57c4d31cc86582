// The fields of the header, and the values that are interesting in each.

/** Where a number stands, big endian. */
export interface Place {
  at: number;
  bytes: 1 | 4 | 8;
}

export interface Field extends Place {
  name: string;
  values: readonly bigint[];
}

const n = (...values: (number | bigint)[]): bigint[] => values.map(BigInt);
/** 2 to the power of `bits`. */
export const exp = (bits: number): bigint => 1n << BigInt(bits);
/** Where QEMU lets a file end. */
const end = exp(63) - exp(30);
const words = n(0, 1, 2, 0x1_0000, exp(31) - 1n, exp(31), exp(32) - 1n);
/** In the header, in a table, unaligned, beyond the end, where no entry, file, number reaches. */
const offsets = [
  ...n(0, 1, 0x1_0000, 0x2_0000, 0x3_0200, 0x900_0000, exp(56) - 0x1_0000n, exp(56), exp(62)),
  ...n(end - 0x1_0000n, end, exp(63) - 0x2_0000n, exp(63) - 1n, exp(63), exp(64) - 0x1_0000n),
];
const bits = n(...[0, 1, 2, 3, 4, 5, 6, 32, 62, 63].map(exp), 0, 0x68, exp(64) - 1n);

export const fields: readonly Field[] = [
  { name: "magic", at: 0, bytes: 4, values: n(0, 0x5146_49fa, exp(32) - 1n) },
  { name: "version", at: 4, bytes: 4, values: n(0, 1, 2, 3, 4, exp(31), exp(32) - 1n) },
  {
    name: "backing file offset",
    at: 8,
    bytes: 8,
    values: n(0, 1, 8, 72, 104, 111, 112, 116, 120, 0x1ff, 0x200, 0xffff, ...offsets.slice(2)),
  },
  { name: "backing file size", at: 16, bytes: 4, values: [...words, ...n(1023, 1024)] },
  {
    name: "cluster bits",
    at: 20,
    bytes: 4,
    values: [...words.slice(2), ...n(8, 9, 12, 15, 17, 21, 22, 64)],
  },
  {
    name: "size",
    at: 24,
    bytes: 8,
    values: [
      ...offsets.slice(0, 6),
      ...n(511, 513, exp(29), exp(29) + 1n, exp(40), exp(60)),
    ].concat(n(exp(63) - 1n, exp(63), exp(64) - exp(29), exp(64) - exp(29) + 1n, exp(64) - 1n)),
  },
  { name: "encryption", at: 32, bytes: 4, values: [...words, 3n] },
  {
    name: "L1 entries",
    at: 36,
    bytes: 4,
    values: [...words, ...n(3, 4096, exp(22), exp(22) + 1n)],
  },
  { name: "L1 offset", at: 40, bytes: 8, values: offsets },
  { name: "refcount table offset", at: 48, bytes: 8, values: offsets },
  { name: "refcount table clusters", at: 56, bytes: 4, values: [...words, ...n(128, 129)] },
  {
    name: "snapshots",
    at: 60,
    bytes: 4,
    values: n(0, 1, 2, 3, 100, 1000, 65_537, exp(31), exp(32) - 1n),
  },
  { name: "snapshots offset", at: 64, bytes: 8, values: offsets },
  { name: "incompatible features", at: 72, bytes: 8, values: bits },
  { name: "compatible features", at: 80, bytes: 8, values: bits.slice(3) },
  { name: "autoclear features", at: 88, bytes: 8, values: bits.slice(3) },
  { name: "refcount order", at: 96, bytes: 4, values: [...words, ...n(3, 6, 7)] },
  {
    name: "header length",
    at: 100,
    bytes: 4,
    values: n(
      0,
      72,
      90,
      103,
      104,
      105,
      108,
      111,
      112,
      113,
      116,
      120,
      128,
      159,
      160,
      164,
      200,
      4096,
    ).concat(n(0xffff, 0x1_0000, 0x1_0001, exp(31), exp(32) - 1n)),
  },
  { name: "compression type", at: 104, bytes: 1, values: n(0, 1, 2, 64, 128, 255) },
  { name: "padding", at: 105, bytes: 1, values: n(1, 255) },
  ...[106, 107, 108, 109, 110, 111].map((at): Field => ({
    name: `padding at ${at}`,
    at,
    bytes: 1,
    values: n(255),
  })),
];

/** The field of that name. */
export function field(name: string): Field {
  return fields.find((it) => it.name === name)!;
}

/** A copy of `content` with another value in a field. */
export function change(content: Buffer, { at, bytes }: Place, value: bigint): Buffer {
  const changed = Buffer.from(content);
  const word = Buffer.alloc(8);
  word.writeBigUInt64BE(BigInt.asUintN(8 * bytes, value));
  word.copy(changed, at, 8 - bytes);
  return changed;
}
