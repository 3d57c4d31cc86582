// What happened to an instance: a line per committed operation.

import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import { expect, test } from "vitest";

import type { Failure, Native } from "../../src/native.ts";
import { findSnapshot } from "../../src/state/snapshots.ts";
import { make, native, refusal, scene } from "./scene.ts";

test("the history tells each committed operation, with when and by which version", () => {
  const { open } = scene();
  const store = open();
  make(store, ["web"]);
  {
    using change = store.change("web");
    change.takeSnapshot({ name: "a" });
    expect(refusal(() => change.takeSnapshot({ name: "a" }))).toMatchObject({
      code: "snapshot-exists",
    });
    change.renameSnapshot(findSnapshot(change.view, "a"), "b");
    change.commentSnapshot(findSnapshot(change.view, "b"), "why");
    change.update({ cpus: 2 });
    change.grow(2 << 20);
    change.restoreSnapshot(findSnapshot(change.view, "b"));
    change.deleteSnapshot(findSnapshot(change.view, "b"));
  }
  store.rename("web", "site");
  store.trash("site");
  store.recover(store.find("site")!, "web");
  const when = expect.stringMatching(/^2026-11-25T11:29:\d\d\.330Z$/) as string;
  expect(store.history(store.living("web"))).toEqual(
    [
      { operation: "create" },
      { operation: "snapshot", snapshot: "a", id: "1" },
      { operation: "rename", snapshot: "a", id: "1", to: "b" },
      { operation: "comment", snapshot: "b", id: "1" },
      { operation: "set", cpus: 2 },
      { operation: "grow", bytes: 2 << 20 },
      { operation: "restore", snapshot: "b", id: "1" },
      { operation: "delete", snapshot: "b", id: "1" },
      { operation: "rename", from: "web" },
      { operation: "delete" },
      { operation: "recover", from: expect.stringMatching(/^site@2026/) as string },
    ].map((line) => Object.assign(line, { when, version: "0.1.0" })),
  );
});

// The story: `history` read a line of 8000 levels, and ended in an error of its own when it wrote it.
test("lines of the history that are torn, too deep or of somebody else are skipped", () => {
  const { open, root } = scene();
  const store = open();
  make(store, ["web"]);
  const file = path.join(root, "instances/web/history.jsonl");
  const line = readFileSync(file, "utf8");
  const deep = `${'{"x":'.repeat(8000)}1${"}".repeat(8000)}`;
  appendFileSync(file, line.replace(/\}$/m, `, "deep": ${deep}}`));
  appendFileSync(file, `\n{"when": "now"}\n[1]\nnot JSON\n${line}{"when":"2026-1`);
  const [first, ...others] = store.history(store.living("web"));
  expect(others).toEqual([first]);
});

test("an instance without a history has none", () => {
  const { open, root } = scene();
  const store = open();
  make(store, ["web"]);
  writeFileSync(path.join(root, "instances/web/history.jsonl"), "");
  expect(store.history(store.living("web"))).toEqual([]);
});

test("what is done is done, also if the history cannot tell: that is a warning", () => {
  const { open, warnings } = scene();
  make(open(), ["web"]);
  const failure: Failure = {
    code: "no-space",
    stage: "operation",
    reason: "No space left on device",
  };
  const storeAppend: Native["storeAppend"] = () => ({ failure });
  const store = open({ ...native, storeAppend });
  {
    using change = store.change("web");
    change.takeSnapshot({});
  }
  const id = store.trash("web");
  expect(store.view(store.find("web")!).snapshots).toHaveLength(1);
  expect(warnings).toEqual(
    ["web", `web@${id}`].map((instance) => ({
      code: "history-unwritten",
      instance,
      reason: "No space left on device",
    })),
  );
});
