// Making instances: who gets a name, what is seen when, and what is left of a maker that is gone.

import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import type { Native } from "../../src/native.ts";
import { newRecord } from "../../src/state/identity.ts";
import type { Stage } from "../../src/state/stage.ts";
import type { Store } from "../../src/state/store.ts";
import { mortal } from "./mortal.ts";
import { createDisk, make, native, refusal, scene } from "./scene.ts";

/** Fills a stage, without its commit. */
function fill(store: Store, stage: Stage): void {
  const maker = store.maker();
  for (const name of stage.names) {
    createDisk(stage.diskPath(name));
    const record = newRecord(maker, { name, cpus: 1, memoryBytes: 1 });
    stage.write(name, record, { event: { operation: "create" } });
  }
}

/** A process that made a batch and died at the last call of that name. */
function abandon(wanted: string[], call: keyof Native) {
  const rehearsal = mortal(native);
  make(scene().open(rehearsal.native), wanted, rehearsal.native);
  const { open, root, warnings } = scene();
  const doomed = mortal(native, rehearsal.calls.lastIndexOf(call) + 1);
  expect(() => make(open(doomed.native), wanted, doomed.native)).toThrow();
  return { root, warnings, store: open(), stage: () => readdirSync(path.join(root, "stage")) };
}

function names(store: Store): string[] {
  return store.list().map(({ name }) => name);
}

/** The core, where moves to such a place happen, and it cannot tell whether they last. */
function unsettledAt(target: RegExp): Native {
  return {
    ...native,
    storeRename(request) {
      const reply = native.storeRename(request);
      if (!target.test(request.target)) return reply;
      return { failure: { code: "unsettled", stage: "operation", reason: "nobody knows" } };
    },
  };
}

describe("a reservation", () => {
  test("makes the store, and nothing that anybody sees", () => {
    const { open, root, exists } = scene();
    expect(exists()).toBe(false);
    const store = open();
    using stage = store.reserve(["web"]);
    expect(readdirSync(root)).toEqual(["instances", "stage", "store.lock", "trash"]);
    expect(stage.names).toEqual(["web"]);
    expect(store.list()).toEqual([]);
    expect(refusal(() => store.living("web"))).toEqual({ code: "missing", instance: "web" });
  });

  test("keeps others from its names at once, and gives them back", () => {
    const { open } = scene();
    const [one, other] = [open(), open()];
    {
      using stage = one.reserve(["a", "b"]);
      expect(stage.names).toEqual(["a", "b"]);
      const expected = { code: "being-prepared", name: "b" };
      expect(refusal(() => other.reserve(["c", "b"]))).toEqual(expected);
      expect(refusal(() => other.ensureFree(["b"]))).toEqual(expected);
      using beside = other.reserve(["c"]);
      expect(beside.names).toEqual(["c"]);
    }
    expect(other.ensureFree(["a", "b", "c"])).toBeUndefined();
    using stage = other.reserve(["b", "a"]);
    expect(stage.names).toEqual(["b", "a"]);
  });

  test.each([
    ["a live instance's", "live", { code: "name-taken", name: "live" }],
    ["none", "no.name", { code: "invalid-name", name: "no.name" }],
    ["wanted twice", "twice", { code: "name-taken", name: "twice" }],
  ])("is refused for a name that is %s", (_, name, expected) => {
    const { open } = scene();
    const store = open();
    make(store, ["live"]);
    const wanted = name === "twice" ? ["twice", "twice"] : ["other", name];
    expect(refusal(() => store.reserve(wanted))).toEqual(expected);
    expect(readdirSync(path.join(store.root, "stage"))).toEqual([]);
  });

  test("may have the name of an instance in the trash", () => {
    const { open } = scene();
    const store = open();
    make(store, ["web"]);
    store.trash("web");
    make(store, ["web"]);
    expect(store.list().map(({ name, id }) => [name, id === undefined])).toEqual([
      ["web", true],
      ["web", false],
    ]);
  });
});

describe("instances", () => {
  test("are seen when they are committed, all at once", () => {
    const { open } = scene();
    const store = open();
    using stage = store.reserve(["b", "a"]);
    fill(store, stage);
    expect(store.list()).toEqual([]);
    stage.commit();
    expect(names(open())).toEqual(["a", "b"]);
    expect(readdirSync(path.join(store.root, "stage"))).toEqual([]);
    expect(readdirSync(path.join(store.root, "instances/a")).toSorted()).toEqual([
      "disk.qcow2",
      "history.jsonl",
      "instance.json",
      "lock",
      "snapshots",
    ]);
  });

  test("belong to their owner alone", () => {
    const { open, root } = scene();
    make(open(), ["web"]);
    const listing = execFileSync("find", [root, "-printf", "%m %y\n"], { encoding: "utf8" });
    // The disk is made by whoever is told its path, with the permissions of any file.
    const modes = new Set(listing.trim().split("\n"));
    modes.delete("644 f");
    expect([...modes].toSorted()).toEqual(["600 f", "700 d"]);
  });

  test("are not committed without their records", () => {
    const { open } = scene();
    const store = open();
    using stage = store.reserve(["web"]);
    expect(() => stage.commit()).toThrow("web has no record");
  });

  test.each([[["taken"]], [["free", "taken"]]])(
    "%j that found their name taken by hand are given up, and nothing is replaced",
    (wanted) => {
      const { open, root } = scene();
      const store = open();
      {
        using stage = store.reserve(wanted);
        fill(store, stage);
        mkdirSync(path.join(root, "instances/taken"));
        const expected = { code: "name-taken", name: "taken" };
        expect(refusal(() => stage.commit())).toEqual(expected);
      }
      expect(names(store)).toEqual(["taken"]);
      expect(readdirSync(path.join(root, "instances/taken"))).toEqual([]);
      expect(readdirSync(path.join(root, "stage"))).toEqual([]);
    },
  );
});

describe("a batch that was interrupted", () => {
  test("after its commit is seen whole by readers, who do not move it", () => {
    const { store, stage } = abandon(["a", "b", "c"], "storeSync");
    expect(names(store)).toEqual(["a", "b", "c"]);
    expect(store.find("b")?.problem).toBeUndefined();
    expect(store.view(store.living("b")).diskBytes).toBe(1 << 20);
    expect(stage()).toHaveLength(1);
  });

  test("after its commit has its names", () => {
    const { store } = abandon(["a", "b", "c"], "storeSync");
    expect(refusal(() => store.reserve(["b"]))).toEqual({ code: "name-taken", name: "b" });
  });

  test("is finished by a change of one of its instances", () => {
    const { store, stage, root } = abandon(["a", "b", "c"], "storeSync");
    {
      using change = store.change("b");
      change.takeSnapshot({});
    }
    expect(stage()).toEqual([]);
    expect(readdirSync(path.join(root, "instances"))).toEqual(["a", "b", "c"]);
    expect(store.view(store.living("b")).snapshots).toHaveLength(1);
  });

  test("before its commit leaves names that are free, and nothing else", () => {
    const { store, stage } = abandon(["a", "b"], "imageCreate");
    expect(store.list()).toEqual([]);
    expect(stage()).toHaveLength(1);
    make(store, ["b"]);
    expect([names(store), stage()]).toEqual([["b"], []]);
  });

  test("and whose names somebody took by hand is kept until they are free", () => {
    const { store, stage, root, warnings } = abandon(["a", "b"], "storeSync");
    const [id] = stage();
    renameSync(path.join(root, "instances/b"), path.join(root, `stage/${id}/b`));
    mkdirSync(path.join(root, "instances/b"));
    store.reserve([])[Symbol.dispose]();
    expect(warnings).toMatchObject([{ code: "unfinished", path: `stage/${id}/b` }]);
    expect(existsSync(path.join(root, `stage/${id}/b/disk.qcow2`))).toBe(true);
    expect(names(store)).toEqual(["a", "b"]);

    renameSync(path.join(root, "instances/b"), path.join(root, "by-hand"));
    store.reserve([])[Symbol.dispose]();
    expect([stage(), store.living("b").problem]).toEqual([[], undefined]);
  });
});

describe("a commit of which the core cannot tell whether it survives", () => {
  test("is left to the next change: what is committed is not removed again", () => {
    const { open, root } = scene();
    const doubtful = open(unsettledAt(/\/commit\.json$/));
    expect(() => make(doubtful, ["a", "b"])).toThrow("nobody knows");
    expect(readdirSync(path.join(root, "stage"))).toHaveLength(1);
    const store = open();
    expect(names(store)).toEqual(["a", "b"]);
    store.change("a")[Symbol.dispose]();
    expect(readdirSync(path.join(root, "instances"))).toEqual(["a", "b"]);
  });

  test("of a purge as well: what might come back is not half gone", () => {
    const { open, root } = scene();
    const store = open();
    make(store, ["web"]);
    const doubtful = open(unsettledAt(/^stage\//));
    expect(() => doubtful.purge(store.living("web"))).toThrow("nobody knows");
    const [gone] = readdirSync(path.join(root, "stage"));
    expect(readdirSync(path.join(root, `stage/${gone}`))).toHaveLength(5);
    expect(store.list()).toEqual([]);
    make(scene(root, 1000).open(), ["web"]);
    expect(readdirSync(path.join(root, "stage"))).toEqual([]);
  });
});

// `create lock` failed with "File exists", and one who died making `commit` left half an instance.
test("instances are called as they like, also as the files of a stage nearly are", () => {
  const wanted = ["commit", "lock", "manifest", "stage", "snapshots"];
  for (const batch of [wanted, ...wanted.map((name) => [name])]) {
    const { open } = scene();
    make(open(), batch);
    expect(names(open())).toEqual(batch.toSorted());
    for (const call of ["imageCreate", "storeCreate", "storeProtect"] as const) {
      const { store, stage } = abandon(batch, call);
      expect(names(store)).toEqual([]);
      store.reserve([])[Symbol.dispose]();
      expect([names(store), stage()]).toEqual([[], []]);
    }
  }
});

describe("a stage", () => {
  test("whose maker lives is not swept", () => {
    const { open } = scene();
    const [one, other] = [open(), open()];
    using stage = one.reserve(["slow"]);
    make(other, ["fast"]);
    other.trash("fast");
    fill(one, stage);
    stage.commit();
    expect(other.list().map(({ name }) => name)).toEqual(["slow", "fast"]);
  });

  test("that cannot be removed is warned of, and keeps nobody from working", () => {
    const { root } = abandon(["a", "b"], "imageCreate");
    const { open, warnings } = scene(root, 1000);
    const failure = { code: "io", stage: "operation", reason: "Input/output error" } as const;
    const storeRemove: Native["storeRemove"] = (request) =>
      /^stage\/[0-9a-f]+$/.test(request.path) ? { failure } : native.storeRemove(request);
    const store = open({ ...native, storeRemove });
    // Its names are free all the same: the manifest went first.
    make(store, ["a"]);
    expect(names(store)).toEqual(["a"]);
    expect(warnings.map(({ code }) => code)).toEqual(["unfinished", "unfinished"]);
  });

  test("that nobody made is left alone", () => {
    const { open, root, warnings } = scene();
    const store = open();
    make(store, ["web"]);
    mkdirSync(path.join(root, "stage/mine"));
    writeFileSync(path.join(root, "stage/notes"), "");
    make(store, ["web-2"]);
    expect(names(store)).toEqual(["web", "web-2"]);
    expect(readdirSync(path.join(root, "stage"))).toEqual(["mine", "notes"]);
    expect(warnings).toEqual([
      { code: "foreign-file", path: "stage/mine" },
      { code: "foreign-file", path: "stage/notes" },
    ]);
  });
});

test("a store whose directories were removed by hand makes them again", () => {
  const { open, root } = scene();
  const store = open();
  make(store, ["web"]);
  for (const name of ["trash", "stage"])
    renameSync(path.join(root, name), path.join(root, `no-${name}`));
  expect(names(store)).toEqual(["web"]);
  store.trash("web");
  make(store, ["new"]);
  expect(store.list().map(({ name }) => name)).toEqual(["new", "web"]);
  expect(readFileSync(path.join(root, "store.lock"), "utf8")).toBe("");
});

test("what is in the store is its owner's alone", () => {
  const { open, root } = scene();
  make(open(), ["a", "b", "c", "d", "e"]);
  const store = open();
  using change = store.change("a");
  change.takeSnapshot({});
  store.trash("b");
  for (const file of readdirSync(root, { recursive: true, encoding: "utf8" })) {
    const stat = statSync(path.join(root, file));
    expect([file, (stat.mode & 0o777).toString(8)]).toEqual([
      file,
      stat.isDirectory() ? "700" : "600",
    ]);
  }
});
