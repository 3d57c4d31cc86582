// Clones hold what they should, whatever the image is like, or are refused and leave nothing.

import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import {
  copyInto,
  digest,
  digestOfFile,
  eventful,
  expectRefusal,
  guest,
  image,
  judged,
  must,
  mustImage,
  qemuImg,
  Scene,
  snapshotsOf,
  view,
} from "./support.ts";

const scene = new Scene();
const original = scene.path("original.qcow2");

beforeAll(async () => {
  if (judged) await eventful(original);
});

afterAll(() => scene[Symbol.dispose]());

/** Content and snapshots as qemu-img sees them, in all three ways to clone. */
async function expectFaithful(file: string): Promise<void> {
  const before = await view(file);
  const bytes = digestOfFile(file);
  for (const strategy of ["auto", "copy"]) {
    const kept = `${file}.${strategy}.kept`;
    const plain = `${file}.${strategy}.plain`;
    await mustImage(["clone", "-q", "--strategy", strategy, "--keep-snapshots", file, kept]);
    expect(await view(kept)).toEqual(before);
    await mustImage(["clone", "-q", "--strategy", strategy, file, plain]);
    expect(await view(plain)).toEqual({ ...before, snapshots: [] });
    for (const { id } of await snapshotsOf(file)) {
      const old = `${file}.${strategy}.${id}`;
      await mustImage(["clone", "-q", "--strategy", strategy, "--from-snapshot", id, file, old]);
      const active = await digest(file, id);
      expect(await view(old)).toEqual({ check: 0, active, snapshots: [] });
    }
  }
  expect(digestOfFile(file)).toBe(bytes);
}

/** The bitmaps that qemu-img lists. */
async function bitmapsOf(file: string): Promise<unknown> {
  const info = JSON.parse(await qemuImg("info", "--output=json", file)) as {
    "format-specific": { data: { bitmaps?: unknown } };
  };
  return info["format-specific"].data.bitmaps;
}

describe.runIf(judged)("a clone of an image", () => {
  test.concurrent.each([
    "compat=0.10",
    "compat=0.10,cluster_size=512",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=64",
    "cluster_size=2M",
    "cluster_size=1k,refcount_bits=2",
    "lazy_refcounts=on",
    "compression_type=zstd",
  ])("with %s is faithful", async (options) => {
    const file = path.join(scene.place(), "disk.qcow2");
    await eventful(file, options);
    await expectFaithful(file);
  });

  test.concurrent.each(["zlib", "zstd"])(
    "with clusters compressed by %s is faithful",
    async (type) => {
      const place = scene.place();
      const raw = path.join(place, "raw");
      const text = Buffer.from("All work and no play makes Jack a dull boy. ".repeat(25_000));
      writeFileSync(raw, text.subarray(0, 1 << 20));
      const file = path.join(place, "disk.qcow2");
      const options = `compression_type=${type},cluster_size=4k`;
      await qemuImg("convert", "-c", "-O", "qcow2", "-o", options, raw, file);
      await qemuImg("snapshot", "-c", "one", file);
      await guest(file, "write -P 7 100k 60k", "write -P 8 300k 40k");
      await expectFaithful(file);
    },
  );

  test.concurrent("that is empty, tiny, or of an odd size is faithful", async () => {
    for (const size of ["0", "512", "1023488"]) {
      const file = path.join(scene.place(), "disk.qcow2");
      await qemuImg("create", "-q", "-f", "qcow2", file, size);
      await qemuImg("snapshot", "-c", "one", file);
      await expectFaithful(file);
    }
  });

  test.concurrent("whose size changed between snapshots has the size of the one it is from", async () => {
    const place = scene.place();
    const file = copyInto(place, original);
    await qemuImg("resize", "-q", file, "3M");
    await guest(file, "write -P 9 2M 64k");
    await qemuImg("snapshot", "-c", "large", file);
    for (const name of ["one", "two", "large"]) {
      const applied = path.join(place, `${name}.applied`);
      copyFileSync(file, applied);
      await qemuImg("snapshot", "-a", name, applied);
      const clone = path.join(place, `${name}.clone`);
      await mustImage(["clone", "-q", "--from-snapshot", name, file, clone]);
      expect(await view(clone)).toEqual({ check: 0, active: await digest(applied), snapshots: [] });
    }
  });

  test.concurrent("with bitmaps keeps them, and qemu-img reads them", async () => {
    const file = path.join(scene.place(), "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "16M");
    await qemuImg("bitmap", "--add", "-g", "65536", file, "b0");
    await guest(file, "write -P 1 1M 3M");
    expect(await bitmapsOf(file)).toHaveLength(1);
    for (const strategy of ["auto", "copy"]) {
      await mustImage(["clone", "-q", "--strategy", strategy, file, `${file}.${strategy}`]);
      expect(await bitmapsOf(`${file}.${strategy}`)).toEqual(await bitmapsOf(file));
      await qemuImg("check", "-q", `${file}.${strategy}`);
      expect(await qemuImg("compare", file, `${file}.${strategy}`)).toContain("identical");
    }
    // Merging reads the bits themselves.
    await qemuImg("bitmap", "--add", "--merge", "b0", "-g", "65536", `${file}.copy`, "b1");
    expect(await bitmapsOf(`${file}.copy`)).toHaveLength(2);
  });

  test.concurrent("with LUKS moves no cluster: the key still opens it", async () => {
    const file = path.join(scene.place(), "disk.qcow2");
    const secret = ["--object", "secret,id=s,data=abc"];
    const luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    await qemuImg("create", "-q", "-f", "qcow2", ...secret, "-o", luks, file, "4M");
    const open = (of: string): string[] => [
      ...secret,
      "--image-opts",
      `driver=qcow2,encrypt.key-secret=s,file.filename=${of}`,
    ];
    const io = (of: string, command: string): Promise<string> =>
      must(["qemu-io", ...open(of), "-c", command]);
    await io(file, "write -P 11 0 1M");
    await mustImage(["snapshot", "-c", "one", file]);
    await io(file, "write -P 12 512k 1M");
    for (const strategy of ["auto", "copy"]) {
      const plain = `${file}.${strategy}`;
      await mustImage(["clone", "-q", "--strategy", strategy, file, plain]);
      expect(await io(plain, "read -P 12 512k 1M")).not.toMatch(/fail|differ/i);
      expect(await io(plain, "read -P 11 0 512k")).not.toMatch(/fail|differ/i);
      const old = `${file}.${strategy}.old`;
      await mustImage(["clone", "-q", "--strategy", strategy, "--from-snapshot", "one", file, old]);
      expect(await io(old, "read -P 11 0 1M")).not.toMatch(/fail|differ/i);
      for (const clone of [plain, old]) await must(["qemu-img", "check", "-q", ...open(clone)]);
    }
  });

  // The story: an image whose reference count for a cluster of data is 0 (other programs have
  // produced such) is cloned, the cluster is not copied, and the clone reads zeros there.
  test.concurrent("whose reference counts are too low loses nothing, or is refused", async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "1M");
    await guest(file, "write -P 9 0 128k");
    const bytes = readFileSync(file);
    const at = (offset: number): number =>
      Number(bytes.readBigUInt64BE(offset) & 0xfffffffffffe00n);
    const data = at(at(at(40)));
    bytes.writeUInt16BE(0, at(at(48)) + 2 * (data / 65536));
    writeFileSync(file, bytes);
    const content = await digest(file);
    for (const strategy of ["auto", "copy"]) {
      for (const kind of [[], ["--keep-snapshots"]]) {
        const args = ["clone", "--strategy", strategy, ...kind, "disk.qcow2", "a.qcow2"];
        const ending = await image(args, { cwd: place });
        if (ending.status === 0) {
          expect({ args, content: await digest(path.join(place, "a.qcow2")) }).toEqual({
            args,
            content,
          });
          rmSync(path.join(place, "a.qcow2"));
        } else {
          expectRefusal(ending, /counted/);
          expect(readdirSync(place)).toEqual(["disk.qcow2"]);
        }
      }
    }
  });

  test.concurrent("whose reference counts are too high is as clean as a clone can be", async () => {
    const place = scene.place();
    const file = copyInto(place, original);
    const bytes = readFileSync(file);
    const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
    bytes.writeUInt16BE(7, block + 2 * 60);
    writeFileSync(file, bytes);
    await mustImage(["clone", "-q", "disk.qcow2", "a.qcow2"], { cwd: place });
    expect(await view(path.join(place, "a.qcow2"))).toMatchObject({
      check: 0,
      active: await digest(file),
    });
  });

  test.concurrent("that is marked dirty or corrupt, or has a data file, is refused", async () => {
    const place = scene.place();
    for (const [bit, word] of [
      [1, /dirty/],
      [2, /corrupt/],
    ] as const) {
      const bytes = readFileSync(original);
      bytes[79] = bit;
      writeFileSync(path.join(place, "disk.qcow2"), bytes);
      expectRefusal(await image(["clone", "disk.qcow2", "a.qcow2"], { cwd: place }), word);
    }
    const options = `data_file=${path.join(place, "data.raw")}`;
    await qemuImg("create", "-q", "-f", "qcow2", "-o", options, path.join(place, "d.qcow2"), "1M");
    expectRefusal(await image(["clone", "d.qcow2", "a.qcow2"], { cwd: place }), /data file/);
    expect(existsSync(path.join(place, "a.qcow2"))).toBe(false);
  });

  test.concurrent("of a snapshot that is not there is refused, and leaves nothing", async () => {
    const place = scene.place();
    copyInto(place, original);
    for (const selector of ["three", "3", "", "on"]) {
      const args = ["clone", "--from-snapshot", selector, "disk.qcow2", "a.qcow2"];
      expectRefusal(await image(args, { cwd: place }), /No such|not found|snapshot/i);
      expect(readdirSync(place)).toEqual(["disk.qcow2"]);
    }
  });
});
