// One image for each row of the table in docs/qcow2.md: what it has beyond an ordinary one, made by
// QEMU's tools, and patched where those do not make it.

import { execFileSync } from "node:child_process";
import { readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";

import type { Patch, Scene } from "./images.ts";
import { env } from "./programs.ts";

const KiB = 1024;
const MiB = 1024 * KiB;

/** How an image is made, as `disk.qcow2`, with data and the snapshot `one` where it can have one. */
export interface Row {
  /** Returns what undoes it, where it is not only files. */
  make: (scene: Scene) => (() => void) | void;
  /** By what `-a`, `-d` and `--rename` find the snapshot, if not by `one`. */
  selector?: string;
  /** How large the snapshot's disk is, if not as the disk is. */
  snapshotSize?: number;
  /** What qemu-img needs to read the content. */
  secret?: true;
  /** What every change has to leave as it was: an offset in the file, and how many bytes. */
  kept?: readonly [offset: number, bytes: number];
  /** What every change has to clear: the offset of a byte. */
  cleared?: number;
}

const FILE = "disk.qcow2";

const secret = ["--object", "secret,id=s,data=abc"];

/** Data under a snapshot and above it. */
function lived(scene: Scene, ...more: string[]): void {
  scene.write(FILE, "write -P 1 0 200k", "write -P 2 700k 50k", ...more);
  scene.make("snapshot", "-c", "one", FILE);
  scene.write(FILE, "write -P 3 100k 64k", "write -P 4 1000k 20k");
}

const made =
  (options: string, size = "2M", ...more: string[]): Row["make"] =>
  (scene) => {
    scene.create(FILE, [options, `size=${size}`].filter(Boolean).join(","));
    lived(scene, ...more);
  };

const patched =
  (options: string, change: (image: Patch) => void): Row["make"] =>
  (scene) => {
    made(options)(scene);
    scene.patch(FILE, change);
  };

const encrypted =
  (options: string): Row["make"] =>
  (scene) => {
    scene.create(FILE, `${options},encrypt.key-secret=s,size=2M`, ...secret);
    const image = `driver=qcow2,file.filename=${FILE},encrypt.key-secret=s`;
    const write = (...commands: string[]): void => {
      const list = commands.flatMap((command) => ["-c", command]);
      const args = [...secret, "--image-opts", image, ...list];
      execFileSync("qemu-io", args, { cwd: scene.place, env, stdio: "ignore" });
    };
    write("write -P 1 0 200k");
    scene.make("snapshot", "-c", "one", ...secret, "--image-opts", image);
    write("write -P 3 100k 64k");
  };

const compressed =
  (options: string): Row["make"] =>
  (scene) => {
    const bytes = Buffer.alloc(2 * MiB, "compresses well, and differs by place: ");
    for (let at = 0; at < bytes.length; at += 4 * KiB) bytes.writeUInt32BE(at, at);
    writeFileSync(scene.path("raw"), bytes);
    scene.make("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "raw", FILE);
    lived(scene);
  };

/** The row of the only snapshot with other extra data; id and name move. */
function withExtraData(image: Patch, bytes: number): void {
  const row = image.snapshots;
  const sizes = [image.read(row + 40, 8), image.read(row + 48, 8), image.read(row + 56, 8)];
  image.set(row + 36, 4, bytes);
  for (let at = 0; at < bytes; at += 8) image.set(row + 40 + at, 8, sizes[at / 8] ?? 0x77);
  for (const [at, byte] of [...Buffer.from("1one")].entries()) {
    image.set(row + 40 + bytes + at, 1, byte);
  }
}

/** Puts bytes at `offset`, before what is behind it in the first KiB. */
function insert(scene: Scene, offset: number, bytes: Buffer): void {
  const file = readFileSync(scene.path(FILE));
  const head = Buffer.concat([file.subarray(0, offset), bytes, file.subarray(offset, KiB)]);
  head.copy(file);
  writeFileSync(scene.path(FILE), file);
}

/** The snapshot's disk, and the image's, end inside their data; the rest is what a machine kept. */
function machineState(scene: Scene): void {
  made("cluster_size=512", "2M", "write -P 9 1M 128k")(scene);
  scene.patch(FILE, (image) => {
    image.set(24, 8, MiB);
    image.set(image.snapshots + 40, 8, 4 * 1024 * MiB + 5);
    image.set(image.snapshots + 48, 8, MiB);
  });
}

const NARROW = "cluster_size=512,refcount_bits=64";

export const rows: Record<string, Row> = {
  "version 3": { make: made("") },
  "version 2": { make: made("compat=0.10") },
  "clusters of 512 bytes": { make: made("cluster_size=512") },
  "clusters of 2 MiB": { make: made("cluster_size=2M", "9M") },
  "a size that is no multiple of the cluster": { make: made("", "1100800") },
  "reference counts of 1 bit": {
    make(scene) {
      scene.create(FILE, "refcount_bits=1,size=2M");
      scene.write(FILE, "write -P 1 0 200k");
    },
  },
  "reference counts of 2 bits": { make: made("refcount_bits=2") },
  "reference counts of 64 bits": { make: made("refcount_bits=64") },
  "a refcount table that has to grow": {
    make: made(NARROW, "4M", "write -P 5 1M 500k"),
  },
  "extended L2 entries": { make: made("extended_l2=on", "2M", "write -z 600k 3k") },
  "compressed clusters, zlib": { make: compressed("cluster_size=4k") },
  "compressed clusters, zstd": { make: compressed("compression_type=zstd") },
  "zero clusters, with and without space of their own": {
    make: made("", "2M", "write -z 0 64k", "write -z -u 64k 64k", "write -z 1M 128k"),
  },
  "a machine's state beyond the disk, of more than 4 GiB": { make: machineState },
  "a snapshot of a smaller disk": {
    make(scene) {
      made("")(scene);
      scene.make("resize", "-q", FILE, "4M");
    },
    snapshotSize: 2 * MiB,
  },
  "a snapshot of a smaller disk, version 2": {
    make: patched("compat=0.10", (image) => image.set(24, 8, 3 * MiB)),
  },
  "dirty bitmaps": {
    make(scene) {
      made("")(scene);
      scene.make("bitmap", "--add", FILE, "b0");
      scene.make("bitmap", "--add", "--disable", "-g", "4096", FILE, "b1");
    },
  },
  LUKS: { make: encrypted("encrypt.format=luks,encrypt.iter-time=10"), secret: true },
  AES: { make: encrypted("encrypt.format=aes"), secret: true },
  "lazy reference counts": { make: made("lazy_refcounts=on") },
  "header bytes that nobody knows": {
    make(scene) {
      made("")(scene);
      insert(scene, 112, Buffer.from("OWNBYTES"));
      scene.patch(FILE, (image) => image.set(100, 4, 120));
    },
    kept: [112, 8],
  },
  "a header extension that nobody knows": {
    make(scene) {
      made("")(scene);
      insert(scene, 112, Buffer.from("\x12\x34\x56\x78\0\0\0\x0bOWN CONTENT\0\0\0\0\0", "latin1"));
    },
    kept: [112, 24],
  },
  "an unknown compatible feature": {
    make: patched("", (image) => image.set(82, 1, 4)),
    kept: [80, 8],
  },
  "an unknown autoclear feature": {
    make: patched("", (image) => image.set(90, 1, 4)),
    cleared: 90,
  },
  "an unknown incompatible feature": { make: patched("", (image) => image.set(74, 1, 4)) },
  "marked dirty": {
    make: patched("", (image) => {
      image.set(79, 1, 1);
      image.set(87, 1, 1);
    }),
  },
  "marked corrupt": { make: patched("", (image) => image.set(79, 1, 2)) },
  "an external data file": {
    make(scene) {
      scene.create(FILE, "data_file=data.raw,size=2M");
      scene.write(FILE, "write -P 1 0 200k");
    },
  },
  "a backing file": {
    make(scene) {
      scene.create("base.qcow2", "size=2M");
      scene.write("base.qcow2", "write -P 8 0 2M");
      scene.create(FILE, "", "-b", "base.qcow2", "-F", "qcow2");
      lived(scene);
    },
  },
  "a backing file's name at byte 72, version 2": {
    make(scene) {
      scene.create("base.qcow2", "size=2M");
      scene.write("base.qcow2", "write -P 8 0 2M");
      scene.create(FILE, "compat=0.10", "-b", "base.qcow2", "-F", "qcow2");
      lived(scene);
      scene.patch(FILE, (image) => {
        image.set(8, 8, 72);
        image.set(16, 4, 10);
        for (const [at, byte] of [...Buffer.from("base.qcow2\0\0")].entries()) {
          image.set(72 + at, 1, byte);
        }
      });
    },
    kept: [72, 10],
  },
  "rows of snapshots without extra data, version 2": {
    make: patched("compat=0.10", (image) => withExtraData(image, 0)),
  },
  "rows of snapshots with 16 bytes of extra data": {
    make: patched("", (image) => withExtraData(image, 16)),
  },
  "rows of snapshots with 1024 bytes of extra data": {
    make: patched("", (image) => withExtraData(image, 1024)),
  },
  "names that are no UTF-8": {
    make: patched("", (image) => image.set(image.snapshots + 40 + 24 + 1, 1, 0xff)),
    selector: "1",
  },
  "ids that are no numbers": {
    make: patched("", (image) => image.set(image.snapshots + 40 + 24, 1, 0x78)),
  },
  "on a block device": {
    make(scene) {
      made("")(scene);
      // Room for what a change writes.
      truncateSync(scene.path(FILE), 8 * MiB);
      execFileSync("mv", [FILE, "medium"], { cwd: scene.place });
      const medium = scene.path("medium");
      const device = execFileSync("losetup", ["--show", "--find", medium], { encoding: "utf8" });
      symlinkSync(device.trim(), scene.path(FILE));
      return () => execFileSync("losetup", ["--detach", device.trim()]);
    },
  },
};
