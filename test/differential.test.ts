// The executable against the qemu-img of this machine, on images that qemu-img made: standard
// output and exit status are the same, and standard error is qemu-img's after our `error: `.
// Lines of ours that begin with `hint: ` are extra. What differs on purpose stands in a table of
// its own at the end, and for users in docs/qemu-img.md.
//
// CALQUE names another program to compare, as one word.

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { afterAll, describe, expect, test } from "vitest";

const calque = path.resolve(process.env.CALQUE ?? "dist/calque");
const directory = mkdtempSync(path.join(os.tmpdir(), "calque-differential-"));
const scene = path.join(directory, "scene");
// So that dates show whether both know the time zone.
const env = { PATH: process.env.PATH ?? "", TZ: "America/St_Johns" };

afterAll(() => rmSync(directory, { recursive: true, force: true }));

// The scene: images as they occur, and images that are broken in one place each.

mkdirSync(path.join(scene, "sub"), { recursive: true });

function make(...args: string[]): void {
  execFileSync("qemu-img", args, { cwd: scene, env });
}

function create(file: string, options: string, ...more: string[]): void {
  make("create", "-q", "-f", "qcow2", ...(options ? ["-o", options] : []), ...more, file);
}

function write(file: string, ...commands: string[]): void {
  const list = commands.flatMap((command) => ["-c", command]);
  execFileSync("qemu-io", [...list, file], { cwd: scene, env, stdio: "ignore" });
}

/** An image of 1 MiB with two clusters of data and the snapshot `one`. */
function ordinary(file: string, options = ""): void {
  create(file, options ? `${options},size=1M` : "size=1M");
  write(file, "write -P 1 0 128k");
  make("snapshot", "-c", "one", file);
}

/** Changes an image in place. */
function patch(file: string, change: (image: Patch) => void): void {
  const fd = openSync(path.join(scene, file), "r+");
  try {
    change(new Patch(fd));
  } finally {
    closeSync(fd);
  }
}

class Patch {
  readonly #fd: number;
  constructor(fd: number) {
    this.#fd = fd;
  }
  read(offset: number, bytes: 4 | 8): number {
    const buffer = Buffer.alloc(8);
    readSync(this.#fd, buffer, 8 - bytes, bytes, offset);
    return Number(buffer.readBigUInt64BE());
  }
  set(offset: number, bytes: 1 | 2 | 4 | 8, value: number | bigint): void {
    const buffer = Buffer.alloc(8);
    buffer.writeBigUInt64BE(BigInt(value));
    writeSync(this.#fd, buffer, 8 - bytes, bytes, offset);
  }
  get l1(): number {
    return this.read(40, 8);
  }
  get l2(): number {
    return this.read(this.l1, 8) % 2 ** 56;
  }
  get refcountBlock(): number {
    return this.read(this.read(48, 8), 8);
  }
  get snapshots(): number {
    return this.read(64, 8);
  }
  setRefcount(cluster: number, value: number): void {
    this.set(this.refcountBlock + 2 * cluster, 2, value);
  }
}

ordinary("ordinary.qcow2");
create("empty.qcow2", "size=0");
create("tiny.qcow2", "size=1");
create("odd-size.qcow2", "size=1023488");
create("terabyte.qcow2", "size=1T,cluster_size=2M");
ordinary("old.qcow2", "compat=0.10");
ordinary("sector-clusters.qcow2", "cluster_size=512");
ordinary("wide-refcounts.qcow2", "refcount_bits=64");
ordinary("narrow-refcounts.qcow2", "refcount_bits=2");
ordinary("lazy-zstd.qcow2", "lazy_refcounts=on,compression_type=zstd");
create("fragmented.qcow2", "size=4M");
write("fragmented.qcow2", ...[60, 40, 0, 10, 30].map((at) => `write ${at}0k 64k`));
write("fragmented.qcow2", "write -c 3M 64k", "write -z 2M 128k");
make("convert", "-c", "-O", "qcow2", "fragmented.qcow2", "compressed.qcow2");

ordinary("names.qcow2");
for (const name of [
  "1",
  "a name of more than sixteen characters",
  "tab\tand \u001b[2J",
  "\u00e9t\u00e9",
]) {
  make("snapshot", "-c", name, "names.qcow2");
}
// Names that are no UTF-8 cannot be given to a program from here.
patch("names.qcow2", (image) => image.set(image.snapshots + 40 + 24 + 1, 1, 0xff));

ordinary("machine-state.qcow2");
patch("machine-state.qcow2", (image) => {
  const entry = image.snapshots;
  image.set(entry + 16, 4, 0xffff_ffff); // date
  image.set(entry + 24, 8, 44_442_059_999_999_999n); // clock
  image.set(entry + 40, 8, 123_456_789_012); // machine state
  image.set(entry + 56, 8, 0xffff_ffff_ffff_ffffn); // icount: none
});

create("base.qcow2", "size=1M");
create("sub/base.qcow2", "size=1M");
create("sub/overlay.qcow2", "", "-b", "base.qcow2", "-F", "qcow2");
create("overlay.qcow2", "", "-b", "sub/base.qcow2", "-F", "qcow2");
create("orphan.qcow2", "size=1M", "-u", "-b", "/gone/base.raw", "-F", "raw");
create("remote.qcow2", "size=1M", "-u", "-b", "nbd://host/x", "-F", "raw");
ordinary("bitmaps.qcow2");
make("bitmap", "--add", "bitmaps.qcow2", "b0");
make("bitmap", "--add", "--disable", "-g", "4096", "bitmaps.qcow2", "b1");
create("data-file.qcow2", "size=1M,data_file=data.raw");
create("data-file-raw.qcow2", "size=1M,data_file=data2.raw,data_file_raw=on");
const secret = ["--object", "secret,id=s,data=abc"];
create("aes.qcow2", "size=1M,encrypt.format=aes,encrypt.key-secret=s", ...secret);
const luks = "size=1M,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
create("luks.qcow2", luks, ...secret);
create("extended.qcow2", "size=1M,extended_l2=on");
create("full-refcounts.qcow2", "size=1M,refcount_bits=1");
write("full-refcounts.qcow2", "write 0 64k");

ordinary("leaks.qcow2");
patch("leaks.qcow2", (image) => {
  image.setRefcount(5, 7);
  image.setRefcount(8, 3);
});
ordinary("corrupt.qcow2");
patch("corrupt.qcow2", (image) => {
  image.setRefcount(5, 0);
  image.setRefcount(6, 9);
  image.set(image.l2, 8, (1n << 63n) | BigInt(image.read(image.l2, 8)));
});
ordinary("unaligned-cluster.qcow2");
patch("unaligned-cluster.qcow2", (image) => image.set(image.l2 + 6, 1, 2));
ordinary("far-cluster.qcow2");
patch("far-cluster.qcow2", (image) => image.set(image.l2, 8, 0x900000));
ordinary("unaligned-table.qcow2");
patch("unaligned-table.qcow2", (image) => image.set(image.l1 + 6, 1, 2));
ordinary("reserved-bits.qcow2");
patch("reserved-bits.qcow2", (image) => image.set(image.l2 + 15, 1, 2));
ordinary("refcount-block.qcow2");
patch("refcount-block.qcow2", (image) => image.set(image.read(48, 8), 8, 0x20200));
ordinary("refcount-block-outside.qcow2");
patch("refcount-block-outside.qcow2", (image) => image.set(image.read(48, 8) + 8, 8, 0x900000));
ordinary("snapshot-table.qcow2");
patch("snapshot-table.qcow2", (image) => image.set(image.snapshots, 8, 0x70200));
ordinary("snapshot-table-long.qcow2");
patch("snapshot-table-long.qcow2", (image) => image.set(image.snapshots + 8, 4, 0x10000000));
ordinary("too-many-snapshots.qcow2");
patch("too-many-snapshots.qcow2", (image) => image.set(60, 4, 70000));
ordinary("snapshots-unaligned.qcow2");
patch("snapshots-unaligned.qcow2", (image) => image.set(64, 8, image.snapshots + 512));
ordinary("extra-data.qcow2");
patch("extra-data.qcow2", (image) => image.set(image.snapshots + 36, 4, 1032));
ordinary("dirty.qcow2", "lazy_refcounts=on");
patch("dirty.qcow2", (image) => image.set(79, 1, 1));
ordinary("marked-corrupt.qcow2");
patch("marked-corrupt.qcow2", (image) => image.set(79, 1, 2));

const headers: [string, (image: Patch) => void][] = [
  ["version", (image) => image.set(4, 4, 7)],
  ["cluster-bits-8", (image) => image.set(20, 4, 8)],
  ["cluster-bits-40", (image) => image.set(20, 4, 40)],
  ["refcount-order", (image) => image.set(96, 4, 7)],
  ["refcount-table-unaligned", (image) => image.set(48, 8, 0x10200)],
  ["refcount-table-large", (image) => image.set(56, 4, 0x10000000)],
  ["l1-unaligned", (image) => image.set(40, 8, 0x30200)],
  ["l1-large", (image) => image.set(36, 4, 0x10000000)],
  ["l1-small", (image) => image.set(24, 8, 2 ** 40)],
  ["too-big", (image) => image.set(24, 8, 1n << 63n)],
  ["encryption", (image) => image.set(32, 4, 9)],
  ["header-short", (image) => image.set(100, 4, 90)],
  ["header-long", (image) => image.set(100, 4, 0x20000)],
  ["unknown-feature", (image) => image.set(72, 8, 1n << 41n)],
  ["unknown-features", (image) => image.set(72, 8, (1n << 63n) | (1n << 5n))],
  ["extension-long", (image) => image.set(108, 4, 0x7fffffff)],
];
for (const [name, change] of headers) {
  create(`header-${name}.qcow2`, "size=1M");
  patch(`header-${name}.qcow2`, change);
}
create("truncated.qcow2", "size=1M");
truncateSync(path.join(scene, "truncated.qcow2"), 60);
make("create", "-q", "-f", "raw", "raw.img", "1M");
writeFileSync(path.join(scene, "nothing.img"), "");
mkdirSync(path.join(scene, "directory"));

// What is compared.

interface Ending {
  stdout: string;
  stderr: string;
  status: number | null;
}

function run(program: string, args: string[], cwd: string): Ending {
  // Latin-1 keeps bytes that are not UTF-8 apart.
  const result = spawnSync(program, args, { cwd, env, encoding: "latin1", maxBuffer: 1 << 28 });
  if (result.error) throw result.error;
  return { stdout: result.stdout, stderr: result.stderr, status: result.status };
}

/** What our program should end with, where qemu-img ended so. */
function translated({ stdout, stderr, status }: Ending): Ending {
  const lines = stderr
    .replace(/^qemu-img(?: \w+)?: /gm, "error: ")
    .replace(/^Try 'qemu-img /gm, "Try 'calque image ");
  return { stdout, stderr: lines, status };
}

function withoutHints(ending: Ending): Ending {
  return { ...ending, stderr: ending.stderr.replace(/^hint: .*\n/gm, "") };
}

function expectSame(args: string[], cwd = scene): void {
  const theirs = translated(run("qemu-img", args, cwd));
  expect(withoutHints(run(calque, ["image", ...args], cwd))).toEqual(theirs);
}

const readable = [
  ..."ordinary empty tiny odd-size terabyte old sector-clusters wide-refcounts narrow-refcounts".split(
    " ",
  ),
  ..."lazy-zstd fragmented compressed names machine-state sub/overlay overlay bitmaps".split(" "),
  ..."data-file data-file-raw dirty marked-corrupt leaks corrupt".split(" "),
  ..."unaligned-cluster far-cluster unaligned-table reserved-bits refcount-block".split(" "),
  ..."refcount-block-outside snapshot-table snapshot-table-long too-many-snapshots".split(" "),
  ..."snapshots-unaligned extra-data truncated".split(" "),
  ...headers.map(([name]) => `header-${name}`),
].map((name) => `${name}.qcow2`);

describe.each(readable)("%s", (file) => {
  test.each([
    "info",
    "info -U --output json",
    "check",
    "check --output=json",
    "check -q -f qcow2",
    "snapshot -l",
  ])("%s", (line) => {
    expectSame([...line.split(" "), file]);
  });
});

describe("an image of which only the header can be read", () => {
  test.each(["aes.qcow2", "extended.qcow2", "orphan.qcow2", "remote.qcow2"])("%s", (file) => {
    expectSame(["info", file]);
    expectSame(["info", "--output=json", file]);
  });
});

describe("what is no image", () => {
  test.each(["nothing.img", "raw.img", "directory", "missing.qcow2", "missing/disk.qcow2", ""])(
    "%j",
    (file) => {
      for (const verb of ["info", "check", "snapshot"]) expectSame([verb, "-f", "qcow2", file]);
      for (const operation of file === "directory" ? [] : ["-c", "-a", "-d"]) {
        expectSame(["snapshot", "-f", "qcow2", operation, "x", file]);
      }
    },
  );

  test("a name below a file", () => {
    expectSame(["info", "-f", "qcow2", "ordinary.qcow2/x"]);
  });
});

test.each([
  "",
  "frobnicate",
  "--frobnicate",
  "-q info",
  "info",
  "info a b",
  "info -x ordinary.qcow2",
  "info --frobnicate ordinary.qcow2",
  "info --output",
  "info --output xml ordinary.qcow2",
  "info --out json ordinary.qcow2",
  "info -f",
  "info -f frobnicate ordinary.qcow2",
  "info --force-share=1 ordinary.qcow2",
  "info --fo ordinary.qcow2",
  "info -q ordinary.qcow2",
  "info -- ordinary.qcow2",
  "info ordinary.qcow2 -U",
  "check",
  "check a b",
  "check -qU ordinary.qcow2",
  "check -qz ordinary.qcow2",
  "check -f raw raw.img",
  "check -f raw --output json raw.img",
  "check -fqcow2 ordinary.qcow2",
  "snapshot",
  "snapshot ordinary.qcow2",
  "snapshot -l ordinary.qcow2 b",
  "snapshot -qUf qcow2 ordinary.qcow2",
  "snapshot --list ordinary.qcow2",
  "snapshot --list=3 ordinary.qcow2",
  "snapshot -c",
  "snapshot -c x",
  "snapshot -c x -d y ordinary.qcow2",
  "snapshot -l -l ordinary.qcow2",
  "snapshot -U -c x ordinary.qcow2",
  "snapshot - ordinary.qcow2",
  "snapshot -l -- -disk.qcow2",
  "create",
  "create -f qcow2 c.qcow2",
  "create -f qcow2 c.qcow2 1M 2M",
  "create -f qcow2 c.qcow2 -1",
  "create -f frobnicate c.qcow2 1M",
])("usage: %j", (line) => {
  expectSame(line.split(" ").filter((word) => word !== ""));
});

// What changes an image gets one of its own for each of the two programs.

let scenes = 0;

/** Runs lines one after the other with each program, in a copy of the files. */
function expectSameChanges(files: string[], lines: string[][]): void {
  scenes += 1;
  const places = ["theirs", "ours"].map((who) => {
    const place = path.join(directory, `${who}-${scenes}`);
    mkdirSync(path.join(place, "directory"), { recursive: true });
    for (const file of files) cpSync(path.join(scene, file), path.join(place, file));
    return place;
  });
  const [theirs = "", ours = ""] = places;
  for (const line of lines) {
    const expected = translated(run("qemu-img", line, theirs));
    const ending = withoutHints(run(calque, ["image", ...line], ours));
    expect({ line, ...ending }).toEqual({ line, ...expected });
  }
  for (const file of files) {
    const [expected, listed] = [theirs, ours].map((place) =>
      withoutDates(run("qemu-img", ["snapshot", "-l", file], place).stdout),
    );
    expect(listed).toBe(expected);
    expect(run("qemu-img", ["check", "-q", file], ours)).toEqual({
      stdout: "",
      stderr: "",
      status: 0,
    });
    const compared = run("qemu-img", ["compare", path.join(theirs, file), file], ours);
    expect(compared).toMatchObject({ stdout: "Images are identical.\n", status: 0 });
  }
  for (const place of places) rmSync(place, { recursive: true });
}

function withoutDates(list: string): string {
  return list.replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, "-");
}

describe("snapshot", () => {
  test.each([
    "ordinary",
    "old",
    "sector-clusters",
    "wide-refcounts",
    "lazy-zstd",
    "fragmented",
    "machine-state",
  ])("takes, applies and deletes in %s", (name) => {
    const file = `${name}.qcow2`;
    expectSameChanges(
      [file],
      [
        ["snapshot", "-c", "two", file],
        ["snapshot", "-c", "three", file],
        ["snapshot", "-d", "two", file],
        ["snapshot", "-a", "three", file],
        ["snapshot", "-c", "four", file],
        ["snapshot", "-f", "qcow2", "-q", "-a", "4", file],
        ["snapshot", "-d", "three", file],
        ["snapshot", "-d", "four", file],
        ["snapshot", "-c", "\u00e9 \u001b[2J", file],
      ],
    );
  });

  test("looks up ids before names to apply, and names only to delete", () => {
    const file = "names.qcow2";
    expectSameChanges(
      [file],
      [
        ["snapshot", "-d", "4", file],
        ["snapshot", "-a", "1", file],
        ["snapshot", "-d", "1", file],
        ["snapshot", "-d", "1", file],
        ["snapshot", "-a", "nope", file],
        ["snapshot", "-d", "nope", file],
        ["snapshot", "-d", "", file],
      ],
    );
  });

  test.each([
    ["-c", "data-file.qcow2"],
    ["-a", "bitmaps.qcow2"],
    ["-c", "marked-corrupt.qcow2"],
    ["-a", "marked-corrupt.qcow2"],
    ["-d", "marked-corrupt.qcow2"],
    ["-a", "snapshot-table.qcow2"],
    ["-d", "snapshot-table.qcow2"],
    ["-a", "snapshot-table-long.qcow2"],
    ["-d", "snapshot-table-long.qcow2"],
    ["-c", "too-many-snapshots.qcow2"],
    ["-c", "header-version.qcow2"],
    ["-c", "full-refcounts.qcow2"],
  ])("%s is refused on %s, which stays as it is", (operation, file) => {
    const before = readFileSync(path.join(scene, file));
    const line = ["snapshot", operation, "one", file];
    const ours = withoutHints(run(calque, ["image", ...line], scene));
    expect(readFileSync(path.join(scene, file)).equals(before)).toBe(true);
    // qemu-img, however, writes to some of them.
    const theirs = run("qemu-img", line, scene);
    writeFileSync(path.join(scene, file), before);
    expect(ours).toEqual(translated(theirs));
  });
});

/** The line, then what the image says of itself, should there be one. */
function expectSameCreation(args: string[]): void {
  scenes += 1;
  const [theirs, ours] = ["qemu-img", calque].map((program) => {
    const place = path.join(directory, `${path.basename(program)}-${scenes}`);
    mkdirSync(path.join(place, "directory"), { recursive: true });
    cpSync(path.join(scene, "ordinary.qcow2"), path.join(place, "ordinary.qcow2"));
    const image = program === calque ? ["image"] : [];
    const ending = run(program, [...image, "create", ...args], place);
    const file = args.find((word) => word.endsWith(".qcow2"));
    const made = ending.status === 0 && file !== undefined;
    const info = made ? run("qemu-img", ["info", file], place).stdout : "";
    const check = made ? run("qemu-img", ["check", file], place) : undefined;
    rmSync(place, { recursive: true });
    // How the file is laid out is each program's own business.
    return {
      ending,
      info: info.replace(/(disk size|file length): .*/g, "$1"),
      status: check?.status,
    };
  });
  expect({ ...ours!, ending: withoutHints(ours!.ending) }).toEqual({
    ...theirs!,
    ending: translated(theirs!.ending),
  });
}

describe("create", () => {
  const sizes =
    "0 1 511 512 1b 3k 1.5G 0.1k 1.0001k .5G 0x10 1T 64T 1P 010 +1M huge 1.5 1e3 1MB 8E 7E 9E 16E";

  test.each([...sizes.split(" "), "", " 1M", "1M "])("of size %j", (size) => {
    expectSameCreation(["-f", "qcow2", "c.qcow2", size]);
  });

  test("of a negative size", () => {
    expectSameCreation(["-f", "qcow2", "c.qcow2", "--", "-1"]);
  });

  test.each([
    ..."cluster_size=4096 cluster_size=4k cluster_size=0x1000 cluster_size=2M cluster_size=512".split(
      " ",
    ),
    ..."cluster_size=4097 cluster_size=256 cluster_size=4M cluster_size=0 cluster_size=foo".split(
      " ",
    ),
    ..."cluster_size= cluster_size cluster_size=-1 cluster_size=1.5 cluster_size=16E".split(" "),
    ..."compat=0.10 compat=1.1 compat=v2 compat=v3 compat=2 compat= compat nocompat".split(" "),
    ..."refcount_bits=1 refcount_bits=64 refcount_bits=3 refcount_bits=0 refcount_bits=128".split(
      " ",
    ),
    ..."refcount_bits=foo refcount_bits=-1 refcount_bits=8k refcount_bits=0x10".split(" "),
    ..."refcount_bits=010 refcount_bits=18446744073709551616 refcount_bits=4294967312".split(" "),
    ..."lazy_refcounts=on lazy_refcounts=true lazy_refcounts=y lazy_refcounts=1".split(" "),
    ..."lazy_refcounts nolazy_refcounts lazy_refcounts= LAZY_refcounts=on".split(" "),
    ..."compression_type=zstd compression_type=zlib compression_type=lz4".split(" "),
    ..."extended_l2=off extended_l2=maybe extended_l2=on,compat=0.10".split(" "),
    "extended_l2=on,cluster_size=4k",
    "refcount_bits=8,compat=0.10",
    "lazy_refcounts=on,compat=0.10",
    "compression_type=zstd,compat=0.10",
    "refcount_bits=3,compat=0.10,lazy_refcounts=on",
    "compat=2,compression_type=lz4",
    "compression_type=lz4,cluster_size=3",
    "cluster_size=3,refcount_bits=3",
    "foo=1,cluster_size=x",
    "cluster_size=x,foo=1",
    "cluster_size=4k,cluster_size=8k",
    "cluster_size=4k, compat=1.1",
    "compat=a,,b",
    ..."foo=bar foo =1 a,,=1 ,compat=v3 compat=v3, compat=v3,,".split(" "),
    "",
    "size=2M",
  ])("with -o %j", (options) => {
    expectSameCreation(["-f", "qcow2", "-o", options, "c.qcow2", "1M"]);
    expectSameCreation(["-f", "qcow2", "-q", "-o", options, "c.qcow2", "1M"]);
  });

  test("with the size as an option, and options twice", () => {
    expectSameCreation(["-f", "qcow2", "-o", "size=1M", "c.qcow2"]);
    expectSameCreation(["-f", "qcow2", "-o", "size=big", "c.qcow2"]);
    expectSameCreation([
      "-f",
      "qcow2",
      "-o",
      "compat=v2",
      "-o",
      "cluster_size=4k",
      "c.qcow2",
      "1M",
    ]);
  });

  test("of sizes that need larger clusters", () => {
    expectSameCreation(["-f", "qcow2", "-o", "cluster_size=512", "c.qcow2", "1P"]);
    expectSameCreation(["-f", "qcow2", "-o", "cluster_size=64k", "c.qcow2", "3P"]);
    expectSameCreation(["-f", "qcow2", "-o", "cluster_size=2M", "c.qcow2", "1P"]);
  });

  test("where no file can be", () => {
    expectSameCreation(["-f", "qcow2", "missing/c.qcow2", "1M"]);
    expectSameCreation(["-f", "qcow2", "", "1M"]);
  });

  test("over an image that exists, and names with anything in them", () => {
    expectSameCreation(["-f", "qcow2", "ordinary.qcow2", "2M"]);
    expectSameCreation(["-f", "qcow2", "a 'b'\n,c.qcow2", "2M"]);
  });
});

/** Works while qemu-io has `ordinary.qcow2` open. */
async function using(flags: string[], work: () => void): Promise<void> {
  const holder: ChildProcess = spawn("qemu-io", [...flags, "ordinary.qcow2"], {
    cwd: scene,
    env,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) => holder.once("exit", resolve));
  // It prompts when the image is open.
  await new Promise((resolve) => holder.stdout?.once("data", resolve));
  try {
    work();
  } finally {
    holder.stdin?.end("quit\n");
    await ended;
  }
}

describe("an image in use", () => {
  test("by a writer is neither read nor changed", async () => {
    await using([], () => {
      for (const verb of ["info", "check", "snapshot"]) expectSame([verb, "ordinary.qcow2"]);
      expectSame(["snapshot", "-c", "x", "ordinary.qcow2"]);
      expectSame(["snapshot", "-a", "one", "ordinary.qcow2"]);
      expectSame(["create", "-f", "qcow2", "ordinary.qcow2", "1M"]);
      expectSame(["info", "-U", "ordinary.qcow2"]);
      expectSame(["snapshot", "-U", "-l", "ordinary.qcow2"]);
    });
  });

  test("by a reader is read, but not changed", async () => {
    await using(["-r"], () => {
      expectSame(["info", "ordinary.qcow2"]);
      expectSame(["snapshot", "-c", "x", "ordinary.qcow2"]);
    });
  });
});

/** Standard output, standard error behind `! `, the status. */
function shown(...args: string[]): string {
  const { stdout, stderr, status } = run(calque, ["image", ...args], scene);
  return `${stdout}${stderr.replace(/^(?=[^])/gm, "! ")}= ${status}`;
}

// Each of these lines ends differently with qemu-img, and docs/qemu-img.md says why.
describe("what differs on purpose", () => {
  test("formats are never guessed, and others than qcow2 not opened", () => {
    expect(shown("info", "raw.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'raw.img': Image is not in qcow2 format
      = 1"
    `);
    expect(shown("snapshot", "-c", "x", "raw.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'raw.img': Image is not in qcow2 format
      = 1"
    `);
    expect(shown("info", "-f", "raw", "raw.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'raw.img': only qcow2 images are supported, not raw
      = 1"
    `);
  });

  test("an image is created in qcow2 without being asked for it", () => {
    expect(shown("create", "default.qcow2", "1M")).toMatchInlineSnapshot(`
      "Formatting 'default.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16
      = 0"
    `);
    expect(run("qemu-img", ["check", "-f", "qcow2", "-q", "default.qcow2"], scene).status).toBe(0);
  });

  test("a refused create leaves the file that is there alone", () => {
    const before = readFileSync(path.join(scene, "ordinary.qcow2"));
    expect(shown("create", "-o", "cluster_size=3", "ordinary.qcow2", "1M")).toMatchInlineSnapshot(`
      "Formatting 'ordinary.qcow2', fmt=qcow2 cluster_size=3 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16
      ! error: ordinary.qcow2: Cluster size must be a power of two between 512 and 2048k
      = 1"
    `);
    expect(readFileSync(path.join(scene, "ordinary.qcow2")).equals(before)).toBe(true);
  });

  test("the backing file is not needed, as it is not opened", () => {
    expect(shown("check", "orphan.qcow2")).toMatchInlineSnapshot(`
      "No errors were found on the image.
      Image end offset: 262144
      = 0"
    `);
    expect(shown("snapshot", "-c", "x", "orphan.qcow2")).toMatchInlineSnapshot(`"= 0"`);
  });

  test("encrypted images are checked and snapshotted without their key", () => {
    for (const file of ["aes.qcow2", "luks.qcow2"]) {
      expect(shown("check", "-q", file)).toBe("= 0");
      expect(shown("snapshot", "-c", "x", file)).toBe("= 0");
      expect(shown("snapshot", "-l", file)).toContain("1       x ");
      expect(shown("check", "-q", file)).toBe("= 0");
    }
  });

  test("of the LUKS header only its presence is shown", () => {
    expect(shown("info", "luks.qcow2")).toContain(
      "    encrypt:\n        format: luks\n    corrupt:",
    );
  });

  test("extended L2 entries are described, and refused by name otherwise", () => {
    expect(shown("check", "extended.qcow2")).toMatchInlineSnapshot(`
      "! error: Check failed: Images with extended L2 entries are not supported yet
      = 63"
    `);
    expect(shown("snapshot", "-c", "x", "extended.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not create snapshot 'x': Images with extended L2 entries are not supported yet
      = 1"
    `);
  });

  test("a dirty image is not repaired in passing", () => {
    expect(shown("snapshot", "-c", "x", "dirty.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not open 'dirty.qcow2': The image is marked dirty: its reference counts may be stale
      ! hint: repair it first, for example with \`qemu-img check -r all\`
      = 1"
    `);
  });

  test("names of snapshots are unique, not empty and not cut", () => {
    expect(shown("snapshot", "-c", "one", "ordinary.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not create snapshot 'one': A snapshot of that name exists
      = 1"
    `);
    expect(shown("snapshot", "-c", "", "ordinary.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not create snapshot '': A snapshot name cannot be empty
      = 1"
    `);
    expect(shown("snapshot", "-c", "x".repeat(256), "ordinary.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not create snapshot 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx': A snapshot name cannot be longer than 255 bytes
      = 1"
    `);
  });

  test("a name that several snapshots have is no name of one", () => {
    create("ambiguous.qcow2", "size=1M");
    for (let n = 0; n < 2; n += 1) make("snapshot", "-c", "twin", "ambiguous.qcow2");
    expect(shown("snapshot", "-a", "twin", "ambiguous.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not apply snapshot 'twin': Several snapshots have that name
      ! hint: their ids are 1, 2
      ! hint: \`image snapshot --rename ID NEW FILE\` gives one of them a name of its own
      = 1"
    `);
    expect(shown("snapshot", "-d", "twin", "ambiguous.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not delete snapshot 'twin': Several snapshots have that name
      ! hint: their ids are 1, 2
      ! hint: \`image snapshot --rename ID NEW FILE\` gives one of them a name of its own
      = 1"
    `);
  });

  test("a directory is called one whatever was to be done with it", () => {
    expect(shown("snapshot", "-c", "x", "directory")).toMatchInlineSnapshot(`
      "! error: Could not open 'directory': 'file' driver requires 'directory' to be a regular file
      = 1"
    `);
    expect(shown("create", "-q", "directory", "1M")).toMatchInlineSnapshot(`
      "! error: directory: 'file' driver requires 'directory' to be a regular file
      = 1"
    `);
  });

  test("names are paths, never protocols", () => {
    expect(shown("info", "nbd://host/x")).toMatchInlineSnapshot(`
      "! error: Could not open 'nbd://host/x': Could not open 'nbd://host/x': No such file or directory
      = 1"
    `);
    expect(shown("create", "-q", "a:b.qcow2", "1M")).toBe("= 0");
  });

  test("long options take values, too", () => {
    expect(shown("snapshot", "--create=long", "ordinary.qcow2")).toBe("= 0");
    expect(shown("snapshot", "--delete", "long", "ordinary.qcow2")).toBe("= 0");
  });

  test("a size beyond 8 PiB is too large", () => {
    expect(shown("create", "-q", "-o", "cluster_size=2M", "c.qcow2", "9P")).toMatchInlineSnapshot(`
      "! error: c.qcow2: The image size is too large for file format 'qcow2' (try using a larger cluster size)
      = 1"
    `);
  });
});
