// Names as they come from images and command lines. JavaScript strings cannot hold bytes that are
// not UTF-8; here each such byte stands as a lone surrogate, U+DC80 for 0x80 up to U+DCFF, and
// becomes that byte again when it is written. Nothing else makes lone surrogates.

const ESCAPED_BYTE = 0xdc00;

/** A text of the core's as it stands in the image, whose bytes are there where it is not UTF-8. */
export function asWritten(text: string, bytes: string | undefined): string {
  return bytes === undefined ? text : fromHex(bytes);
}

/** The name whose bytes are given in hexadecimal. */
export function fromHex(hex: string): string {
  const bytes = hex.match(/../g)?.map((byte) => Number.parseInt(byte, 16)) ?? [];
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const length = sequenceLength(bytes, at);
    if (length === 0) {
      text += String.fromCharCode(ESCAPED_BYTE + bytes[at]!);
      at += 1;
    } else {
      const escaped = bytes
        .slice(at, at + length)
        .map((b) => `%${b.toString(16).padStart(2, "0")}`);
      text += decodeURIComponent(escaped.join(""));
      at += length;
    }
  }
  return text;
}

/** How many bytes the UTF-8 sequence at `at` has; 0 when it is none. */
function sequenceLength(bytes: readonly number[], at: number): number {
  const first = bytes[at]!;
  const second = bytes[at + 1] ?? 0;
  if (first < 0x80) return 1;
  // The second byte rules out overlong forms, surrogates and what lies beyond U+10FFFF.
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  if (first < 0xc2 || first > 0xf4 || second < low || second > high) return 0;
  const length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const rest = bytes.slice(at + 2, at + length);
  const complete = rest.length === length - 2 && rest.every((byte) => (byte & 0xc0) === 0x80);
  return complete ? length : 0;
}

/** The bytes of a text. */
export function toBytes(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (code < 0x80) bytes.push(code);
    else if (code >= 0xdc80 && code <= 0xdcff) bytes.push(code - ESCAPED_BYTE);
    else if (code < 0x800) bytes.push(0xc0 | (code >> 6), tail(code));
    else if (code < 0x10000) bytes.push(0xe0 | (code >> 12), tail(code >> 6), tail(code));
    else bytes.push(0xf0 | (code >> 18), tail(code >> 12), tail(code >> 6), tail(code));
  }
  return Uint8Array.from(bytes);
}

function tail(code: number): number {
  return 0x80 | (code & 0x3f);
}

/** How many bytes a text has: C pads its columns by this. */
export function byteLength(text: string): number {
  // Most texts are ASCII, and there can be thousands of them.
  return /^[\0-\x7f]*$/.test(text) ? text.length : toBytes(text).length;
}

/** A text without what a terminal would act on: controls, overrides of direction, raw bytes. */
export function escapeControls(text: string): string {
  return text.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069\udc80-\udcff]/gu, (character) => {
    const code = character.charCodeAt(0);
    return code > ESCAPED_BYTE
      ? `\\x${(code - ESCAPED_BYTE).toString(16)}`
      : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}
