// The images of the differential tests, made by qemu-img: as they occur, and broken in one place
// each. A scene makes those that a test asks for, in a directory of its own.

import { execFileSync } from "node:child_process";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";

import { afterAll } from "vitest";

import { env } from "./programs.ts";

const MiB = 2 ** 20;

/** A directory with images, which goes when the tests of the file are done. */
export class Scene {
  readonly directory = mkdtempSync(path.join(os.tmpdir(), "calque-differential-"));
  /** Where the images are. */
  readonly place = path.join(this.directory, "scene");
  #places = 0;

  constructor(...files: string[]) {
    afterAll(() => rmSync(this.directory, { recursive: true, force: true }));
    mkdirSync(path.join(this.place, "sub"), { recursive: true });
    for (const file of files) recipe(file)(this, file);
  }

  path(file: string): string {
    return path.join(this.place, file);
  }

  /** A new empty directory beside the scene. */
  emptyPlace(): string {
    this.#places += 1;
    const place = path.join(this.directory, `place-${this.#places}`);
    mkdirSync(place);
    return place;
  }

  make(...args: string[]): void {
    execFileSync("qemu-img", args, { cwd: this.place, env });
  }

  create(file: string, options: string, ...more: string[]): void {
    this.make("create", "-q", "-f", "qcow2", ...(options ? ["-o", options] : []), ...more, file);
  }

  write(file: string, ...commands: string[]): void {
    const list = commands.flatMap((command) => ["-c", command]);
    execFileSync("qemu-io", [...list, file], { cwd: this.place, env, stdio: "ignore" });
  }

  /** An image of 1 MiB with two clusters of data and the snapshot `one`. */
  ordinary(file: string, options = ""): void {
    this.create(file, options ? `${options},size=1M` : "size=1M");
    this.write(file, "write -P 1 0 128k");
    this.make("snapshot", "-c", "one", file);
  }

  /** Changes an image in place. */
  patch(file: string, change: (image: Patch) => void): void {
    const fd = openSync(this.path(file), "r+");
    try {
      change(new Patch(fd));
    } finally {
      closeSync(fd);
    }
  }
}

/** Fields of an open image, at their offsets. */
export class Patch {
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
  get refcountTable(): number {
    return this.read(48, 8);
  }
  get snapshots(): number {
    return this.read(64, 8);
  }
  setRefcount(cluster: number, value: number): void {
    this.set(this.read(this.refcountTable, 8) + 2 * cluster, 2, value);
  }
  /** Loses what comes after so many bytes. */
  cut(bytes: number): void {
    ftruncateSync(this.#fd, bytes);
  }
}

type Recipe = (scene: Scene, file: string) => void;

/** Empty disks, by the options that they are made with. */
const empty: Record<string, string> = {
  empty: "size=0",
  tiny: "size=1",
  "odd-size": "size=1023488",
  terabyte: "size=1T,cluster_size=2M",
  base: "size=1M",
  "sub/base": "size=1M",
  "data-file": "size=1M,data_file=data.raw",
  "data-file-raw": "size=1M,data_file=data2.raw,data_file_raw=on",
};

/** Ordinary images, by the options that they are made with. */
const ordinary: Record<string, string> = {
  ordinary: "",
  old: "compat=0.10",
  "sector-clusters": "cluster_size=512",
  "wide-refcounts": "refcount_bits=64",
  "narrow-refcounts": "refcount_bits=2",
  "lazy-zstd": "lazy_refcounts=on,compression_type=zstd",
  extended: "extended_l2=on",
};

const overlay =
  (backing: string, ...more: string[]): Recipe =>
  (scene, file) =>
    scene.create(file, "", "-b", backing, ...more);

const encrypted =
  (options: string): Recipe =>
  (scene, file) =>
    scene.create(file, `size=1M,${options}`, "--object", "secret,id=s,data=abc");

const special: Record<string, Recipe> = {
  fragmented(scene, file) {
    scene.create(file, "size=4M");
    scene.write(file, ...[60, 40, 0, 10, 30].map((at) => `write ${at}0k 64k`));
    scene.write(file, "write -c 3M 64k", "write -z 2M 128k");
  },
  compressed(scene, file) {
    recipe("fragmented.qcow2")(scene, "loose.qcow2");
    scene.make("convert", "-c", "-O", "qcow2", "loose.qcow2", file);
  },
  names(scene, file) {
    scene.ordinary(file);
    const long = "a name of more than sixteen characters";
    for (const name of ["1", long, "tab\tand \u001b[2J", "\u00e9t\u00e9"]) {
      scene.make("snapshot", "-c", name, file);
    }
    // Names that are no UTF-8 cannot be given to a program from here.
    scene.patch(file, (image) => image.set(image.snapshots + 40 + 24 + 1, 1, 0xff));
  },
  "machine-state"(scene, file) {
    scene.ordinary(file);
    scene.patch(file, (image) => {
      const entry = image.snapshots;
      image.set(entry + 16, 4, 0xffff_ffff); // date
      image.set(entry + 24, 8, 44_442_059_999_999_999n); // clock
      image.set(entry + 40, 8, 123_456_789_012); // machine state
      image.set(entry + 56, 8, 0xffff_ffff_ffff_ffffn); // icount: none
    });
  },
  "sub/overlay"(scene, file) {
    recipe("sub/base.qcow2")(scene, "sub/base.qcow2");
    overlay("base.qcow2", "-F", "qcow2")(scene, file);
  },
  overlay(scene, file) {
    recipe("sub/base.qcow2")(scene, "sub/base.qcow2");
    overlay("sub/base.qcow2", "-F", "qcow2")(scene, file);
  },
  orphan: overlay("/gone/base.raw", "-u", "-F", "raw", "-o", "size=1M"),
  remote: overlay("nbd://host/x", "-u", "-F", "raw", "-o", "size=1M"),
  bitmaps(scene, file) {
    scene.ordinary(file);
    scene.make("bitmap", "--add", file, "b0");
    scene.make("bitmap", "--add", "--disable", "-g", "4096", file, "b1");
  },
  aes: encrypted("encrypt.format=aes,encrypt.key-secret=s"),
  luks: encrypted("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
  "full-refcounts"(scene, file) {
    scene.create(file, "size=1M,refcount_bits=1");
    scene.write(file, "write 0 64k");
  },
  truncated(scene, file) {
    scene.create(file, "size=1M");
    truncateSync(scene.path(file), 60);
  },
};

/** Ordinary images with a mistake. */
const damaged: Record<string, (image: Patch) => void> = {
  leaks(image) {
    image.setRefcount(5, 7);
    image.setRefcount(8, 3);
  },
  corrupt(image) {
    image.setRefcount(5, 0);
    image.setRefcount(6, 9);
    image.set(image.l2, 8, (1n << 63n) | BigInt(image.read(image.l2, 8)));
  },
  "unaligned-cluster": (image) => image.set(image.l2 + 6, 1, 2),
  "far-cluster": (image) => image.set(image.l2, 8, 0x900000),
  "unaligned-table": (image) => image.set(image.l1 + 6, 1, 2),
  "reserved-bits": (image) => image.set(image.l2 + 15, 1, 2),
  "refcount-block": (image) => image.set(image.refcountTable, 8, 0x20200),
  "refcount-block-outside": (image) => image.set(image.refcountTable + 8, 8, 0x900000),
  "snapshot-table": (image) => image.set(image.snapshots, 8, 0x70200),
  "snapshot-table-long": (image) => image.set(image.snapshots + 8, 4, 0x10000000),
  "too-many-snapshots": (image) => image.set(60, 4, 70000),
  "snapshots-unaligned": (image) => image.set(64, 8, image.snapshots + 512),
  "extra-data": (image) => image.set(image.snapshots + 36, 4, 1032),
  "marked-corrupt": (image) => image.set(79, 1, 2),
  dirty(image) {
    image.set(79, 1, 1);
    image.set(87, 1, 1);
  },
};

/** Empty images with a mistake in the header. */
const headers: Record<string, (image: Patch) => void> = {
  version: (image) => image.set(4, 4, 7),
  "cluster-bits-8": (image) => image.set(20, 4, 8),
  "cluster-bits-40": (image) => image.set(20, 4, 40),
  "refcount-order": (image) => image.set(96, 4, 7),
  "refcount-table-unaligned": (image) => image.set(48, 8, 0x10200),
  "refcount-table-large": (image) => image.set(56, 4, 0x10000000),
  "l1-unaligned": (image) => image.set(40, 8, 0x30200),
  "l1-large": (image) => image.set(36, 4, 0x10000000),
  "l1-small": (image) => image.set(24, 8, 2 ** 40),
  "too-big": (image) => image.set(24, 8, 1n << 63n),
  encryption: (image) => image.set(32, 4, 9),
  "header-short": (image) => image.set(100, 4, 90),
  "header-long": (image) => image.set(100, 4, 0x20000),
  "unknown-feature": (image) => image.set(72, 8, 1n << 41n),
  "unknown-features": (image) => image.set(72, 8, (1n << 63n) | (1n << 5n)),
  "extension-long": (image) => image.set(108, 4, 0x7fffffff),
};

const others: Record<string, Recipe> = {
  "raw.img": (scene, file) => scene.make("create", "-q", "-f", "raw", file, String(MiB)),
  "nothing.img": (scene, file) => writeFileSync(scene.path(file), ""),
  directory: (scene, file) => mkdirSync(scene.path(file)),
};

const recipes: Record<string, Recipe> = { ...others };
for (const [name, options] of Object.entries(empty)) {
  recipes[`${name}.qcow2`] = (scene, file) => scene.create(file, options);
}
for (const [name, options] of Object.entries(ordinary)) {
  recipes[`${name}.qcow2`] = (scene, file) => scene.ordinary(file, options);
}
for (const [name, cook] of Object.entries(special)) recipes[`${name}.qcow2`] = cook;
for (const [name, change] of Object.entries(damaged)) {
  recipes[`${name}.qcow2`] = (scene, file) => {
    scene.ordinary(file);
    scene.patch(file, change);
  };
}
for (const [name, change] of Object.entries(headers)) {
  recipes[`header-${name}.qcow2`] = (scene, file) => {
    scene.create(file, "size=1M");
    scene.patch(file, change);
  };
}

function recipe(file: string): Recipe {
  const found = recipes[file];
  if (found === undefined) throw new Error(`no recipe for ${file}`);
  return found;
}

/** Images that `info`, `check` and `snapshot -l` treat alike with both programs. */
export const readable = [
  ..."empty tiny odd-size terabyte data-file data-file-raw".split(" "),
  ...Object.keys(ordinary),
  ..."fragmented compressed names machine-state sub/overlay overlay bitmaps truncated".split(" "),
  ...Object.keys(damaged),
  ...Object.keys(headers).map((name) => `header-${name}`),
].map((name) => `${name}.qcow2`);
