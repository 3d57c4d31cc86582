// The four formats that Multipass has for what it lists.

import { UsageError } from "../failure.ts";
import { sentence } from "./sentences.ts";

export type Format = "table" | "json" | "csv" | "yaml";

const FORMATS: ReadonlySet<string> = new Set<Format>(["table", "json", "csv", "yaml"]);

/** The value of `--format`. */
export function parseFormat(text = "table"): Format {
  if (!FORMATS.has(text)) throw new UsageError(sentence("format.invalid"));
  return text as Format;
}
