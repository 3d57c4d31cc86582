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

/** In the place of something that is written by itself, because it is long. */
export const GAP: Json = new Map();

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

/** A value with gaps, as `formatJson` writes it: what stands before, between and behind them. */
export function formatAround(value: Json): string[] {
  return formatJson(value).split(GAP_MARK);
}

/** Items of a list, which stand so many levels deep in what is around them. */
export function formatItems(items: readonly Json[], depth: number): string {
  const indent = INDENT.repeat(depth);
  return items.map((item) => render(item, indent, QEMU_IMG)).join(itemSeparator(depth));
}

/** What stands between two of them. */
export function itemSeparator(depth: number): string {
  return `,\n${INDENT.repeat(depth)}`;
}

/** The entries of an object in the order in which it has them. */
export function entriesOf(object: JsonObject | ReadonlyMap<string, Json | undefined>): JsonEntry[] {
  return object instanceof Map ? [...object] : Object.entries(object);
}

const INDENT = "    ";

/** All else that is written in this style is ASCII. */
const GAP_MARK = "\u2026";

const QEMU_IMG: JsonStyle = { quote: quoteAscii, entries: entriesOf };

function render(value: Json, indent: string, style: JsonStyle): string {
  if (value === GAP) return GAP_MARK;
  if (typeof value === "string") return style.quote(value);
  if (typeof value !== "object") return String(value);
  const inner = indent + INDENT;
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
