// YAML as Multipass (yaml-cpp) writes it: blocks indented by two, `~` for nothing, an empty
// sequence on a line of its own, strings plain wherever a reader takes them for the same string.

/** Mappings in others are not empty; where there is nothing, Multipass writes `~`. */
export type Yaml = null | string | number | readonly Yaml[] | ReadonlyMap<string, Yaml>;

/** A document; an empty mapping is an empty line. */
export function formatYaml(document: ReadonlyMap<string, Yaml>): string {
  return `${[...write(document, "", "")].join("\n")}\n`;
}

/** The lines of a value; `first` stands before the first of them, `rest` before the others. */
function* write(value: Yaml, first: string, rest: string): Generator<string> {
  if (isScalar(value)) {
    yield first + scalar(value);
  } else if (isSequence(value)) {
    if (value.length === 0) yield `${first}[]`;
    for (const [at, item] of value.entries()) {
      yield* write(item, `${at === 0 ? first : rest}- `, `${rest}  `);
    }
  } else {
    let lead = first;
    for (const [key, item] of value) {
      if (isScalar(item)) {
        yield `${lead}${scalar(key)}: ${scalar(item)}`;
      } else {
        yield `${lead}${scalar(key)}:`;
        yield* write(item, `${rest}  `, `${rest}  `);
      }
      lead = rest;
    }
  }
}

function isScalar(value: Yaml): value is null | string | number {
  return value === null || typeof value !== "object";
}

function isSequence(value: object): value is readonly Yaml[] {
  return Array.isArray(value);
}

function scalar(value: null | string | number): string {
  if (value === null) return "~";
  if (typeof value === "number") return String(value);
  const text = value.toWellFormed();
  return NOT_PLAIN.test(text) ? `"${text.replace(ESCAPED, escape)}"` : text;
}

/** What has to be quoted, and what a terminal would act on, which yaml-cpp lets through. */
const NOT_PLAIN = new RegExp(
  [
    "^$|^(?:~|null|Null|NULL)$",
    "^[ ,[\\]{}#&*!|>'\"%@`]|^[-?](?: |$)| $",
    "[:&]| #",
    "[\\p{Cc}\\u2028\\u2029\\ufeff\\u202a-\\u202e\\u2066-\\u2069]",
  ].join("|"),
  "u",
);

const ESCAPED = /["\\\p{Cc}\u00a0\u2028\u2029\ufeff\u202a-\u202e\u2066-\u2069]/gu;

function escape(character: string): string {
  const code = character.charCodeAt(0);
  const letter = '\b\t\n\f\r"\\'.indexOf(character);
  if (letter >= 0) return `\\${'btnfr"\\'[letter]}`;
  const digits = code.toString(16);
  return code < 0x100 ? `\\x${digits.padStart(2, "0")}` : `\\u${digits.padStart(4, "0")}`;
}
