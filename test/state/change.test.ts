// Changing an instance: snapshots with all that belongs to them, names and counters, snapshots of
// other programs, what is refused.

import { existsSync, linkSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { type Native, NativeFailure, unwrap } from "../../src/native.ts";
import type { InstanceChange } from "../../src/state/change.ts";
import { type Refusal, StateError } from "../../src/state/errors.ts";
import { decode } from "../../src/state/schema.ts";
import { findSnapshot, type InstanceView } from "../../src/state/snapshots.ts";
import { openStore } from "../../src/state/store.ts";
import { deleteForeign, forge, takeForeign } from "./foreign.ts";
import { remains } from "./observe.ts";
import { make, native, refusal, scene, temporary } from "./scene.ts";

/** A store with one instance, and what one does with it. */
function instance(operations: Partial<Native> = {}) {
  const { open, warnings, root } = scene();
  make(open(), ["web"]);
  const store = open({ ...native, ...operations });
  return {
    store,
    warnings,
    disk: path.join(root, "instances/web/disk.qcow2"),
    file: (name: string) => path.join(root, "instances/web", name),
    change: <T>(act: (change: InstanceChange) => T): T => {
      using change = store.change("web");
      return act(change);
    },
    view: () => store.view(store.find("web")!),
  };
}

/** Each snapshot with its parent, by creation. */
function lineage({ snapshots }: InstanceView): Record<string, string | undefined> {
  return Object.fromEntries(snapshots.map(({ name, parent }) => [name, parent]));
}

describe("a snapshot", () => {
  test("is recorded with everything that a restore needs", () => {
    const { change, view, file } = instance();
    change((it) => {
      it.update({ cpus: 4, memoryBytes: 1 << 29 });
      it.grow(3 << 20);
      expect(it.takeSnapshot({ comment: "before\nupgrade = risk" })).toMatchObject({
        name: "snapshot1",
        id: 1,
        commit: { flushes: 3 },
      });
    });
    const [snapshot] = view().snapshots;
    expect(snapshot).toEqual({
      id: "1",
      name: "snapshot1",
      nameJson: undefined,
      createdAt: { sec: expect.any(Number), nsec: 330_473_000 },
      parent: undefined,
      children: [],
      record: JSON.parse(readFileSync(file("snapshots/1.json"), "utf8")),
      diskBytes: 3 << 20,
      isForeign: false,
      problem: undefined,
    });
    expect(snapshot?.record).toMatchObject({
      comment: "before\nupgrade = risk",
      parent: 0,
      cpus: 4,
      memoryBytes: 1 << 29,
      diskBytes: 3 << 20,
      interfaces: [],
      mounts: {},
    });
  });

  test("restores cpus, memory, disk size and head, and leaves the number of the next one", () => {
    const { change, view, store } = instance();
    change((it) => {
      it.takeSnapshot({});
      it.update({ cpus: 8, memoryBytes: 2 ** 32 });
      it.grow(4 << 20);
      it.takeSnapshot({});
      it.restoreSnapshot(findSnapshot(it.view, "snapshot1"));
      it.takeSnapshot({});
    });
    const { record, diskBytes, head, counter } = view();
    expect({
      cpus: record.cpus,
      memoryBytes: record.memoryBytes,
      diskBytes,
      head,
      counter,
    }).toEqual({ cpus: 1, memoryBytes: 2 ** 30, diskBytes: 1 << 20, head: 3, counter: 3 });
    expect(lineage(view())).toEqual({
      snapshot1: undefined,
      snapshot2: "snapshot1",
      snapshot3: "snapshot1",
    });
    expect(view().snapshots[0]?.children).toEqual(["snapshot2", "snapshot3"]);
    expect(remains(store)).toEqual([]);
  });

  test("as deep as a record may be is taken and restored, with a note that can be read", () => {
    const written: string[] = [];
    const { change, view, file } = instance({
      storeReplace: (request) => {
        written.push(request.text);
        return native.storeReplace(request);
      },
    });
    // In the record the mounts, in them this one, and in that what a later version may know.
    const later = `${"[".repeat(97)}${"]".repeat(97)}`;
    const mount = `{"sourcePath": "/", "uidMappings": [], "gidMappings": [], "later": ${later}}`;
    const text = readFileSync(file("instance.json"), "utf8");
    writeFileSync(file("instance.json"), text.replace('"mounts": {}', `"mounts": {"/": ${mount}}`));
    const { mounts } = view().record;
    expect(mounts["/"]?.["later"]).toEqual(JSON.parse(later));
    change((it) => {
      it.takeSnapshot({ name: "a" });
      it.restoreSnapshot(findSnapshot(it.view, "a"));
    });
    expect(view()).toMatchObject({ record: { mounts }, snapshots: [{ record: { mounts } }] });
    const records = written.map((record) => decode("instance", "instance.json", record));
    expect(records.map(({ content }) => content?.pending?.result.mounts)).toContainEqual(mounts);
    expect(records.map(({ problem }) => problem)).toEqual(records.map(() => undefined));
  });

  test("that is deleted leaves its children to its parent, and its number to nobody", () => {
    const { change, view, store } = instance();
    change((it) => {
      for (const name of ["a", "b", "c", "d"]) it.takeSnapshot({ name });
      for (const name of ["b", "d", "c"]) it.deleteSnapshot(findSnapshot(it.view, name));
      expect(it.view).toMatchObject({ head: 1, counter: 4 });
      expect(it.takeSnapshot({})).toMatchObject({ name: "snapshot5", id: 5 });
    });
    expect(lineage(view())).toEqual({ a: undefined, snapshot5: "a" });
    expect(view().record.parents).toEqual({});
    expect(remains(store)).toEqual([]);
  });

  test("gets a name over those that are taken, and the next number all the same", () => {
    const { change } = instance();
    const taken = change((it) => {
      it.takeSnapshot({ name: "snapshot2" });
      return [it.takeSnapshot({}), it.takeSnapshot({})].map(({ name, id }) => ({ name, id }));
    });
    expect(taken).toEqual([
      { name: "snapshot3", id: 2 },
      { name: "snapshot4", id: 3 },
    ]);
  });

  test("changes its name in the image alone, and its comment in its record alone", () => {
    const { change, view, file, disk } = instance();
    change((it) => void it.takeSnapshot({ name: "old", comment: "one" }));
    const record = readFileSync(file("snapshots/1.json"), "utf8");
    change((it) => {
      expect(it.renameSnapshot(findSnapshot(it.view, "old"), "old")).toBeUndefined();
      expect(it.renameSnapshot(findSnapshot(it.view, "old"), "new")).toMatchObject({ flushes: 3 });
    });
    expect(readFileSync(file("snapshots/1.json"), "utf8")).toBe(record);
    const image = readFileSync(disk);
    change((it) => it.commentSnapshot(findSnapshot(it.view, "new"), "two = 2"));
    expect(readFileSync(disk)).toEqual(image);
    expect(view().snapshots[0]).toMatchObject({ name: "new", record: { comment: "two = 2" } });
  });

  test.each<[string, (it: InstanceChange) => unknown, Refusal]>([
    [
      "a name that is taken",
      (it) => it.takeSnapshot({ name: "a" }),
      { code: "snapshot-exists", instance: "web", snapshot: "a" },
    ],
    [
      "a name that is none",
      (it) => it.takeSnapshot({ name: "a b" }),
      { code: "snapshot-invalid-name", snapshot: "a b" },
    ],
    [
      "another's name",
      (it) => it.renameSnapshot(findSnapshot(it.view, "b"), "a"),
      { code: "snapshot-exists", instance: "web", snapshot: "a" },
    ],
    [
      "no name at all",
      (it) => it.renameSnapshot(findSnapshot(it.view, "b"), ""),
      { code: "snapshot-invalid-name", snapshot: "" },
    ],
    [
      "to be found where there is none",
      (it) => findSnapshot(it.view, "c"),
      { code: "snapshot-missing", instance: "web", snapshot: "c" },
    ],
    [
      "to be found under an id that nobody has",
      (it) => findSnapshot(it.view, "@9"),
      { code: "snapshot-missing", instance: "web", snapshot: "@9" },
    ],
  ])("is refused %s", (_, act, expected) => {
    const { change, store } = instance();
    change((it) => {
      it.takeSnapshot({ name: "a" });
      it.takeSnapshot({ name: "b" });
      expect(refusal(() => act(it))).toEqual(expected);
    });
    expect(remains(store)).toEqual([]);
  });

  test("that could not be deleted leaves its instance's record as it was", () => {
    const failure = { code: "io", stage: "operation", reason: "late" } as const;
    const records: string[] = [];
    const { change, file } = instance({
      snapshotDelete(request, event) {
        const stop = new Error("planned");
        const planOnly = (): unknown =>
          native.snapshotDelete(request, (planned) => {
            event?.(planned);
            records.push(readFileSync(file("instance.json"), "utf8"));
            throw stop;
          });
        expect(planOnly).toThrow(stop);
        return { failure };
      },
    });
    change((it) => {
      it.takeSnapshot({ name: "a" });
      it.takeSnapshot({ name: "b" });
    });
    const before = readFileSync(file("instance.json"), "utf8");
    const attempt = (): unknown => change((it) => it.deleteSnapshot(findSnapshot(it.view, "b")));
    expect(attempt).toThrow(new NativeFailure(failure));
    expect(records).toEqual([expect.not.stringContaining(before)]);
    expect(readFileSync(file("instance.json"), "utf8")).toBe(before);
  });

  test("that is gone since somebody looked at it is not mistaken for another of its id", () => {
    const { change, disk } = instance();
    change((it) => {
      it.takeSnapshot({ name: "a" });
      const seen = findSnapshot(it.view, "a");
      deleteForeign(disk, "a");
      takeForeign(disk, "b");
      const expected = { code: "snapshot-missing", instance: "web", snapshot: "a" };
      expect(refusal(() => it.deleteSnapshot(seen))).toEqual(expected);
      expect(refusal(() => it.restoreSnapshot(seen))).toEqual(expected);
    });
    expect(unwrap(native.snapshotList({ path: disk })).snapshots).toMatchObject([{ name: "b" }]);
  });
});

describe("another program's snapshot", () => {
  test("is listed as it is, in the order of creation, and is nobody's child", () => {
    const { change, view, disk } = instance();
    change((it) => void it.takeSnapshot({ name: "ours" }));
    takeForeign(disk, "theirs", 1_600_000_000);
    change((it) => void it.takeSnapshot({}));
    expect(view().snapshots).toMatchObject([
      { id: "2", name: "theirs", isForeign: true, record: undefined, diskBytes: 1 << 20 },
      { id: "1", name: "ours", isForeign: false },
      { id: "3", name: "snapshot3", parent: "ours" },
    ]);
  });

  test("restores the disk and nothing else, and is the parent of the next one", () => {
    const { change, view, disk } = instance();
    takeForeign(disk, "theirs");
    change((it) => {
      it.update({ cpus: 6 });
      it.grow(2 << 20);
      it.restoreSnapshot(findSnapshot(it.view, "theirs"));
      it.takeSnapshot({ name: "next" });
    });
    expect(view()).toMatchObject({ diskBytes: 1 << 20, record: { cpus: 6 } });
    expect(lineage(view())).toEqual({ theirs: undefined, next: "theirs" });
  });

  test("can be deleted and renamed, but there is no place for a comment", () => {
    const { change, view, disk } = instance();
    takeForeign(disk, "theirs");
    takeForeign(disk, "other");
    change((it) => {
      const theirs = findSnapshot(it.view, "theirs");
      expect(refusal(() => it.commentSnapshot(theirs, "?"))).toEqual({
        code: "snapshot-foreign",
        instance: "web",
        snapshot: "theirs",
      });
      it.renameSnapshot(theirs, "ours-now");
      it.deleteSnapshot(findSnapshot(it.view, "other"));
    });
    expect(Object.keys(lineage(view()))).toEqual(["ours-now"]);
  });

  test("with the id of one of ours that was deleted is not taken for it", () => {
    const { change, view, disk, store } = instance();
    change((it) => void it.takeSnapshot({ name: "a", comment: "ours" }));
    deleteForeign(disk, "a");
    expect(takeForeign(disk, "a")).toBe("1");
    expect(view().snapshots).toMatchObject([{ id: "1", name: "a", isForeign: true }]);
    change((it) => void it.takeSnapshot({}));
    expect(view().snapshots.map(({ record }) => record?.comment)).toEqual([undefined, ""]);
    expect(existsSync(path.join(store.root, "instances/web/snapshots/1.json"))).toBe(false);
  });

  test("may have a name that is another's: ours is meant, and theirs has an id", () => {
    const { change, disk, view } = instance();
    change((it) => void it.takeSnapshot({ name: "a" }));
    forge(disk, { id: "7", name: "a" });
    forge(disk, { id: "8", name: "b" });
    forge(disk, { id: "9", name: "b" });
    expect(findSnapshot(view(), "a").id).toBe("1");
    expect(findSnapshot(view(), "@7")).toMatchObject({ name: "a", isForeign: true });
    expect(refusal(() => findSnapshot(view(), "b"))).toEqual({
      code: "snapshot-ambiguous",
      instance: "web",
      snapshot: "b",
      ids: ["8", "9"],
    });
    change((it) => {
      it.deleteSnapshot(findSnapshot(it.view, "@7"));
      it.deleteSnapshot(findSnapshot(it.view, "@9"));
    });
    expect(
      view()
        .snapshots.map(({ id }) => id)
        .toSorted(),
    ).toEqual(["1", "8"]);
  });

  test("with an id that several have cannot be told apart, and is left alone", () => {
    const { disk, view } = instance();
    forge(disk, { id: "5", name: "a" });
    forge(disk, { id: "5", name: "b" });
    expect(refusal(() => findSnapshot(view(), "a"))).toEqual({
      code: "snapshot-ambiguous",
      instance: "web",
      snapshot: "a",
      ids: ["5", "5"],
    });
  });

  test("may be called as Multipass calls them, or by bytes that are no text", () => {
    const { change, disk, view } = instance();
    forge(disk, { id: "suspend", name: "@s1" });
    forge(disk, { id: "x", name: "a\xff" });
    expect(findSnapshot(view(), "@s1").id).toBe("suspend");
    expect(findSnapshot(view(), "@suspend").name).toBe("@s1");
    expect(findSnapshot(view(), "@x")).toMatchObject({ name: "a\ufffd", nameJson: '"a\\udcff"' });
    change((it) => {
      it.restoreSnapshot(findSnapshot(it.view, "@x"));
      expect(it.view).toMatchObject({ head: 0, counter: 0 });
      it.deleteSnapshot(findSnapshot(it.view, "@x"));
      it.renameSnapshot(findSnapshot(it.view, "@suspend"), "first");
    });
    expect(view().snapshots).toMatchObject([{ id: "suspend", name: "first" }]);
  });

  test.each(["9007199254740991", "9007199254740993"])(
    "with the id %s leaves no number for another one, until it is gone",
    (id) => {
      const { change, disk, store } = instance();
      change((it) => void it.takeSnapshot({}));
      forge(disk, { id, name: "theirs" });
      const highest = id === "9007199254740991" ? id : "9007199254740994";
      change((it) => {
        const expected = { code: "too-many-snapshots", instance: "web", highest };
        expect(refusal(() => it.takeSnapshot({}))).toEqual(expected);
        it.restoreSnapshot(findSnapshot(it.view, "snapshot1"));
        it.deleteSnapshot(findSnapshot(it.view, `@${id}`));
        expect(it.takeSnapshot({})).toMatchObject({ name: "snapshot2", id: 2 });
      });
      expect(remains(store)).toEqual([]);
    },
  );

  test("that deletes one of ours leaves the lineage of the others", () => {
    const { change, view, disk, store } = instance();
    change((it) => {
      for (const name of ["a", "b", "c", "d"]) it.takeSnapshot({ name });
    });
    deleteForeign(disk, "b");
    deleteForeign(disk, "c");
    expect(lineage(view())).toEqual({ a: undefined, d: "a" });
    change((it) => it.restoreSnapshot(findSnapshot(it.view, "d")));
    expect(remains(store)).toEqual([]);
    expect(lineage(view())).toEqual({ a: undefined, d: "a" });
    expect(view().record.parents).toEqual({ 2: 1, 3: 2 });
  });
});

describe("a snapshot's record", () => {
  test.each([
    ["is damaged", "{", "broken", "snapshots/1.json is not JSON"],
    ["is of a newer Calque", '{"schema": 2}', "newer", "snapshots/1.json has schema 2"],
  ])("that %s is left alone, and its snapshot is shown without it", (_, text, kind, reason) => {
    const { change, view, file } = instance();
    change((it) => void it.takeSnapshot({}));
    writeFileSync(file("snapshots/1.json"), text);
    change((it) => void it.takeSnapshot({}));
    expect(view().snapshots).toMatchObject([
      { name: "snapshot1", isForeign: false, record: undefined, problem: { kind, reason } },
      { name: "snapshot2", isForeign: false, problem: undefined },
    ]);
    change((it) => {
      const snapshot = findSnapshot(it.view, "snapshot1");
      expect(refusal(() => it.commentSnapshot(snapshot, "?"))).toEqual({
        code: "snapshot-broken",
        instance: "web",
        snapshot: "snapshot1",
        kind,
        reason,
        path: file("snapshots/1.json"),
      });
    });
    expect(readFileSync(file("snapshots/1.json"), "utf8")).toBe(text);
  });

  test("that belongs to no snapshot goes with the next change, but not a newer Calque's", () => {
    const { change, file } = instance();
    change((it) => void it.takeSnapshot({}));
    const ours = readFileSync(file("snapshots/1.json"), "utf8");
    for (const name of ["2.json", "notes.txt", "03.json"]) {
      writeFileSync(file(`snapshots/${name}`), ours);
    }
    writeFileSync(file("snapshots/4.json"), '{"schema": 2}');
    change((it) => void it.grow(2 << 20));
    const left = ["1.json", "2.json", "notes.txt", "03.json", "4.json"].filter((name) =>
      existsSync(file(`snapshots/${name}`)),
    );
    expect(left).toEqual(["1.json", "notes.txt", "03.json", "4.json"]);
  });

  test("is made where the directory for it is missing", () => {
    const { change, file, view } = instance();
    rmSync(file("snapshots"), { recursive: true });
    change((it) => void it.takeSnapshot({ comment: "first" }));
    expect(view().snapshots[0]?.record?.comment).toBe("first");
  });
});

describe("a change", () => {
  test("keeps keys of the record that this version does not know", () => {
    const { change, file } = instance();
    const record = JSON.parse(readFileSync(file("instance.json"), "utf8")) as object;
    writeFileSync(file("instance.json"), JSON.stringify({ ...record, future: [1, 2] }));
    change((it) => {
      it.takeSnapshot({});
      it.update({ cpus: 2 });
      it.restoreSnapshot(findSnapshot(it.view, "snapshot1"));
      it.deleteSnapshot(findSnapshot(it.view, "snapshot1"));
      it.nameClones(1);
    });
    expect(JSON.parse(readFileSync(file("instance.json"), "utf8"))).toMatchObject({
      future: [1, 2],
      cpus: 1,
      cloneCount: 1,
    });
  });

  test("is refused, with who it is, while somebody can write to the disk", () => {
    const holder = "qemu-system-x86 (process 4711)";
    const { change } = instance({
      imageUsers: () => ({ report: { users: [{ use: "writer", holder }] } }),
      snapshotCreate: () => ({ failure: { code: "in-use", stage: "open", reason: "locked" } }),
    });
    const expected = { code: "in-use", instance: "web", holder };
    expect(refusal(() => change((it) => it.ensureStopped()))).toEqual(expected);
    // The core finds out by itself if nobody asked.
    expect(refusal(() => change((it) => it.takeSnapshot({})))).toEqual(expected);
  });

  test.each(["free", "reader", "calque"] as const)("goes on beside a user that is: %s", (use) => {
    const { change } = instance({ imageUsers: () => ({ report: { users: [{ use }] } }) });
    expect(change((it) => it.ensureStopped())).toBeUndefined();
  });

  test("says what the core says where the disk cannot be looked at", () => {
    const failure = { code: "permission-denied", stage: "open", reason: "denied" } as const;
    const { change } = instance({
      imageUsers: () => ({ report: { users: [{ use: "free", failure }] } }),
    });
    expect(() => change((it) => it.ensureStopped())).toThrow(new NativeFailure(failure));
  });

  test("tells whom it waits for", () => {
    const holders: string[] = [];
    const { open, context } = scene();
    make(open(), ["web"]);
    const waiting = (subject: string) => (holder: string) => void holders.push(subject, holder);
    const operations: Partial<Native> = {
      snapshotCreate(request, event) {
        event?.({ waitingFor: "calque (process 12)" });
        return native.snapshotCreate(request, event);
      },
    };
    const store = openStore({ ...context, waiting, native: { ...native, ...operations } });
    using change = store.change("web");
    change.takeSnapshot({});
    expect(holders).toEqual([change.view.diskPath, "calque (process 12)"]);
  });

  test("waits for another one of the same instance", () => {
    const { store, change } = instance();
    // In one process the core says so instead of waiting for ever.
    const reason = "this process has locked it already";
    change(() => expect(() => store.change("web")).toThrow(reason));
    expect(change((it) => it.view.name)).toBe("web");
  });

  test.each([
    ["missing", "nobody", { code: "missing", instance: "nobody" }],
    ["a snapshot's", "web.snapshot1", { code: "missing", instance: "web.snapshot1" }],
    ["in the trash", "gone", { code: "deleted", instance: "gone" }],
  ])("needs an instance: its name is %s", (_, name, expected) => {
    const { store } = instance();
    make(store, ["gone"]);
    store.trash("gone");
    expect(refusal(() => store.change(name))).toEqual(expected);
    expect(refusal(() => store.living(name))).toEqual(expected);
  });
});

describe("clones are counted", () => {
  test("with names that nobody has: not live, not trashed, not in the making", () => {
    const { change, store } = instance();
    make(store, ["web-clone1", "web-clone2"]);
    store.trash("web-clone2");
    using stage = store.reserve(["web-clone3"]);
    const names = change((it) => [it.nameClones(2), it.nameClones(1)]);
    expect(names).toEqual([["web-clone4", "web-clone5"], ["web-clone6"]]);
    expect(stage.names).toEqual(["web-clone3"]);
  });

  test("also those that have names of their own", () => {
    const { change } = instance();
    change((it) => it.countClones(3));
    expect(change((it) => it.nameClones(1))).toEqual(["web-clone4"]);
  });

  test.each([
    ["named", (it: InstanceChange) => it.nameClones(2)],
    ["counted", (it: InstanceChange) => it.countClones(1)],
  ])("but not %s after a number that nobody reaches", (_, count) => {
    const { change, file: fileOf } = instance();
    const file = fileOf("instance.json");
    const record = JSON.parse(readFileSync(file, "utf8")) as object;
    writeFileSync(file, JSON.stringify({ ...record, cloneCount: Number.MAX_SAFE_INTEGER }));
    const text = readFileSync(file, "utf8");
    expect(refusal(() => change(count))).toEqual({
      code: "broken",
      instance: "web",
      reason: 'instance.json is damaged at "cloneCount"',
    });
    expect(readFileSync(file, "utf8")).toBe(text);
  });

  test("but not where no name can be made", () => {
    const { store } = instance();
    const name = "a".repeat(60);
    make(store, [name]);
    using change = store.change(name);
    const expected = { code: "name-too-long", name: `${name}-clone1`, limit: 63 };
    expect(refusal(() => change.nameClones(1))).toEqual(expected);
    expect(change.view.record.cloneCount).toBe(0);
  });
});

test("a change sweeps what a power cut left of records that were being replaced", () => {
  const { change, file } = instance();
  change((it) => it.takeSnapshot({}));
  const swept = [".instance.json.new", "snapshots/.1.json.new", "snapshots/.17.json.new"];
  const kept = [".other.json.new", "snapshots/.new", "snapshots/.x.json.new"];
  for (const name of [...swept, ...kept]) writeFileSync(file(name), "{");
  change(() => {});
  expect(swept.filter((name) => existsSync(file(name)))).toEqual([]);
  expect(kept.filter((name) => existsSync(file(name)))).toEqual(kept);
});

test("a disk with another name outside of the store is warned of", () => {
  const { change, disk, store, warnings } = instance();
  expect(store.living("web").isLinked).toBe(false);
  linkSync(disk, path.join(temporary(), "other"));
  change(() => {});
  expect(warnings).toEqual([{ code: "linked", instance: "web" }]);
  expect(store.living("web").isLinked).toBe(true);
});

test("a state error says what it is about", () => {
  const error = new StateError({ code: "missing", instance: "web" });
  expect([error.code, error.message]).toEqual(["missing", "missing: web"]);
});
