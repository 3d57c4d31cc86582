// Where the store is, and whose.

import { chmodSync, chownSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { describe, expect, test } from "vitest";

import { openStore } from "../../src/state/store.ts";
import { make, refusal, scene, temporary } from "./scene.ts";

const isRoot = process.getuid?.() === 0;

/** The root of the store in this environment, or why there is none. */
function rootIn(variables: Record<string, string>): unknown {
  const { context } = scene();
  return refusal(() => openStore({ ...context, env: (name) => variables[name] }).root);
}

describe("the store is", () => {
  const home = temporary();

  test.each<[string, Record<string, string>, unknown]>([
    [
      "where CALQUE_HOME says",
      { CALQUE_HOME: `${home}/s`, XDG_DATA_HOME: "/x", HOME: "/h" },
      `${home}/s`,
    ],
    ["in XDG_DATA_HOME", { XDG_DATA_HOME: `${home}/data/`, HOME: "/h" }, `${home}/data/calque`],
    ["below HOME", { HOME: home }, `${home}/.local/share/calque`],
    [
      "below HOME where the others are empty",
      { CALQUE_HOME: "", XDG_DATA_HOME: "", HOME: home },
      `${home}/.local/share/calque`,
    ],
    [
      "below HOME where XDG_DATA_HOME is relative",
      { XDG_DATA_HOME: "data", HOME: home },
      `${home}/.local/share/calque`,
    ],
    [
      "not where CALQUE_HOME is relative",
      { CALQUE_HOME: "store", HOME: home },
      { code: "store-relative", value: "store" },
    ],
    ["nowhere without a home", {}, { code: "store-unknown" }],
    ["nowhere with a relative home", { HOME: "home/me" }, { code: "store-unknown" }],
  ])("%s", (_, variables, expected) => {
    expect(rootIn(variables)).toEqual(expected);
    expect(readdirSync(home)).toEqual([]);
  });

  test("where a link leads that the user made to it", () => {
    const place = temporary();
    mkdirSync(path.join(place, "real"), { mode: 0o700 });
    symlinkSync("real", path.join(place, "link"));
    const { open } = scene(path.join(place, "link"));
    const store = open();
    make(store, ["web"]);
    expect(store.root).toBe(path.join(place, "real"));
  });

  test("made with what is missing above it", () => {
    const place = temporary();
    const { open } = scene(path.join(place, "a/b/c"));
    make(open(), ["web"]);
    expect(readdirSync(path.join(place, "a/b/c/instances"))).toEqual(["web"]);
  });
});

describe("a store is refused", () => {
  test("that others can write to", () => {
    const place = temporary();
    chmodSync(place, 0o770);
    expect(rootIn({ CALQUE_HOME: place })).toMatchObject({
      code: "store-refused",
      root: place,
      reason: expect.any(String),
    });
  });

  test("that is a file", () => {
    const file = path.join(temporary(), "file");
    writeFileSync(file, "");
    expect(rootIn({ CALQUE_HOME: file })).toMatchObject({ code: "store-refused", root: file });
  });

  test.runIf(isRoot)("that is another user's, also by root", () => {
    const place = temporary();
    chownSync(place, 65_534, 65_534);
    expect(rootIn({ CALQUE_HOME: place })).toMatchObject({ code: "store-refused", root: place });
  });

  test.each(["instances", "trash", "stage"])("whose directory %s is a link", (name) => {
    const { open, root } = scene();
    const store = open();
    store.reserve([])[Symbol.dispose]();
    const elsewhere = temporary();
    symlinkSync(elsewhere, path.join(root, `${name}-2`));
    // In place of the directory.
    mkdirSync(path.join(root, "old"));
    const { renameSync } = process.getBuiltinModule("node:fs");
    renameSync(path.join(root, name), path.join(root, "old", name));
    renameSync(path.join(root, `${name}-2`), path.join(root, name));
    expect(() => store.list()).toThrow();
    expect(() => make(store, ["web"])).toThrow();
    expect(readdirSync(elsewhere)).toEqual([]);
  });
});
