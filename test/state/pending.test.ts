// A restore that was interrupted between its note and its end. Whoever comes next looks what the
// image's header says; the disk is not touched again.

import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { type Native, unwrap } from "../../src/native.ts";
import { findSnapshot } from "../../src/state/snapshots.ts";
import { setHeaderByte } from "./foreign.ts";
import { mortal } from "./mortal.ts";
import { remains } from "./observe.ts";
import { make, native, scene } from "./scene.ts";

type End = "before the commit" | "after the commit";

/** A process that restored `small` and died. */
function interrupted(end: End) {
  const { open, warnings, root } = scene();
  const store = open();
  make(store, ["web"]);
  {
    using change = store.change("web");
    change.takeSnapshot({ name: "small" });
    change.update({ cpus: 8 });
    change.grow(4 << 20);
    change.takeSnapshot({ name: "large" });
  }
  const restore = (core: Native): void => {
    using change = open(core).change("web");
    change.restoreSnapshot(findSnapshot(change.view, "small"));
  };
  if (end === "before the commit") {
    const stopped = new Error("killed");
    const snapshotApply: Native["snapshotApply"] = (request, event) =>
      native.snapshotApply(request, (change) => {
        event?.(change);
        throw stopped;
      });
    // What follows in that process does not happen either.
    const storeReplace = once((request: Parameters<Native["storeReplace"]>[0]) =>
      native.storeReplace(request),
    );
    expect(() => restore({ ...native, snapshotApply, storeReplace })).toThrow(stopped);
  } else {
    const { native: core } = mortal(native, callsUntilTheSecondReplace());
    expect(() => restore(core)).toThrow();
  }
  const instance = path.join(root, "instances/web");
  return {
    root,
    warnings,
    store: open(),
    disk: path.join(instance, "disk.qcow2"),
    record: () => JSON.parse(readFileSync(path.join(instance, "instance.json"), "utf8")) as object,
    write: (text: string) => writeFileSync(path.join(instance, "instance.json"), text),
  };
}

/** The call after which only the record is left to be written. */
function callsUntilTheSecondReplace(): number {
  const rehearsal = scene();
  const other = rehearsal.open();
  make(other, ["web"]);
  {
    using change = other.change("web");
    change.takeSnapshot({ name: "small" });
  }
  const { native: core, calls } = mortal(native);
  using change = rehearsal.open(core).change("web");
  change.restoreSnapshot(findSnapshot(change.view, "small"));
  return calls.lastIndexOf("storeReplace") + 1;
}

/** Does it the first time, and says that it has done so every other time. */
function once<Request>(action: (request: Request) => object): (request: Request) => object {
  let isDone = false;
  return (request) => {
    if (isDone) return { report: {} };
    isDone = true;
    return action(request);
  };
}

const asBefore = { record: { cpus: 8 }, diskBytes: 4 << 20, head: 2, counter: 2 };
const asAfter = { record: { cpus: 1 }, diskBytes: 1 << 20, head: 1, counter: 2 };

describe("a restore that was interrupted", () => {
  test.each([
    ["before the commit", asBefore],
    ["after the commit", asAfter],
  ] as const)("%s is seen settled, and readers do not write", (end, expected) => {
    const { store, record } = interrupted(end);
    const listed = store.find("web")!;
    expect(store.view(listed)).toMatchObject(expected);
    expect(store.summary(listed).record.cpus).toBe(expected.record.cpus);
    expect(record()).toHaveProperty("pending");
  });

  test.each([
    ["before the commit", asBefore],
    ["after the commit", asAfter],
  ] as const)("%s is settled by the next change, whatever that is", (end, expected) => {
    const { store, record, warnings } = interrupted(end);
    {
      using change = store.change("web");
      expect(record()).not.toHaveProperty("pending");
      expect(change.view).toMatchObject(expected);
      change.update({ memoryBytes: 1 << 29 });
      change.takeSnapshot({});
    }
    const { record: settled } = expected;
    expect(record()).toMatchObject({ ...settled, memoryBytes: 1 << 29 });
    expect(warnings).toEqual([]);
    expect(remains(store)).toEqual([]);
  });

  test("after the commit is in the history, once", () => {
    const { store } = interrupted("after the commit");
    store.change("web")[Symbol.dispose]();
    store.change("web")[Symbol.dispose]();
    const operations = store.history(store.find("web")!).map(({ operation }) => operation);
    expect(operations.filter((operation) => operation === "restore")).toHaveLength(1);
  });

  test.each(["before the commit", "after the commit"] as const)(
    "%s is never repeated: what the guest has written since is still there",
    (end) => {
      const { store, disk } = interrupted(end);
      // A guest's start marks the image, outside of the fields that a commit changes; a guest's
      // writes change what lies behind the header.
      setHeaderByte(disk, 95, 0);
      const worked = readFileSync(disk);
      store.change("web")[Symbol.dispose]();
      expect(readFileSync(disk)).toEqual(worked);
    },
  );

  test.each(["before the commit", "after the commit"] as const)(
    "%s, in an image that another program has changed since, is dropped, and that is said",
    (end) => {
      const { store, disk, record, warnings } = interrupted(end);
      unwrap(native.imageGrow({ path: disk, size: 9 << 20 }));
      expect(store.view(store.find("web")!)).toMatchObject({
        record: { cpus: 8 },
        diskBytes: 9 << 20,
        head: 2,
      });
      store.change("web")[Symbol.dispose]();
      expect(record()).toMatchObject({ cpus: 8 });
      expect(record()).not.toHaveProperty("pending");
      expect(warnings).toEqual([{ code: "overtaken", instance: "web", operation: "restore" }]);
    },
  );

  test("is not settled by what only stands in the cache", () => {
    const { store, record } = interrupted("after the commit");
    const failure = { code: "unsettled", stage: "open", reason: "they differ" } as const;
    const snapshotList: Native["snapshotList"] = (request) =>
      request.settled === true ? { failure } : native.snapshotList(request);
    const before = record();
    const { open } = scene(store.root);
    expect(() => open({ ...native, snapshotList }).change("web")).toThrow("they differ");
    expect(record()).toEqual(before);
  });

  test("has a note that keeps what this version does not know", () => {
    const { store, record, write } = interrupted("after the commit");
    const noted = record() as { pending: { result: object } };
    noted.pending.result = { ...noted.pending.result, future: 1 };
    write(JSON.stringify(noted));
    store.change("web")[Symbol.dispose]();
    expect(record()).toMatchObject({ future: 1, cpus: 1 });
  });
});
