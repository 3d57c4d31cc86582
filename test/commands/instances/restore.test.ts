// `restore`: Multipass's sentences and its question, and what comes back.

import { execFileSync } from "node:child_process";

import { describe, expect, test } from "vitest";

import type { Native } from "../../../src/native.ts";
import { Holder } from "../../e2e/support.ts";
import { make, native } from "../../state/scene.ts";
import { played } from "../vehicle.ts";
import { failing, FULL } from "./core.ts";
import {
  recordOf,
  session,
  take,
  takeForeign,
  withoutIds,
  withoutProcess,
  type World,
  world,
} from "./world.ts";

/** An instance with the snapshot `clean`, after which it has got more of everything. */
function changedSince(): World {
  const here = world();
  make(here.store, ["foo"]);
  take(here, "foo", { name: "clean" });
  using change = here.store.change("foo");
  change.update({ cpus: 4, memoryBytes: 2 ** 32 });
  change.grow(2 << 20);
  return here;
}

describe("the help of restore", () => {
  test("is Multipass's when it is called so", async () => {
    const { called } = world();
    expect(await called({ argv0: "multipass" })("help", "restore")).toMatchInlineSnapshot(`
      "Usage: multipass restore [options] <instance>.<snapshot>
      Restore a stopped instance to the state of a previously taken snapshot.

      Options:
        -h, --help         Displays help on commandline options
        -v, --verbose      Increase logging verbosity. Repeat the 'v' in the short
                           option for more detail. Maximum verbosity is obtained with
                           4 (or more) v's, i.e. -vvvv.
        -d, --destructive  Discard the current state of the instance

      Arguments:
        instance.snapshot  The instance to restore and snapshot to use, in
                           <instance>.<snapshot> format, where <instance> is the name
                           of an instance, and <snapshot> is the name of a snapshot
      = 0"
    `);
  });
});

describe("restore", () => {
  test("brings back what was there, and says so", async () => {
    const here = changedSince();
    expect(
      await session(here.cli, [
        "get local.foo.cpus",
        "get local.foo.memory",
        "get local.foo.disk",
        "restore foo.clean --destructive",
        "get local.foo.cpus",
        "get local.foo.memory",
        "get local.foo.disk",
        "snapshot foo",
        "list --snapshots",
        "restore -d foo.@1",
      ]),
    ).toMatchInlineSnapshot(`
      "$ get local.foo.cpus
      4
      = 0
      $ get local.foo.memory
      4.0GiB
      = 0
      $ get local.foo.disk
      2.0MiB
      = 0
      $ restore foo.clean --destructive
      Snapshot restored: foo.clean
      = 0
      $ get local.foo.cpus
      1
      = 0
      $ get local.foo.memory
      1.0GiB
      = 0
      $ get local.foo.disk
      1.0MiB
      = 0
      $ snapshot foo
      Snapshot taken: foo.snapshot2
      = 0
      $ list --snapshots
      Instance   Snapshot    Parent   Comment
      foo        clean       --       --
      foo        snapshot2   clean    --
      = 0
      $ restore -d foo.@1
      Snapshot restored: foo.@1
      = 0
      "
    `);
  });

  test("keeps who the instance is, and how many clones it has", async () => {
    const here = changedSince();
    const { cli } = here;
    await cli("clone", "foo");
    const before = recordOf(here, "foo");
    await cli("restore", "--destructive", "foo.clean");
    const { uuid, instanceId, macAddress, createdAt, cloneCount } = recordOf(here, "foo");
    expect(before).toMatchObject({ uuid, instanceId, macAddress, createdAt, cloneCount });
  });

  test("asks, and first takes a snapshot if the answer is yes", async () => {
    const here = changedSince();
    const answer = (...answers: string[]) =>
      here.called({ argv0: "multipass", terminal: true, answers });
    for (const [number, word] of ["yes", "YES", "y", "Y", ""].entries()) {
      expect(await answer(word)("restore", "foo.clean")).toBe(
        `Do you want to take a snapshot of foo before discarding its current state? (Yes/no): ${word}
Snapshot taken: foo.snapshot${number + 2}
Snapshot restored: foo.clean
= 0`,
      );
    }
    expect(await here.cli("list", "--snapshots")).toMatchInlineSnapshot(`
      "Instance   Snapshot    Parent   Comment
      foo        clean       --       --
      foo        snapshot2   clean    Before restoring clean
      foo        snapshot3   clean    Before restoring clean
      foo        snapshot4   clean    Before restoring clean
      foo        snapshot5   clean    Before restoring clean
      foo        snapshot6   clean    Before restoring clean
      = 0"
    `);
    expect(await here.cli("info", "foo.snapshot2")).toMatchInlineSnapshot(`
      "Snapshot:       snapshot2
      Instance:       foo
      CPU(s):         4
      Disk space:     2.0MiB
      Memory size:    4.0GiB
      Mounts:         --
      Created:        Wed Nov 25 11:29:09 2026 UTC
      Parent:         clean
      Children:       --
      Comment:        Before restoring clean
      = 0"
    `);
  });

  test("takes none if the answer is no", async () => {
    const here = changedSince();
    for (const word of ["no", "No", "n", "N"]) {
      expect(await here.called({ terminal: true, answers: [word] })("restore", "foo.clean")).toBe(
        `Do you want to take a snapshot of foo before discarding its current state? (Yes/no): ${word}
Snapshot restored: foo.clean
= 0`,
      );
    }
    expect(await here.cli("list", "--snapshots")).toMatchInlineSnapshot(`
      "Instance   Snapshot   Parent   Comment
      foo        clean      --       --
      = 0"
    `);
  });

  test("asks again until there is an answer, and gives up where there is none", async () => {
    const here = changedSince();
    const answers = ["maybe", " yes", "yes please", "ye", "n"];
    expect(await here.called({ terminal: true, answers })("restore", "foo.clean"))
      .toMatchInlineSnapshot(`
        "Do you want to take a snapshot of foo before discarding its current state? (Yes/no): maybe
        Please answer Yes/no:  yes
        Please answer Yes/no: yes please
        Please answer Yes/no: ye
        Please answer Yes/no: n
        Snapshot restored: foo.clean
        = 0"
      `);
    expect(await here.called({ terminal: true })("restore", "foo.clean")).toMatchInlineSnapshot(`
      "Do you want to take a snapshot of foo before discarding its current state? (Yes/no): ^D
      ! Failed to read value
      = 1"
    `);
    expect(await here.called({ terminal: true, answers: ["?"] })("restore", "foo.clean"))
      .toMatchInlineSnapshot(`
        "Do you want to take a snapshot of foo before discarding its current state? (Yes/no): ?
        Please answer Yes/no: ^D
        ! Failed to read value
        = 1"
      `);
    expect(await here.cli("get", "local.foo.cpus")).toMatchInlineSnapshot(`
      "1
      = 0"
    `);
  });

  test("does nothing where nobody can answer", async () => {
    const here = changedSince();
    const sentence = `! Unable to query client for confirmation. Use '--destructive' to automatically discard current machine state.
= 1`;
    for (const streams of [{}, { typed: true }, { terminal: true, typed: false }]) {
      const cli = here.called({ ...streams, answers: ["yes"] });
      expect(await cli("restore", "foo.clean")).toBe(sentence);
    }
    expect(await here.cli("get", "local.foo.cpus")).toMatchInlineSnapshot(`
      "4
      = 0"
    `);
  });

  test("words what is wrong with a line", async () => {
    const { cli } = world();
    expect(
      await session(cli, [
        "restore",
        "restore foo.a foo.b",
        "restore foo",
        "restore foo.",
        "restore .clean",
        "restore foo.a.b",
        "restore .",
        ["restore", ""],
        "restore foo.a --force",
      ]),
    ).toMatchInlineSnapshot(`
      "$ restore
      ! Need the name of an instance and snapshot to restore.
      = 1
      $ restore foo.a foo.b
      ! Too many arguments supplied.
      = 1
      $ restore foo
      ! Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>.
      = 1
      $ restore foo.
      ! Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>.
      = 1
      $ restore .clean
      ! Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>.
      = 1
      $ restore foo.a.b
      ! Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>.
      = 1
      $ restore .
      ! Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>.
      = 1
      $ restore 
      ! Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>.
      = 1
      $ restore foo.a --force
      ! Unknown option 'force'.
      = 1
      "
    `);
  });

  test("refuses in Multipass's order: the instance, the snapshot, the state, the question", async () => {
    const here = changedSince();
    const { called, cli, store, disk } = here;
    make(store, ["gone"]);
    take(here, "gone", { name: "clean" });
    const id = store.trash("gone");
    await using _ = await Holder.io(disk("foo"));
    const lines = [
      "restore none.clean",
      "restore gone.clean",
      `restore gone@${id}.clean`,
      "restore foo.none",
      "restore foo.clean",
      "restore --destructive foo.none",
      "restore --destructive foo.clean",
    ];
    expect(withoutIds(withoutProcess(await session(cli, lines)))).toMatchInlineSnapshot(`
      "$ restore none.clean
      ! restore failed: instance "none" does not exist
      = 2
      $ restore gone.clean
      ! restore failed: instance "gone" is deleted
      = 2
      $ restore gone@YYYYMMDD-hhmmss-xxxx.clean
      ! restore failed: instance "gone@YYYYMMDD-hhmmss-xxxx" is deleted
      = 2
      $ restore foo.none
      ! restore failed: No such snapshot: foo.none
      = 2
      $ restore foo.clean
      ! restore failed: Calque can only restore snapshots of stopped instances.
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ restore --destructive foo.none
      ! restore failed: No such snapshot: foo.none
      = 2
      $ restore --destructive foo.clean
      ! restore failed: Calque can only restore snapshots of stopped instances.
      ! "foo" is used by qemu-io (process PID)
      = 2
      "
    `);
    const multipass = called({ argv0: "multipass", terminal: true, answers: ["yes"] });
    expect(withoutProcess(await multipass("restore", "foo.clean"))).toMatchInlineSnapshot(`
      "! restore failed: Multipass can only restore snapshots of stopped instances.
      ! "foo" is used by qemu-io (process PID)
      = 2"
    `);
  });

  test("brings back the disk alone of a snapshot that another program took", async () => {
    const here = world();
    const { cli, store, disk } = here;
    make(store, ["foo"]);
    takeForeign(disk("foo"), ["theirs", "twin", "twin", "with.dot"]);
    {
      using change = store.change("foo");
      change.update({ cpus: 4 });
      change.grow(2 << 20);
    }
    expect(
      await session(cli, [
        "restore -d foo.theirs",
        "get local.foo.cpus",
        "get local.foo.disk",
        "restore -d foo.twin",
        "restore -d foo.@3",
        "restore -d foo.with.dot",
        "restore -d foo.@4",
        "restore -d foo.@5",
      ]),
    ).toMatchInlineSnapshot(`
      "$ restore -d foo.theirs
      Snapshot restored: foo.theirs
      = 0
      $ get local.foo.cpus
      4
      = 0
      $ get local.foo.disk
      1.0MiB
      = 0
      $ restore -d foo.twin
      ! restore failed: Several snapshots are called foo.twin: foo.@2, foo.@3
      = 2
      $ restore -d foo.@3
      Snapshot restored: foo.@3
      = 0
      $ restore -d foo.with.dot
      ! Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>.
      = 1
      $ restore -d foo.@4
      Snapshot restored: foo.@4
      = 0
      $ restore -d foo.@5
      ! restore failed: No such snapshot: foo.@5
      = 2
      "
    `);
  });

  test("that was interrupted and overtaken is dropped by the next change, which says so", async () => {
    const here = changedSince();
    here.rewrite("instances/foo/instance.json", (text) => {
      const pending = {
        operation: "restore",
        before: "00".repeat(48),
        after: "11".repeat(48),
        result: { snapshotCount: 1, head: 1, cpus: 7 },
        at: "2026-08-21T21:48:55.123Z",
      };
      return JSON.stringify({ ...(JSON.parse(text) as object), pending });
    });
    expect(await session(here.cli, ["set local.foo.cpus=5", "set local.foo.cpus=6"]))
      .toMatchInlineSnapshot(`
        "$ set local.foo.cpus=5
        ! warning: instance "foo" was changed after an interrupted restore, which is dropped
        = 0
        $ set local.foo.cpus=6
        = 0
        "
      `);
    expect(recordOf(here, "foo").pending).toBeUndefined();
  });

  test("gives up the disk's bitmaps only when it is told to", async () => {
    const here = changedSince();
    execFileSync("qemu-img", ["bitmap", "--add", here.disk("foo"), "b"]);
    const lines = ["restore -d foo.clean", "restore -d --drop-bitmaps foo.clean"];
    expect(await session(here.cli, lines)).toMatchInlineSnapshot(`
      "$ restore -d foo.clean
      ! restore failed: "STORE/instances/foo/disk.qcow2": Device has active dirty bitmaps
      ! hint: \`--drop-bitmaps\` gives them up: the next backup is a full one, and QEMU warns once of them
      = 2
      $ restore -d --drop-bitmaps foo.clean
      Snapshot restored: foo.clean
      = 0
      "
    `);
    const info = execFileSync("qemu-img", ["info", here.disk("foo")], { encoding: "utf8" });
    expect(info).not.toContain("bitmaps:");
    execFileSync("qemu-img", ["check", "-q", here.disk("foo")]);
  });

  played("discards nothing if the snapshot before cannot be taken", async () => {
    const here = changedSince();
    const before = recordOf(here, "foo");
    const core = { snapshotCreate: failing(FULL) };
    const cli = here.called({ terminal: true, answers: ["yes"], core });
    expect(await cli("restore", "foo.clean")).toMatchInlineSnapshot(`
      "Do you want to take a snapshot of foo before discarding its current state? (Yes/no): yes
      ! restore failed: "STORE/instances/foo/disk.qcow2": No space left on device
      = 2"
    `);
    expect(recordOf(here, "foo")).toEqual(before);
  });

  played("keeps the snapshot that it took if the restore itself fails", async () => {
    const here = changedSince();
    const core = { snapshotApply: failing({ code: "io", reason: "Input/output error" }) };
    const cli = here.called({ terminal: true, answers: [""], core });
    expect(await cli("restore", "foo.clean")).toMatchInlineSnapshot(`
      "Do you want to take a snapshot of foo before discarding its current state? (Yes/no): 
      Snapshot taken: foo.snapshot2
      ! restore failed: "STORE/instances/foo/disk.qcow2": Input/output error
      = 2"
    `);
    expect(await here.cli("get", "local.foo.cpus")).toMatchInlineSnapshot(`
      "4
      = 0"
    `);
  });

  played("restores nothing if the snapshot went while the user thought", async () => {
    const here = changedSince();
    let looks = 0;
    const core: Partial<Native> = {
      imageUsers(request) {
        // The first look is before the question.
        if (++looks === 1) {
          execFileSync("qemu-img", ["snapshot", "-d", "clean", here.disk("foo")]);
        }
        return native.imageUsers(request);
      },
    };
    const cli = here.called({ terminal: true, answers: ["yes"], core });
    expect(await cli("restore", "foo.clean")).toMatchInlineSnapshot(`
      "Do you want to take a snapshot of foo before discarding its current state? (Yes/no): yes
      ! restore failed: No such snapshot: foo.clean
      = 2"
    `);
    expect(await here.cli("list", "--snapshots")).toMatchInlineSnapshot(`
      "No snapshots found.
      = 0"
    `);
  });
});
