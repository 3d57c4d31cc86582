// Names as they come from images and command lines. JavaScript strings cannot hold bytes that are
// not UTF-8; here each such byte stands as a lone surrogate, U+DC80 for 0x80 up to U+DCFF, and
// becomes that byte again when it is written. Nothing else makes lone surrogates.

const ESCAPED_BYTE = 0xdc00;
// What a unit that stands for a byte has above the lowest bits, unless it ends a character.
const FIRST_BYTE = 0xdc80;
const BYTE_MASK = 0xff80;

/** A text of the core's as it stands in the image; `json` is there where that is not UTF-8. */
export function asWritten(text: string, json: string | undefined): string {
  return json === undefined ? text : (JSON.parse(json) as string);
}

/** The bytes of a text. */
export function toBytes(text: string): Uint8Array {
  // Names in an image may have 16 MiB together, and no element of anything is set faster.
  const bytes = new Uint8Array(text.length * 3);
  let end = 0;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit < 0x80) {
      bytes[end++] = unit;
    } else if ((unit & BYTE_MASK) === FIRST_BYTE) {
      bytes[end++] = unit - ESCAPED_BYTE;
    } else if (unit < 0x800) {
      bytes[end++] = 0xc0 | (unit >> 6);
      bytes[end++] = tail(unit);
    } else {
      const code = text.codePointAt(at)!;
      if (code < 0x10000) {
        bytes[end++] = 0xe0 | (code >> 12);
      } else {
        at += 1;
        bytes[end++] = 0xf0 | (code >> 18);
        bytes[end++] = tail(code >> 12);
      }
      bytes[end++] = tail(code >> 6);
      bytes[end++] = tail(code);
    }
  }
  return bytes.slice(0, end);
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
