// The store's own files, as JSON: what is in them, checked when they are read and when they are
// written. Keys that this version does not know survive a rewrite; a file of a newer schema is not
// touched at all.

import * as z from "zod/mini";

import { broken, type Problem, reasons } from "./errors.ts";
import { type Fits, fits } from "./fits.ts";

const SCHEMA = 1;

const text = z.string();
/** Whole, and exact as a JavaScript number. */
const count = z.int().check(z.nonnegative());
const positive = z.int().check(z.positive());
const macAddress = text.check(z.regex(/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/));
/** ISO 8601, UTC, milliseconds. */
const time = text.check(z.regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/));
/** Bytes 24 to 71 of an image's header. */
const commitFields = text.check(z.regex(/^[0-9a-f]{96}$/));

const networkInterface = z.looseObject({ id: text, macAddress, autoMode: z.boolean() });
const mount = z.looseObject({
  sourcePath: text,
  uidMappings: z.array(text),
  gidMappings: z.array(text),
});

/** What a snapshot remembers of an instance besides its disk, and a restore brings back. */
const configuration = {
  cpus: positive,
  memoryBytes: positive,
  interfaces: z.array(networkInterface),
  /** By where they are mounted in the guest. */
  mounts: z.record(text, mount),
};

/** A restore between its note and its end: what the image's header decides about. */
const pending = z.looseObject({
  operation: z.enum(["restore"]),
  /** The header's fields before the commit, and after it. */
  before: commitFields,
  after: commitFields,
  /** What becomes part of the record once the header says `after`. */
  result: z.looseObject({
    cpus: z.exactOptional(configuration.cpus),
    memoryBytes: z.exactOptional(configuration.memoryBytes),
    interfaces: z.exactOptional(configuration.interfaces),
    mounts: z.exactOptional(configuration.mounts),
    snapshotCount: count,
    head: count,
  }),
  at: time,
});

const instance = z.looseObject({
  schema: z.literal(SCHEMA),
  uuid: text.check(z.regex(/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)),
  createdAt: time,
  /** What cloud-init in the guest knows it by: another one, and it sets itself up anew. */
  instanceId: text,
  macAddress,
  ...configuration,
  image: z.looseObject({ hash: z.exactOptional(text), release: z.exactOptional(text) }),
  /** The number that the last clone of this instance got. */
  cloneCount: count,
  origin: z.exactOptional(
    z.looseObject({
      kind: z.enum(["clone", "import", "create"]),
      source: z.exactOptional(text),
      uuid: z.exactOptional(text),
      snapshot: z.exactOptional(text),
    }),
  ),
  /** How many snapshots have been taken, as far as this file knows: see `derive.ts`. */
  snapshotCount: count,
  /** The id of the snapshot that the disk goes on from, or 0: see `derive.ts`. */
  head: count,
  /** For deleted snapshots that something still refers to, the id of their parent, or 0. */
  parents: z.record(text.check(z.regex(/^[1-9]\d*$/)), count),
  pending: z.exactOptional(pending),
});

const snapshot = z.looseObject({
  schema: z.literal(SCHEMA),
  /** With the date, what an entry of the image must have for this record to be about it. */
  id: positive,
  dateSec: count,
  dateNsec: count,
  /** As taken. The image has the name that counts. */
  name: text,
  comment: text,
  /** The id of the snapshot that was the head, or 0. */
  parent: count,
  ...configuration,
  diskBytes: count,
});

const manifest = z.looseObject({ schema: z.literal(SCHEMA), names: z.array(text) });

export const schemas = { instance, snapshot, manifest } as const;
type Kind = keyof typeof schemas;

/** What says yes at once; compiled when the first file of that kind is read. */
const compiled: Partial<Record<Kind, Fits>> = {};
type Content<K extends Kind> = z.infer<(typeof schemas)[K]>;

export type InstanceRecord = Content<"instance">;
export type SnapshotRecord = Content<"snapshot">;
export type NetworkInterface = InstanceRecord["interfaces"][number];
export type Manifest = Content<"manifest">;

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
  const isSound = (compiled[kind] ??= fits(schemas[kind]));
  if (isSound(value)) return { content: value as Content<K> };
  const result = z.safeParse(schemas[kind], value);
  if (result.success) return { content: result.data as Content<K> };
  const path = result.error.issues[0]?.path ?? [];
  if (path.length === 0) return { problem: broken(reasons.notObject(name)) };
  return { problem: broken(reasons.invalid(name, path.join("."))) };
}

/** The text of a file. Throws what is a bug of ours: content that would not be read again. */
export function encode<K extends Kind>(kind: K, content: Content<K>): string {
  return `${JSON.stringify(z.parse(schemas[kind], content), null, 2)}\n`;
}

function schemaOf(value: unknown): number | undefined {
  if (typeof value !== "object" || value === null || !("schema" in value)) return undefined;
  return typeof value.schema === "number" ? value.schema : undefined;
}
