// `import`: files that become instances, and files that do not.

import { execFileSync } from "node:child_process";
import {
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";

import { beforeEach, describe, expect, test } from "vitest";

import type { Native } from "../../../src/native.ts";
import { Holder } from "../../e2e/support.ts";
import { make, native, temporary } from "../../state/scene.ts";
import { played } from "../vehicle.ts";
import { cloning, converting, failing, FULL } from "./core.ts";
import { recordOf, session, within, withoutProcess, type World, world } from "./world.ts";

let here: World;
let place: string;
let cli: World["cli"];

beforeEach(() => {
  here = world();
  place = temporary();
  cli = at(here.cli);
});

/** A program for which files lie in `DIR`. */
function at(program: World["cli"]): World["cli"] {
  return async (...args) => {
    const words = args.map((arg) => arg.replace(/^DIR/, place));
    return (await program(...words)).replaceAll(place, "DIR");
  };
}

function file(name: string): string {
  return path.join(place, name);
}

function qemuImg(...args: string[]): string {
  return execFileSync("qemu-img", args, { cwd: place, encoding: "utf8" });
}

/** Makes an image of a megabyte that begins with a block of that byte. */
function image(name: string, byte: number, ...options: string[]): void {
  qemuImg("create", "-q", "-f", "qcow2", ...options, name, "1M");
  write(name, byte);
}

function write(name: string, byte: number, format = "qcow2"): void {
  const command = `write -P ${byte} 0 64k`;
  execFileSync("qemu-io", ["-f", format, "-c", command, file(name)], { stdio: "ignore" });
}

/** Whether the disk of an instance begins with a block of that byte. */
function reads(instance: string, byte: number, offset = 0): boolean {
  const command = `read -P ${byte} ${offset} 64k`;
  return !execFileSync("qemu-io", ["-r", "-c", command, here.disk(instance)], {
    encoding: "utf8",
  }).includes("verification failed");
}

interface ImageJson {
  "backing-filename"?: string;
  snapshots?: { name: string }[];
  "format-specific": { data: { compat: string } };
}

function info(disk: string): ImageJson {
  return JSON.parse(qemuImg("info", "--output=json", disk)) as ImageJson;
}

describe("import", () => {
  test("explains itself", async () => {
    expect(await cli("help", "import")).toMatchInlineSnapshot(`
      "Usage: calque import [options] <file>
      Make an instance of a disk. The file stays as it is, unless it is to be moved.

      A qcow2 image keeps its snapshots, and becomes version 3 if it is older. What is not
      on the disk does not come along: firmware variables, other disks, how it was run.

      Options:
        -h, --help           Displays help on commandline options
        -v, --verbose        Increase logging verbosity. Repeat the 'v' in the short
                             option for more detail. Maximum verbosity is obtained
                             with 4 (or more) v's, i.e. -vvvv.
        -n, --name <name>    The name of the instance. Default: the name of the file
        --format <format>    What the file is: qcow2 (default) or raw; it is never
                             guessed
        --move               Take the file itself into the store
        --flatten            Open the files that the image is backed by, and take the
                             content of all of them
        -c, --cpus <number>  Number of CPUs to allocate. Minimum: 1, default: 1.
        -m, --memory <size>  Amount of memory to allocate. Minimum: 128M, default:
                             1G.

      Arguments:
        file                 The disk to import

      Examples:
        calque import web-1.qcow2
            An instance called web-1
        calque import disk.img --format raw --name db
            A raw disk
        calque import overlay.qcow2 --flatten
            An image with backing files, made whole
      = 0"
    `);
  });

  test("makes an instance of an image, with its snapshots, and leaves the file as it is", async () => {
    image("web-1.qcow2", 1);
    qemuImg("snapshot", "-c", "installed", "web-1.qcow2");
    write("web-1.qcow2", 2);
    const before = readFileSync(file("web-1.qcow2"));
    expect(
      await session(cli, [
        "import DIR/web-1.qcow2",
        "import DIR/web-1.qcow2 --name db -c 2 -m 4G",
        "list",
        "list --snapshots",
        "get local.db.cpus",
        "get local.db.memory",
        "restore -d db.installed",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import DIR/web-1.qcow2
      Imported: web-1
      = 0
      $ import DIR/web-1.qcow2 --name db -c 2 -m 4G
      Imported: db
      = 0
      $ list
      Name                    State             IPv4             Image
      db                      Stopped           --               Not Available
      web-1                   Stopped           --               Not Available
      = 0
      $ list --snapshots
      Instance   Snapshot    Parent   Comment
      db         installed   --       --
      web-1      installed   --       --
      = 0
      $ get local.db.cpus
      2
      = 0
      $ get local.db.memory
      4.0GiB
      = 0
      $ restore -d db.installed
      Snapshot restored: db.installed
      = 0
      "
    `);
    expect(readFileSync(file("web-1.qcow2")).equals(before)).toBe(true);
    expect(reads("web-1", 2)).toBe(true);
    expect(reads("db", 1)).toBe(true);
    expect(recordOf(here, "web-1").origin).toEqual({
      kind: "import",
      source: file("web-1.qcow2"),
    });
    expect(recordOf(here, "web-1")).toMatchObject({ cpus: 1, memoryBytes: 2 ** 30 });
  });

  test.each([
    ["web-1.qcow2", "web-1"],
    ["Web.QCOW2", "Web"],
    ["db.img", "db"],
    ["db.raw", "db"],
    ["plain", "plain"],
  ])("calls an instance after %j", async (name, instance) => {
    image(name, 1);
    expect(await cli("import", file(name))).toBe(`Imported: ${instance}\n= 0`);
  });

  test.each([
    "ubuntu-24.04.qcow2",
    "my disk.qcow2",
    ".qcow2",
    "1.qcow2",
    "disk.vmdk",
    "web-.img",
    "web@20260821-214855-0000.qcow2",
    `${"a".repeat(64)}.img`,
    "wéb.qcow2",
  ])("does not make a name up for %j", async (name) => {
    image(name, 1);
    expect(await cli("import", "--", file(name))).toBe(
      `! import failed: Cannot import "DIR/${name}": no instance can have the name of this file
! hint: give it a name with \`--name\`
= 2`,
    );
    expect(await cli("import", "--name", "named", file(name))).toBe("Imported: named\n= 0");
  });

  test("reads a raw disk if it is told so, and never guesses", async () => {
    qemuImg("create", "-q", "-f", "raw", "disk.img", "1M");
    write("disk.img", 7, "raw");
    writeFileSync(file("odd.img"), Buffer.alloc(70_001, 9));
    // Whoever says raw means raw: what looks like an image is the content of the disk then.
    image("inner.qcow2", 1);
    expect(
      await session(cli, [
        "import DIR/disk.img",
        "import DIR/disk.img --format raw",
        "import DIR/disk.img --format=qcow2 --name other",
        "import DIR/disk.img --format raw --flatten --name flat",
        "import DIR/odd.img --format raw",
        "get --bytes local.odd.disk",
        "import DIR/inner.qcow2 --format raw",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import DIR/disk.img
      ! import failed: Cannot import "DIR/disk.img": it is not qcow2
      ! hint: add \`--format raw\` if it is a raw disk
      = 2
      $ import DIR/disk.img --format raw
      Imported: disk
      = 0
      $ import DIR/disk.img --format=qcow2 --name other
      ! import failed: Cannot import "DIR/disk.img": it is not qcow2
      ! hint: add \`--format raw\` if it is a raw disk
      = 2
      $ import DIR/disk.img --format raw --flatten --name flat
      Imported: flat
      = 0
      $ import DIR/odd.img --format raw
      Imported: odd
      = 0
      $ get --bytes local.odd.disk
      70144
      = 0
      $ import DIR/inner.qcow2 --format raw
      Imported: inner
      = 0
      "
    `);
    expect(reads("disk", 7)).toBe(true);
    expect(reads("odd", 9)).toBe(true);
    expect(info(here.disk("disk"))["format-specific"].data.compat).toBe("1.1");
    qemuImg("convert", "-f", "qcow2", "-O", "raw", here.disk("inner"), "content.img");
    expect(readFileSync(file("content.img"), "latin1").slice(0, 4)).toBe("QFI\u00fb");
  });

  test("refuses an image with a backing file, and names the way out", async () => {
    image("base.qcow2", 1);
    execFileSync("qemu-io", ["-c", "write -P 5 128k 64k", file("base.qcow2")], { stdio: "ignore" });
    const options = ["-b", "base.qcow2", "-F", "qcow2"];
    qemuImg("create", "-q", "-f", "qcow2", ...options, "over.qcow2");
    write("over.qcow2", 2);
    expect(
      await session(cli, [
        "import DIR/over.qcow2",
        "import DIR/over.qcow2 --move",
        "list",
        "import DIR/over.qcow2 --flatten",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import DIR/over.qcow2
      ! import failed: Cannot import "DIR/over.qcow2": it is backed by "base.qcow2"
      ! hint: \`--flatten\` opens that file, and those behind it, and takes all of them
      = 2
      $ import DIR/over.qcow2 --move
      ! import failed: Cannot import "DIR/over.qcow2": it is backed by "base.qcow2"
      ! hint: \`--flatten\` opens that file, and those behind it, and takes all of them
      = 2
      $ list
      No instances found.
      = 0
      $ import DIR/over.qcow2 --flatten
      Imported: over
      ! hint: it was made of DIR/over.qcow2, DIR/base.qcow2
      = 0
      "
    `);
    expect(info(here.disk("over"))["backing-filename"]).toBeUndefined();
    expect(reads("over", 2)).toBe(true);
    expect(reads("over", 5, 128 << 10)).toBe(true);
    expect(readdirSync(place).toSorted()).toEqual(["base.qcow2", "over.qcow2"]);
  });

  test("says which snapshots flattening leaves behind, and does not lose them", async () => {
    image("base.qcow2", 1);
    qemuImg("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "over.qcow2");
    qemuImg("snapshot", "-c", "one", "over.qcow2");
    qemuImg("snapshot", "-c", "two", "over.qcow2");
    // Without a backing file there is nothing to flatten.
    qemuImg("snapshot", "-c", "kept", "base.qcow2");
    expect(
      await session(cli, [
        "import DIR/over.qcow2 --flatten --move",
        "import DIR/over.qcow2 --flatten",
        "import DIR/base.qcow2 --flatten",
        "list --snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import DIR/over.qcow2 --flatten --move
      ! import failed: Cannot import "DIR/over.qcow2": its snapshots (2) would be lost; without \`--move\` they stay in the file
      = 2
      $ import DIR/over.qcow2 --flatten
      Imported: over
      ! hint: it was made of DIR/over.qcow2, DIR/base.qcow2
      ! hint: the snapshots of the file (2) do not come along
      = 0
      $ import DIR/base.qcow2 --flatten
      Imported: base
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      base       kept       --       --
      = 0
      "
    `);
    expect(info(file("over.qcow2")).snapshots).toHaveLength(2);
  });

  test("refuses a chain that ends in the wrong format, or nowhere, or in a circle", async () => {
    qemuImg("create", "-q", "-f", "raw", "raw.img", "1M");
    image("over.qcow2", 1);
    const rebase = (backing: string): void => {
      qemuImg("rebase", "-u", "-f", "qcow2", "-b", backing, "-F", "qcow2", "over.qcow2");
    };
    const answers = [];
    for (const backing of ["raw.img", "missing.qcow2", "over.qcow2"]) {
      rebase(backing);
      answers.push(await cli("import", "DIR/over.qcow2", "--flatten"));
    }
    expect(answers.join("\n")).toMatchInlineSnapshot(`
      "! import failed: Cannot import "DIR/over.qcow2": "DIR/raw.img": Image is not in qcow2 format
      = 2
      ! import failed: Cannot import "DIR/over.qcow2": "DIR/missing.qcow2": No such file or directory
      = 2
      ! import failed: Cannot import "DIR/over.qcow2": the chain of backing files comes back to this file
      = 2"
    `);
    expect(within(here, "stage")).toEqual([]);
  });

  test("makes version 3 of an older image", async () => {
    image("old.qcow2", 1, "-o", "compat=0.10");
    qemuImg("snapshot", "-c", "one", "old.qcow2");
    expect(
      await session(cli, ["import DIR/old.qcow2", "set local.old.disk=2M", "list --snapshots"]),
    ).toMatchInlineSnapshot(`
      "$ import DIR/old.qcow2
      Imported: old
      ! hint: the file is of version 2, and the image of the instance of version 3
      = 0
      $ set local.old.disk=2M
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      old        one        --       --
      = 0
      "
    `);
    expect(info(here.disk("old"))["format-specific"].data.compat).toBe("1.1");
    expect(info(file("old.qcow2"))["format-specific"].data.compat).toBe("0.10");
    expect(reads("old", 1)).toBe(true);
  });

  test("refuses what is no file, no image, or not to be read", async () => {
    mkdirSync(file("directory"));
    execFileSync("mkfifo", [file("pipe")]);
    writeFileSync(file("empty"), "");
    writeFileSync(file("text"), "not a disk");
    symlinkSync("nowhere", file("dangling"));
    image("whole.qcow2", 1);
    writeFileSync(file("short.qcow2"), readFileSync(file("whole.qcow2")).subarray(0, 70));
    expect(
      await session(cli, [
        "import DIR/missing",
        "import DIR/missing --format raw",
        "import DIR/missing --move",
        "import DIR/missing/disk",
        "import DIR/directory",
        "import DIR/directory --format raw",
        "import DIR/directory --move",
        "import DIR/pipe",
        "import DIR/pipe --format raw",
        "import DIR/empty",
        "import DIR/text",
        "import DIR/dangling",
        "import DIR/short.qcow2 --name short",
        "import /dev/null --name null",
        ["import", ""],
      ]),
    ).toMatchInlineSnapshot(`
      "$ import DIR/missing
      ! import failed: Cannot import "DIR/missing": No such file or directory
      = 2
      $ import DIR/missing --format raw
      ! import failed: Cannot import "DIR/missing": No such file or directory
      = 2
      $ import DIR/missing --move
      ! import failed: Cannot import "DIR/missing": No such file or directory
      = 2
      $ import DIR/missing/disk
      ! import failed: Cannot import "DIR/missing/disk": No such file or directory
      = 2
      $ import DIR/directory
      ! import failed: Cannot import "DIR/directory": 'file' driver requires 'DIR/directory' to be a regular file
      = 2
      $ import DIR/directory --format raw
      ! import failed: Cannot import "DIR/directory": 'file' driver requires 'DIR/directory' to be a regular file
      = 2
      $ import DIR/directory --move
      ! import failed: Cannot import "DIR/directory": not a regular file
      = 2
      $ import DIR/pipe
      ! import failed: Cannot import "DIR/pipe": 'file' driver requires 'DIR/pipe' to be a regular file
      = 2
      $ import DIR/pipe --format raw
      ! import failed: Cannot import "DIR/pipe": 'file' driver requires 'DIR/pipe' to be a regular file
      = 2
      $ import DIR/empty
      ! import failed: Cannot import "DIR/empty": it is not qcow2
      ! hint: add \`--format raw\` if it is a raw disk
      = 2
      $ import DIR/text
      ! import failed: Cannot import "DIR/text": it is not qcow2
      ! hint: add \`--format raw\` if it is a raw disk
      = 2
      $ import DIR/dangling
      ! import failed: Cannot import "DIR/dangling": No such file or directory
      = 2
      $ import DIR/short.qcow2 --name short
      ! import failed: Cannot import "DIR/short.qcow2": qcow2 header too short
      = 2
      $ import /dev/null --name null
      ! import failed: Cannot import "/dev/null": 'file' driver requires '/dev/null' to be a regular file
      = 2
      $ import 
      ! import failed: Cannot import "": no instance can have the name of this file
      ! hint: give it a name with \`--name\`
      = 2
      "
    `);
    expect([within(here, "instances"), within(here, "stage")]).toEqual([[], []]);
  });

  test("refuses an image that is marked as damaged, also to move it", async () => {
    image("dirty.qcow2", 1);
    const bytes = readFileSync(file("dirty.qcow2"));
    // The incompatible features `dirty` and `corrupt`.
    for (const [name, bit] of [
      ["dirty", 1],
      ["corrupt", 2],
    ] as const) {
      bytes.writeBigUInt64BE(BigInt(bit), 72);
      writeFileSync(file(`${name}.qcow2`), bytes);
    }
    expect(
      await session(cli, [
        "import DIR/dirty.qcow2",
        "import DIR/dirty.qcow2 --move --name moved",
        "import DIR/corrupt.qcow2",
        "import DIR/corrupt.qcow2 --move",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import DIR/dirty.qcow2
      ! import failed: Cannot import "DIR/dirty.qcow2": the image is marked dirty: its reference counts may be stale
      ! hint: repair it first, for example with \`calque image check -r all\`
      = 2
      $ import DIR/dirty.qcow2 --move --name moved
      ! import failed: Cannot import "DIR/dirty.qcow2": the image is marked dirty: its reference counts may be stale
      ! hint: repair it first, for example with \`calque image check -r all\`
      = 2
      $ import DIR/corrupt.qcow2
      ! import failed: Cannot import "DIR/corrupt.qcow2": the image is marked corrupt
      ! hint: a clone would carry the damage; repair it first, for example with \`calque image check -r all\`
      = 2
      $ import DIR/corrupt.qcow2 --move
      ! import failed: Cannot import "DIR/corrupt.qcow2": the image is marked corrupt
      ! hint: a clone would carry the damage; repair it first, for example with \`calque image check -r all\`
      = 2
      "
    `);
  });

  test("refuses an image in use, and names who has it", async () => {
    image("disk.qcow2", 1);
    qemuImg("create", "-q", "-f", "raw", "disk.img", "1M");
    await using holders = new AsyncDisposableStack();
    holders.use(await Holder.io(file("disk.qcow2")));
    holders.use(await Holder.io(file("disk.img"), "-f", "raw"));
    const lines = [
      "import DIR/disk.qcow2",
      "import DIR/disk.qcow2 --move",
      "import DIR/disk.img --format raw",
    ];
    expect(withoutProcess(await session(cli, lines))).toMatchInlineSnapshot(`
      "$ import DIR/disk.qcow2
      ! import failed: Cannot import "DIR/disk.qcow2": Failed to get shared "write" lock
      ! hint: Is another process using the image [DIR/disk.qcow2]?
      ! hint: It is locked by qemu-io (process PID)
      = 2
      $ import DIR/disk.qcow2 --move
      ! import failed: Cannot import "DIR/disk.qcow2": Failed to get shared "write" lock
      ! hint: Is another process using the image [DIR/disk.qcow2]?
      ! hint: It is locked by qemu-io (process PID)
      = 2
      $ import DIR/disk.img --format raw
      ! import failed: Cannot import "DIR/disk.img": Failed to get shared "write" lock
      ! hint: Is another process using the image [DIR/disk.img]?
      ! hint: It is locked by qemu-io (process PID)
      = 2
      "
    `);
    expect(existsSync(file("disk.qcow2"))).toBe(true);
  });

  test("refuses names that nobody can have, or that somebody has", async () => {
    image("disk.qcow2", 1);
    make(here.store, ["disk", "gone"]);
    here.store.trash("gone");
    using _ = here.store.reserve(["busy"]);
    expect(
      await session(cli, [
        "import DIR/disk.qcow2",
        "import DIR/disk.qcow2 -n busy",
        "import DIR/disk.qcow2 --name _",
        "import DIR/disk.qcow2 --name=",
        "import DIR/disk.qcow2 --name gone",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import DIR/disk.qcow2
      ! import failed: instance "disk" already exists
      = 2
      $ import DIR/disk.qcow2 -n busy
      ! import failed: instance "busy" is being prepared
      = 2
      $ import DIR/disk.qcow2 --name _
      ! import failed: Invalid instance name: _
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ import DIR/disk.qcow2 --name=
      ! import failed: Invalid instance name: 
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ import DIR/disk.qcow2 --name gone
      Imported: gone
      = 0
      "
    `);
  });

  test("words what is wrong with a line", async () => {
    expect(
      await session(cli, [
        "import",
        "import a b",
        "import a --format vmdk",
        "import a --cpus 0",
        "import a --memory 1",
        "import a --purge",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import
      ! Please provide the file to import.
      = 1
      $ import a b
      ! Too many arguments supplied.
      = 1
      $ import a --format vmdk
      ! Invalid format 'vmdk': need 'qcow2' or 'raw'
      = 1
      $ import a --cpus 0
      ! Error: invalid CPU count '0', need a positive integer value.
      = 1
      $ import a --memory 1
      ! Invalid memory size value supplied: 1.
      = 1
      $ import a --purge
      ! Unknown option 'purge'.
      = 1
      "
    `);
  });

  played("says what it waits for, how far it is, and that it had to copy", async () => {
    image("disk.qcow2", 1);
    const imageClone = cloning(
      { strategy: "copy", copiedBytes: 3 << 19, reason: "it lies on another file system" },
      { copiedBytes: 0, totalBytes: 0, waitingFor: "calque (process 4711)" },
    );
    const imageConvert = converting(
      { strategy: "copy", copiedBytes: 1 << 20 },
      { doneBytes: 1 << 19, totalBytes: 1 << 20 },
    );
    const program = at(here.called({ core: { imageClone } }));
    expect(await program("import", "DIR/disk.qcow2")).toMatchInlineSnapshot(`
      "Imported: disk
      ! Waiting for calque (process 4711) to finish with "DIR/disk.qcow2"
      ! hint: 1.5MiB copied, not shared: it lies on another file system
      = 0"
    `);
    const shown = at(here.called({ terminal: true, core: { imageConvert } }));
    const text = await shown("import", "DIR/disk.qcow2", "--format", "raw", "--name", "raw");
    expect(text).toContain("Copying: 512.0KiB of 1.0MiB, 50 %");
  });

  played("leaves nothing behind when the disk cannot be copied", async () => {
    image("disk.qcow2", 1);
    const program = at(here.called({ core: { imageClone: failing(FULL) } }));
    expect(await program("import", "DIR/disk.qcow2")).toMatchInlineSnapshot(`
      "! import failed: Cannot import "DIR/disk.qcow2": No space left on device
      = 2"
    `);
    expect([within(here, "instances"), within(here, "stage")]).toEqual([[], []]);
    expect(readdirSync(place)).toEqual(["disk.qcow2"]);
  });
});

describe("import --move", () => {
  test("takes the file itself", async () => {
    image("disk.qcow2", 1);
    qemuImg("snapshot", "-c", "one", "disk.qcow2");
    const { ino } = statSync(file("disk.qcow2"));
    expect(await session(cli, ["import DIR/disk.qcow2 --move", "list --snapshots", "history disk"]))
      .toMatchInlineSnapshot(`
        "$ import DIR/disk.qcow2 --move
        Imported: disk
        = 0
        $ list --snapshots
        Instance   Snapshot   Parent   Comment
        disk       one        --       --
        = 0
        $ history disk
        Time                           Version   Operation   Details
        Wed Nov 25 11:29:09 2026 UTC   0.1.0     import      file: DIR/disk.qcow2, how: link, copiedBytes: 0
        = 0
        "
      `);
    expect(readdirSync(place)).toEqual([]);
    const moved = statSync(here.disk("disk"));
    expect([moved.ino, moved.nlink]).toEqual([ino, 1]);
    expect(reads("disk", 1)).toBe(true);
  });

  test("copies what cannot be taken as it is, and then removes the file", async () => {
    image("old.qcow2", 1, "-o", "compat=0.10");
    qemuImg("create", "-q", "-f", "raw", "disk.img", "1M");
    write("disk.img", 2, "raw");
    image("base.qcow2", 3);
    qemuImg("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "over.qcow2");
    expect(
      await session(cli, [
        "import --move DIR/old.qcow2",
        "import --move DIR/disk.img --format raw",
        "import --move DIR/over.qcow2 --flatten",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import --move DIR/old.qcow2
      Imported: old
      ! hint: the file is of version 2, and the image of the instance of version 3
      = 0
      $ import --move DIR/disk.img --format raw
      Imported: disk
      = 0
      $ import --move DIR/over.qcow2 --flatten
      Imported: over
      ! hint: it was made of DIR/over.qcow2, DIR/base.qcow2
      = 0
      "
    `);
    // What an image is backed by is still somebody else's.
    expect(readdirSync(place)).toEqual(["base.qcow2"]);
    expect([reads("old", 1), reads("disk", 2), reads("over", 3)]).toEqual([true, true, true]);
  });

  played("copies what lies on another file system, and then removes the file", async () => {
    image("far.qcow2", 4);
    const storeLink = failing({ code: "cannot-share", reason: "Invalid cross-device link" });
    const program = at(here.called({ core: { storeLink } }));
    expect(await program("import", "--move", "DIR/far.qcow2")).toMatchInlineSnapshot(`
      "Imported: far
      = 0"
    `);
    expect(readdirSync(place)).toEqual([]);
    expect(reads("far", 4)).toBe(true);
  });

  test("through a symbolic link takes the file that it leads to", async () => {
    image("real.qcow2", 1);
    symlinkSync("real.qcow2", file("link.qcow2"));
    expect(await cli("import", "--move", "DIR/link.qcow2")).toMatchInlineSnapshot(`
      "Imported: link
      = 0"
    `);
    expect(readdirSync(place)).toEqual(["link.qcow2"]);
    expect(statSync(here.disk("link")).isFile()).toBe(true);
  });

  test("leaves a disk of the store where it is", async () => {
    make(here.store, ["foo"]);
    symlinkSync(here.disk("foo"), file("link.qcow2"));
    const lines = [
      `import --move ${here.disk("foo")} --name bar`,
      "import --move DIR/link.qcow2 --name bar",
      `import ${here.disk("foo")} --name bar`,
    ];
    expect((await session(cli, lines)).replaceAll(here.root, "STORE")).toMatchInlineSnapshot(`
      "$ import --move STORE/instances/foo/disk.qcow2 --name bar
      ! import failed: Cannot import "STORE/instances/foo/disk.qcow2": it is in the store already, and stays where it is
      = 2
      $ import --move DIR/link.qcow2 --name bar
      ! import failed: Cannot import "DIR/link.qcow2": it is in the store already, and stays where it is
      = 2
      $ import STORE/instances/foo/disk.qcow2 --name bar
      Imported: bar
      = 0
      "
    `);
    expect(existsSync(here.disk("foo"))).toBe(true);
  });

  played("makes no instance if the file cannot be taken", async () => {
    image("disk.qcow2", 1);
    const storeLink = failing({ code: "not-ours", reason: "it belongs to another user" });
    const program = at(here.called({ core: { storeLink } }));
    expect(await program("import", "--move", "DIR/disk.qcow2")).toMatchInlineSnapshot(`
      "! import failed: Cannot import "DIR/disk.qcow2": it belongs to another user
      = 2"
    `);
    expect(readdirSync(place)).toEqual(["disk.qcow2"]);
    expect(within(here, "instances")).toEqual([]);
  });

  test("copies a file that has other names, so that nobody writes to the instance by those", async () => {
    image("disk.qcow2", 1);
    linkSync(file("disk.qcow2"), file("other.qcow2"));
    expect(await cli("import", "--move", "DIR/disk.qcow2")).toMatchInlineSnapshot(`
      "Imported: disk
      = 0"
    `);
    expect(readdirSync(place)).toEqual(["other.qcow2"]);
    expect(statSync(here.disk("disk")).nlink).toBe(1);
    write("other.qcow2", 2);
    expect(reads("disk", 1)).toBe(true);
  });

  test("that was interrupted before its end is ended by the same command again", async () => {
    image("disk.qcow2", 1);
    // The name outside is there again, as if it had never gone.
    await cli("import", "--move", "DIR/disk.qcow2");
    linkSync(here.disk("disk"), file("disk.qcow2"));
    expect(
      await session(cli, [
        "list",
        "info --snapshots disk",
        "set local.disk.cpus=2",
        "import DIR/disk.qcow2",
        "import --move DIR/disk.qcow2",
        "set local.disk.cpus=3",
        "list",
      ]),
    ).toMatchInlineSnapshot(`
      "$ list
      Name                    State             IPv4             Image
      disk                    Stopped           --               Not Available
      ! warning: the disk of instance "disk" has another name too: remove that one, before somebody writes to it
      = 0
      $ info --snapshots disk
      No snapshots found.
      ! warning: the disk of instance "disk" has another name too: remove that one, before somebody writes to it
      = 0
      $ set local.disk.cpus=2
      ! warning: the disk of instance "disk" has another name too: remove that one, before somebody writes to it
      = 0
      $ import DIR/disk.qcow2
      ! import failed: instance "disk" already exists
      = 2
      $ import --move DIR/disk.qcow2
      Imported: disk
      = 0
      $ set local.disk.cpus=3
      = 0
      $ list
      Name                    State             IPv4             Image
      disk                    Stopped           --               Not Available
      = 0
      "
    `);
    expect(readdirSync(place)).toEqual([]);
    expect(statSync(here.disk("disk")).nlink).toBe(1);
    expect(reads("disk", 1)).toBe(true);
  });

  test("takes no other file for the one that is in the store already", async () => {
    image("disk.qcow2", 1);
    await cli("import", "--move", "DIR/disk.qcow2");
    linkSync(here.disk("disk"), file("backup.qcow2"));
    image("disk.qcow2", 2);
    expect(
      await session(cli, [
        "import --move DIR/disk.qcow2",
        "import --move DIR/missing.qcow2 --name disk",
      ]),
    ).toMatchInlineSnapshot(`
      "$ import --move DIR/disk.qcow2
      ! import failed: instance "disk" already exists
      = 2
      $ import --move DIR/missing.qcow2 --name disk
      ! import failed: instance "disk" already exists
      = 2
      "
    `);
    const own = here.disk("disk");
    expect(await cli("import", "--move", own, "--name", "disk")).toMatchInlineSnapshot(`
      "! import failed: Cannot import "STORE/instances/disk/disk.qcow2": it is in the store already, and stays where it is
      = 2"
    `);
    expect(readdirSync(place)).toEqual(["backup.qcow2", "disk.qcow2"]);
    expect(statSync(here.disk("disk")).nlink).toBe(2);
  });

  played("keeps a file that somebody wrote to meanwhile, and says so", async () => {
    image("disk.qcow2", 1);
    const core: Partial<Native> = {
      fileRemove(request) {
        utimesSync(request.path, 1, 1);
        return native.fileRemove(request);
      },
    };
    const program = at(here.called({ core }));
    expect(await program("import", "--move", "DIR/disk.qcow2")).toMatchInlineSnapshot(`
      "Imported: disk
      ! warning: "DIR/disk.qcow2" was imported, but not removed: it has changed meanwhile
      ! hint: the instance and "DIR/disk.qcow2" may be one file: what is written to one is written to both
      = 0"
    `);
    expect(readdirSync(place)).toEqual(["disk.qcow2"]);
  });

  test("keeps a file that somebody uses, and names who", async () => {
    qemuImg("create", "-q", "-f", "raw", "disk.img", "1M");
    await using _ = await Holder.io(file("disk.img"), "-r", "-f", "raw");
    const said = await cli("import", "--move", "DIR/disk.img", "--format", "raw");
    expect(withoutProcess(said)).toMatchInlineSnapshot(`
      "Imported: disk
      ! warning: "DIR/disk.img" was imported, but not removed: Failed to get shared "consistent read" lock
      ! hint: Is another process using the image [DIR/disk.img]?
      ! hint: It is locked by qemu-io (process PID)
      = 0"
    `);
    expect(readdirSync(place)).toEqual(["disk.img"]);
  });
});
