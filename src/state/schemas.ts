// What is in the store's own files, as schemas of zod's. They define it, and their types are the
// program's; what reads and writes files asks what `shapes.ts` makes of them.
//
// Keys that a schema does not name are taken as they are, everywhere.

import * as z from "zod/mini";

/** The version that this program writes, and the newest that it touches. */
export const SCHEMA = 1;

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

/** A line of the history: when, what, by which version of Calque; and what else there is to tell. */
const entry = z.looseObject({ when: text, operation: text, version: text });

export const schemas = { instance, snapshot, manifest, entry } as const;

export type Kind = keyof typeof schemas;
export type Content<K extends Kind> = z.infer<(typeof schemas)[K]>;
