// What stands behind the header in the first cluster, against qemu-img: the header extensions and
// the name of the backing file.

import { expect, test } from "vitest";

import { type Case, Damages } from "./damage.ts";
import { change, exp, field, type Place } from "./fields.ts";

const damages = new Damages();

/** Changes of single words. */
type Edits = readonly [place: Place, value: bigint | number][];

function edited(content: Buffer, edits: Edits): Buffer {
  return edits.reduce((so, [place, value]) => change(so, place, BigInt(value)), content);
}

const features = field("incompatible features");
const bitmapsBit: Edits = [[field("autoclear features"), 1]];
const luks: Edits = [[field("encryption"), 2]];
/** Of the first extension behind a header of 112 bytes. */
const length: Place = { at: 116, bytes: 4 };

test("both find the same name of a backing file", async () => {
  const content = damages.original("overlay.qcow2");
  const [nameOffset, nameBytes] = [field("backing file offset"), field("backing file size")];
  const name = Number(content.readBigUInt64BE(nameOffset.at));
  const bytes = content.readUInt32BE(nameBytes.at);
  const offsets = [0, 16, 20, 113, 116, name - 1, name + 4, name + bytes].concat([
    65_536 - bytes,
    65_537 - bytes,
    65_535,
    65_536,
    65_537,
  ]);
  const edits: [string, Edits][] = [
    ...[0, 1, 5, bytes + 1, 100, 1022, 1023, 1024, 2 ** 31].map((value): [string, Edits] => [
      `size ${value}`,
      [[nameBytes, value]],
    ]),
    ...offsets.map((value): [string, Edits] => [`offset ${value}`, [[nameOffset, value]]]),
    ...["\0", "\u001b", "/"].map((first): [string, Edits] => [
      `${JSON.stringify(first)} first`,
      [[{ at: name, bytes: 1 }, first.charCodeAt(0)]],
    ]),
    ["a name with an end in it", [[{ at: name + 3, bytes: 1 }, 0]]],
    ["a name with a protocol", [[{ at: name + 1, bytes: 1 }, ":".charCodeAt(0)]]],
    ...[0, 14, 15, 16, 17, 24].map((value): [string, Edits] => [
      `a format of ${value} bytes`,
      [[length, value]],
    ]),
  ];
  const cases = edits.map(([story, list]) => ({ story, content: edited(content, list) }));
  expect(await damages.differences(cases, ["info", "info --output=json"])).toEqual([]);
});

const BACKING_FORMAT = 0xe279_2aca;
const FEATURE_NAMES = 0x6803_f857;
const BITMAPS = 0x2385_2875;
const ENCRYPTION = 0x0537_be77;
const DATA_FILE = 0x4441_5441;

/** An image with these header extensions, then edited. */
function extended(
  story: string,
  extensions: readonly [kind: number, data: string][],
  edits: Edits = [],
): Case {
  const content = damages.original("new.qcow2");
  let at = 112;
  for (const [kind, data] of extensions) {
    content.writeUInt32BE(kind, at);
    content.writeUInt32BE(data.length, at + 4);
    content.write(data, at + 8, "latin1");
    at += 8 + Math.ceil(data.length / 8) * 8;
  }
  content.fill(0, at, at + 8);
  return { story, content: edited(content, edits) };
}

/** A row of the feature name table. */
function feature(bit: number, name: string): string {
  return `\0${String.fromCharCode(bit)}${name.padEnd(46, "\0")}`;
}

function words(...numbers: (bigint | number)[]): string {
  const data = Buffer.alloc(8 * numbers.length);
  for (const [at, number] of numbers.entries()) data.writeBigUInt64BE(BigInt(number), 8 * at);
  return data.toString("latin1");
}

test("both say the same of header extensions", async () => {
  const [fast, slow] = [feature(41, "fast"), feature(42, "slow")];
  const long = feature(41, "f".repeat(46));
  const beyond = (offset: bigint): string => words(exp(32), 32, offset);
  const cases = [
    extended("unknown ones of one type", [
      [7, "a"],
      [7, "b"],
    ]),
    extended("a data file of an image that has none", [[DATA_FILE, "foo"]]),
    extended("a format without a backing file", [[BACKING_FORMAT, "qcow2"]]),
    extended("a format that is too long", [[BACKING_FORMAT, "0123456789abcdef"]]),
    extended("an encryption header without encryption", [[ENCRYPTION, words(0, 0)]]),
    extended("no encryption header", [], luks),
    extended("an encryption header of 15 bytes", [[ENCRYPTION, "x".repeat(15)]], luks),
    extended("an unaligned encryption header", [[ENCRYPTION, words(0x3_0200, 9)]], luks),
    extended("bitmaps of 23 bytes", [[BITMAPS, "x".repeat(23)]]),
    extended("no bitmaps", [[BITMAPS, words(0, 0, 0)]], bitmapsBit),
    extended("bitmaps beyond the end", [[BITMAPS, beyond(exp(56))]], bitmapsBit),
    extended("bitmaps where no file reaches", [[BITMAPS, beyond(exp(63) - exp(20))]], bitmapsBit),
    extended("features with names", [[FEATURE_NAMES, fast + slow]], [[features, 7n << 41n]]),
    extended(
      "names in two tables",
      [
        [FEATURE_NAMES, fast],
        [FEATURE_NAMES, slow],
      ],
      [[features, 3n << 41n]],
    ),
    extended(
      "an empty name, which ends the table",
      [[FEATURE_NAMES, fast + feature(43, "") + slow]],
      [[features, 3n << 41n]],
    ),
    extended("a row cut off", [[FEATURE_NAMES, `${fast}\0*abc`]], [[features, 3n << 41n]]),
    extended("a name of 46 bytes", [[FEATURE_NAMES, long]], [[features, 1n << 41n]]),
    extended(
      "an unknown feature before a mistake",
      [[7, "x"]],
      [
        [features, 1n << 41n],
        [length, 70_000],
      ],
    ),
    ...[0, 65_408, 65_412, 65_415, 65_416, 65_417, 70_000].map((value) =>
      extended(`one of ${value} bytes`, [[7, ""]], [[length, value]]),
    ),
    extended("an end with a length", [[0, ""]], [[length, 24]]),
    extended("an end that is too long", [[0, ""]], [[length, 70_000]]),
  ];
  expect(await damages.differences(cases)).toEqual([]);
});
