// `list`, on real stores.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { once } from "node:events";

import { describe, expect, test } from "vitest";

import { make } from "../../state/scene.ts";
import { played } from "../vehicle.ts";
import { takeForeign, withoutIds, world } from "./world.ts";

describe("list", () => {
  test("of a store that is not there finds nothing, and makes nothing", async () => {
    const { cli, root } = world();
    expect(await cli("list")).toMatchInlineSnapshot(`
      "No instances found.
      = 0"
    `);
    expect(await cli("list", "--format", "json")).toMatchInlineSnapshot(`
      "{
          "list": [
          ]
      }
      = 0"
    `);
    expect(await cli("list", "--snapshots")).toMatchInlineSnapshot(`
      "No snapshots found.
      = 0"
    `);
    expect(existsSync(root)).toBe(false);
  });

  test("shows the primary instance first, then all others by name", async () => {
    const { cli, store } = world();
    make(store, ["work", "Web", "primary", "web-10", "web-2"]);
    store.trash("web-2");
    expect(await cli("list")).toMatchInlineSnapshot(`
      "Name                    State             IPv4             Image
      primary                 Stopped           --               Not Available
      Web                     Stopped           --               Not Available
      web-10                  Stopped           --               Not Available
      web-2                   Deleted           --               Not Available
      work                    Stopped           --               Not Available
      = 0"
    `);
    expect(await cli("ls")).toBe(await cli("list"));
    expect(await cli("list", "--format", "csv")).toMatchInlineSnapshot(`
      "Name,State,IPv4,IPv6,Release,AllIPv4
      primary,Stopped,,,Not Available,""
      Web,Stopped,,,Not Available,""
      web-10,Stopped,,,Not Available,""
      web-2,Deleted,,,Not Available,""
      work,Stopped,,,Not Available,""
      = 0"
    `);
    expect(await cli("list", "--no-ipv4")).toBe(await cli("list"));
  });

  test("tells namesakes in the trash from each other and from the one that lives", async () => {
    const { cli, store } = world();
    for (let time = 1; time <= 3; time += 1) {
      make(store, ["foo"]);
      store.trash("foo");
    }
    expect(withoutIds(await cli("list"))).toMatchInlineSnapshot(`
      "Name                       State             IPv4             Image
      foo                        Deleted           --               Not Available
      foo@YYYYMMDD-hhmmss-xxxx   Deleted           --               Not Available
      foo@YYYYMMDD-hhmmss-xxxx   Deleted           --               Not Available
      = 0"
    `);
    make(store, ["foo"]);
    expect(withoutIds(await cli("list", "--format", "yaml"))).toMatchInlineSnapshot(`
      "foo:
        - state: Stopped
          ipv4:
            []
          release: Not Available
      foo@YYYYMMDD-hhmmss-xxxx:
        - state: Deleted
          ipv4:
            []
          release: Not Available
      foo@YYYYMMDD-hhmmss-xxxx:
        - state: Deleted
          ipv4:
            []
          release: Not Available
      foo@YYYYMMDD-hhmmss-xxxx:
        - state: Deleted
          ipv4:
            []
          release: Not Available
      = 0"
    `);
  });

  test("shows an instance as running as long as somebody has its disk open for writing", async () => {
    const { cli, store, disk } = world();
    make(store, ["web-1", "web-2"]);
    const machine = spawn("sh", ["-c", 'exec 3<>"$0"; echo; read _', disk("web-1")]);
    await once(machine.stdout, "data");
    try {
      expect(await cli("list")).toMatchInlineSnapshot(`
        "Name                    State             IPv4             Image
        web-1                   Running           N/A              Not Available
        web-2                   Stopped           --               Not Available
        = 0"
      `);
      const json = (await cli("list", "--format", "json")).replaceAll(`${machine.pid}`, "PID");
      expect(json).toMatchInlineSnapshot(`
        "{
            "list": [
                {
                    "ipv4": [
                        "N/A"
                    ],
                    "name": "web-1",
                    "release": "Not Available",
                    "state": "Running",
                    "used_by": "sh (process PID)"
                },
                {
                    "ipv4": [
                    ],
                    "name": "web-2",
                    "release": "Not Available",
                    "state": "Stopped"
                }
            ]
        }
        = 0"
      `);
      expect(await cli("list", "--format", "csv", "--no-ipv4")).toMatchInlineSnapshot(`
        "Name,State,IPv4,IPv6,Release,AllIPv4
        web-1,Running,,,Not Available,""
        web-2,Stopped,,,Not Available,""
        = 0"
      `);
    } finally {
      machine.stdin.end();
      await once(machine, "exit");
    }
    expect(await cli("list", "--format", "csv")).not.toContain("Running");
  });

  played("says that it does not know who uses a disk where the system does not tell", async () => {
    const { called, store } = world();
    make(store, ["web-1"]);
    const failure = {
      code: "permission-denied",
      stage: "open",
      reason: "Permission denied",
    } as const;
    const cli = called({
      core: { imageUsers: () => ({ report: { users: [{ use: "free", failure }] } }) },
    });
    expect(await cli("list")).toMatchInlineSnapshot(`
      "Name                    State             IPv4             Image
      web-1                   Unknown           --               Not Available
      ! warning: whether instance "web-1" runs is not known: Permission denied
      = 0"
    `);
    expect(await cli("list", "--format", "json")).toContain('"problem": "Permission denied"');
  });

  test("shows what is broken and why, and everything else as it is", async () => {
    const { cli, store, rewrite, disk, root } = world();
    make(store, ["cut", "deleted", "disk", "empty", "newer", "whole", "wrong"]);
    rewrite("instances/cut/instance.json", (text) => text.slice(0, 100));
    rewrite("instances/empty/instance.json", () => "");
    rewrite("instances/newer/instance.json", (text) => text.replace('"schema": 1', '"schema": 2'));
    rewrite("instances/wrong/instance.json", (text) => text.replace('"cpus": 1', '"cpus": 0'));
    rmSync(disk("disk"));
    const id = store.trash("deleted");
    rewrite(`trash/deleted@${id}/instance.json`, () => "{}");
    mkdirSync(`${root}/instances/.hidden`);
    expect(await cli("list")).toMatchInlineSnapshot(`
      "Name                    State             IPv4             Image
      cut                     Broken            --               Not Available
      deleted                 Deleted           --               Not Available
      disk                    Broken            --               Not Available
      empty                   Broken            --               Not Available
      newer                   Broken            --               Not Available
      whole                   Stopped           --               Not Available
      wrong                   Broken            --               Not Available
      ! warning: "instances/.hidden" in the store is no instance, and is left alone
      ! warning: instance "cut" is broken: instance.json is not JSON
      ! warning: instance "deleted" is broken: instance.json is damaged at "schema"
      ! warning: instance "disk" is broken: disk.qcow2 is missing
      ! warning: instance "empty" is broken: instance.json is empty
      ! warning: instance "newer" is broken: made by a newer Calque: instance.json has schema 2
      ! warning: instance "wrong" is broken: instance.json is damaged at "cpus"
      = 0"
    `);
    expect(await cli("list", "--format", "json")).toMatchInlineSnapshot(`
      "{
          "list": [
              {
                  "ipv4": [
                  ],
                  "name": "cut",
                  "problem": "instance.json is not JSON",
                  "release": "Not Available",
                  "state": "Broken"
              },
              {
                  "ipv4": [
                  ],
                  "name": "deleted",
                  "problem": "instance.json is damaged at \\"schema\\"",
                  "release": "Not Available",
                  "state": "Deleted"
              },
              {
                  "ipv4": [
                  ],
                  "name": "disk",
                  "problem": "disk.qcow2 is missing",
                  "release": "Not Available",
                  "state": "Broken"
              },
              {
                  "ipv4": [
                  ],
                  "name": "empty",
                  "problem": "instance.json is empty",
                  "release": "Not Available",
                  "state": "Broken"
              },
              {
                  "ipv4": [
                  ],
                  "name": "newer",
                  "problem": "made by a newer Calque: instance.json has schema 2",
                  "release": "Not Available",
                  "state": "Broken"
              },
              {
                  "ipv4": [
                  ],
                  "name": "whole",
                  "release": "Not Available",
                  "state": "Stopped"
              },
              {
                  "ipv4": [
                  ],
                  "name": "wrong",
                  "problem": "instance.json is damaged at \\"cpus\\"",
                  "release": "Not Available",
                  "state": "Broken"
              }
          ]
      }
      ! warning: "instances/.hidden" in the store is no instance, and is left alone
      = 0"
    `);
    expect(await cli("list", "--snapshots", "--format", "csv")).toMatchInlineSnapshot(`
      "Instance,Snapshot,Parent,Comment
      ! warning: "instances/.hidden" in the store is no instance, and is left alone
      ! warning: instance "cut" is broken: instance.json is not JSON
      ! warning: instance "deleted" is broken: instance.json is damaged at "schema"
      ! warning: instance "disk" is broken: disk.qcow2 is missing
      ! warning: instance "empty" is broken: instance.json is empty
      ! warning: instance "newer" is broken: made by a newer Calque: instance.json has schema 2
      ! warning: instance "wrong" is broken: instance.json is damaged at "cpus"
      = 0"
    `);
  });

  test("knows a copy of an instance that lies beside it", async () => {
    const { cli, store, copy } = world();
    make(store, ["foo"]);
    copy("instances/foo", "instances/foo-backup");
    expect(await cli("list")).toMatchInlineSnapshot(`
      "Name                    State             IPv4             Image
      foo                     Stopped           --               Not Available
      foo-backup              Stopped           --               Not Available
      ! warning: instance "foo-backup" is a copy of "foo": both have one identity
      = 0"
    `);
    expect(await cli("list", "--format", "yaml")).toMatchInlineSnapshot(`
      "foo:
        - state: Stopped
          ipv4:
            []
          release: Not Available
      foo-backup:
        - state: Stopped
          ipv4:
            []
          release: Not Available
          copy_of: foo
      = 0"
    `);
  });

  test("shows the release of the image that an instance was made from", async () => {
    const { cli, store, rewrite } = world();
    make(store, ["foo"]);
    rewrite("instances/foo/instance.json", (text) =>
      text.replace('"image": {}', '"image": { "release": "24.04 LTS" }'),
    );
    expect(await cli("list")).toMatchInlineSnapshot(`
      "Name                    State             IPv4             Image
      foo                     Stopped           --               Ubuntu 24.04 LTS
      = 0"
    `);
  });

  test("words its mistakes as Multipass does", async () => {
    const { cli } = world();
    expect(await cli("list", "foo")).toMatchInlineSnapshot(`
      "! This command takes no arguments
      = 1"
    `);
    expect(await cli("list", "--snapshots", "--no-ipv4")).toMatchInlineSnapshot(`
      "! IP addresses are not applicable in conjunction with listing snapshots
      = 1"
    `);
    expect(await cli("list", "--format", "xml")).toMatchInlineSnapshot(`
      "! Invalid format type given.
      = 1"
    `);
    expect(await cli("list", "--frobnicate")).toMatchInlineSnapshot(`
      "! Unknown option 'frobnicate'.
      = 1"
    `);
  });
});

describe("list --snapshots", () => {
  test("shows the snapshots of all instances, those in the trash included", async () => {
    const { cli, store, clock } = world();
    make(store, ["bare", "primary", "work"]);
    for (const name of ["work", "primary"]) {
      using change = store.change(name);
      change.takeSnapshot({});
      clock.sec += 60;
      change.takeSnapshot({ name: "second", comment: "before upgrade\nkernel 6.8, ext4" });
    }
    {
      using change = store.change("work");
      change.restoreSnapshot(change.view.snapshots[0]!);
      change.takeSnapshot({ comment: "x".repeat(60) });
    }
    store.trash("work");
    expect(await cli("list", "--snapshots")).toMatchInlineSnapshot(`
      "Instance   Snapshot    Parent      Comment
      primary    snapshot1   --          --
      primary    second      snapshot1   before upgrade…
      work       snapshot1   --          --
      work       second      snapshot1   before upgrade…
      work       snapshot3   snapshot1   xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
      = 0"
    `);
    expect(await cli("list", "--snapshots", "--format", "json")).toMatchInlineSnapshot(`
      "{
          "errors": [
          ],
          "info": {
              "primary": {
                  "second": {
                      "comment": "before upgrade\\nkernel 6.8, ext4",
                      "parent": "snapshot1"
                  },
                  "snapshot1": {
                      "comment": "",
                      "parent": ""
                  }
              },
              "work": {
                  "second": {
                      "comment": "before upgrade\\nkernel 6.8, ext4",
                      "parent": "snapshot1"
                  },
                  "snapshot1": {
                      "comment": "",
                      "parent": ""
                  },
                  "snapshot3": {
                      "comment": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                      "parent": "snapshot1"
                  }
              }
          }
      }
      = 0"
    `);
    expect(await cli("list", "--snapshots", "--format", "csv")).toMatchInlineSnapshot(`
      "Instance,Snapshot,Parent,Comment
      primary,snapshot1,,""
      primary,second,snapshot1,"before upgrade
      kernel 6.8, ext4"
      work,snapshot1,,""
      work,second,snapshot1,"before upgrade
      kernel 6.8, ext4"
      work,snapshot3,snapshot1,"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
      = 0"
    `);
    expect(await cli("list", "--snapshots", "--format", "yaml")).toMatchInlineSnapshot(`
      "primary:
        - snapshot1:
            - parent: ~
              comment: ~
        - second:
            - parent: snapshot1
              comment: "before upgrade\\nkernel 6.8, ext4"
      work:
        - snapshot1:
            - parent: ~
              comment: ~
        - second:
            - parent: snapshot1
              comment: "before upgrade\\nkernel 6.8, ext4"
        - snapshot3:
            - parent: snapshot1
              comment: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      = 0"
    `);
  });

  test("shows what other programs made, by id where the name does not do", async () => {
    const { cli, store, disk } = world();
    make(store, ["foo"]);
    {
      using change = store.change("foo");
      change.takeSnapshot({ name: "own", comment: "ours" });
    }
    takeForeign(disk("foo"), ["own", "twin", "twin", "alone", ""]);
    // Their times are those of the clock on the wall: the order is not ours to know.
    const [header, ...lines] = (await cli("list", "--snapshots")).split("\n");
    expect([header, ...lines.toSorted()].join("\n")).toMatchInlineSnapshot(`
      "Instance   Snapshot   Parent   Comment
      = 0
      foo        @2         --       --
      foo        @3         --       --
      foo        @4         --       --
      foo        @6         --       --
      foo        alone      --       --
      foo        own        --       ours"
    `);
  });

  test("does not let a terminal act on what a snapshot is called", async () => {
    const { called, store, disk } = world();
    make(store, ["foo"]);
    takeForeign(disk("foo"), ["a\u001b[2J"]);
    {
      using change = store.change("foo");
      change.takeSnapshot({ name: "own", comment: "\u001b]0;title\u0007" });
    }
    const cli = called({ terminal: true });
    const lines = (await cli("list", "--snapshots")).split("\n");
    expect(lines.toSorted().join("\n")).toMatchInlineSnapshot(`
      "= 0
      Instance   Snapshot     Parent   Comment
      foo        a\\u001b[2J   --       --
      foo        own          --       \\u001b]0;title\\u0007"
    `);
  });
});
