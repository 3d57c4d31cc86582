// `path` and `history`, and how a store that cannot be used is refused by all.

import { chmodSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { displayName } from "../../../src/state/list.ts";
import { make } from "../../state/scene.ts";
import { withoutIds, world } from "./world.ts";

describe("path", () => {
  test("prints where the disk is, and nothing else", async () => {
    const { cli, store } = world();
    make(store, ["web-1"]);
    expect(await cli("path", "web-1")).toMatchInlineSnapshot(`
      "STORE/instances/web-1/disk.qcow2
      = 0"
    `);
  });

  test("knows only instances that live and are whole", async () => {
    const { cli, store, disk } = world();
    make(store, ["broken", "gone"]);
    store.trash("gone");
    writeFileSync(disk("broken"), "not an image");
    expect(await cli("path", "none")).toMatchInlineSnapshot(`
      "! path failed: instance "none" does not exist
      = 2"
    `);
    expect(await cli("path", "gone")).toMatchInlineSnapshot(`
      "! path failed: instance "gone" is deleted
      = 2"
    `);
    const [, trashed] = store.list();
    expect(withoutIds(await cli("path", displayName(trashed!)))).toMatchInlineSnapshot(`
      "! path failed: instance "gone@YYYYMMDD-hhmmss-xxxx" is deleted
      = 2"
    `);
    expect(await cli("path", "broken")).toMatchInlineSnapshot(`
      "! path failed: instance "broken" is broken: Image is not in qcow2 format
      = 2"
    `);
    expect(await cli("path")).toMatchInlineSnapshot(`
      "! Please provide the name of the instance whose path to print.
      = 1"
    `);
    expect(await cli("path", "a", "b")).toMatchInlineSnapshot(`
      "! Too many arguments supplied.
      = 1"
    `);
  });
});

describe("path, as libvirt needs it", () => {
  test("works in a store whose directories others may search, but not write to", async () => {
    const { cli, store, root } = world();
    make(store, ["web-1"]);
    for (const directory of [root, `${root}/instances`, `${root}/instances/web-1`]) {
      chmodSync(directory, 0o711);
    }
    expect(await cli("path", "web-1")).toBe("STORE/instances/web-1/disk.qcow2\n= 0");
  });
});

describe("history", () => {
  test("tells what was done, when, and by which version", async () => {
    const { cli, store, clock } = world();
    make(store, ["web-1"]);
    {
      using change = store.change("web-1");
      clock.sec += 60;
      change.takeSnapshot({ name: "before-upgrade" });
      change.update({ cpus: 2 });
    }
    expect(await cli("history", "web-1")).toMatchInlineSnapshot(`
      "Time                           Version   Operation   Details
      Fri Aug 21 21:48:55 2026 UTC   0.1.0     create
      Fri Aug 21 21:49:55 2026 UTC   0.1.0     snapshot    snapshot: before-upgrade, id: 1
      Fri Aug 21 21:49:55 2026 UTC   0.1.0     set         cpus: 2
      = 0"
    `);
    expect(await cli("history", "web-1", "--format", "json")).toMatchInlineSnapshot(`
      "{
          "history": [
              {
                  "operation": "create",
                  "version": "0.1.0",
                  "when": "2026-08-21T21:48:55.123Z"
              },
              {
                  "id": "1",
                  "operation": "snapshot",
                  "snapshot": "before-upgrade",
                  "version": "0.1.0",
                  "when": "2026-08-21T21:49:55.123Z"
              },
              {
                  "cpus": 2,
                  "operation": "set",
                  "version": "0.1.0",
                  "when": "2026-08-21T21:49:55.123Z"
              }
          ],
          "instance": "web-1"
      }
      = 0"
    `);
    store.trash("web-1");
    expect((await cli("history", "web-1")).split("\n")).toHaveLength(6);
  });

  test("tells nothing that is no line of it, and no more to a terminal than it may act on", async () => {
    const { called, store, rewrite } = world();
    make(store, ["web-1"]);
    const file = "instances/web-1/history.jsonl";
    rewrite(file, () => "");
    expect(await called({})("history", "web-1")).toMatchInlineSnapshot(`
      "No operations found.
      = 0"
    `);
    const line = { when: "soon", operation: "\u001b[2J", version: "9", list: [1, null], yes: true };
    rewrite(file, () => `${JSON.stringify(line)}\n{"when":\n[]\n`);
    expect(await called({ terminal: true })("history", "web-1")).toMatchInlineSnapshot(`
      "Time   Version   Operation   Details
      soon   9         \\u001b[2J   list: [1,null], yes: true
      = 0"
    `);
    expect(await called({})("history", "web-1", "--format", "json")).toMatchInlineSnapshot(`
      "{
          "history": [
              {
                  "list": "[1,null]",
                  "operation": "\\u001b[2J",
                  "version": "9",
                  "when": "soon",
                  "yes": true
              }
          ],
          "instance": "web-1"
      }
      = 0"
    `);
  });

  test("that cannot be written is no reason not to do the work, and is told", async () => {
    const { cli, store, root } = world();
    make(store, ["web-1"]);
    const file = path.join(root, "instances/web-1/history.jsonl");
    rmSync(file);
    mkdirSync(file);
    expect(await cli("snapshot", "web-1")).toMatchInlineSnapshot(`
      "Snapshot taken: web-1.snapshot1
      ! warning: the history of instance "web-1" could not be written: not a regular file
      = 0"
    `);
    expect(await cli("list", "--snapshots", "--format", "csv")).toContain("web-1,snapshot1");
  });

  test("words its mistakes", async () => {
    const { cli } = world();
    expect(await cli("history", "none")).toMatchInlineSnapshot(`
      "! history failed: instance "none" does not exist
      = 2"
    `);
    expect(await cli("history")).toMatchInlineSnapshot(`
      "! Please provide the name of the instance whose history to print.
      = 1"
    `);
    expect(await cli("history", "a", "b")).toMatchInlineSnapshot(`
      "! Too many arguments supplied.
      = 1"
    `);
    expect(await cli("history", "a", "--format", "csv")).toMatchInlineSnapshot(`
      "! Invalid format type given.
      = 1"
    `);
  });
});

describe("a store that cannot be used", () => {
  test("is refused by every command, with the reason", async () => {
    const { cli, root } = world();
    mkdirSync(root);
    chmodSync(root, 0o777);
    for (const line of [["list"], ["info"], ["path", "foo"], ["history", "foo"]]) {
      expect((await cli(...line)).replace(line[0]!, "VERB")).toMatchInlineSnapshot(`
        "! VERB failed: The store "STORE" cannot be used: others can write to it
        = 2"
      `);
    }
  });

  test("is not looked for where nobody says where", async () => {
    const { called } = world();
    const relative = called({ env: { CALQUE_HOME: "stores" } });
    expect(await relative("list")).toMatchInlineSnapshot(`
      "! list failed: CALQUE_HOME is not an absolute path: "stores"
      = 2"
    `);
    const nowhere = called({ env: {} });
    expect(await nowhere("list")).toMatchInlineSnapshot(`
      "! list failed: None of CALQUE_HOME, XDG_DATA_HOME and HOME says where the store is
      = 2"
    `);
  });
});
