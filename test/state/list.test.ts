// What readers see: also of stores that are damaged, foreign, read-only, or on the move.

import {
  cpSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import type { Failure, Native } from "../../src/native.ts";
import { findSnapshot } from "../../src/state/snapshots.ts";
import type { Store } from "../../src/state/store.ts";
import { takeForeign } from "./foreign.ts";
import { observe } from "./observe.ts";
import { make, native, refusal, scene, temporary } from "./scene.ts";

/** A store with `web`, which something is done to, and `well`, which must not suffer from it. */
function withNeighbour() {
  const { open, root, warnings } = scene();
  make(open(), ["web", "well"]);
  return { open, root, warnings, file: (name: string) => path.join(root, "instances/web", name) };
}

/** Of each instance what is wrong with it. */
function problems(store: Store): Record<string, string | undefined> {
  return Object.fromEntries(
    store
      .list()
      .map(({ name, problem }) => [name, problem && `${problem.kind}: ${problem.reason}`]),
  );
}

/** The core on a file system that nobody can write to. */
const readOnly = new Proxy(native, {
  get(core, name: keyof Native) {
    const operation = Reflect.get(core, name) as (request: object) => object;
    return (request: { mode?: string; create?: boolean; settled?: boolean }, event: unknown) => {
      const isRead =
        ["storeOpen", "storeRead", "storeList", "storeStat", "storeUnlock"].includes(name) ||
        ["imageUsers", "snapshotList"].includes(name) ||
        (name === "storeLock" && request.mode === "shared");
      if (!isRead || request.create === true || request.settled === true) {
        throw new Error(`${name} on a read-only file system`);
      }
      return Reflect.apply(operation, core, [request, event]);
    };
  },
});

describe("a broken instance is shown as such, and others are well:", () => {
  type Damage = (file: (name: string) => string, root: string) => void;
  const damages: [string, Damage, string][] = [
    [
      "its record is missing",
      (file) => rmSync(file("instance.json")),
      "broken: instance.json is missing",
    ],
    [
      "its record is empty",
      (file) => truncateSync(file("instance.json")),
      "broken: instance.json is empty",
    ],
    [
      "its record is cut off",
      (file) => truncateSync(file("instance.json"), 100),
      "broken: instance.json is not JSON",
    ],
    [
      "its record is not text",
      (file) => writeFileSync(file("instance.json"), Buffer.from([0xff, 0xfe])),
      "broken: instance.json cannot be read: it is not UTF-8 text",
    ],
    [
      "its record lacks something",
      (file) => writeFileSync(file("instance.json"), '{"schema": 1}'),
      'broken: instance.json is damaged at "uuid"',
    ],
    [
      "its record is of a newer schema",
      (file) => writeFileSync(file("instance.json"), '{"schema": 2, "name": {}}'),
      "newer: instance.json has schema 2",
    ],
    [
      "its record is a directory",
      (file) => {
        rmSync(file("instance.json"));
        mkdirSync(file("instance.json"));
      },
      "broken: instance.json cannot be read: not a regular file",
    ],
    [
      "its record is a link",
      (file, root) => {
        renameSync(file("instance.json"), path.join(root, "away.json"));
        symlinkSync("../../away.json", file("instance.json"));
      },
      "broken: instance.json cannot be read: it is a symbolic link",
    ],
    ["its disk is missing", (file) => rmSync(file("disk.qcow2")), "broken: disk.qcow2 is missing"],
    [
      "its disk is a directory",
      (file) => {
        rmSync(file("disk.qcow2"));
        mkdirSync(file("disk.qcow2"));
      },
      "broken: disk.qcow2 is a directory, not a file",
    ],
    [
      "its disk is a link",
      (file, root) => {
        renameSync(file("disk.qcow2"), path.join(root, "away.qcow2"));
        symlinkSync("../../away.qcow2", file("disk.qcow2"));
      },
      "broken: disk.qcow2 is a symbolic link, not a file",
    ],
    [
      "it is empty",
      (file) => {
        rmSync(file("."), { recursive: true });
        mkdirSync(file("."));
      },
      "broken: instance.json is missing",
    ],
    [
      "it is a file",
      (file) => {
        rmSync(file("."), { recursive: true });
        writeFileSync(file(".").replace(/\/\.?$/, ""), "");
      },
      "broken: instances/web is a file, not a directory",
    ],
    [
      "it is a link to an instance",
      (file, root) => {
        rmSync(file("."), { recursive: true });
        symlinkSync("well", path.join(root, "instances/web"));
      },
      "broken: instances/web is a symbolic link, not a directory",
    ],
  ];

  test.each(damages)("%s", (_, damage, expected) => {
    const { open, root, file } = withNeighbour();
    damage(file, root);
    const store = open(readOnly);
    expect(problems(store)).toEqual({ web: expected, well: undefined });
    const web = store.find("web")!;
    const [code, reason] = expected.split(/: (.*)/);
    const unusable = { code, instance: "web", reason };
    expect(refusal(() => store.view(web))).toEqual(unusable);
    expect(refusal(() => store.summary(web))).toEqual(unusable);
    expect(refusal(() => store.living("web"))).toEqual(unusable);
    expect(refusal(() => open().change("web"))).toEqual(unusable);
    expect(refusal(() => open().reserve(["web"]))).toEqual({ code: "name-taken", name: "web" });
    expect([...store.users(store.list()).keys()].map(({ name }) => name)).toEqual(["well"]);
    expect(store.view(store.living("well")).snapshots).toEqual([]);
  });

  test.each([
    ["is empty", "", "Image is not in qcow2 format"],
    ["is another format", "KDMV".repeat(512), "Image is not in qcow2 format"],
    [
      "has a version of its own",
      "QFI\xfb\0\0\0\x09".padEnd(512, "\0"),
      "Unsupported qcow2 version 9",
    ],
  ])("its disk %s", (_, text, reason) => {
    const { open, file } = withNeighbour();
    writeFileSync(file("disk.qcow2"), text, "latin1");
    const store = open();
    // A list does not open images.
    expect(problems(store)).toEqual({ web: undefined, well: undefined });
    const expected = { code: "broken", instance: "web", reason };
    expect(refusal(() => store.view(store.living("web")))).toEqual(expected);
    expect(refusal(() => store.summary(store.living("web")))).toEqual(expected);
    using change = store.change("web");
    expect(refusal(() => change.takeSnapshot({}))).toEqual(expected);
  });

  test("its record cannot be read", () => {
    const { open } = withNeighbour();
    // Nothing is unreadable to root, so the core plays it.
    const failure: Failure = {
      code: "permission-denied",
      stage: "operation",
      reason: "Permission denied",
    };
    const storeRead: Native["storeRead"] = ({ root, paths }) => ({
      report: {
        files: paths.map((one) =>
          one === "instances/web/instance.json"
            ? { failure }
            : native.storeRead({ root, paths: [one] }).report!.files[0]!,
        ),
      },
    });
    expect(problems(open({ ...native, storeRead }))).toEqual({
      web: "broken: instance.json cannot be read: Permission denied",
      well: undefined,
    });
  });

  test("it is in the trash", () => {
    const { open, root } = withNeighbour();
    const store = open();
    const id = store.trash("web");
    writeFileSync(path.join(root, `trash/web@${id}/instance.json`), "[");
    const web = store.find("web")!;
    expect(web.problem?.reason).toBe("instance.json is not JSON");
    expect(refusal(() => store.view(web))).toMatchObject({ instance: `web@${id}` });
  });
});

describe("readers", () => {
  test("see everything on a read-only file system, and an interrupted restore settled", () => {
    const { open } = withNeighbour();
    const store = open();
    {
      using change = store.change("web");
      change.takeSnapshot({ comment: "one" });
      change.takeSnapshot({});
      change.restoreSnapshot(findSnapshot(change.view, "snapshot1"));
    }
    takeForeign(store.view(store.living("web")).diskPath, "theirs");
    store.trash("well");
    const frozen = open(readOnly);
    expect(observe(frozen)).toEqual(observe(store));
    expect(frozen.history(frozen.living("web"))).toHaveLength(4);
    expect(frozen.users(frozen.list()).size).toBe(2);
  });

  test("find no store where there is none, and make none", () => {
    const { open, exists } = scene();
    const store = open(readOnly);
    expect(store.list()).toEqual([]);
    expect(store.find("web")).toBeUndefined();
    expect(refusal(() => store.living("web"))).toEqual({ code: "missing", instance: "web" });
    expect(refusal(() => open().change("web"))).toEqual({ code: "missing", instance: "web" });
    expect(refusal(() => open().trash("web"))).toEqual({ code: "missing", instance: "web" });
    expect(exists()).toBe(false);
  });

  test("see an instance that moves while they look once, wherever it is", () => {
    const { open, root } = withNeighbour();
    const mover = open();
    let moves = 0;
    const storeList: Native["storeList"] = (request) => {
      const reply = native.storeList(request);
      // Out of the trash when that was looked at, into it when it would be found elsewhere.
      if (request.path === "trash" && moves < 3) {
        moves += 1;
        const trashed = mover.trashedNamesakes("web")[0];
        if (trashed === undefined) mover.trash("web");
        else mover.recover(trashed);
      }
      return reply;
    };
    const watched = scene(root).open({ ...native, storeList });
    expect(watched.list().map(({ name }) => name)).toEqual(["well", "web"]);
    expect(moves).toBe(3);
  });

  test("keep movers out where an instance never stands still", () => {
    const { open, root } = withNeighbour();
    const mover = open();
    const modes: string[] = [];
    const storeList: Native["storeList"] = (request) => {
      const reply = native.storeList(request);
      if (request.path === "trash" && modes.length === 0) {
        const trashed = mover.trashedNamesakes("web")[0];
        if (trashed === undefined) mover.trash("web");
        else mover.recover(trashed);
      }
      return reply;
    };
    const storeLock: Native["storeLock"] = (request, waiting) => {
      modes.push(`${request.path} ${request.mode}`);
      return native.storeLock(request, waiting);
    };
    const watched = scene(root).open({ ...native, storeList, storeLock });
    expect(watched.list().map(({ name }) => name)).toContain("web");
    expect(modes).toEqual(["store.lock shared"]);
  });

  test.each([
    ["when its record changes under them", "head"],
    ["when its image alone does, and a snapshot's record goes", "other"],
  ])("read an instance anew %s", (_, doomed) => {
    const { open, root, file } = withNeighbour();
    const changer = open();
    {
      using change = changer.change("web");
      for (const name of ["first", "head", "other"]) change.takeSnapshot({ name });
      change.restoreSnapshot(findSnapshot(change.view, "head"));
    }
    const before = readFileSync(file("instance.json"), "utf8");
    let looks = 0;
    const snapshotList: Native["snapshotList"] = (request) => {
      const reply = native.snapshotList(request);
      looks += 1;
      if (looks > 1) return reply;
      using change = changer.change("web");
      change.deleteSnapshot(findSnapshot(change.view, doomed));
      return reply;
    };
    const watched = scene(root).open({ ...native, snapshotList });
    const { snapshots, head } = watched.view(watched.living("web"));
    expect(snapshots.every(({ isForeign }) => !isForeign)).toBe(true);
    expect([snapshots.length, head]).toEqual(doomed === "head" ? [2, 1] : [2, 2]);
    const isUntouched = readFileSync(file("instance.json"), "utf8") === before;
    expect(isUntouched).toBe(doomed === "other");
  });

  test("follow an instance that is moved before they read it", () => {
    const { open } = withNeighbour();
    const [store, mover] = [open(), open()];
    const listed = store.living("web");
    mover.rename("web", "site");
    expect(store.view(listed).name).toBe("site");
    mover.trash("site");
    const id = store.summary(listed).id!;
    expect(store.find("site")?.id).toBe(id);
    mover.purge(mover.find("site")!);
    expect(refusal(() => store.view(listed))).toEqual({ code: "missing", instance: "web" });
  });
});

describe("a name in the store that breaks the rules is left alone, and warned of once:", () => {
  test.each([
    "instances/web.bak",
    "instances/.hidden",
    "instances/-x",
    "trash/web",
    "trash/web@yesterday",
    "stage/old",
  ])("%s", (name) => {
    const { open, root, warnings } = withNeighbour();
    cpSync(path.join(root, "instances/web"), path.join(root, name), { recursive: true });
    const store = open();
    for (let looks = 1; looks <= 2; looks += 1) {
      expect(store.list().map((one) => one.name)).toEqual(["web", "well"]);
    }
    make(store, ["new"]);
    store.trash("new");
    store.purge(store.find("new")!);
    expect(warnings).toEqual([{ code: "foreign-file", path: name }]);
    expect(readFileSync(path.join(root, name, "instance.json"))).toHaveLength(
      readFileSync(path.join(root, "instances/web/instance.json")).length,
    );
  });
});

describe("an instance whose directory was copied", () => {
  test("is a copy, known by the identity of the original", () => {
    const { open, root } = withNeighbour();
    const store = open();
    cpSync(path.join(root, "instances/web"), path.join(root, "instances/aaa-web"), {
      recursive: true,
    });
    const copies = store.list().map(({ name, copyOf }) => [name, copyOf]);
    expect(copies).toEqual([
      ["aaa-web", "web"],
      ["web", undefined],
      ["well", undefined],
    ]);
    // It is a whole instance all the same.
    using change = store.change("aaa-web");
    change.takeSnapshot({});
    expect(store.view(store.living("web")).snapshots).toEqual([]);
  });

  test("is the original where what it was copied from is in the trash", () => {
    const { open, root } = withNeighbour();
    const store = open();
    const backup = path.join(temporary(), "web");
    cpSync(path.join(root, "instances/web"), backup, { recursive: true });
    const id = store.trash("web");
    cpSync(backup, path.join(root, "instances/web"), { recursive: true });
    expect(store.list().map(({ copyOf }) => copyOf)).toEqual([undefined, undefined, "web"]);
    expect(store.find("web")?.id).toBeUndefined();
    expect(store.find(`web@${id}`)?.name).toBe("web");
  });
});
