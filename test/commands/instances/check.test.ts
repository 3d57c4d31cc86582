// `check`: whether the disk of an instance is in order, and how it is put in order; on real images
// with real damage.

import { closeSync, openSync, readSync, writeSync } from "node:fs";

import { expect, test } from "vitest";

import { Holder } from "../../e2e/support.ts";
import { make } from "../../state/scene.ts";
import { app } from "../app.ts";
import { played } from "../vehicle.ts";
import { failing, FULL } from "./core.ts";
import { session, take, withoutProcess, world } from "./world.ts";

/** Sets the reference count of a cluster of an image with counts of 16 bits. */
function count(file: string, cluster: number, value: number): void {
  const fd = openSync(file, "r+");
  const word = Buffer.alloc(8);
  const read = (at: number): number => {
    readSync(fd, word, 0, 8, at);
    return Number(word.readBigUInt64BE());
  };
  const block = read(read(48));
  writeSync(fd, Buffer.from([value >> 8, value & 255]), 0, 2, block + 2 * cluster);
  closeSync(fd);
}

test("check says that the disk of an instance is in order, and writes nothing", async () => {
  const { cli, store } = world();
  make(store, ["web-1"]);
  expect(await session(cli, ["check web-1", "history web-1 --format json"])).toMatchInlineSnapshot(`
    "$ check web-1
    No errors were found on the image.
    Image end offset: 262144
    = 0
    $ history web-1 --format json
    {
        "history": [
            {
                "operation": "create",
                "version": "0.1.0",
                "when": "2026-08-21T21:48:55.123Z"
            }
        ],
        "instance": "web-1"
    }
    = 0
    "
  `);
});

test("check --repair frees what is counted and unused, and the history tells of it", async () => {
  const its = world();
  make(its.store, ["web-1"]);
  take(its, "web-1", { name: "clean" });
  count(its.disk("web-1"), 0, 3);
  expect(
    await session(its.cli, [
      "check web-1",
      "check web-1 --repair leaks",
      "check web-1 -r all",
      "list --snapshots",
      "history web-1",
    ]),
  ).toMatchInlineSnapshot(`
    "$ check web-1

    1 leaked clusters were found on the image.
    This means waste of disk space, but no harm to data.
    Image end offset: 524288
    ! Leaked cluster 0 refcount=3 reference=1
    = 3
    $ check web-1 --repair leaks
    The following inconsistencies were found and repaired:

        1 leaked clusters
        0 corruptions

    Double checking the fixed image now...
    No errors were found on the image.
    Image end offset: 393216
    ! Leaked cluster 0 refcount=3 reference=1
    ! Repairing cluster 0 refcount=3 reference=1
    = 0
    $ check web-1 -r all
    No errors were found on the image.
    Image end offset: 393216
    = 0
    $ list --snapshots
    Instance   Snapshot   Parent   Comment
    web-1      clean      --       --
    = 0
    $ history web-1
    Time                           Version   Operation   Details
    Fri Aug 21 21:48:55 2026 UTC   0.1.0     create
    Fri Aug 21 21:48:55 2026 UTC   0.1.0     snapshot    snapshot: clean, id: 1
    Wed Nov 25 11:29:09 2026 UTC   0.1.0     repair      leaksFixed: 1, corruptionsFixed: 0
    = 0
    "
  `);
});

test("check --repair leaks says that it is not enough where counts are missing", async () => {
  const { cli, store, disk } = world();
  make(store, ["web-1"]);
  count(disk("web-1"), 0, 0);
  expect(
    await session(cli, ["check web-1", "check web-1 --repair leaks", "check web-1 --repair all"]),
  ).toMatchInlineSnapshot(`
    "$ check web-1

    1 errors were found on the image.
    Data may be corrupted, or further writes to the image may corrupt it.
    Image end offset: 262144
    ! ERROR cluster 0 refcount=0 reference=1
    = 2
    $ check web-1 --repair leaks
    ! ERROR cluster 0 refcount=0 reference=1
    ! ERROR need to rebuild refcount structures
    ! check failed: the reference counts have to be made anew
    ! hint: \`calque check web-1 --repair all\` does that
    = 1
    $ check web-1 --repair all
    The following inconsistencies were found and repaired:

        0 leaked clusters
        1 corruptions

    Double checking the fixed image now...
    No errors were found on the image.
    Image end offset: 393216
    ! ERROR cluster 0 refcount=0 reference=1
    ! Rebuilding refcount structure
    ! Repairing cluster 1 refcount=1 reference=0
    ! Repairing cluster 2 refcount=1 reference=0
    = 0
    "
  `);
});

test("check knows instances that live, and whoever names a file is told where that goes", async () => {
  const { cli, store } = world();
  make(store, ["gone"]);
  store.trash("gone");
  expect(await session(cli, ["check none", "check gone", "check gone -r all", "check disk.qcow2"]))
    .toMatchInlineSnapshot(`
    "$ check none
    ! check failed: instance "none" does not exist
    = 1
    $ check gone
    ! check failed: instance "gone" is deleted
    = 1
    $ check gone -r all
    ! check failed: instance "gone" is deleted
    = 1
    $ check disk.qcow2
    ! check failed: instance "disk.qcow2" does not exist
    ! hint: on image files, \`calque image check\`
    = 1
    "
  `);
});

test("check needs one instance, and one of two repairs", async () => {
  const { cli } = world();
  expect(await session(cli, ["check", "check a b", "check a -r some"])).toMatchInlineSnapshot(`
    "$ check
    ! Please provide the name of the instance to check.
    = 1
    $ check a b
    ! Too many arguments supplied.
    = 1
    $ check a -r some
    ! Invalid repair 'some': need 'leaks' or 'all'
    = 1
    "
  `);
});

test("check leaves an instance that runs alone", async () => {
  const { cli, store, disk } = world();
  make(store, ["web-1"]);
  await using _ = await Holder.io(disk("web-1"));
  const lines = ["check web-1", "check web-1 -r all"];
  expect(withoutProcess(await session(cli, lines))).toMatchInlineSnapshot(`
    "$ check web-1
    ! check failed: Calque can only check stopped instances.
    ! hint: Is another process using the image [STORE/instances/web-1/disk.qcow2]?
    ! hint: It is locked by qemu-io (process PID)
    = 1
    $ check web-1 -r all
    ! check failed: Calque can only check stopped instances.
    ! "web-1" is used by qemu-io (process PID)
    = 1
    "
  `);
});

played("check --repair on a full disk leaves it as it was", async () => {
  const { called, store } = world();
  make(store, ["web-1"]);
  const cli = called({ core: { imageRepair: failing(FULL) } });
  expect(await session(cli, ["check web-1 -r all", "history web-1 --format json"]))
    .toMatchInlineSnapshot(`
    "$ check web-1 -r all
    ! check failed: "STORE/instances/web-1/disk.qcow2": No space left on device
    = 1
    $ history web-1 --format json
    {
        "history": [
            {
                "operation": "create",
                "version": "0.1.0",
                "when": "2026-08-21T21:48:55.123Z"
            }
        ],
        "instance": "web-1"
    }
    = 0
    "
  `);
});

test("who calls Multipass is not told of options that it does not have", async () => {
  const help = await app({ argv0: "multipass" })("help", "check");
  expect(help).toContain("Usage: multipass check [options] <instance>");
  expect(help).not.toContain("  -r, --repair");
  expect(await app()("help", "check")).toMatchInlineSnapshot(`
    "Usage: calque check [options] <instance>
    Check the disk of an instance for errors; without --repair, nothing is written.

    A repair changes the disk in one step: whatever interrupts it leaves the disk as
    it was, or repaired. No data is changed. The instance must be stopped.

    The exit status says what was found, after a repair what is left: 0 for no
    errors, 2 for corruptions, 3 for leaked clusters, which waste space and endanger
    nothing. It is 1 where the check was not completed.

    Options:
      -h, --help     Displays help on commandline options
      -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                     for more detail. Maximum verbosity is obtained with 4 (or more)
                     v's, i.e. -vvvv.

    Arguments:
      instance       The name of an instance

    Options that Multipass does not have:
      -r, --repair <what>  Repair leaked clusters (leaks), or everything that can
                           be repaired (all)

    Examples:
      calque check web-1
          Look whether its disk is in order
      calque check web-1 --repair all
          Repair it
    = 0"
  `);
});
