// What `-o` of `image create` says about the layout of an image, read and refused as qemu-img does:
// first every option for itself in the order given, later their combination.

import { CommandError } from "../../failure.ts";
import type { Compat, CompressionType } from "../../native.ts";
import { parseSize } from "../../text/size.ts";

/** The options as given, the last of each name. */
export interface Layout {
  readonly clusterSize: bigint;
  readonly compat: string | undefined;
  readonly compressionType: string;
  readonly extendedEntries: string;
  /** As a C program that reads it into 64 bits sees it. */
  readonly refcountBits: bigint;
  readonly lazyRefcounts: string;
  readonly size: bigint | undefined;
}

/** The combination, as the core wants it. */
export interface CheckedLayout {
  readonly clusterSize: number;
  readonly compat: Compat;
  readonly compressionType: CompressionType;
  readonly extendedEntries: boolean;
  readonly refcountBits: number;
  readonly lazyRefcounts: boolean;
}

interface Known {
  readonly type: "size" | "str" | "bool (on/off)" | "num";
  readonly help: string;
}

const KNOWN: ReadonlyMap<string, Known> = new Map([
  ["cluster_size", { type: "size", help: "qcow2 cluster size" }],
  ["compat", { type: "str", help: "Compatibility level (v2 [0.10] or v3 [1.1])" }],
  [
    "compression_type",
    { type: "str", help: "Compression method used for image cluster compression" },
  ],
  ["extended_l2", { type: "bool (on/off)", help: "Extended L2 tables" }],
  ["lazy_refcounts", { type: "bool (on/off)", help: "Postpone refcount updates" }],
  ["refcount_bits", { type: "num", help: "Width of a reference count entry in bits" }],
  ["size", { type: "size", help: "Virtual disk size" }],
] as const);

/** Options of qemu-img that are refused by name. */
const REFUSED: ReadonlyMap<string, string> = new Map([
  ["backing_file", "images with a backing file cannot be created yet"],
  ["backing_fmt", "images with a backing file cannot be created yet"],
  ["data_file", "external data files are not supported"],
  ["data_file_raw", "external data files are not supported"],
  ["encryption", "encrypted images cannot be created"],
  ["extent_size_hint", "the file system's own allocation is used"],
  ["nocow", "the attribute of the directory is used"],
  ["preallocation", "clusters are allocated when they are written"],
]);

/** The list that `-o help` prints. */
export function layoutHelp(): string {
  const lines = [...KNOWN].map(
    ([name, { type, help }]) => `${`  ${name}=<${type}>`.padEnd(24)} - ${help}`,
  );
  return `Supported options:\n${lines.join("\n")}\n`;
}

/** Splits `a=b,c=d,,e,nof` into names and values; two commas are one in a value. */
export function splitOptions(text: string): [name: string, value: string][] {
  return [...text.matchAll(/([^=,]*)(?:=((?:[^,]|,,)*))?(?:,|$)/g)]
    .slice(0, -1) // the last match is the empty one at the end
    .map(([, name = "", value]): [string, string] => {
      if (value !== undefined) return [name, value.replaceAll(",,", ",")];
      return name.startsWith("no") && KNOWN.has(name.slice(2))
        ? [name.slice(2), "off"]
        : [name, "on"];
    });
}

/** Whether the text of one `-o` is a list at all. */
export function isOptionList(text: string): boolean {
  const commas = /,*$/.exec(text)![0].length;
  return text !== "" && !text.startsWith(",") && commas % 2 === 0;
}

/** Reads every option for itself. */
export function readLayout(options: readonly (readonly [string, string])[], file: string): Layout {
  const values = new Map<string, string>();
  const sizes = new Map<string, bigint>();
  for (const [name, value] of options) {
    const known = KNOWN.get(name);
    if (known === undefined) throw unknownOption(name, file);
    if (known.type === "size") sizes.set(name, readSize(name, value, file));
    if (known.type === "num") readNumber(name, value, file);
    if (known.type === "bool (on/off)") readSwitch(name, value, file);
    values.set(name, value);
  }
  return {
    clusterSize: sizes.get("cluster_size") ?? 65536n,
    compat: values.get("compat"),
    compressionType: values.get("compression_type") ?? "zlib",
    extendedEntries: values.get("extended_l2") ?? "off",
    refcountBits: readNumber("refcount_bits", values.get("refcount_bits") ?? "16", file),
    lazyRefcounts: values.get("lazy_refcounts") ?? "off",
    size: sizes.get("size"),
  };
}

/** Checks the combination. */
export function checkLayout(layout: Layout, file: string): CheckedLayout {
  const refuse = (reason: string): CommandError => new CommandError(`${file}: ${reason}`);
  const compat = COMPAT.get(layout.compat ?? "v3");
  if (compat === undefined) throw refuse(notAccepted("version", layout.compat!));
  const { compressionType } = layout;
  if (compressionType !== "zlib" && compressionType !== "zstd") {
    throw refuse(notAccepted("compression-type", compressionType));
  }
  const clusterSize = Number(layout.clusterSize);
  if (!isPowerOfTwo(clusterSize, 512, 1 << 21)) {
    throw refuse("Cluster size must be a power of two between 512 and 2048k");
  }
  const old = compat === "0.10";
  const extendedEntries = isOn(layout.extendedEntries);
  if (extendedEntries) {
    if (old) throw refuse(`Extended L2 entries are only ${SINCE_NEW}`);
    if (clusterSize < 16384) {
      throw refuse(
        "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
      );
    }
  }
  const lazyRefcounts = isOn(layout.lazyRefcounts);
  if (old && lazyRefcounts) throw refuse(`Lazy refcounts only ${SINCE_NEW}`);
  const refcountBits = Number(layout.refcountBits);
  if (!isPowerOfTwo(refcountBits, 1, 64)) {
    throw refuse("Refcount width must be a power of two and may not exceed 64 bits");
  }
  if (old && refcountBits !== 16) {
    throw refuse(
      "Different refcount widths than 16 bits require compatibility level 1.1 or above " +
        "(use version=v3 or greater)",
    );
  }
  if (old && compressionType !== "zlib")
    throw refuse(`Non-zlib compression type is only ${SINCE_NEW}`);
  return {
    clusterSize,
    compat,
    compressionType,
    extendedEntries,
    refcountBits,
    lazyRefcounts,
  };
}

const SINCE_NEW = "supported with compatibility level 1.1 and above (use version=v3 or greater)";

const COMPAT = new Map<string, Compat>([
  ["0.10", "0.10"],
  ["v2", "0.10"],
  ["1.1", "1.1"],
  ["v3", "1.1"],
]);

function unknownOption(name: string, file: string): CommandError {
  const reason = name.startsWith("encrypt.") ? REFUSED.get("encryption") : REFUSED.get(name);
  return reason === undefined
    ? new CommandError(`${file}: Invalid parameter '${name}'`)
    : new CommandError(`${file}: Cannot use '${name}': ${reason}`);
}

function notAccepted(name: string, value: string): string {
  return `Parameter '${name}' does not accept value '${value}'`;
}

function readSize(name: string, value: string, file: string): bigint {
  const size = parseSize(value);
  if (size === "range") {
    throw new CommandError(`${file}: Value '${value}' is out of range for parameter '${name}'`);
  }
  if (size === "syntax") {
    throw new CommandError(
      `${file}: Parameter '${name}' expects a non-negative number below 2^64`,
      {
        lines: [
          "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-",
          "and exabytes, respectively.",
        ],
      },
    );
  }
  return size;
}

/** A number as C reads it: hexadecimal after 0x, octal after 0, negative ones wrapped. */
function readNumber(name: string, value: string, file: string): bigint {
  const match = /^[ \t-\r]*([+-]?)(0x[0-9a-f]+|0[0-7]*|[1-9]\d*)$/i.exec(value);
  if (match === null) throw new CommandError(`${file}: Parameter '${name}' expects a number`);
  const [, sign, digits = ""] = match;
  const size = BigInt(digits.replace(/^0(?=\d)/, "0o"));
  if (size >= 1n << 64n) {
    throw new CommandError(`${file}: Value '${value}' is too large for parameter '${name}'`);
  }
  return BigInt.asIntN(64, sign === "-" ? -size : size);
}

function readSwitch(name: string, value: string, file: string): void {
  if (!SWITCHES.has(value)) {
    throw new CommandError(`${file}: Parameter '${name}' expects 'on' or 'off'`);
  }
}

const SWITCHES = new Map([
  ["on", true],
  ["yes", true],
  ["true", true],
  ["y", true],
  ["off", false],
  ["no", false],
  ["false", false],
  ["n", false],
]);

function isOn(value: string): boolean {
  return SWITCHES.get(value) === true;
}

function isPowerOfTwo(value: number, least: number, most: number): boolean {
  return value >= least && value <= most && Number.isInteger(Math.log2(value));
}
