// How deeply a value is nested. What the store reads it may have to write again, and an engine's
// stack ends at some depth when it parses JSON, and at a smaller one when it writes it. So there is
// one bound, far below both and far above what a Calque writes.

/** A record of this version has six levels. */
export const MOST_LEVELS = 100;

/** Whether a text has brackets enough to be deeper. Most have a handful: then nobody need look. */
export function mayBeDeep(json: string): boolean {
  return brackets("{", json) + brackets("[", json) > MOST_LEVELS;
}

/** How often a bracket is in a text, counted no further than matters. */
function brackets(bracket: string, text: string): number {
  let count = 0;
  for (let at = text.indexOf(bracket); at >= 0; at = text.indexOf(bracket, at + 1)) {
    count += 1;
    if (count > MOST_LEVELS) break;
  }
  return count;
}

/** Whether a value of `JSON.parse` has at most so many objects and lists, one in another. */
export function isWithin(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  return levels > 0 && Object.values(value).every((item) => isWithin(item, levels - 1));
}
