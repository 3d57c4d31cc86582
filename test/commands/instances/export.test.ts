// `export`: the disk of an instance, or what it was, as a file of its own.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { beforeEach, describe, expect, test } from "vitest";

import type { Native } from "../../../src/native.ts";
import { Holder } from "../../e2e/support.ts";
import { make, temporary } from "../../state/scene.ts";
import { played } from "../vehicle.ts";
import { cloning } from "./core.ts";
import { session, take, withoutProcess, type World, world } from "./world.ts";

function write(file: string, byte: number): void {
  execFileSync("qemu-io", ["-c", `write -P ${byte} 0 64k`, file], { stdio: "ignore" });
}

/** Whether the disk in a file begins with a block of that byte. */
function reads(file: string, format: "qcow2" | "raw", byte: number): boolean {
  const command = `read -P ${byte} 0 64k`;
  return !execFileSync("qemu-io", ["-r", "-f", format, "-c", command, file], {
    encoding: "utf8",
  }).includes("verification failed");
}

describe("export", () => {
  let here: World;
  let place: string;
  /** What is exported to `FILE` lies in a directory of its own. */
  let cli: World["cli"];

  beforeEach(() => {
    here = world();
    place = temporary();
    make(here.store, ["foo", "gone"]);
    write(here.disk("foo"), 1);
    take(here, "foo", { name: "clean" });
    write(here.disk("foo"), 2);
    here.store.trash("gone");
    cli = at(here.cli);
  });

  function at(program: World["cli"]): World["cli"] {
    return async (...args) => {
      const words = args.map((arg) => arg.replace(/^DIR/, place));
      return (await program(...words)).replaceAll(place, "DIR");
    };
  }

  function file(name: string): string {
    return path.join(place, name);
  }

  test("explains itself", async () => {
    expect(await cli("help", "export")).toMatchInlineSnapshot(`
      "Usage: calque export [options] <instance>[.<snapshot>] <file>
      Write the disk of a stopped instance to a new file, whole and without snapshots.

      Options:
        -h, --help         Displays help on commandline options
        -v, --verbose      Increase logging verbosity. Repeat the 'v' in the short
                           option for more detail. Maximum verbosity is obtained with
                           4 (or more) v's, i.e. -vvvv.
        --format <format>  What the file is to be: qcow2 (default) or raw
        --keep-snapshots   Write the snapshots, too; not in raw

      Arguments:
        instance.snapshot  The instance, or one of its snapshots
        file               The file to make; one that exists is not replaced

      Examples:
        calque export web-1 web-1.qcow2
            The disk as it is now
        calque export web-1.clean disk.img --format raw
            The disk as it was, raw
      = 0"
    `);
  });

  test("writes the disk as it is, or as it was at a snapshot, as qcow2 or raw", async () => {
    expect(
      await session(cli, [
        "export foo DIR/now.qcow2",
        "export foo.clean DIR/then.qcow2",
        "export foo DIR/now.img --format raw",
        "export foo.@1 DIR/then.img --format=raw",
        "export foo DIR/all.qcow2 --keep-snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ export foo DIR/now.qcow2
      Exported foo to DIR/now.qcow2 (reflink, 64.0KiB copied).
      = 0
      $ export foo.clean DIR/then.qcow2
      Exported foo.clean to DIR/then.qcow2 (reflink, 64.0KiB copied).
      = 0
      $ export foo DIR/now.img --format raw
      Exported foo to DIR/now.img (reflink, 64.0KiB copied).
      = 0
      $ export foo.@1 DIR/then.img --format=raw
      Exported foo.@1 to DIR/then.img (reflink, 64.0KiB copied).
      = 0
      $ export foo DIR/all.qcow2 --keep-snapshots
      Exported foo to DIR/all.qcow2 (reflink, 64.0KiB copied).
      = 0
      "
    `);
    expect(reads(file("now.qcow2"), "qcow2", 2)).toBe(true);
    expect(reads(file("then.qcow2"), "qcow2", 1)).toBe(true);
    expect(reads(file("now.img"), "raw", 2)).toBe(true);
    expect(reads(file("then.img"), "raw", 1)).toBe(true);
    const listed = (name: string): string =>
      execFileSync("qemu-img", ["snapshot", "-l", file(name)], { encoding: "utf8" });
    expect(listed("now.qcow2")).toBe("");
    expect(listed("all.qcow2")).toContain("clean");
  });

  test("never replaces a file", async () => {
    writeFileSync(file("there"), "precious");
    mkdirSync(file("directory"));
    expect(
      await session(cli, [
        "export foo DIR/there",
        "export foo DIR/there --format raw",
        "export foo DIR/directory",
        "export foo DIR/none/disk.qcow2",
        "export foo DIR/none/disk.img --format raw",
      ]),
    ).toMatchInlineSnapshot(`
      "$ export foo DIR/there
      ! export failed: Cannot write "DIR/there": File exists
      = 2
      $ export foo DIR/there --format raw
      ! export failed: Cannot write "DIR/there": File exists
      = 2
      $ export foo DIR/directory
      ! export failed: Cannot write "DIR/directory": File exists
      = 2
      $ export foo DIR/none/disk.qcow2
      ! export failed: Cannot write "DIR/none/disk.qcow2": No such file or directory
      = 2
      $ export foo DIR/none/disk.img --format raw
      ! export failed: Cannot write "DIR/none/disk.img": No such file or directory
      = 2
      "
    `);
    expect(readFileSync(file("there"), "utf8")).toBe("precious");
  });

  played("says when it copied what could have been shared", async () => {
    const reason = "ext4 cannot share blocks between files";
    const imageClone = cloning({ strategy: "copy", copiedBytes: 3 << 19, reason });
    const program = at(here.called({ core: { imageClone } }));
    expect(await program("export", "foo", "DIR/copy.qcow2")).toMatchInlineSnapshot(`
      "Exported foo to DIR/copy.qcow2 (copy, 1.5MiB copied).
      ! hint: no blocks are shared: ext4 cannot share blocks between files
      = 0"
    `);
  });

  test("words what is wrong with a line", async () => {
    expect(
      await session(cli, [
        "export",
        "export foo",
        "export foo a b",
        "export foo DIR/a --format vmdk",
        "export foo.clean DIR/a --keep-snapshots",
        "export foo DIR/a --keep-snapshots --format raw",
      ]),
    ).toMatchInlineSnapshot(`
      "$ export
      ! Please provide the name of an instance and a file.
      = 1
      $ export foo
      ! Please provide the name of an instance and a file.
      = 1
      $ export foo a b
      ! Too many arguments supplied.
      = 1
      $ export foo DIR/a --format vmdk
      ! Invalid format 'vmdk': need 'qcow2' or 'raw'
      = 1
      $ export foo.clean DIR/a --keep-snapshots
      ! Cannot use '--keep-snapshots' with a snapshot or with '--format raw'
      = 1
      $ export foo DIR/a --keep-snapshots --format raw
      ! Cannot use '--keep-snapshots' with a snapshot or with '--format raw'
      = 1
      "
    `);
  });

  test("refuses what is not there, not whole or not stopped", async () => {
    make(here.store, ["broken"]);
    rmSync(here.disk("broken"));
    expect(
      await session(cli, [
        "export none DIR/a",
        "export gone DIR/a",
        "export broken DIR/a",
        "export foo.none DIR/a",
        "export foo. DIR/a",
        "export foo.clean.x DIR/a",
      ]),
    ).toMatchInlineSnapshot(`
      "$ export none DIR/a
      ! export failed: instance "none" does not exist
      = 2
      $ export gone DIR/a
      ! export failed: instance "gone" is deleted
      = 2
      $ export broken DIR/a
      ! export failed: instance "broken" is broken: disk.qcow2 is missing
      = 2
      $ export foo.none DIR/a
      ! export failed: No such snapshot: foo.none
      = 2
      $ export foo. DIR/a
      ! export failed: No such snapshot: foo.
      = 2
      $ export foo.clean.x DIR/a
      ! export failed: No such snapshot: foo.clean.x
      = 2
      "
    `);
    await using _ = await Holder.io(here.disk("foo"));
    const lines = ["export foo DIR/a", "export foo.clean DIR/a --format raw"];
    expect(withoutProcess(await session(cli, lines))).toMatchInlineSnapshot(`
      "$ export foo DIR/a
      ! export failed: Calque can only export stopped instances.
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ export foo.clean DIR/a --format raw
      ! export failed: Calque can only export stopped instances.
      ! "foo" is used by qemu-io (process PID)
      = 2
      "
    `);
    const multipass = at(here.called({ argv0: "multipass" }));
    expect(withoutProcess(await multipass("export", "foo", "DIR/a"))).toMatchInlineSnapshot(`
      "! export failed: Multipass can only export stopped instances.
      ! "foo" is used by qemu-io (process PID)
      = 2"
    `);
    expect(existsSync(file("a"))).toBe(false);
  });

  played("names who came between its look and its copy", async () => {
    await using _ = await Holder.io(here.disk("foo"));
    const core: Partial<Native> = {
      imageUsers: ({ paths }) => ({ report: { users: paths.map(() => ({ use: "free" })) } }),
    };
    const program = at(here.called({ core }));
    expect(withoutProcess(await program("export", "foo", "DIR/a"))).toMatchInlineSnapshot(`
      "! export failed: Calque can only export stopped instances.
      ! hint: Is another process using the image [STORE/instances/foo/disk.qcow2]?
      ! hint: It is locked by qemu-io (process PID)
      = 2"
    `);
  });
});
