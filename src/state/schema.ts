// The store's own files, as JSON: what is in them, checked when they are read and when they are
// written. Keys that this version does not know survive a rewrite, as long as what they hold is not
// deeper than can be written again; a file of a newer schema is not touched at all.

import { isWithin, mayBeDeep, MOST_LEVELS } from "./depth.ts";
import { broken, type Problem, reasons } from "./errors.ts";
import { type FindFault, findFault } from "./faults.ts";
import type { Content, Kind } from "./schemas.ts";
import { SCHEMA, shapes } from "./shapes.ts";

export type InstanceRecord = Content<"instance">;
export type SnapshotRecord = Content<"snapshot">;
export type NetworkInterface = InstanceRecord["interfaces"][number];
export type Manifest = Content<"manifest">;
export type HistoryEntry = Content<"entry">;

/** What the fields of every new file begin with. */
export const schemaVersion = { schema: SCHEMA } as const;

/** Reads a file's text; `name` is what the problem calls the file. */
export function decode<K extends Kind>(
  kind: K,
  name: string,
  json: string,
): { content: Content<K>; problem?: never } | { content?: never; problem: Problem } {
  // A power cut cannot do this to us, but a full disk can to somebody who copies a store.
  if (json.trim() === "") return { problem: broken(reasons.empty(name)) };
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    // The engine's stack ends before a text of a million brackets does.
    if (error instanceof RangeError) return { problem: broken(reasons.tooDeep(name)) };
    if (!(error instanceof SyntaxError)) throw error;
    return { problem: broken(reasons.notJson(name)) };
  }
  const schema = schemaOf(value);
  if (schema !== undefined && schema > SCHEMA) {
    return { problem: { kind: "newer", reason: reasons.newer(name, schema) } };
  }
  if (mayBeDeep(json) && !isShallow(value)) {
    return { problem: broken(reasons.tooDeep(name)) };
  }
  const fault = faultIn(kind, value);
  if (fault === undefined) return { content: value as Content<K> };
  if (fault.length === 0) return { problem: broken(reasons.notObject(name)) };
  return { problem: broken(reasons.invalid(name, fault.join("."))) };
}

/** The text of a file. Throws what is a bug of ours: content that would not be read again. */
export function encode<K extends Kind>(kind: K, content: Content<K>): string {
  const fault = faultIn(kind, content);
  if (fault !== undefined) throw new TypeError(`${kind} is wrong at "${fault.join(".")}"`);
  return `${JSON.stringify(inOrder(kind, content), null, 2)}\n`;
}

/** Whether a value is what is written of that kind. */
export function fits<K extends Kind>(kind: K, value: unknown): value is Content<K> {
  return faultIn(kind, value) === undefined;
}

/** By kind; made when the first file of that kind is met. */
const finders: Partial<Record<Kind, FindFault>> = {};

function faultIn(kind: Kind, value: unknown): ReturnType<FindFault> {
  return (finders[kind] ??= findFault(shapes[kind]))(value);
}

/** With the known fields first, as the schema has them: people read these files too. */
function inOrder<K extends Kind>(kind: K, content: Content<K>): object {
  const { fields } = shapes[kind];
  const known = fields.map(({ name }) => [name, content[name as keyof Content<K>]]);
  return { ...Object.fromEntries(known), ...content };
}

/**
 * Whether it can be written again, by every change: the note about a restore has what becomes part
 * of the record two levels below the place where that goes.
 */
function isShallow(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return true;
  return Object.entries(value).every(([key, item]) =>
    isWithin(item, key === "pending" ? MOST_LEVELS + 1 : MOST_LEVELS - 1),
  );
}

function schemaOf(value: unknown): number | undefined {
  if (typeof value !== "object" || value === null || !("schema" in value)) return undefined;
  return typeof value.schema === "number" ? value.schema : undefined;
}
