// The store's own files: what survives being read and written, and what is no such file.

import { describe, expect, test } from "vitest";

import { newRecord } from "../../src/state/identity.ts";
import { Maker } from "../../src/state/identity.ts";
import { decode, encode } from "../../src/state/schema.ts";
import { scene } from "./scene.ts";

const record = newRecord(new Maker(scene().context, []), {
  name: "web",
  cpus: 2,
  memoryBytes: 1 << 30,
  image: { hash: "d8a3f0c2", release: "24.04 LTS" },
  origin: { kind: "import", source: "/disks/web.qcow2" },
});

/** Reads a record in which a field has another value. */
function read(change: object): unknown {
  return decode("instance", "instance.json", JSON.stringify({ ...record, ...change }));
}

const mount = { sourcePath: "/home", uidMappings: [], gidMappings: [] };
const pending = {
  operation: "restore",
  before: "0".repeat(96),
  after: "f".repeat(96),
  result: { snapshotCount: 1, head: 1 },
  at: "2026-11-25T11:29:00.330Z",
};

/** Stands in a record for what is too deep to be written. */
const DEEP = "DEEP";

/** So many objects, one in another, as JSON; the outer two are one mount. */
function nested(levels: number): string {
  const inner = `${'{"later":'.repeat(levels - 3)}{}${"}".repeat(levels - 3)}`;
  return JSON.stringify({ "/srv": { ...mount, later: DEEP } }).replace(`"${DEEP}"`, inner);
}

describe("a record", () => {
  test("is the same after it was written and read", () => {
    expect(decode("instance", "instance.json", encode("instance", record))).toEqual({
      content: record,
    });
  });

  test("is written for people: two spaces, a line end, known fields first", () => {
    const text = encode("instance", { later: true, ...record });
    expect(text).toMatch(/^\{\n {2}"schema": 1,\n {2}"uuid": "[^]*,\n {2}"later": true\n\}\n$/);
  });

  test("keeps keys that this version does not know, wherever they are", () => {
    const unknown = {
      ...record,
      future: { deep: [1, { x: null }] },
      image: { ...record.image, arch: "riscv64" },
      interfaces: [{ id: "br0", macAddress: "52:54:00:00:00:02", autoMode: true, vlan: 7 }],
      mounts: {
        "/srv": { sourcePath: "/home", uidMappings: ["1000:default"], gidMappings: [], kind: 9 },
      },
      origin: { ...record.origin, kind: "import", at: "dawn" },
    } as const;
    const { content } = decode("instance", "instance.json", JSON.stringify(unknown));
    expect(JSON.parse(encode("instance", content!))).toEqual(unknown);
  });

  test("is checked before it is written", () => {
    expect(() => encode("instance", { ...record, cpus: 0 })).toThrow("cpus");
  });

  test.each([
    ["cpus", { cpus: 0 }],
    ["cpus", { cpus: 1.5 }],
    ["cpus", { cpus: "2" }],
    ["memoryBytes", { memoryBytes: 2 ** 53 }],
    ["uuid", { uuid: "web" }],
    ["createdAt", { createdAt: "yesterday" }],
    ["macAddress", { macAddress: "52:54:00:00:00" }],
    ["interfaces", { interfaces: {} }],
    ["interfaces.0.autoMode", { interfaces: [{ id: "", macAddress: "52:54:00:00:00:02" }] }],
    ["mounts./srv.sourcePath", { mounts: { "/srv": { uidMappings: [], gidMappings: [] } } }],
    ["head", { head: -1 }],
    ["parents.2", { parents: { 2: "1" } }],
    ["parents.x", { parents: { x: 1 } }],
    ["origin.kind", { origin: { kind: "magic" } }],
    ["pending.before", { pending: { operation: "restore", before: "00" } }],
    ["snapshotCount", { snapshotCount: undefined }],
    ["schema", { schema: 0 }],
    ["schema", { schema: undefined }],
  ])("is damaged when %s is wrong: %j", (field, change) => {
    expect(read(change)).toEqual({
      problem: { kind: "broken", reason: `instance.json is damaged at "${field}"` },
    });
  });

  test.each([
    ["is empty", "", "instance.json is empty"],
    ["has only blanks, as after a power cut", "\0".repeat(100), "instance.json is not JSON"],
    ["is cut off", encode("instance", record).slice(0, 200), "instance.json is not JSON"],
    ["is JSON and no object", "[]", "instance.json is not a JSON object"],
    ["is null", "null", "instance.json is not a JSON object"],
  ])("is broken when it %s", (_, text, reason) => {
    expect(decode("instance", "instance.json", text)).toEqual({
      problem: { kind: "broken", reason },
    });
  });

  // The story: a record of 8000 levels was read, and no engine could write it again.
  test.each([
    ["a key that this version does not know", { later: DEEP }, 99],
    ["a mount", { mounts: { "/srv": { ...mount, later: DEEP } } }, 97],
    [
      "what a restore is to bring back",
      { pending: { ...pending, result: { ...pending.result, mounts: DEEP } } },
      99,
    ],
  ])("is broken when %s makes it deeper than a hundred levels", (_, change, most) => {
    const text = JSON.stringify({ ...record, ...change });
    const shallow = text.replace(`"${DEEP}"`, nested(most));
    const { content } = decode("instance", "instance.json", shallow);
    expect(JSON.parse(encode("instance", content!))).toEqual(JSON.parse(shallow));
    for (const levels of [most + 1, 8000]) {
      expect(
        decode("instance", "instance.json", text.replace(`"${DEEP}"`, nested(levels))),
      ).toEqual({
        problem: { kind: "broken", reason: "instance.json is nested too deeply" },
      });
    }
  });

  test("of a newer schema is not looked into", () => {
    expect(read({ schema: 2, cpus: "many" })).toEqual({
      problem: { kind: "newer", reason: "instance.json has schema 2" },
    });
  });
});
