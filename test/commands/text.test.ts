// How numbers, sizes, JSON and names are written. Each expected text was printed by qemu-img.

import { expect, test } from "vitest";

import { formatJson } from "../../src/text/json.ts";
import { asWritten, byteLength, escapeControls, toBytes } from "../../src/text/name.ts";
import { percentage } from "../../src/text/number.ts";
import { formatSize, parseSize } from "../../src/text/size.ts";

test.each([
  [0, "0 B"],
  [1, "1 B"],
  [999, "999 B"],
  [1000, "0.977 KiB"],
  [1023, "0.999 KiB"],
  [1024, "1 KiB"],
  [1_023_488, "1e+03 KiB"],
  [1_024_000, "0.977 MiB"],
  [1_047_552, "0.999 MiB"],
  [1_048_575, "1 MiB"],
  [1_572_864, "1.5 MiB"],
  [10_230_784, "9.76 MiB"],
  [10_480_640, "10 MiB"],
  [104_857_088, "100 MiB"],
  [1_207_959_552, "1.12 GiB"],
  [1_048_576_000, "0.977 GiB"],
  [123_456_789_012, "115 GiB"],
  [2 ** 53, "8 PiB"],
])("%d bytes are %s", (bytes, text) => {
  expect(formatSize(bytes)).toBe(text);
});

test.each([
  ["0", 0n],
  ["1b", 1n],
  ["2B", 2n],
  ["3k", 3072n],
  ["1.5G", 1_610_612_736n],
  ["0.1k", 102n],
  ["0.0005k", 1n],
  ["0.00048k", 0n],
  ["1.", 1n],
  ["1.0b", 1n],
  ["1.k", 1024n],
  [".5G", 536_870_912n],
  ["0x10", 16n],
  ["+0X10", 16n],
  ["0x10b", 267n],
  [" 1M", 1_048_576n],
  ["010", 10n],
  ["0.9999999999999999999k", 1024n],
  ["0.0000000001E", 115_292_150n],
  ["1.1E", 1_268_213_655_067_531_680n],
  ["7.99E", 9_211_842_821_808_707_328n],
  ["18446744073709551615", 18_446_744_073_709_551_615n],
  ["18446744073709551616", "range"],
  ["17179869184G", "range"],
  ["18446744073709551616k", "syntax"],
  ["99999999999999999999.5k", "syntax"],
  ["-1", "range"],
  ["-0", "range"],
  ["-1k", "syntax"],
  ["", "syntax"],
  [".", "syntax"],
  ["k", "syntax"],
  ["1.5", "syntax"],
  ["1.5b", "syntax"],
  ["1e3", "syntax"],
  ["1MB", "syntax"],
  ["1M ", "syntax"],
  ["1..5", "syntax"],
  ["0x10M", "syntax"],
  ["0x", "syntax"],
  ["00x1", "syntax"],
  ["inf", "syntax"],
])("the size %j is %s", (text, size) => {
  expect(parseSize(text)).toBe(size);
});

test.each([
  [2, 16, "12.50"],
  [10, 64, "15.62"],
  [11, 64, "17.19"],
  [6, 11, "54.55"],
  [1, 800, "0.12"],
  [3, 800, "0.38"],
  [1, 20000, "0.01"],
  [16, 16, "100.00"],
])("%d of %d are %s %%", (part, whole, text) => {
  expect(percentage(part, whole)).toBe(text);
});

test("JSON is ASCII, four spaces deep, and opens its empty lists", () => {
  const value = {
    a: [],
    b: {},
    c: [1n, "\u00e9\u{1f600}\u007f\b"],
    d: undefined,
    e: "\\u00ab\udcff",
  };
  expect(formatJson(value)).toMatchInlineSnapshot(`
    "{
        "a": [
        ],
        "b": {
        },
        "c": [
            1,
            "\\u00E9\\uD83D\\uDE00\\u007F\\b"
        ],
        "e": "\\\\u00ab\\uFFFD"
    }
    "
  `);
});

test.each([
  ["a\u007f", "617f"],
  ["\u0080\u07ff", "c280dfbf"],
  ["\u0800\uffff", "e0a080efbfbf"],
  ["\u{10000}\u{1f600}\u{10ffff}", "f0908080f09f9880f48fbfbf"],
  ["\udc80a\udcff", "8061ff"],
  ["\u{1f600}\udc98\u00e9\ufffd", "f09f988098c3a9efbfbd"],
])("the bytes of %j are %s", (text, hex) => {
  expect(Buffer.from(toBytes(text)).toString("hex")).toBe(hex);
  expect(byteLength(text)).toBe(hex.length / 2);
});

test("bytes that are no text are shown as such on a terminal", () => {
  expect(asWritten("b\ufffdd", '"b\\udcffd"')).toBe("b\udcffd");
  expect(asWritten("b\ufffdd", undefined)).toBe("b\ufffdd");
  expect(escapeControls("b\udcffd")).toBe("b\\xffd");
});
