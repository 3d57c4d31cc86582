// How lines about problems of an image are said, by `check` of both faces.

import type { Context } from "../context.ts";

/** Says lines in which names may stand as an image has them. */
export function sayLines(lines: readonly string[], { stderr }: Context): void {
  if (lines.length > 0) stderr.write(`${lines.map(stderr.name).join("\n")}\n`);
}
