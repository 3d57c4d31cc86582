// `delete`: Multipass's sentences and its question, and what goes.

import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import type { Native } from "../../../src/native.ts";
import { Holder } from "../../e2e/support.ts";
import { make } from "../../state/scene.ts";
import { played } from "../vehicle.ts";
import { failing } from "./core.ts";
import {
  session,
  take,
  takeForeign,
  within,
  withoutIds,
  withoutProcess,
  type World,
  world,
} from "./world.ts";

/** Instances `foo`, with the snapshots `a`, `b` and `c`, and `bar`, with `a`. */
function furnished(): World {
  const here = world();
  make(here.store, ["foo", "bar"]);
  for (const name of ["a", "b", "c"]) take(here, "foo", { name });
  take(here, "bar", { name: "a" });
  return here;
}

/** The names of all that is listed. */
async function names({ cli }: World): Promise<string[]> {
  const text = await cli("list", "--format", "csv");
  return text
    .split("\n")
    .flatMap((line) => /^([^,]*),(Stopped|Deleted|Broken)/.exec(line)?.[1] ?? []);
}

async function snapshots({ cli }: World): Promise<string[]> {
  const text = await cli("list", "--snapshots", "--format", "csv");
  return text
    .split("\n")
    .flatMap((line) => /^(foo|bar),([^,]*)/.exec(line)?.slice(1).join(".") ?? []);
}

describe("the help of delete", () => {
  test("is Multipass's when it is called so", async () => {
    const { called } = world();
    expect(await called({ argv0: "multipass" })("help", "delete")).toMatchInlineSnapshot(`
      "Usage: multipass delete [options] <instance>[.snapshot] [<instance>[.snapshot] ...]
      Delete instances and snapshots (in stopped instances). Instances can be purged immediately or later on,
      with the "purge" command. Until they are purged, instances can be recovered
      with the "recover" command. Snapshots cannot be recovered after deletion and must be purged at once.

      Options:
        -h, --help     Displays help on commandline options
        -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                       for more detail. Maximum verbosity is obtained with 4 (or more)
                       v's, i.e. -vvvv.
        --all          Delete all instances and snapshots
        -p, --purge    Permanently delete specified instances and snapshots
                       immediately

      Arguments:
        name           Names of instances and snapshots to delete
      = 0"
    `);
  });
});

describe("delete", () => {
  test("moves instances with their snapshots to the trash, without a word", async () => {
    const here = furnished();
    expect(await session(here.cli, ["delete foo bar foo", "list", "list --snapshots"]))
      .toMatchInlineSnapshot(`
        "$ delete foo bar foo
        = 0
        $ list
        Name                    State             IPv4             Image
        bar                     Deleted           --               Not Available
        foo                     Deleted           --               Not Available
        = 0
        $ list --snapshots
        Instance   Snapshot   Parent   Comment
        bar        a          --       --
        foo        a          --       --
        foo        b          a        --
        foo        c          b        --
        = 0
        "
      `);
    // What is there already stays.
    expect(await session(here.cli, ["delete foo", "delete --all", "info foo.a"]))
      .toMatchInlineSnapshot(`
        "$ delete foo
        = 0
        $ delete --all
        = 0
        $ info foo.a
        Snapshot:       a
        Instance:       foo
        CPU(s):         1
        Disk space:     1.0MiB
        Memory size:    1.0GiB
        Mounts:         --
        Created:        Fri Aug 21 21:48:55 2026 UTC
        Parent:         --
        Children:       b
        Comment:        --
        = 0
        "
      `);
    expect(within(here, "instances")).toEqual([]);
    expect(within(here, "trash")).toHaveLength(2);
  });

  test("frees the name of an instance", async () => {
    const here = world();
    expect(
      withoutIds(
        await session(here.cli, [
          "create foo --disk 1M",
          "delete foo",
          "create foo --disk 1M",
          "delete foo",
          "create foo --disk 1M",
          "list",
        ]),
      ),
    ).toMatchInlineSnapshot(`
      "$ create foo --disk 1M
      Created: foo
      = 0
      $ delete foo
      = 0
      $ create foo --disk 1M
      Created: foo
      = 0
      $ delete foo
      = 0
      $ create foo --disk 1M
      Created: foo
      = 0
      $ list
      Name                       State             IPv4             Image
      foo                        Stopped           --               Not Available
      foo@YYYYMMDD-hhmmss-xxxx   Deleted           --               Not Available
      foo@YYYYMMDD-hhmmss-xxxx   Deleted           --               Not Available
      = 0
      "
    `);
  });

  test("removes instances for ever with --purge, live or trashed", async () => {
    const here = furnished();
    await here.cli("delete", "bar");
    expect(await session(here.cli, ["delete -p foo", "delete bar --purge", "list"]))
      .toMatchInlineSnapshot(`
        "$ delete -p foo
        = 0
        $ delete bar --purge
        = 0
        $ list
        No instances found.
        = 0
        "
      `);
    expect([within(here, "instances"), within(here, "trash"), within(here, "stage")]).toEqual([
      [],
      [],
      [],
    ]);
  });

  test("with --all means every instance, in the trash only to purge it", async () => {
    const here = furnished();
    make(here.store, ["third"]);
    here.store.trash("third");
    expect(await here.cli("delete", "--all")).toMatchInlineSnapshot(`"= 0"`);
    expect(await names(here)).toEqual(["bar", "foo", "third"]);
    expect(await snapshots(here)).toEqual(["bar.a", "foo.a", "foo.b", "foo.c"]);
    make(here.store, ["foo"]);
    expect(await here.cli("delete", "--all", "--purge")).toMatchInlineSnapshot(`"= 0"`);
    expect(await names(here)).toEqual([]);
    expect(await here.cli("delete", "--all")).toMatchInlineSnapshot(`"= 0"`);
  });

  test("words what is wrong with a line", async () => {
    const { cli } = furnished();
    expect(
      await session(cli, [
        "delete",
        "delete --purge",
        "delete --all foo",
        "delete foo --all bar",
        "delete foo --purge=yes",
        "delete foo --force",
      ]),
    ).toMatchInlineSnapshot(`
      "$ delete
      ! Name argument or --all is required
      = 1
      $ delete --purge
      ! Name argument or --all is required
      = 1
      $ delete --all foo
      ! Cannot specify name when --all option set
      = 1
      $ delete foo --all bar
      ! Cannot specify names when --all option set
      = 1
      $ delete foo --purge=yes
      ! Unexpected value after '--purge'.
      = 1
      $ delete foo --force
      ! Unknown option 'force'.
      = 1
      "
    `);
  });

  test("deletes nothing if something of it is not there", async () => {
    const here = furnished();
    make(here.store, ["gone"]);
    take(here, "gone", { name: "a" });
    const id = here.store.trash("gone");
    expect(
      withoutIds(
        await session(here.cli, [
          "delete foo none bar.a other.a none.b",
          ["delete", "--purge", "foo", ""],
          "delete --purge foo.a bar.none foo.none",
          "delete --purge foo.",
          "delete --purge foo gone.none",
          "delete --purge foo gone.a",
          `delete --purge gone.a foo gone@${id}.a`,
          "delete foo gone.a",
          "delete foo.a.b",
          "delete gone@20260821-214855-000g",
          "delete --purge foo.@4",
        ]),
      ),
    ).toMatchInlineSnapshot(`
      "$ delete foo none bar.a other.a none.b
      ! delete failed: The following errors occurred:
      ! instance "none" does not exist
      ! instance "other" does not exist
      = 2
      $ delete --purge foo 
      ! delete failed: The following errors occurred:
      ! instance "" does not exist
      = 2
      $ delete --purge foo.a bar.none foo.none
      ! delete failed: No such snapshot: foo.none
      = 2
      $ delete --purge foo.
      ! delete failed: No such snapshot: foo.
      = 2
      $ delete --purge foo gone.none
      ! delete failed: No such snapshot: gone@YYYYMMDD-hhmmss-xxxx.none
      = 2
      $ delete --purge foo gone.a
      ! delete failed: Cannot delete snapshots of deleted instances: gone.a
      = 2
      $ delete --purge gone.a foo gone@YYYYMMDD-hhmmss-xxxx.a
      ! delete failed: Cannot delete snapshots of deleted instances: gone.a, gone@YYYYMMDD-hhmmss-xxxx.a
      = 2
      $ delete foo gone.a
      ! delete failed: Cannot delete snapshots of deleted instances: gone.a
      = 2
      $ delete foo.a.b
      ! delete failed: No such snapshot: foo.a.b
      = 2
      $ delete gone@20260821-214855-000g
      ! delete failed: The following errors occurred:
      ! instance "gone@20260821-214855-000g" does not exist
      = 2
      $ delete --purge foo.@4
      ! delete failed: No such snapshot: foo.@4
      = 2
      "
    `);
    expect(await names(here)).toEqual(["bar", "foo", "gone"]);
    expect(await snapshots(here)).toEqual(["bar.a", "foo.a", "foo.b", "foo.c"]);
  });

  test("deletes nothing if something of it is in use, and says by whom", async () => {
    const here = furnished();
    const { cli, called, disk } = here;
    await using _ = await Holder.io(disk("foo"));
    const lines = [
      "delete bar foo",
      "delete --purge bar foo",
      "delete --purge bar foo.a",
      "delete foo.a",
      "delete bar.a foo",
      "delete --all",
      "delete --all --purge",
    ];
    expect(withoutProcess(await session(cli, lines))).toMatchInlineSnapshot(`
      "$ delete bar foo
      ! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ delete --purge bar foo
      ! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ delete --purge bar foo.a
      ! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ delete foo.a
      ! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ delete bar.a foo
      ! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ delete --all
      ! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ delete --all --purge
      ! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-io (process PID)
      = 2
      "
    `);
    // It is said before the question.
    const asked = called({ terminal: true, answers: ["yes"] });
    expect(withoutProcess(await asked("delete", "bar.a", "foo"))).toMatchInlineSnapshot(`
      "! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-io (process PID)
      = 2"
    `);
    expect(await snapshots(here)).toEqual(["bar.a", "foo.a", "foo.b", "foo.c"]);
    expect(within(here, "instances")).toEqual(["bar", "foo"]);
  });

  test("removes snapshots for ever with --purge, whichever way they are named", async () => {
    const here = furnished();
    takeForeign(here.disk("foo"), ["theirs", "twin", "twin", "with.dot"]);
    expect(
      await session(here.cli, [
        "delete --purge foo.b foo.@2 bar.a foo.b",
        "list --snapshots",
        "delete --purge foo.twin",
        "delete --purge foo.@5 foo.with.dot",
        "delete --purge foo.twin foo.theirs",
        "snapshot foo",
        "list --snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ delete --purge foo.b foo.@2 bar.a foo.b
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        a          --       --
      foo        c          a        --
      foo        theirs     --       --
      foo        @5         --       --
      foo        @6         --       --
      foo        with.dot   --       --
      = 0
      $ delete --purge foo.twin
      ! delete failed: Several snapshots are called foo.twin: foo.@5, foo.@6
      = 2
      $ delete --purge foo.@5 foo.with.dot
      = 0
      $ delete --purge foo.twin foo.theirs
      = 0
      $ snapshot foo
      Snapshot taken: foo.snapshot4
      = 0
      $ list --snapshots
      Instance   Snapshot    Parent   Comment
      foo        a           --       --
      foo        c           a        --
      foo        snapshot4   c        --
      = 0
      "
    `);
    expect(execFileSync("qemu-img", ["check", here.disk("foo")], { encoding: "utf8" })).toContain(
      "No errors were found",
    );
  });

  test("means the id where a snapshot of another program is called like one", async () => {
    const here = world();
    make(here.store, ["foo"]);
    takeForeign(here.disk("foo"), ["@2", "x", "@9"]);
    const lines = ["list --snapshots", "delete --purge foo.@2 foo.@9", "list --snapshots"];
    expect(await session(here.cli, lines)).toMatchInlineSnapshot(`
      "$ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        @1         --       --
      foo        x          --       --
      foo        @9         --       --
      = 0
      $ delete --purge foo.@2 foo.@9
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        @2         --       --
      = 0
      "
    `);
  });

  test("purges a named instance with its snapshots, and else each of them", async () => {
    const here = furnished();
    expect(await here.cli("delete", "--purge", "foo.a", "foo", "bar.a")).toMatchInlineSnapshot(
      `"= 0"`,
    );
    expect(await names(here)).toEqual(["bar"]);
    expect(await snapshots(here)).toEqual([]);
    take(here, "bar", { name: "b" });
    here.store.trash("bar");
    expect(await here.cli("delete", "--purge", "bar.b", "bar")).toMatchInlineSnapshot(`"= 0"`);
    expect(await names(here)).toEqual([]);
  });

  test("asks before it removes snapshots", async () => {
    const here = furnished();
    for (const [number, word] of ["y", "YES", "yes"].entries()) {
      const cli = here.called({ terminal: true, answers: [word] });
      expect(await cli("delete", `foo.${"abc"[number]}`)).toBe(
        `Snapshots can only be purged (after deletion, they cannot be recovered). Are you sure you want to continue? (Yes/no): ${word}
= 0`,
      );
    }
    expect(await snapshots(here)).toEqual(["bar.a"]);
    for (const word of ["n", "No", ""]) {
      const cli = here.called({ terminal: true, answers: [word] });
      expect(await cli("delete", "bar.a")).toBe(
        `Snapshots can only be purged (after deletion, they cannot be recovered). Are you sure you want to continue? (Yes/no): ${word}
! delete failed: Cancelled.
= 2`,
      );
    }
    const asked = here.called({ terminal: true, answers: ["sure", "yes!", "yes"] });
    expect(await here.called({ terminal: true, answers: ["what"] })("delete", "bar.a"))
      .toMatchInlineSnapshot(`
        "Snapshots can only be purged (after deletion, they cannot be recovered). Are you sure you want to continue? (Yes/no): what
        Please answer Yes/no: ^D
        ! Failed to read value
        = 1"
      `);
    expect(await snapshots(here)).toEqual(["bar.a"]);
    expect(await asked("delete", "bar.a", "foo")).toMatchInlineSnapshot(`
      "Snapshots can only be purged (after deletion, they cannot be recovered). Are you sure you want to continue? (Yes/no): sure
      Please answer Yes/no: yes!
      Please answer Yes/no: yes
      = 0"
    `);
    expect(await snapshots(here)).toEqual([]);
    expect(within(here, "instances")).toEqual(["bar"]);
  });

  test("tells what to type where nobody can answer", async () => {
    const here = furnished();
    const multipass = here.called({ argv0: "multipass", typed: true });
    expect(await multipass("delete", "foo.a")).toMatchInlineSnapshot(`
      "! Snapshots can only be purged (after deletion, they cannot be recovered). Unable to query client for confirmation. Please use the \`--purge\` flag if that is what you want.
      ! 
      = 1"
    `);
    expect(await multipass("delete", "foo.a", "bar", "foo.c", "foo")).toMatchInlineSnapshot(`
      "! Snapshots can only be purged (after deletion, they cannot be recovered). Unable to query client for confirmation. Please use the \`--purge\` flag if that is what you want:
      ! 
      ! 	multipass delete --purge foo.a foo.c 
      ! 
      ! You can use a separate command to delete instances without purging them:
      ! 
      ! 	multipass delete bar foo 
      ! 
      = 1"
    `);
    // The same on a terminal from which nothing can be typed.
    const shown = here.called({ argv0: "multipass", terminal: true, typed: false });
    for (const line of [["foo.a"], ["foo.a", "bar", "foo.c", "foo"]]) {
      expect(await shown("delete", ...line)).toBe(await multipass("delete", ...line));
    }
    expect(await snapshots(here)).toEqual(["bar.a", "foo.a", "foo.b", "foo.c"]);
  });

  test("means the live instance, or the newest of that name in the trash, or the one with the id", async () => {
    const here = world();
    const { cli, store } = here;
    const ids = [1, 2, 3].map(() => {
      make(store, ["foo"]);
      return store.trash("foo");
    });
    // Nothing to be done, and nothing to be said.
    expect(await cli("delete", "foo")).toMatchInlineSnapshot(`"= 0"`);
    expect(withoutIds(await cli("delete", "--purge", "foo", `foo@${ids[2]}`)))
      .toMatchInlineSnapshot(`
        "! hint: of several deleted instances "foo", the newest was purged: foo@YYYYMMDD-hhmmss-xxxx
        = 0"
      `);
    expect(within(here, "trash")).toEqual([`foo@${ids[0]}`, `foo@${ids[1]}`]);
    expect(await cli("delete", "--purge", `foo@${ids[0]}`)).toMatchInlineSnapshot(`"= 0"`);
    expect(within(here, "trash")).toEqual([`foo@${ids[1]}`]);
    make(store, ["foo"]);
    expect(await cli("delete", "--purge", "foo")).toMatchInlineSnapshot(`"= 0"`);
    expect(within(here, "instances")).toEqual([]);
    expect(within(here, "trash")).toEqual([`foo@${ids[1]}`]);
  });

  test("gets rid of what is broken, but not of what a newer Calque made", async () => {
    const here = furnished();
    make(here.store, ["newer"]);
    writeFileSync(here.disk("foo"), "");
    writeFileSync(`${here.root}/instances/bar/instance.json`, "{");
    here.rewrite("instances/newer/instance.json", (text) =>
      text.replace('"schema": 1', '"schema": 2'),
    );
    expect(
      await session(here.cli, [
        "delete --purge foo.a",
        "delete --purge bar.a",
        "delete --all",
        "delete foo newer",
        "delete --purge newer",
        "delete --purge foo",
        "delete bar",
      ]),
    ).toMatchInlineSnapshot(`
      "$ delete --purge foo.a
      ! delete failed: instance "foo" is broken: Image is not in qcow2 format
      = 2
      $ delete --purge bar.a
      ! delete failed: instance "bar" is broken: instance.json is not JSON
      = 2
      $ delete --all
      ! delete failed: instance "newer" is broken: made by a newer Calque: instance.json has schema 2
      = 2
      $ delete foo newer
      ! delete failed: instance "newer" is broken: made by a newer Calque: instance.json has schema 2
      = 2
      $ delete --purge newer
      ! delete failed: instance "newer" is broken: made by a newer Calque: instance.json has schema 2
      = 2
      $ delete --purge foo
      = 0
      $ delete bar
      = 0
      "
    `);
    expect(within(here, "instances")).toEqual(["newer"]);
    expect(within(here, "trash")).toHaveLength(1);
  });

  played("names who came between its look and the deletion", async () => {
    const here = furnished();
    let looks = 0;
    const core: Partial<Native> = {
      imageUsers({ paths }) {
        looks += 1;
        const use = looks === 1 ? "free" : "writer";
        return {
          report: { users: paths.map(() => ({ use, holder: "qemu-system-x86 (process 4711)" })) },
        };
      },
    };
    expect(await here.called({ core })("delete", "foo")).toMatchInlineSnapshot(`
      "! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-system-x86 (process 4711)
      = 2"
    `);
    looks = 0;
    expect(await here.called({ core })("delete", "--purge", "foo")).toMatchInlineSnapshot(`
      "! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-system-x86 (process 4711)
      = 2"
    `);
    looks = 0;
    const locked = failing({ code: "in-use", reason: 'Failed to get "write" lock' });
    expect(
      await here.called({ core: { ...core, snapshotDelete: locked } })("delete", "-p", "foo.a"),
    ).toMatchInlineSnapshot(`
      "! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-system-x86 (process 4711)
      = 2"
    `);
    looks = 0;
    const asked = here.called({ terminal: true, answers: ["yes"], core });
    expect(await asked("delete", "foo.a")).toMatchInlineSnapshot(`
      "Snapshots can only be purged (after deletion, they cannot be recovered). Are you sure you want to continue? (Yes/no): yes
      ! delete failed: instance "foo" is in use
      ! "foo" is used by qemu-system-x86 (process 4711)
      = 2"
    `);
    expect(await snapshots(here)).toEqual(["bar.a", "foo.a", "foo.b", "foo.c"]);
  });
});
