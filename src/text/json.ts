// JSON as qemu-img writes it: four spaces, ASCII only, an empty list or object on two lines. How
// Multipass's differs from that is said in multipass-json.ts.

export type Json =
  | string
  | number
  | bigint
  | boolean
  | readonly Json[]
  | JsonObject
  // Whose keys come from outside: an object would reorder those that are numbers.
  | ReadonlyMap<string, Json | undefined>;

export interface JsonObject {
  readonly [key: string]: Json | undefined;
}

/** How strings and objects are written. */
export interface JsonStyle {
  quote(text: string): string;
  entries(object: JsonObject | ReadonlyMap<string, Json | undefined>): JsonEntry[];
}

type JsonEntry = [key: string, value: Json | undefined];

/** A value and a line end; keys that are undefined are left out. */
export function formatJson(value: Json, style: JsonStyle = QEMU_IMG): string {
  return `${render(value, "", style)}\n`;
}

/** The entries of an object in the order in which it has them. */
export function entriesOf(object: JsonObject | ReadonlyMap<string, Json | undefined>): JsonEntry[] {
  return object instanceof Map ? [...object] : Object.entries(object);
}

const QEMU_IMG: JsonStyle = { quote: quoteAscii, entries: entriesOf };

function render(value: Json, indent: string, style: JsonStyle): string {
  if (typeof value === "string") return style.quote(value);
  if (typeof value !== "object") return String(value);
  const inner = `${indent}    `;
  const [open, close, items] = isList(value)
    ? ["[", "]", value.map((item) => render(item, inner, style))]
    : [
        "{",
        "}",
        style
          .entries(value)
          .flatMap(([key, item]) =>
            item === undefined ? [] : [`${style.quote(key)}: ${render(item, inner, style)}`],
          ),
      ];
  const lines = items.map((item) => inner + item).join(",\n");
  return `${open}\n${lines}${lines && "\n"}${indent}${close}`;
}

function isList(value: object): value is readonly Json[] {
  return Array.isArray(value);
}

/** A string; what is not UTF-8 in it, a lone surrogate here, becomes U+FFFD. */
function quoteAscii(text: string): string {
  const escapes = /\\(?:u([0-9a-f]{4})|.)|[\u007f-\uffff]/g;
  return JSON.stringify(text.toWellFormed()).replace(escapes, (match, code?: string) => {
    if (match.startsWith("\\")) return code === undefined ? match : `\\u${code.toUpperCase()}`;
    return `\\u${match.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  });
}
