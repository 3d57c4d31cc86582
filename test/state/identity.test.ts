// Who an instance is, and what its replicas share with it.

import { describe, expect, test } from "vitest";

import { Maker, newRecord, replica } from "../../src/state/identity.ts";
import type { InstanceRecord } from "../../src/state/schema.ts";
import { findSnapshot } from "../../src/state/snapshots.ts";
import { clone, make, refusal, scene } from "./scene.ts";

const { context } = scene();

/** Random numbers as given, the last ones again and again. */
function withNumbers(...numbers: number[][]) {
  let draw = 0;
  const randomBytes = () => Uint8Array.from(numbers[Math.min(draw++, numbers.length - 1)]!);
  return { ...context, randomBytes };
}

describe("a new instance", () => {
  test("has a random uuid, an id for its first boot, and an address of its own", () => {
    const maker = new Maker(context, []);
    const record = newRecord(maker, { name: "web", cpus: 2, memoryBytes: 1024 });
    expect(record).toMatchObject({
      schema: 1,
      uuid: expect.stringMatching(
        /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
      ),
      instanceId: `web-${record.uuid.slice(0, 8)}`,
      macAddress: expect.stringMatching(/^52:54:00(:[0-9a-f]{2}){3}$/),
      createdAt: expect.stringMatching(/^2026-11-25T11:29:\d\d\.330Z$/),
      cpus: 2,
      memoryBytes: 1024,
      cloneCount: 0,
      snapshotCount: 0,
    });
  });

  test("has no address that somebody has, in the store or in the making", () => {
    const taken = newRecord(new Maker(withNumbers([1, 1, 1]), []), {
      name: "web",
      cpus: 1,
      memoryBytes: 1,
    });
    const interfaces = [{ id: "br0", macAddress: "52:54:00:02:02:02", autoMode: true }];
    const numbers = [
      [1, 1, 1],
      [2, 2, 2],
      [3, 3, 3],
      [3, 3, 3],
      [4, 4, 4],
    ];
    const maker = new Maker(withNumbers(...numbers), [{ ...taken, interfaces }]);
    expect([maker.macAddress(), maker.macAddress()]).toEqual([
      "52:54:00:03:03:03",
      "52:54:00:04:04:04",
    ]);
    expect(refusal(() => maker.macAddress())).toMatchObject({ code: "addresses-exhausted" });
  });

  test("has no address of an instance in the trash", () => {
    const { open } = scene();
    const store = open();
    make(store, ["web"]);
    const { macAddress } = store.living("web").record!;
    store.trash("web");
    const bytes = macAddress.split(":").slice(3);
    const again = scene(store.root);
    const numbers = withNumbers(bytes.map((byte) => Number.parseInt(byte, 16)));
    const reopened = { ...again.context, ...numbers, env: again.context.env };
    const maker = new Maker(
      reopened,
      again
        .open()
        .list()
        .flatMap(({ record }) => record ?? []),
    );
    expect(refusal(() => maker.macAddress())).toMatchObject({ code: "addresses-exhausted" });
  });
});

/** An instance with a past and with everything that a record can hold. */
function original() {
  const { open } = scene();
  const store = open();
  make(store, ["web"]);
  {
    using change = store.change("web");
    change.takeSnapshot({ comment: "then" });
    change.update({ cpus: 4, memoryBytes: 1 << 29 });
    change.takeSnapshot({ name: "now" });
    change.nameClones(3);
  }
  const view = store.view(store.living("web"));
  const interfaces = [
    { id: "br0", macAddress: "52:54:00:aa:aa:aa", autoMode: true },
    { id: "br1", macAddress: "52:54:00:bb:bb:bb", autoMode: false },
  ];
  const mounts = {
    "/srv": { sourcePath: "/home/me", uidMappings: ["1000:default"], gidMappings: [] },
  };
  const record: InstanceRecord = { ...view.record, interfaces, mounts, future: "kept" };
  const snapshots = view.snapshots.map((one) =>
    Object.assign({}, one, { record: { ...one.record!, interfaces: interfaces.slice(0, 1) } }),
  );
  return { store, source: { ...view, record, snapshots } };
}

describe("a replica", () => {
  test("has the configuration of its source and another identity", () => {
    const { store, source } = original();
    const { record, snapshots } = replica(source, store.maker(), { name: "copy" });
    const { uuid, instanceId, macAddress, interfaces, createdAt, ...rest } = record;
    const { uuid: sourceUuid, cpus, memoryBytes, mounts, image } = source.record;
    expect(rest).toEqual({
      schema: 1,
      cpus,
      memoryBytes,
      mounts,
      image,
      future: "kept",
      cloneCount: 0,
      snapshotCount: 0,
      head: 0,
      parents: {},
      origin: { kind: "clone", source: "web", uuid: sourceUuid },
    });
    expect(snapshots).toEqual([]);
    expect(interfaces.map(({ id, autoMode }) => [id, autoMode])).toEqual([
      ["br0", true],
      ["br1", false],
    ]);
    const addresses = [macAddress, ...interfaces.map((one) => one.macAddress)];
    const old = [source.record.macAddress, "52:54:00:aa:aa:aa", "52:54:00:bb:bb:bb"];
    expect(new Set([...addresses, ...old]).size).toBe(6);
    expect([uuid === sourceUuid, instanceId]).toEqual([false, `copy-${uuid.slice(0, 8)}`]);
    expect(createdAt >= source.record.createdAt).toBe(true);
  });

  test("of a snapshot has the configuration of that time", () => {
    const { store, source } = original();
    const snapshot = findSnapshot(source, "snapshot1");
    const { record } = replica(source, store.maker(), { name: "copy", snapshot });
    expect(record).toMatchObject({
      cpus: 1,
      memoryBytes: 1 << 30,
      interfaces: [{ id: "br0" }],
      origin: { snapshot: "snapshot1" },
      head: 0,
    });
  });

  test("that keeps the snapshots has their records, with its own addresses in them", () => {
    const { store, source } = original();
    const { record, snapshots } = replica(source, store.maker(), {
      name: "copy",
      snapshots: "keep",
    });
    expect(record).toMatchObject({ snapshotCount: 2, head: 2, cloneCount: 0 });
    expect(snapshots.map(({ id, comment, parent }) => [id, comment, parent])).toEqual([
      [1, "then", 0],
      [2, "", 1],
    ]);
    const [first] = record.interfaces;
    expect(snapshots.map(({ interfaces }) => interfaces)).toEqual([[first], [first]]);
  });

  test("of a snapshot that keeps the snapshots goes on from that one", () => {
    const { store, source } = original();
    const snapshot = findSnapshot(source, "snapshot1");
    const wanted = { name: "copy", snapshot, snapshots: "keep" } as const;
    expect(replica(source, store.maker(), wanted).record).toMatchObject({
      snapshotCount: 2,
      head: 1,
    });
  });

  test("of a replica counts its own clones", () => {
    const { open } = scene();
    const store = open();
    make(store, ["web"]);
    expect(clone(store, "web", 2)).toEqual(["web-clone1", "web-clone2"]);
    expect(clone(store, "web-clone1", 1)).toEqual(["web-clone1-clone1"]);
    expect(clone(store, "web", 1)).toEqual(["web-clone3"]);
    const macs = store.list().map(({ record }) => record?.macAddress);
    expect(new Set(macs).size).toBe(5);
  });
});
