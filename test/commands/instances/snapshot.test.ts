// `snapshot`: Multipass's sentences, and what a snapshot remembers.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { Holder } from "../../e2e/support.ts";
import { make, native } from "../../state/scene.ts";
import { played } from "../vehicle.ts";
import {
  recordOf,
  session,
  take,
  takeForeign,
  within,
  withoutIds,
  withoutProcess,
  world,
} from "./world.ts";

describe("the help of snapshot", () => {
  test("is Multipass's when it is called so", async () => {
    const { called } = world();
    expect(await called({ argv0: "multipass" })("help", "snapshot")).toBe(
      `Usage: multipass snapshot [options] instance
Take a snapshot of an instance that can later be restored to recover the current state.

Options:
  -h, --help                   Displays help on commandline options
  -v, --verbose                Increase logging verbosity. Repeat the 'v' in
                               the short option for more detail. Maximum
                               verbosity is obtained with 4 (or more) v's, i.e.
                               -vvvv.
  -n, --name <name>            An optional name for the snapshot, subject to
                               the same validity rules as instance names (see
                               \`help launch\`). Default: "snapshotN", where N is
                               one plus the number of snapshots that were ever
                               taken for <instance>.
  --comment, -c, -m <comment>  An optional free comment to associate with the
                               snapshot. (Hint: quote the text to avoid spaces
                               being parsed by your shell)

Arguments:
  instance                     The instance to take a snapshot of.
= 0`,
    );
  });

  test("has examples of ours", async () => {
    const { called, cli } = world();
    const theirs = await called({ argv0: "multipass" })("snapshot", "-h");
    const ours = await cli("snapshot", "-h");
    expect(ours.replace(theirs.replaceAll("multipass", "calque").replace("= 0", ""), ""))
      .toMatchInlineSnapshot(`
        "
        Examples:
          calque snapshot web-1
              Take a snapshot with a name that is made up
          calque snapshot web-1 --name clean --comment "before the upgrade"
              Say what it is for
        = 0"
      `);
  });
});

describe("snapshot", () => {
  test("says what it has taken, and numbers the snapshots of an instance", async () => {
    const { cli, store } = world();
    make(store, ["foo", "bar"]);
    expect(
      await session(cli, [
        "snapshot foo",
        "snapshot foo --name clean",
        "snapshot foo",
        "delete --purge foo.snapshot3",
        "snapshot foo",
        "snapshot bar",
        ["snapshot", "bar", "--name", ""],
        ["snapshot", "bar", "-n", "a", "-n", "last"],
        "list --snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ snapshot foo
      Snapshot taken: foo.snapshot1
      = 0
      $ snapshot foo --name clean
      Snapshot taken: foo.clean
      = 0
      $ snapshot foo
      Snapshot taken: foo.snapshot3
      = 0
      $ delete --purge foo.snapshot3
      = 0
      $ snapshot foo
      Snapshot taken: foo.snapshot4
      = 0
      $ snapshot bar
      Snapshot taken: bar.snapshot1
      = 0
      $ snapshot bar --name 
      Snapshot taken: bar.snapshot2
      = 0
      $ snapshot bar -n a -n last
      Snapshot taken: bar.last
      = 0
      $ list --snapshots
      Instance   Snapshot    Parent      Comment
      bar        snapshot1   --          --
      bar        snapshot2   snapshot1   --
      bar        last        snapshot2   --
      foo        snapshot1   --          --
      foo        clean       snapshot1   --
      foo        snapshot4   clean       --
      = 0
      "
    `);
  });

  test("steps over a default name that somebody took", async () => {
    const here = world();
    const { cli, store, disk } = here;
    make(store, ["foo"]);
    take(here, "foo", { name: "snapshot2" });
    takeForeign(disk("foo"), ["snapshot3"]);
    expect(await session(cli, ["snapshot foo", "snapshot foo", "snapshot foo --name snapshot3"]))
      .toMatchInlineSnapshot(`
        "$ snapshot foo
        Snapshot taken: foo.snapshot4
        = 0
        $ snapshot foo
        Snapshot taken: foo.snapshot5
        = 0
        $ snapshot foo --name snapshot3
        ! snapshot failed: Snapshot already exists: foo.snapshot3
        = 2
        "
      `);
  });

  test("keeps a comment as it was given, by each of the option's names", async () => {
    const { cli, called, store } = world();
    make(store, ["foo"]);
    expect(
      await session(cli, [
        ["snapshot", "foo", "--comment", "before the upgrade"],
        ["snapshot", "foo", "-c", "kernel=6.8 a=b"],
        ["snapshot", "foo", "-m", "two\nlines 🙂 and \u001b[31mred"],
        ["snapshot", "foo", "--comment=", "-m", "-m"],
        ["snapshot", "foo", `-m=${"x".repeat(51)}`],
        "list --snapshots",
        "get local.foo.snapshot2.comment",
        "get local.foo.snapshot3.comment",
      ]),
    ).toMatchInlineSnapshot(`
      "$ snapshot foo --comment before the upgrade
      Snapshot taken: foo.snapshot1
      = 0
      $ snapshot foo -c kernel=6.8 a=b
      Snapshot taken: foo.snapshot2
      = 0
      $ snapshot foo -m two
      lines 🙂 and ESC[31mred
      Snapshot taken: foo.snapshot3
      = 0
      $ snapshot foo --comment= -m -m
      Snapshot taken: foo.snapshot4
      = 0
      $ snapshot foo -m=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      Snapshot taken: foo.snapshot5
      = 0
      $ list --snapshots
      Instance   Snapshot    Parent      Comment
      foo        snapshot1   --          before the upgrade
      foo        snapshot2   snapshot1   kernel=6.8 a=b
      foo        snapshot3   snapshot2   two…
      foo        snapshot4   snapshot3   -m
      foo        snapshot5   snapshot4   xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
      = 0
      $ get local.foo.snapshot2.comment
      kernel=6.8 a=b
      = 0
      $ get local.foo.snapshot3.comment
      two
      lines 🙂 and ESC[31mred
      = 0
      "
    `);
    expect(await called({ terminal: true })("get", "local.foo.snapshot3.comment"))
      .toMatchInlineSnapshot(`
        "two
        lines 🙂 and \\u001b[31mred
        = 0"
      `);
  });

  test("remembers what a restore is to bring back", async () => {
    const here = world();
    const { root, cli, store, disk, rewrite } = here;
    make(store, ["foo"]);
    rewrite("instances/foo/instance.json", (text) =>
      JSON.stringify({
        ...(JSON.parse(text) as object),
        cpus: 3,
        memoryBytes: 3 << 29,
        interfaces: [{ id: "br0", macAddress: "52:54:00:00:00:01", autoMode: true }],
        mounts: { "/srv": { sourcePath: "/home", uidMappings: ["0:0"], gidMappings: [] } },
      }),
    );
    await cli("snapshot", "foo", "-n", "first");
    await cli("snapshot", "foo", "-n", "second", "-m", "the second");
    const second = path.join(root, "instances/foo/snapshots/2.json");
    const { dateSec, dateNsec, ...record } = JSON.parse(readFileSync(second, "utf8")) as Record<
      string,
      unknown
    >;
    expect(record).toMatchInlineSnapshot(`
      {
        "comment": "the second",
        "cpus": 3,
        "diskBytes": 1048576,
        "id": 2,
        "interfaces": [
          {
            "autoMode": true,
            "id": "br0",
            "macAddress": "52:54:00:00:00:01",
          },
        ],
        "memoryBytes": 1610612736,
        "mounts": {
          "/srv": {
            "gidMappings": [],
            "sourcePath": "/home",
            "uidMappings": [
              "0:0",
            ],
          },
        },
        "name": "second",
        "parent": 1,
        "schema": 1,
      }
    `);
    const json = execFileSync("qemu-img", ["info", "--output=json", disk("foo")]);
    const { snapshots } = JSON.parse(json.toString("utf8")) as { snapshots: object[] };
    expect(snapshots[1]).toMatchObject({
      id: "2",
      name: "second",
      "date-sec": dateSec,
      "date-nsec": dateNsec,
    });
    // The instance's own record is as it was: the image is the truth about its snapshots.
    expect(recordOf(here, "foo")).toMatchObject({ snapshotCount: 0, head: 0 });
  });

  test("words what is wrong with a line", async () => {
    const { cli, store } = world();
    make(store, ["foo"]);
    expect(
      await session(cli, [
        "snapshot",
        "snapshot -n foo",
        "snapshot -m foo",
        "snapshot foo bar",
        "snapshot foo --name",
        "snapshot foo --all",
      ]),
    ).toMatchInlineSnapshot(`
      "$ snapshot
      ! Need the name of an instance to snapshot.
      = 1
      $ snapshot -n foo
      ! Need the name of an instance to snapshot.
      = 1
      $ snapshot -m foo
      ! Need the name of an instance to snapshot.
      = 1
      $ snapshot foo bar
      ! Too many arguments supplied
      = 1
      $ snapshot foo --name
      ! Missing value after '--name'.
      = 1
      $ snapshot foo --all
      ! Unknown option 'all'.
      = 1
      "
    `);
  });

  test("refuses in Multipass's order: the instance, its state, the name, that it is taken", async () => {
    const here = world();
    const { called, cli, store, disk } = here;
    make(store, ["foo", "gone"]);
    take(here, "foo", { name: "clean" });
    const id = store.trash("gone");
    {
      await using _ = await Holder.io(disk("foo"));
      const lines = [
        "snapshot none -n _",
        "snapshot gone -n _",
        `snapshot gone@${id}`,
        "snapshot foo -n _",
      ];
      expect(withoutIds(withoutProcess(await session(cli, lines)))).toMatchInlineSnapshot(`
        "$ snapshot none -n _
        ! snapshot failed: instance "none" does not exist
        = 2
        $ snapshot gone -n _
        ! snapshot failed: instance "gone" is deleted
        = 2
        $ snapshot gone@YYYYMMDD-hhmmss-xxxx
        ! snapshot failed: instance "gone@YYYYMMDD-hhmmss-xxxx" is deleted
        = 2
        $ snapshot foo -n _
        ! snapshot failed: Calque can only take snapshots of stopped instances.
        ! "foo" is used by qemu-io (process PID)
        = 2
        "
      `);
      const multipass = called({ argv0: "multipass" });
      expect(withoutProcess(await session(multipass, ["snapshot foo"]))).toMatchInlineSnapshot(`
        "$ snapshot foo
        ! snapshot failed: Multipass can only take snapshots of stopped instances.
        ! "foo" is used by qemu-io (process PID)
        = 2
        "
      `);
    }
    expect(
      await session(cli, [
        "snapshot foo -n _",
        "snapshot foo -n @1",
        "snapshot foo -n 1",
        "snapshot foo -n clean-",
        "snapshot foo -n a.b",
        "snapshot foo -n clean",
        "snapshot foo.clean",
        `snapshot foo -n ${"a".repeat(64)}`,
        `snapshot foo -n ${"a".repeat(63)}`,
        "snapshot foo -n Clean",
      ]),
    ).toMatchInlineSnapshot(`
      "$ snapshot foo -n _
      ! snapshot failed: Invalid snapshot name: "_".
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ snapshot foo -n @1
      ! snapshot failed: Invalid snapshot name: "@1".
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ snapshot foo -n 1
      ! snapshot failed: Invalid snapshot name: "1".
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ snapshot foo -n clean-
      ! snapshot failed: Invalid snapshot name: "clean-".
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ snapshot foo -n a.b
      ! snapshot failed: Invalid snapshot name: "a.b".
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ snapshot foo -n clean
      ! snapshot failed: Snapshot already exists: foo.clean
      = 2
      $ snapshot foo.clean
      ! snapshot failed: instance "foo.clean" does not exist
      = 2
      $ snapshot foo -n aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      ! snapshot failed: Invalid snapshot name: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ snapshot foo -n aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      Snapshot taken: foo.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      = 0
      $ snapshot foo -n Clean
      Snapshot taken: foo.Clean
      = 0
      "
    `);
    expect(within(here, "instances/foo/snapshots")).toEqual(["1.json", "2.json", "3.json"]);
  });

  test("beside one who only reads the disk is taken when that is over, or says who reads", async () => {
    const { cli, store, disk } = world();
    make(store, ["foo"]);
    await using _ = await Holder.io(disk("foo"), "-r");
    expect(withoutProcess(await cli("snapshot", "foo"))).toMatchInlineSnapshot(`
      "! snapshot failed: Calque can only take snapshots of stopped instances.
      ! hint: Is another process using the image [STORE/instances/foo/disk.qcow2]?
      ! hint: It is locked by qemu-io (process PID)
      = 2"
    `);
  });

  played("leaves nothing behind when the core cannot take it", async () => {
    const here = world();
    const { called, cli, store } = here;
    make(store, ["foo"]);
    const full = called({
      core: {
        snapshotCreate: ({ path: disk }, event) => {
          const snapshot = { id: "1", name: "snapshot1", dateSec: 1, dateNsec: 2 };
          event?.({ planned: { before: "", after: "", snapshot } });
          return {
            failure: {
              code: "no-space",
              stage: "operation",
              reason: "No space left on device",
              path: disk,
            },
          };
        },
      },
    });
    expect(await full("snapshot", "foo")).toMatchInlineSnapshot(`
      "! snapshot failed: "STORE/instances/foo/disk.qcow2": No space left on device
      = 2"
    `);
    expect(within(here, "instances/foo/snapshots")).toEqual([]);
    expect(await cli("snapshot", "foo")).toMatchInlineSnapshot(`
      "Snapshot taken: foo.snapshot1
      = 0"
    `);
  });

  test("ends where a snapshot of another program leaves no number above it", async () => {
    const { cli, store, disk } = world();
    make(store, ["foo"]);
    const leastId = Number.MAX_SAFE_INTEGER;
    native.snapshotCreate({ path: disk("foo"), name: "far", leastId, dateSec: 0, dateNsec: 0 });
    expect(await cli("snapshot", "foo")).toMatchInlineSnapshot(`
      "! snapshot failed: Maximum number of snapshots exceeded: 9007199254740991 is the id of one in "foo"
      = 2"
    `);
  });
});
