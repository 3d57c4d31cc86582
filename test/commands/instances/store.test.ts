// What the store says beside a command's result, and how a failure of the core ends a command.

import { describe, expect, test } from "vitest";

import { withStore } from "../../../src/commands/store.ts";
import type { Context } from "../../../src/context.ts";
import { CommandError } from "../../../src/failure.ts";
import type { Failure, Native, Reply } from "../../../src/native.ts";
import type { Store } from "../../../src/state/store.ts";
import { make, native } from "../../state/scene.ts";
import { type World, world } from "./world.ts";

/** What a command that does `action` on the store says on stderr, or how it fails. */
async function said(
  { root }: World,
  core: Partial<Native>,
  action: (store: Store) => unknown,
): Promise<string> {
  let text = "";
  const write = (part: string): void => void (text += part);
  const context: Context = {
    program: "calque",
    native: { ...native, ...core },
    stdout: { isTerminal: false, write, name: asItIs },
    stderr: { isTerminal: false, write, name: asItIs },
    stdin: { isTerminal: false },
    readLine: () => Promise.resolve(undefined),
    now: () => ({ sec: 1_795_606_149, nsec: 0 }),
    randomBytes: (count) => new Uint8Array(count),
    env: (variable) => (variable === "CALQUE_HOME" ? root : undefined),
  };
  try {
    await withStore("test", context, action);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    text += [`${error.title}: ${error.message}`, ...error.lines, ""].join("\n");
  }
  return text.replaceAll(root, "STORE");
}

function failing(failure: Partial<Failure>): () => Reply<never> {
  const reason = "Input/output error";
  return () => ({ failure: { code: "io", stage: "operation", reason, ...failure } });
}

function asItIs(text: string): string {
  return text;
}

function list(store: Store): void {
  store.list();
}

function change(store: Store): void {
  store.change("foo")[Symbol.dispose]();
}

function removeSnapshot(store: Store): void {
  using ours = store.change("foo");
  ours.deleteSnapshot(ours.view.snapshots[0]!);
}

describe("a command on the store", () => {
  test("ends with the failure of the core, and the file that it is about", async () => {
    const here = world();
    make(here.store, ["foo"]);
    const named = { storeList: failing({ path: "/dev/sda1", hint: "look at the cable" }) };
    expect(await said(here, named, list)).toMatchInlineSnapshot(`
      "test failed: "/dev/sda1": Input/output error
      hint: look at the cable
      "
    `);
    expect(await said(here, { storeList: failing({}) }, list)).toMatchInlineSnapshot(`
      "test failed: Input/output error
      "
    `);
  });

  test("says once what it waits for", async () => {
    const here = world();
    make(here.store, ["foo"]);
    const core: Partial<Native> = {
      storeLock(request, waiting) {
        if (request.wait === true) waiting?.("calque (process 4711)");
        return native.storeLock(request);
      },
    };
    expect(await said(here, core, change)).toMatchInlineSnapshot(`
      "Waiting for calque (process 4711) to finish with "STORE/instances/foo"
      "
    `);
  });

  test("tells of a restore that somebody overtook", async () => {
    const here = world();
    make(here.store, ["foo"]);
    here.rewrite("instances/foo/instance.json", (text) => {
      const pending = {
        operation: "restore",
        before: "00".repeat(48),
        after: "11".repeat(48),
        result: { snapshotCount: 0, head: 0 },
        at: "2026-08-21T21:48:55.123Z",
      };
      return JSON.stringify({ ...(JSON.parse(text) as object), pending });
    });
    expect(await said(here, {}, change)).toMatchInlineSnapshot(`
      "warning: instance "foo" was changed after an interrupted restore, which is dropped
      "
    `);
    expect(await said(here, {}, change)).toBe("");
  });

  test("tells of a history that could not be written, and of what was not cleaned up", async () => {
    const here = world();
    make(here.store, ["foo"]);
    {
      using ours = here.store.change("foo");
      ours.takeSnapshot({});
    }
    const core = {
      storeAppend: failing({ reason: "No space left on device" }),
      storeRemove: failing({ reason: "Read-only file system" }),
    };
    expect(await said(here, core, removeSnapshot)).toMatchInlineSnapshot(`
      "warning: "instances/foo/snapshots/1.json" in the store could not be cleaned up: Read-only file system
      warning: the history of instance "foo" could not be written: No space left on device
      "
    `);
  });
});
