// Instances that are moved as a whole: deleted, recovered, purged, renamed.

import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { displayName } from "../../src/state/list.ts";
import type { Store } from "../../src/state/store.ts";
import { make, native, refusal, scene } from "./scene.ts";

function withInstances(...names: string[]) {
  const { open, ...rest } = scene();
  const store = open();
  make(store, names);
  return { store, open, ...rest };
}

/** All instances by the names that users give them. */
function shown(store: Store): string[] {
  return store.list().map(displayName);
}

describe("a deleted instance", () => {
  test("is in the trash with everything, and its name is free", () => {
    const { store, root } = withInstances("web");
    {
      using change = store.change("web");
      change.takeSnapshot({ comment: "kept" });
    }
    const id = store.trash("web");
    expect(id).toMatch(/^20261125-1129\d\d-[0-9a-f]{4}$/);
    const listed = store.find("web")!;
    expect(listed).toMatchObject({
      name: "web",
      id,
      directory: `trash/web@${id}`,
      deletedAt: expect.any(Date),
      problem: undefined,
    });
    expect(store.view(listed)).toMatchObject({ id, snapshots: [{ name: "snapshot1" }] });
    expect(readdirSync(path.join(root, "instances"))).toEqual([]);
    expect(refusal(() => store.living("web"))).toEqual({ code: "deleted", instance: "web" });
  });

  test("has namesakes, of which the newest is meant", () => {
    const { store } = withInstances("web");
    const ids = [store.trash("web")];
    make(store, ["web"]);
    ids.unshift(store.trash("web"));
    expect(store.find("web")?.id).toBe(ids[0]);
    expect(store.trashedNamesakes("web").map(({ id }) => id)).toEqual(ids);
    expect(store.find(`web@${ids[1]}`)?.id).toBe(ids[1]);
    expect(store.find("web@20200101-000000-0000")).toBeUndefined();

    make(store, ["web"]);
    expect(store.find("web")).toMatchObject({ id: undefined, directory: "instances/web" });
    expect(shown(store)).toEqual(["web", `web@${ids[0]}`, `web@${ids[1]}`]);
  });

  test("comes back as it was", () => {
    const { store } = withInstances("web");
    const before = store.view(store.find("web")!);
    store.trash("web");
    expect(store.recover(store.find("web")!)).toBe("web");
    expect(store.view(store.living("web"))).toEqual(before);
    expect(
      store.history(store.living("web")).map(({ operation, from }) => [operation, from]),
    ).toEqual([
      ["create", undefined],
      ["delete", undefined],
      ["recover", expect.stringMatching(/^web@/)],
    ]);
  });

  test("does not come back over another one, but under another name", () => {
    const { store } = withInstances("web");
    store.trash("web");
    make(store, ["web"]);
    const trashed = store.trashedNamesakes("web")[0]!;
    const expected = { code: "name-taken", name: "web" };
    expect(refusal(() => store.recover(trashed))).toEqual(expected);
    using stage = store.reserve(["web-2"]);
    expect(stage.names).toEqual(["web-2"]);
    expect(refusal(() => store.recover(trashed, "web-2"))).toEqual({
      code: "being-prepared",
      name: "web-2",
    });
    expect(refusal(() => store.recover(trashed, "web 3"))).toEqual({
      code: "invalid-name",
      name: "web 3",
    });
    expect(store.freeName("web")).toBe("web-3");
    expect(store.recover(trashed, "web-3")).toBe("web-3");
    expect(shown(store)).toEqual(["web", "web-3"]);
  });

  test("that somebody recovered or purged meanwhile is gone", () => {
    const { store } = withInstances("web");
    const id = store.trash("web");
    const listed = store.find("web")!;
    store.recover(listed);
    expect(refusal(() => store.recover(listed))).toEqual({
      code: "missing",
      instance: `web@${id}`,
    });
    expect(store.purge(listed)).toBeUndefined();
    expect(shown(store)).toEqual(["web"]);
  });
});

describe("a purged instance", () => {
  test("is gone for ever, and so are its files", () => {
    const { store, root } = withInstances("web", "other");
    store.trash("web");
    store.purge(store.find("web")!);
    store.purge(store.find("other")!);
    expect(store.list()).toEqual([]);
    for (const name of ["instances", "trash", "stage"]) {
      expect(readdirSync(path.join(root, name))).toEqual([]);
    }
  });

  test("is the one that was meant, not its namesake", () => {
    const { store } = withInstances("web");
    const listed = store.find("web")!;
    const id = store.trash("web");
    expect(refusal(() => store.purge(listed))).toEqual({ code: "deleted", instance: "web" });
    make(store, ["web"]);
    store.purge(store.trashedNamesakes("web")[0]!);
    expect(shown(store)).toEqual(["web"]);
    expect(store.find(`web@${id}`)).toBeUndefined();
  });
});

describe("an instance with another name", () => {
  test("has everything but the name", () => {
    const { store } = withInstances("web");
    const { record } = store.view(store.living("web"));
    store.rename("web", "site");
    expect(shown(store)).toEqual(["site"]);
    expect(store.view(store.living("site")).record).toEqual(record);
    expect(store.history(store.living("site")).at(-1)).toMatchObject({
      operation: "rename",
      from: "web",
    });
  });

  test("may have had that name before", () => {
    const { store } = withInstances("web");
    expect(store.rename("web", "web")).toBeUndefined();
    expect(shown(store)).toEqual(["web"]);
  });

  test.each([
    ["taken", "other", { code: "name-taken", name: "other" }],
    ["none", "a.b", { code: "invalid-name", name: "a.b" }],
  ])("is refused one that is %s", (_, target, expected) => {
    const { store } = withInstances("web", "other");
    expect(refusal(() => store.rename("web", target))).toEqual(expected);
    expect(shown(store)).toEqual(["other", "web"]);
  });
});

describe("an instance does not move", () => {
  const moves: [string, (store: Store) => unknown][] = [
    ["into the trash", (store) => store.trash("web")],
    ["out of the store", (store) => store.purge(store.find("web")!)],
    ["to another name", (store) => store.rename("web", "site")],
  ];

  test.each(moves)("%s while somebody can write to its disk", (_, move) => {
    const { open, store } = withInstances("web");
    const holder = "qemu-nbd (process 7)";
    const busy = open({
      ...native,
      imageUsers: () => ({ report: { users: [{ use: "writer", holder }] } }),
    });
    expect(refusal(() => move(busy))).toEqual({ code: "in-use", instance: "web", holder });
    expect(shown(store)).toEqual(["web"]);
  });

  test.each(moves)("%s if a newer Calque made it", (_, move) => {
    const { store, root } = withInstances("web");
    writeFileSync(path.join(root, "instances/web/instance.json"), '{"schema": 7}');
    expect(refusal(() => move(store))).toEqual({
      code: "newer",
      instance: "web",
      reason: "instance.json has schema 7",
    });
  });

  test.each(moves)("%s if it is a link to something else", (_, move) => {
    const { store, root } = withInstances("other");
    mkdirSync(path.join(root, "elsewhere"));
    symlinkSync("../elsewhere", path.join(root, "instances/web"));
    expect(refusal(() => move(store))).toEqual({
      code: "broken",
      instance: "web",
      reason: "instances/web is a symbolic link, not a directory",
    });
    expect(readdirSync(path.join(root, "elsewhere"))).toEqual([]);
  });

  test.each(moves)("%s under somebody who changes it", (_, move) => {
    const { store } = withInstances("web");
    using change = store.change("web");
    // In one process the core says so instead of waiting for ever.
    expect(() => move(store)).toThrow("this process has locked it already");
    expect(change.view.name).toBe("web");
  });

  test("that does not exist", () => {
    const { store } = withInstances("web");
    const expected = { code: "missing", instance: "nobody" };
    expect(refusal(() => store.trash("nobody"))).toEqual(expected);
    expect(refusal(() => store.rename("nobody", "x"))).toEqual(expected);
  });
});

test("a broken instance can be deleted, recovered and purged", () => {
  const { store, root } = withInstances("web");
  writeFileSync(path.join(root, "instances/web/instance.json"), "");
  store.trash("web");
  store.recover(store.find("web")!);
  expect(existsSync(path.join(root, "instances/web/disk.qcow2"))).toBe(true);
  store.purge(store.find("web")!);
  expect(store.list()).toEqual([]);
});
