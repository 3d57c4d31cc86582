// What is found wrong with a file of the store, held against zod, whose schemas define it: the same
// verdict, and the same place.

import { assert, constant, constantFrom, jsonValue, oneof, property } from "fast-check";
import * as z from "zod/mini";
import { describe, expect, test } from "vitest";

import { findFault } from "../../src/state/faults.ts";
import { type Kind, schemas } from "../../src/state/schemas.ts";
import { shapeOf } from "../../src/state/shape.ts";
import { shapes } from "../../src/state/shapes.ts";

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
  entry: { when: createdAt, operation: "set", version: "1.0.0" },
} as const;

const kinds = Object.keys(schemas) as Kind[];

/** What `JSON.parse` may return. */
function json(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

describe.each(kinds)("the file of a kind: %s", (kind) => {
  const find = findFault(shapes[kind]);

  test("has a shape that is plain data", () => {
    expect(json(shapes[kind])).toEqual(shapes[kind]);
  });

  test("is sound as it is written, with keys that this version does not know", () => {
    expect(find(json(sound[kind]))).toBeUndefined();
    expect(find(json({ ...sound[kind], future: { deep: [null] } }))).toBeUndefined();
  });

  test("has its first fault where zod has it", () => {
    const places = [...placesIn(sound[kind])];
    assert(
      property(constantFrom(...places), odd, (place, value) => {
        const changed = json(withValue(sound[kind], place, value));
        const verdict = z.safeParse(schemas[kind], changed);
        const issue = verdict.error?.issues[0]?.path.map(String);
        expect(find(changed)).toEqual(issue);
      }),
      { numRuns: 3000 },
    );
  });

  test("has no key that would change a prototype", () => {
    const special = JSON.parse('{"__proto__": 1}') as object;
    for (const place of placesIn(sound[kind])) {
      if (place.at(-1) === "unknown") continue;
      const changed = withValue(sound[kind], place, special);
      expect(find(changed), place.join(".")).toBeDefined();
    }
  });
});

test("a schema that says more than a shape can is refused", () => {
  for (const schema of [
    z.union([z.string(), z.boolean()]),
    z.object({}),
    z.strictObject({}),
    z.number(),
    z.int().check(z.maximum(3)),
    z.string().check(z.maxLength(3)),
    z.string().check(z.regex(/a/g)),
    z.array(z.string()).check(z.maxLength(3)),
  ]) {
    expect(() => shapeOf(schema)).toThrow(TypeError);
  }
});

/** Values of all kinds, among them those at the edges of what records hold. */
const odd = oneof(
  jsonValue(),
  constantFrom(0, -0, -1, 1.5, 2 ** 53, 2 ** 53 - 1, "", "0".repeat(96), createdAt, null, [], {}),
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
