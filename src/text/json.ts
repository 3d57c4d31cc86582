// JSON as qemu-img writes it: four spaces, ASCII only, an empty list or object on two lines.

export type Json =
  | string
  | number
  | bigint
  | boolean
  | readonly Json[]
  | { readonly [key: string]: Json | undefined };

/** A value and a line end; keys that are undefined are left out. */
export function formatJson(value: Json): string {
  return `${render(value, "")}\n`;
}

function render(value: Json, indent: string): string {
  if (typeof value === "string") return quote(value);
  if (typeof value !== "object") return String(value);
  const inner = `${indent}    `;
  const [open, close, items] = isList(value)
    ? ["[", "]", value.map((item) => render(item, inner))]
    : [
        "{",
        "}",
        Object.entries(value).flatMap(([key, item]) =>
          item === undefined ? [] : [`${quote(key)}: ${render(item, inner)}`],
        ),
      ];
  const lines = items.map((item) => inner + item).join(",\n");
  return `${open}\n${lines}${lines && "\n"}${indent}${close}`;
}

function isList(value: object): value is readonly Json[] {
  return Array.isArray(value);
}

/** A string; what is not UTF-8 in it, a lone surrogate here, becomes U+FFFD. */
function quote(text: string): string {
  const escapes = /\\(?:u([0-9a-f]{4})|.)|[\u007f-\uffff]/g;
  return JSON.stringify(text.toWellFormed()).replace(escapes, (match, code?: string) => {
    if (match.startsWith("\\")) return code === undefined ? match : `\\u${code.toUpperCase()}`;
    return `\\u${match.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  });
}
