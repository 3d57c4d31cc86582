// `clone`: Multipass's sentences, and what the clones are.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import type { ImageUser, Native } from "../../../src/native.ts";
import { have, Holder } from "../../e2e/support.ts";
import { make, native } from "../../state/scene.ts";
import { played } from "../vehicle.ts";
import { cloning, failing, FULL } from "./core.ts";
import {
  recordOf,
  session,
  take,
  takeForeign,
  within,
  withoutIds,
  withoutProcess,
  type World,
  world,
} from "./world.ts";

const LOCKED = { code: "in-use", reason: 'Failed to get shared "write" lock' } as const;

/** What qemu-img says of the snapshots of an instance's disk. */
function snapshotsOf({ disk }: World, name: string): string {
  return execFileSync("qemu-img", ["snapshot", "-l", disk(name)], { encoding: "utf8" });
}

function write(file: string, byte: number): void {
  execFileSync("qemu-io", ["-c", `write -P ${byte} 0 64k`, file], { stdio: "ignore" });
}

/** Whether the disk begins with a block of that byte. */
function reads(file: string, byte: number): boolean {
  const said = execFileSync("qemu-io", ["-r", "-c", `read -P ${byte} 0 64k`, file], {
    encoding: "utf8",
  });
  return !said.includes("verification failed");
}

describe("the help of clone", () => {
  test("is Multipass's when it is called so", async () => {
    const { called } = world();
    expect(await called({ argv0: "multipass" })("help", "clone")).toBe(
      `Usage: multipass clone [options] <source_name>
Create an independent copy of an existing (stopped) instance.

Options:
  -h, --help                     Displays help on commandline options
  -v, --verbose                  Increase logging verbosity. Repeat the 'v' in
                                 the short option for more detail. Maximum
                                 verbosity is obtained with 4 (or more) v's,
                                 i.e. -vvvv.
  -n, --name <destination-name>  An optional custom name for the cloned
                                 instance. The name must follow the usual
                                 validity rules (see "help launch"). Default:
                                 "<source_name>-cloneN", where N is the Nth
                                 cloned instance.

Arguments:
  source_name                    The name of the source instance to be cloned
= 0`,
    );
  });

  test("has what Multipass has not in a part of its own", async () => {
    expect(await world().cli("clone", "--help")).toMatchInlineSnapshot(`
      "Usage: calque clone [options] <source_name>
      Create an independent copy of an existing (stopped) instance.

      Options:
        -h, --help                     Displays help on commandline options
        -v, --verbose                  Increase logging verbosity. Repeat the 'v' in
                                       the short option for more detail. Maximum
                                       verbosity is obtained with 4 (or more) v's,
                                       i.e. -vvvv.
        -n, --name <destination-name>  An optional custom name for the cloned
                                       instance. The name must follow the usual
                                       validity rules (see "help launch"). Default:
                                       "<source_name>-cloneN", where N is the Nth
                                       cloned instance.

      Arguments:
        source_name                    The name of the source instance to be cloned

      Options that Multipass does not have:
        --count <number>            How many clones to make; with \`--name web\` they
                                    are called web-1, web-2 and so on
        --strategy <strategy>       How: share blocks or else copy (auto, the
                                    default), share them or fail (reflink), or copy
        --from-snapshot <snapshot>  Clone what the instance was at this snapshot
        --keep-snapshots            Give the clones the snapshots of the source, too

      Examples:
        calque clone web-1
            One clone, called web-1-clone1
        calque clone web-1 --name worker --count 20
            Twenty: worker-1 to worker-20
        calque clone web-1 --from-snapshot clean
            A clone of what it was
      = 0"
    `);
  });
});

describe("clone", () => {
  test("says what it made of what", async () => {
    const { called, cli, store } = world();
    make(store, ["work"]);
    const multipass = called({ argv0: "/usr/bin/multipass" });
    expect(await session(cli, ["clone work", "clone work --name web", "list"]))
      .toMatchInlineSnapshot(`
        "$ clone work
        Cloned from work to work-clone1.
        = 0
        $ clone work --name web
        Cloned from work to web.
        = 0
        $ list
        Name                    State             IPv4             Image
        web                     Stopped           --               Not Available
        work                    Stopped           --               Not Available
        work-clone1             Stopped           --               Not Available
        = 0
        "
      `);
    expect(await session(multipass, ["clone work -n db", "clone -nmail work", "clone work"]))
      .toMatchInlineSnapshot(`
        "$ clone work -n db
        Cloned from work to db.
        = 0
        $ clone -nmail work
        Cloned from work to mail.
        = 0
        $ clone work
        Cloned from work to work-clone5.
        = 0
        "
      `);
  });

  test("words what is wrong with a line", async () => {
    const here = world();
    const { cli, store } = here;
    make(store, ["work"]);
    expect(
      await session(cli, [
        "clone",
        "clone work web",
        "clone work --name",
        "clone work --all -x",
        "clone work --keep-snapshots=yes",
        "clone work --count 0",
        "clone work --count -1",
        "clone work --count 1000000",
        "clone work --count 2.0",
        "clone work --strategy linked",
        "clone work --from-snapshot a --keep-snapshots",
        "clone work -h -x",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone
      ! Please provide the name of the source instance.
      = 1
      $ clone work web
      ! Too many arguments.
      = 1
      $ clone work --name
      ! Missing value after '--name'.
      = 1
      $ clone work --all -x
      ! Unknown options: all, x.
      = 1
      $ clone work --keep-snapshots=yes
      ! Unexpected value after '--keep-snapshots'.
      = 1
      $ clone work --count 0
      ! Invalid count '0': need a number from 1 to 999999
      = 1
      $ clone work --count -1
      ! Invalid count '-1': need a number from 1 to 999999
      = 1
      $ clone work --count 1000000
      ! Invalid count '1000000': need a number from 1 to 999999
      = 1
      $ clone work --count 2.0
      ! Invalid count '2.0': need a number from 1 to 999999
      = 1
      $ clone work --strategy linked
      ! Invalid strategy 'linked': need 'auto', 'reflink' or 'copy'
      = 1
      $ clone work --from-snapshot a --keep-snapshots
      ! Cannot use '--from-snapshot' and '--keep-snapshots' together
      = 1
      $ clone work -h -x
      ! Unknown option 'x'.
      = 1
      "
    `);
    expect(within(here, "instances")).toEqual(["work"]);
  });

  test("refuses in Multipass's order: the source, its state, the name, that it is taken", async () => {
    const here = world();
    const { called, cli, store, disk } = here;
    make(store, ["work", "gone", "web"]);
    const id = store.trash("gone");
    expect(
      withoutIds(
        await session(cli, [
          "clone none --name _",
          "clone gone --name _",
          `clone gone@${id} --name _`,
          "clone work.snapshot1",
        ]),
      ),
    ).toMatchInlineSnapshot(`
      "$ clone none --name _
      ! clone failed: instance "none" does not exist
      = 2
      $ clone gone --name _
      ! clone failed: instance "gone" is deleted
      = 2
      $ clone gone@YYYYMMDD-hhmmss-xxxx --name _
      ! clone failed: instance "gone@YYYYMMDD-hhmmss-xxxx" is deleted
      = 2
      $ clone work.snapshot1
      ! clone failed: instance "work.snapshot1" does not exist
      = 2
      "
    `);

    {
      await using _ = await Holder.io(disk("work"));
      const lines = ["clone work --name _", "clone work --from-snapshot none"];
      expect(withoutProcess(await session(cli, lines))).toMatchInlineSnapshot(`
        "$ clone work --name _
        ! clone failed: Calque can only clone stopped instances.
        ! "work" is used by qemu-io (process PID)
        = 2
        $ clone work --from-snapshot none
        ! clone failed: Calque can only clone stopped instances.
        ! "work" is used by qemu-io (process PID)
        = 2
        "
      `);
      const multipass = called({ argv0: "multipass" });
      expect(withoutProcess(await session(multipass, ["clone work"]))).toMatchInlineSnapshot(`
        "$ clone work
        ! clone failed: Multipass can only clone stopped instances.
        ! "work" is used by qemu-io (process PID)
        = 2
        "
      `);
    }

    using _ = store.reserve(["busy", "later-2"]);
    expect(
      await session(cli, [
        ["clone", "work", "--name", ""],
        "clone work --name _",
        "clone work --name web-",
        "clone work --name 1st",
        "clone work --name web.de",
        ["clone", "work", "--name", "--"],
        "clone work --name gone@20260821-214855-0000",
        "clone work --name web",
        "clone work --name work",
        "clone work --name busy",
        "clone work --name later --count 3",
        "clone work --from-snapshot none --name web",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone work --name 
      ! clone failed: Invalid destination instance name: 
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone work --name _
      ! clone failed: Invalid destination instance name: _
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone work --name web-
      ! clone failed: Invalid destination instance name: web-
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone work --name 1st
      ! clone failed: Invalid destination instance name: 1st
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone work --name web.de
      ! clone failed: Invalid destination instance name: web.de
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone work --name --
      ! clone failed: Invalid destination instance name: --
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone work --name gone@20260821-214855-0000
      ! clone failed: Invalid destination instance name: gone@20260821-214855-0000
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone work --name web
      ! clone failed: instance "web" already exists
      = 2
      $ clone work --name work
      ! clone failed: instance "work" already exists
      = 2
      $ clone work --name busy
      ! clone failed: instance "busy" is being prepared
      = 2
      $ clone work --name later --count 3
      ! clone failed: instance "later-2" is being prepared
      = 2
      $ clone work --from-snapshot none --name web
      ! clone failed: No such snapshot: work.none
      = 2
      "
    `);
    // Nobody was counted.
    expect(recordOf(here, "work").cloneCount).toBe(0);
  });

  test.runIf(have("qemu-nbd"))("names whoever runs the source, qemu-nbd for one", async () => {
    const { root, cli, store, disk } = world();
    make(store, ["foo"]);
    const socket = `${root}/socket`;
    const server = ["qemu-nbd", "--persistent", "-k", socket, "-f", "qcow2", disk("foo")];
    await using _ = await Holder.of(server, () => existsSync(socket));
    expect(withoutProcess(await session(cli, ["clone foo", "list"]))).toMatchInlineSnapshot(`
      "$ clone foo
      ! clone failed: Calque can only clone stopped instances.
      ! "foo" is used by qemu-nbd (process PID)
      = 2
      $ list
      Name                    State             IPv4             Image
      foo                     Running           N/A              Not Available
      = 0
      "
    `);
  });

  test("is made beside one who only reads the source", async () => {
    const { cli, store, disk } = world();
    make(store, ["foo"]);
    await using _ = await Holder.io(disk("foo"), "-r");
    expect(await session(cli, ["clone foo", "list"])).toMatchInlineSnapshot(`
      "$ clone foo
      Cloned from foo to foo-clone1.
      = 0
      $ list
      Name                    State             IPv4             Image
      foo                     Stopped           --               Not Available
      foo-clone1              Stopped           --               Not Available
      = 0
      "
    `);
  });

  test("takes names as long as a guest can have them, and a name from the trash", async () => {
    const { cli, store } = world();
    const longest = "a".repeat(63);
    make(store, ["a", "gone"]);
    store.trash("gone");
    expect(
      (
        await session(cli, [
          `clone a --name ${longest}`,
          `clone a --name ${longest}a`,
          `clone a --name ${"a".repeat(62)} --count 2`,
          `clone ${longest}`,
          `clone ${longest} --name b`,
          "clone a --name gone",
          "clone a --name A",
        ])
      )
        .replaceAll(longest, "A×63")
        .replaceAll("a".repeat(62), "A×62"),
    ).toMatchInlineSnapshot(`
      "$ clone a --name A×63
      Cloned from a to A×63.
      = 0
      $ clone a --name A×63a
      ! clone failed: Invalid destination instance name: A×63a
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone a --name A×62 --count 2
      ! clone failed: The name "A×62-1" is longer than 63 characters
      ! hint: give a shorter one with \`--name\`
      = 2
      $ clone A×63
      ! clone failed: The name "A×63-clone1" is longer than 63 characters
      ! hint: give a shorter one with \`--name\`
      = 2
      $ clone A×63 --name b
      Cloned from A×63 to b.
      = 0
      $ clone a --name gone
      Cloned from a to gone.
      = 0
      $ clone a --name A
      Cloned from a to A.
      = 0
      "
    `);
  });

  test("numbers the clones of an instance, whatever becomes of them", async () => {
    const here = world();
    const { cli, store } = here;
    make(store, ["foo", "foo-clone5", "foo-clone6"]);
    store.trash("foo-clone6");
    expect(
      await session(cli, [
        "clone foo",
        "clone foo --name x",
        "clone foo",
        "delete foo-clone3",
        "delete --purge foo-clone3",
        "clone foo --count 3",
        "clone foo-clone1",
        "clone foo --name y --count 2",
        "clone foo",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone foo
      Cloned from foo to foo-clone1.
      = 0
      $ clone foo --name x
      Cloned from foo to x.
      = 0
      $ clone foo
      Cloned from foo to foo-clone3.
      = 0
      $ delete foo-clone3
      = 0
      $ delete --purge foo-clone3
      = 0
      $ clone foo --count 3
      Cloned from foo to foo-clone4.
      Cloned from foo to foo-clone7.
      Cloned from foo to foo-clone8.
      = 0
      $ clone foo-clone1
      Cloned from foo-clone1 to foo-clone1-clone1.
      = 0
      $ clone foo --name y --count 2
      Cloned from foo to y-1.
      Cloned from foo to y-2.
      = 0
      $ clone foo
      Cloned from foo to foo-clone11.
      = 0
      "
    `);
    expect(recordOf(here, "foo").cloneCount).toBe(11);
    expect(recordOf(here, "foo-clone1").cloneCount).toBe(1);
  });

  test("makes many at once, or none", async () => {
    const here = world();
    make(here.store, ["foo", "web-3"]);
    expect(
      await session(here.cli, [
        "clone foo --name web --count 3",
        "clone foo --name db --count 2",
        "clone foo --name one --count 1",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone foo --name web --count 3
      ! clone failed: instance "web-3" already exists
      = 2
      $ clone foo --name db --count 2
      Cloned from foo to db-1.
      Cloned from foo to db-2.
      = 0
      $ clone foo --name one --count 1
      Cloned from foo to one.
      = 0
      "
    `);
    expect(within(here, "instances")).toEqual(["db-1", "db-2", "foo", "one", "web-3"]);
    expect(within(here, "stage")).toEqual([]);
  });

  test("copies the configuration and the disk, and gives the clone an identity of its own", async () => {
    const here = world();
    const { cli, store, disk, rewrite, clock } = here;
    make(store, ["foo"]);
    rewrite("instances/foo/instance.json", (text) =>
      JSON.stringify({
        ...(JSON.parse(text) as object),
        cpus: 3,
        memoryBytes: 3 << 29,
        interfaces: [
          { id: "br0", macAddress: "52:54:00:00:00:01", autoMode: true },
          { id: "br1", macAddress: "52:54:00:00:00:02", autoMode: false },
        ],
        mounts: { "/srv": { sourcePath: "/home", uidMappings: ["0:0"], gidMappings: [] } },
        image: { release: "24.04 LTS", hash: "d8a3" },
        cloneCount: 7,
        note: "from a newer version",
      }),
    );
    write(disk("foo"), 1);
    take(here, "foo", { comment: "of the source" });
    write(disk("foo"), 2);
    const bytes = readFileSync(disk("foo"));
    clock.sec += 60;
    await cli("clone", "foo");

    const [source, clone] = [recordOf(here, "foo"), recordOf(here, "foo-clone8")];
    const { uuid, instanceId, macAddress, createdAt, interfaces, origin, ...rest } = clone;
    expect(rest).toMatchInlineSnapshot(`
      {
        "cloneCount": 0,
        "cpus": 3,
        "head": 0,
        "image": {
          "hash": "d8a3",
          "release": "24.04 LTS",
        },
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
        "note": "from a newer version",
        "parents": {},
        "schema": 1,
        "snapshotCount": 0,
      }
    `);
    expect(origin).toEqual({ kind: "clone", source: "foo", uuid: source.uuid });
    expect(uuid).not.toBe(source.uuid);
    expect(instanceId).toBe(`foo-clone8-${uuid.slice(0, 8)}`);
    expect(macAddress).toMatch(/^52:54:00(:[0-9a-f]{2}){3}$/);
    const addresses = [source, clone].flatMap((one) =>
      [one, ...one.interfaces].map((of) => of.macAddress),
    );
    expect(new Set(addresses).size).toBe(6);
    expect(interfaces.map(({ id, autoMode }) => [id, autoMode])).toEqual([
      ["br0", true],
      ["br1", false],
    ]);
    expect(createdAt > source.createdAt).toBe(true);

    expect(readFileSync(disk("foo")).equals(bytes)).toBe(true);
    expect(reads(disk("foo-clone8"), 2)).toBe(true);
    expect(snapshotsOf(here, "foo-clone8")).toBe("");
    expect(within(here, "instances/foo-clone8/snapshots")).toEqual([]);
    write(disk("foo-clone8"), 3);
    expect(reads(disk("foo"), 2)).toBe(true);
    expect(await cli("history", "foo-clone8")).toMatchInlineSnapshot(`
      "Time                           Version   Operation   Details
      Wed Nov 25 11:29:09 2026 UTC   0.1.0     clone       source: foo, strategy: reflink, copiedBytes: 65536
      = 0"
    `);
  });

  test("makes an instance of what another was at a snapshot", async () => {
    const here = world();
    const { cli, store, disk } = here;
    make(store, ["foo"]);
    write(disk("foo"), 1);
    {
      using change = store.change("foo");
      change.takeSnapshot({ name: "clean" });
      change.update({ cpus: 4, memoryBytes: 2 ** 31 });
    }
    write(disk("foo"), 2);
    takeForeign(disk("foo"), ["twin", "twin"]);
    expect(
      await session(cli, [
        "clone foo --from-snapshot clean --name old",
        "clone foo --from-snapshot @1 --name older",
        "clone foo --from-snapshot twin",
        "clone foo --from-snapshot @3 --name foreign",
        "get local.old.cpus",
        "get local.foreign.cpus",
        "list --snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone foo --from-snapshot clean --name old
      Cloned from foo to old.
      = 0
      $ clone foo --from-snapshot @1 --name older
      Cloned from foo to older.
      = 0
      $ clone foo --from-snapshot twin
      ! clone failed: Several snapshots are called foo.twin: foo.@2, foo.@3
      = 2
      $ clone foo --from-snapshot @3 --name foreign
      Cloned from foo to foreign.
      = 0
      $ get local.old.cpus
      1
      = 0
      $ get local.foreign.cpus
      4
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        clean      --       --
      foo        @2         --       --
      foo        @3         --       --
      = 0
      "
    `);
    expect(reads(disk("old"), 1)).toBe(true);
    expect(reads(disk("older"), 1)).toBe(true);
    expect(reads(disk("foreign"), 2)).toBe(true);
    expect(snapshotsOf(here, "old")).toBe("");
    expect(recordOf(here, "old").origin).toMatchObject({ kind: "clone", snapshot: "clean" });
  });

  test("gives the clones the snapshots, too, if it is told so", async () => {
    const here = world();
    const { cli, store, disk } = here;
    make(store, ["foo"]);
    write(disk("foo"), 1);
    take(here, "foo", { name: "clean", comment: "freshly installed" });
    write(disk("foo"), 2);
    expect(
      await session(cli, [
        "clone foo --keep-snapshots --name kept",
        "list --snapshots",
        "snapshot kept",
        "restore --destructive kept.clean",
        "snapshot kept",
        "list --snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone foo --keep-snapshots --name kept
      Cloned from foo to kept.
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        clean      --       freshly installed
      kept       clean      --       freshly installed
      = 0
      $ snapshot kept
      Snapshot taken: kept.snapshot2
      = 0
      $ restore --destructive kept.clean
      Snapshot restored: kept.clean
      = 0
      $ snapshot kept
      Snapshot taken: kept.snapshot3
      = 0
      $ list --snapshots
      Instance   Snapshot    Parent   Comment
      foo        clean       --       freshly installed
      kept       clean       --       freshly installed
      kept       snapshot2   clean    --
      kept       snapshot3   clean    --
      = 0
      "
    `);
    expect(reads(disk("kept"), 1)).toBe(true);
  });

  test("says of which snapshots it has the disk alone", async () => {
    const { cli, store, rewrite } = world();
    make(store, ["foo"]);
    {
      using change = store.change("foo");
      for (const name of ["a", "b"]) change.takeSnapshot({ name });
    }
    rewrite("instances/foo/snapshots/1.json", () => "");
    expect(
      await session(cli, [
        "clone foo --name kept --keep-snapshots",
        "clone foo --name of-a --from-snapshot a",
        "clone foo --name of-b --from-snapshot b",
        "clone foo --name bare",
        "list --snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone foo --name kept --keep-snapshots
      Cloned from foo to kept.
      ! warning: snapshot foo.a is broken: snapshots/1.json is empty
      = 0
      $ clone foo --name of-a --from-snapshot a
      Cloned from foo to of-a.
      ! warning: snapshot foo.a is broken: snapshots/1.json is empty
      = 0
      $ clone foo --name of-b --from-snapshot b
      Cloned from foo to of-b.
      = 0
      $ clone foo --name bare
      Cloned from foo to bare.
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        a          --       --
      foo        b          a        --
      kept       a          --       --
      kept       b          a        --
      ! warning: snapshot foo.a is broken: snapshots/1.json is empty
      = 0
      "
    `);
  });

  test("leaves nothing behind when the disk cannot be read, but a gap in the numbers", async () => {
    const here = world();
    const { cli, store, disk } = here;
    make(store, ["foo"]);
    write(disk("foo"), 1);
    // The L2 table of the source leads beyond the end of the file.
    const bytes = readFileSync(disk("foo"));
    const l1 = Number(bytes.readBigUInt64BE(40));
    const l2 = Number(bytes.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n);
    const damaged = Buffer.from(bytes);
    damaged.writeBigUInt64BE(0x8000_00ff_0000_0000n, l2);
    writeFileSync(disk("foo"), damaged);
    expect(await cli("clone", "foo", "--count", "2", "--strategy", "copy")).toMatchInlineSnapshot(`
        "! clone failed: "STORE/instances/foo/disk.qcow2": Cluster at 0xff00000000 is not counted
        = 2"
      `);
    writeFileSync(disk("foo"), bytes);
    expect(within(here, "stage")).toEqual([]);
    expect(within(here, "instances")).toEqual(["foo"]);
    expect(await cli("clone", "foo")).toMatchInlineSnapshot(`
      "Cloned from foo to foo-clone3.
      = 0"
    `);
  });

  played("leaves nothing behind when the disk is full", async () => {
    const here = world();
    const { called, store } = here;
    make(store, ["foo"]);
    let targets: string[] = [];
    const imageClone: Native["imageClone"] = (request) => {
      targets = request.targets;
      native.imageClone(request);
      return failing(FULL)(request);
    };
    expect(await called({ core: { imageClone } })("clone", "foo", "--count", "2"))
      .toMatchInlineSnapshot(`
        "! clone failed: No space left on device
        = 2"
      `);
    expect(targets.some((target) => existsSync(target))).toBe(false);
    expect(within(here, "stage")).toEqual([]);
    expect(within(here, "instances")).toEqual(["foo"]);
  });

  played(
    "copies where blocks cannot be shared, and says so, unless it was told to share",
    async () => {
      const { called, store } = world();
      make(store, ["foo"]);
      const reason = "ext4 cannot share blocks between files";
      const asked = cloning({ strategy: "copy", copiedBytes: 1 << 19 });
      const forced = cloning({ strategy: "copy", copiedBytes: 1 << 19, reason });
      const cannot = failing({
        code: "cannot-share",
        reason: `blocks cannot be shared: ${reason}`,
      });
      const core: Partial<Native> = {
        imageClone(request, progress) {
          if (request.strategy === "reflink") return cannot(request);
          return (request.strategy === "copy" ? asked : forced)(request, progress);
        },
      };
      const cli = called({ core });
      expect(
        await session(cli, [
          "clone foo --count 3",
          "clone foo --strategy copy",
          "clone foo --strategy reflink",
        ]),
      ).toMatchInlineSnapshot(`
      "$ clone foo --count 3
      Cloned from foo to foo-clone1.
      Cloned from foo to foo-clone2.
      Cloned from foo to foo-clone3.
      ! hint: 1.5MiB copied, not shared: ext4 cannot share blocks between files
      = 0
      $ clone foo --strategy copy
      Cloned from foo to foo-clone4.
      = 0
      $ clone foo --strategy reflink
      ! clone failed: blocks cannot be shared: ext4 cannot share blocks between files
      ! hint: \`--strategy auto\` copies where blocks cannot be shared
      = 2
      "
    `);
    },
  );

  played("shows on a terminal how far a copy is, and whom it waits for", async () => {
    const { called, store } = world();
    make(store, ["foo"]);
    const totalBytes = 3 << 20;
    const imageClone = cloning(
      { strategy: "reflink", copiedBytes: 65_536 },
      { copiedBytes: 0, totalBytes: 0, waitingFor: "calque (process 4711)" },
      { copiedBytes: 0, totalBytes },
      { copiedBytes: 1 << 20, totalBytes },
    );
    const shown = await called({ terminal: true, core: { imageClone } })("clone", "foo");
    expect(shown.replaceAll("\u001b", "ESC").replaceAll("\r", "CR")).toMatchInlineSnapshot(`
      "Cloned from foo to foo-clone1.
      ! Waiting for calque (process 4711) to finish with "STORE/instances/foo/disk.qcow2"
      ! CR! ESC[KCopying: 0B of 3.0MiB, 0 %CR! ESC[KCopying: 1.0MiB of 3.0MiB, 33 %CR! ESC[K= 0"
    `);
    expect(await called({ core: { imageClone } })("clone", "foo")).toMatchInlineSnapshot(`
      "Cloned from foo to foo-clone2.
      ! Waiting for calque (process 4711) to finish with "STORE/instances/foo/disk.qcow2"
      = 0"
    `);
  });

  played("names who came between its look and its copy", async () => {
    const here = world();
    make(here.store, ["foo"]);
    let looks = 0;
    const users: ImageUser[] = [
      { use: "free" },
      { use: "free" },
      { use: "writer", holder: "qemu-system-x86 (process 4711)" },
    ];
    const core: Partial<Native> = {
      imageUsers: () => ({ report: { users: [users[looks++]!] } }),
      imageClone: ({ source }) => failing(LOCKED)({ source }),
    };
    expect(await here.called({ core })("clone", "foo")).toMatchInlineSnapshot(`
      "! clone failed: Calque can only clone stopped instances.
      ! "foo" is used by qemu-system-x86 (process 4711)
      = 2"
    `);
    looks = -7;
    users[-1] = { use: "free" };
    // And if that is not to be found out any more, at least that somebody did.
    const gone = { ...core, imageUsers: () => ({ report: { users: [{ use: "free" as const }] } }) };
    expect(await here.called({ core: gone })("clone", "foo")).toMatchInlineSnapshot(`
      "! clone failed: Calque can only clone stopped instances.
      = 2"
    `);
    expect(within(here, "stage")).toEqual([]);
  });

  played("is of one moment: the source is nobody else's until its image is read", async () => {
    const here = world();
    const { root } = here;
    make(here.store, ["foo"]);
    const lock = { root, path: "instances/foo/lock", mode: "exclusive" } as const;
    const isFree = (): boolean => {
      const { handle } = native.storeLock(lock).report!;
      if (handle !== undefined) native.storeUnlock({ handle });
      return handle !== undefined;
    };
    const seen: boolean[] = [];
    const imageClone: Native["imageClone"] = (request, progress) => {
      seen.push(isFree());
      progress?.({ copiedBytes: 0, totalBytes: 0, waitingFor: "calque (process 4711)" });
      seen.push(isFree());
      progress?.({ copiedBytes: 0, totalBytes: 1 });
      seen.push(isFree());
      return native.imageClone(request);
    };
    await here.called({ core: { imageClone } })("clone", "foo");
    expect(seen).toEqual([false, false, true]);
    expect(isFree()).toBe(true);
  });

  played("gives up when there is no address left that nobody has", async () => {
    const here = world();
    make(here.store, ["foo"]);
    const cli = here.called({ randomBytes: (count) => new Uint8Array(count) });
    expect(await session(cli, ["clone foo", "clone foo", "list"])).toMatchInlineSnapshot(`
        "$ clone foo
        Cloned from foo to foo-clone1.
        = 0
        $ clone foo
        ! clone failed: Failed to generate an unique mac address after 1000 attempts. Number of mac addresses in use: 2
        = 2
        $ list
        Name                    State             IPv4             Image
        foo                     Stopped           --               Not Available
        foo-clone1              Stopped           --               Not Available
        = 0
        "
      `);
    expect(within(here, "stage")).toEqual([]);
  });

  played("makes nothing of a source that went away after it was counted", async () => {
    const here = world();
    make(here.store, ["foo"]);
    let locks = 0;
    const core: Partial<Native> = {
      storeLock(request, waiting) {
        // The second time, the disk is to be copied.
        if (request.path === "instances/foo/lock" && ++locks === 2) {
          here.store.trash("foo");
        }
        return native.storeLock(request, waiting);
      },
    };
    expect(await here.called({ core })("clone", "foo")).toMatchInlineSnapshot(`
      "! clone failed: instance "foo" is deleted
      = 2"
    `);
    expect(within(here, "instances")).toEqual([]);
    expect(within(here, "stage")).toEqual([]);
  });
});
