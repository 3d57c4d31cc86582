// Names as users give them and as the store makes them up.

import { describe, expect, test } from "vitest";

import {
  cloneNames,
  deletionTime,
  freeName,
  isName,
  numberedNames,
  parseTrashed,
  snapshotName,
  trashId,
} from "../../src/state/names.ts";
import { refusal } from "./scene.ts";

const longest = "a".repeat(63);

describe("a name", () => {
  test.each(["a", "Z", "web-1", "a1", "a--b", "Foo", longest])("may be %j", (name) => {
    expect(isName(name)).toBe(true);
  });

  test.each(
    [
      "",
      "1a",
      "-a",
      "a-",
      "a.b",
      "a_b",
      "a b",
      "a/b",
      "..",
      "a@b",
      "ä",
      "a\n",
      "\na",
      "web\0",
    ].concat(`${longest}a`),
  )("must not be %j", (name) => {
    expect(isName(name)).toBe(false);
  });
});

describe("clones that were given no name", () => {
  test.each([
    ["count from one", { count: 2, cloned: 0 }, [], ["web-clone1", "web-clone2"], 2],
    ["count on", { count: 1, cloned: 4 }, [], ["web-clone5"], 5],
    [
      "step over names that are taken",
      { count: 2, cloned: 0 },
      ["web-clone1", "web-clone3"],
      ["web-clone2", "web-clone4"],
      4,
    ],
  ])("%s", (_, wanted, taken: string[], names, last) => {
    const isTaken = (name: string): boolean => taken.includes(name);
    expect(cloneNames("web", { ...wanted, isTaken })).toEqual({ names, last });
  });

  test("are refused where the source's name leaves no space", () => {
    const naming = { count: 1, cloned: 0, isTaken: () => false };
    expect(cloneNames("a".repeat(56), naming).names).toEqual([`${"a".repeat(56)}-clone1`]);
    const name = `${"a".repeat(57)}-clone1`;
    expect(refusal(() => cloneNames("a".repeat(57), naming))).toEqual({
      code: "name-too-long",
      name,
      limit: 63,
    });
  });
});

describe("clones that get one name together", () => {
  test("are numbered, unless there is one", () => {
    expect(numberedNames("ci", 1)).toEqual(["ci"]);
    expect(numberedNames("ci", 3)).toEqual(["ci-1", "ci-2", "ci-3"]);
  });

  test("are refused where the name is none, or too long with its number", () => {
    expect(refusal(() => numberedNames("-", 2))).toEqual({ code: "invalid-name", name: "-" });
    expect(refusal(() => numberedNames("a".repeat(61), 10))).toEqual({
      code: "name-too-long",
      name: `${"a".repeat(61)}-10`,
      limit: 63,
    });
  });
});

describe("a name that is offered", () => {
  test.each([
    ["web", [], "web-2"],
    ["web", ["web-2", "web-3"], "web-4"],
    [longest, [], `${"a".repeat(61)}-2`],
    [`${"a".repeat(60)}-bc`, [], `${"a".repeat(60)}-2`],
  ])("instead of %s is free and a name", (name, taken: string[], expected) => {
    const offered = freeName(name, (other) => taken.includes(other));
    expect([offered, isName(offered)]).toEqual([expected, true]);
  });
});

test("a snapshot without a name gets the next number, over names that are taken", () => {
  expect(snapshotName(0, () => false)).toBe("snapshot1");
  expect(snapshotName(4, (name) => ["snapshot5", "snapshot6"].includes(name))).toBe("snapshot7");
});

describe("a name in the trash", () => {
  const id = "20261125-112909-00ff";

  test("says what and when", () => {
    expect(parseTrashed(`web@${id}`)).toEqual({ name: "web", id });
    expect(deletionTime(id).toISOString()).toBe("2026-11-25T11:29:09.000Z");
    const now = Date.parse("2026-11-25T11:29:09Z") / 1000;
    expect(trashId({ seconds: now, suffix: 0xff }, [])).toBe(id);
  });

  test.each(["web", `web@${id}0`, `web@${id.slice(1)}`, `@${id}`, `we.b@${id}`, `a@b@${id}`])(
    "is not %j",
    (text) => {
      expect(parseTrashed(text)).toBeUndefined();
    },
  );

  test.each([
    ["in the same second", "20261125-112909-0100", "20261125-112909-0101"],
    ["when the clock went back", "20261231-235959-0000", "20261231-235959-0001"],
    ["at the end of a second", "20261231-235959-ffff", "20270101-000000-0000"],
    ["long ago", "20251125-112909-ffff", id],
  ])("is newer than all of its namesakes: deleted %s", (_, namesake, expected) => {
    const seconds = Date.parse("2026-11-25T11:29:09Z") / 1000;
    const older = "20200101-000000-abcd";
    expect(trashId({ seconds, suffix: 0xff }, [namesake, older])).toBe(expected);
  });
});
