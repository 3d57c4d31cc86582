// What the compiled schemas say, held against zod: a "yes" must be zod's, with the same content,
// and for what this version writes the answer must be "yes", or reading it is slow.

import { assert, constant, constantFrom, jsonValue, oneof, property } from "fast-check";
import * as z from "zod/mini";
import { describe, expect, test } from "vitest";

import { fits } from "../../src/state/fits.ts";
import { schemas } from "../../src/state/schema.ts";

const interfaces = [{ id: "br0", macAddress: "52:54:00:00:00:02", autoMode: true }];
const mounts = { "/srv": { sourcePath: "/home", uidMappings: ["1:2"], gidMappings: [] } };
const configuration = { cpus: 2, memoryBytes: 1 << 30, interfaces, mounts };
const header = "0a".repeat(48);
const createdAt = "2026-08-21T21:48:55.123Z";

const sound = {
  instance: {
    schema: 1,
    uuid: "9b9e7a4c-1111-4222-8333-0123456789ab",
    createdAt,
    instanceId: "web",
    macAddress: "52:54:00:00:00:01",
    ...configuration,
    image: { hash: "d8a3", release: "24.04 LTS" },
    cloneCount: 0,
    origin: { kind: "clone", source: "web", uuid: "x", snapshot: "snapshot1" },
    snapshotCount: 4,
    head: 3,
    parents: { 2: 1 },
    pending: {
      operation: "restore",
      before: header,
      after: header,
      result: { ...configuration, snapshotCount: 4, head: 2 },
      at: createdAt,
    },
  },
  snapshot: {
    schema: 1,
    id: 3,
    dateSec: 1,
    dateNsec: 2,
    name: "x",
    comment: "",
    parent: 0,
    ...configuration,
    diskBytes: 1 << 20,
  },
  manifest: { schema: 1, names: ["a", "b"] },
} as const;

type Kind = keyof typeof schemas;
const kinds = Object.keys(schemas) as Kind[];

/** What `JSON.parse` may return. */
function json(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

describe.each(kinds)("the compiled schema of %s", (kind) => {
  const isSound = fits(schemas[kind]);

  test("takes what is written, with keys that this version does not know", () => {
    expect(isSound(json(sound[kind]))).toBe(true);
    expect(isSound(json({ ...sound[kind], future: { deep: [null] } }))).toBe(true);
  });

  test("takes nothing that zod does not take as it is", () => {
    const places = [...placesIn(sound[kind])];
    assert(
      property(constantFrom(...places), odd, (place, value) => {
        const changed = json(withValue(sound[kind], place, value));
        const verdict = z.safeParse(schemas[kind], changed);
        if (isSound(changed)) {
          expect(verdict.success).toBe(true);
          expect(verdict.data).toEqual(changed);
        }
      }),
      { numRuns: 3000 },
    );
  });
});

test("a schema with a part that is not known is left to zod", () => {
  for (const schema of [
    z.union([z.string(), z.boolean()]),
    z.object({}),
    z.strictObject({}),
    z.number(),
    z.string().check(z.maxLength(3)),
    z.string().check(z.regex(/a/g)),
    z.array(z.string()).check(z.maxLength(3)),
  ]) {
    for (const value of ["a", true, {}, 1, []]) expect(fits(schema)(value)).toBe(false);
  }
});

/** Values of all kinds, among them those at the edges of what records hold. */
const odd = oneof(
  jsonValue(),
  constantFrom(0, -0, -1, 1.5, 2 ** 53, 2 ** 53 - 1, "", "0".repeat(96), createdAt, null, [], {}),
  constant(JSON.parse('{"__proto__": 1, "1": 2}')),
  constant(JSON.parse('{"constructor": {}, "toString": 1}')),
);

type Place = readonly string[];

/** The root, every field, and fields that are not there. */
function* placesIn(value: unknown, place: Place = []): Generator<Place> {
  yield place;
  if (typeof value !== "object" || value === null) return;
  yield [...place, "unknown"];
  for (const [key, content] of Object.entries(value)) yield* placesIn(content, [...place, key]);
}

function withValue(whole: unknown, place: Place, value: unknown): unknown {
  if (place.length === 0) return value;
  const copy = json(whole);
  let at = copy as Record<string, unknown>;
  for (const key of place.slice(0, -1)) at = at[key] as Record<string, unknown>;
  at[place.at(-1)!] = value;
  return copy;
}
