// Clones: what is refused before anything is there, and that what is made holds what it should,
// wherever it is made and from whatever.

import {
  chmodSync,
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import {
  copyInto,
  digest,
  digestOfFile,
  eventful,
  executable,
  expectRefusal,
  guest,
  have,
  image,
  isRoot,
  judged,
  must,
  mustImage,
  qemuImg,
  run,
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

async function listing(place: string): Promise<string[]> {
  const names = readdirSync(place, { recursive: true, encoding: "utf8" }).toSorted();
  return names.map((name) => {
    const file = path.join(place, name);
    const stat = lstatSync(file);
    if (stat.isSymbolicLink()) return `${name} -> ${readlinkSync(file)}`;
    return stat.isFile() ? `${name} ${digestOfFile(file)}` : `${name}/`;
  });
}

function withSource(): string {
  const place = scene.place();
  copyInto(place, original);
  return place;
}

/** Refused, and the directory is as it was. */
async function expectNothing(place: string, args: string[], reason: RegExp): Promise<void> {
  const before = await listing(place);
  for (const strategy of ["auto", "copy"]) {
    expectRefusal(await image(["clone", "--strategy", strategy, ...args], { cwd: place }), reason);
    expect(await listing(place)).toEqual(before);
  }
}

describe.runIf(judged)("a target", () => {
  test.concurrent("that exists is not replaced: a file, an image, an empty file", async () => {
    const place = withSource();
    writeFileSync(path.join(place, "there.qcow2"), "precious");
    writeFileSync(path.join(place, "empty.qcow2"), "");
    copyFileSync(original, path.join(place, "image.qcow2"));
    for (const name of ["there.qcow2", "empty.qcow2", "image.qcow2"]) {
      await expectNothing(place, ["disk.qcow2", name], /File exists/);
      await expectNothing(place, ["disk.qcow2", "a.qcow2", name, "b.qcow2"], /File exists/);
    }
  });

  test.concurrent("that is a symbolic link is not followed, whether it leads somewhere or not", async () => {
    const place = withSource();
    symlinkSync("nowhere.qcow2", path.join(place, "dangling.qcow2"));
    symlinkSync("disk.qcow2", path.join(place, "link.qcow2"));
    await expectNothing(place, ["disk.qcow2", "dangling.qcow2"], /File exists/);
    await expectNothing(place, ["disk.qcow2", "a.qcow2", "dangling.qcow2"], /File exists/);
    await expectNothing(place, ["disk.qcow2", "link.qcow2"], /File exists/);
  });

  test.concurrent("that is a directory is refused, by any spelling", async () => {
    const place = withSource();
    mkdirSync(path.join(place, "directory"));
    for (const name of ["directory", "directory/", ".", "..", "/", "directory/.", "directory/.."]) {
      await expectNothing(place, ["disk.qcow2", name], /exists|directory/i);
    }
  });

  test.concurrent("that is the source is refused, by any spelling", async () => {
    const place = withSource();
    linkSync(path.join(place, "disk.qcow2"), path.join(place, "hard.qcow2"));
    const absolute = path.join(place, "disk.qcow2");
    for (const name of ["disk.qcow2", "./disk.qcow2", absolute, "hard.qcow2"]) {
      await expectNothing(place, ["disk.qcow2", name], /exists/);
    }
  });

  test.concurrent("that is named twice is refused, by any spelling", async () => {
    const place = withSource();
    mkdirSync(path.join(place, "directory"));
    symlinkSync("directory", path.join(place, "alias"));
    symlinkSync(".", path.join(place, "here"));
    const pairs = [
      ["a.qcow2", "a.qcow2"],
      ["a.qcow2", "./a.qcow2"],
      ["a.qcow2", ".//a.qcow2"],
      ["a.qcow2", path.join(place, "a.qcow2")],
      ["a.qcow2", "directory/../a.qcow2"],
      ["a.qcow2", "here/a.qcow2"],
      ["directory/a.qcow2", "alias/a.qcow2"],
    ];
    for (const pair of pairs) {
      await expectNothing(place, ["disk.qcow2", ...pair], /twice/);
      await expectNothing(place, ["disk.qcow2", "b.qcow2", ...pair, "c.qcow2"], /twice/);
    }
  });

  test.concurrent("in a directory that is missing, or that is a file, is refused", async () => {
    const place = withSource();
    await expectNothing(place, ["disk.qcow2", "missing/a.qcow2"], /No such file or directory/);
    await expectNothing(place, ["disk.qcow2", "a.qcow2", "missing/a.qcow2"], /No such file/);
    await expectNothing(place, ["disk.qcow2", "disk.qcow2/a.qcow2"], /Not a directory/);
    await expectNothing(place, ["disk.qcow2", "a.qcow2", "x".repeat(256)], /too long/);
  });

  test.runIf(isRoot)(
    "that cannot be made, the last of many, leaves none of them",
    { concurrent: true },
    async () => {
      const place = withSource();
      using own = new Scene();
      const point = await own.mount("ext4", "16M");
      await must(["mount", "-o", "remount,ro", point]);
      const targets = ["a.qcow2", "b.qcow2", "c.qcow2", path.join(point, "d.qcow2")];
      await expectNothing(place, ["disk.qcow2", ...targets], /Read-only file system/);
    },
  );

  test.concurrent("that is an empty name is refused", async () => {
    await expectNothing(withSource(), ["disk.qcow2", ""], /./);
  });

  test.concurrent("may have any name that a file may have", async () => {
    const place = withSource();
    const names = [
      "with space",
      "-dash",
      "new\nline",
      "ünï",
      "json:{}",
      "nbd:x",
      "a,b=c",
      "\u001b[2J",
    ];
    await mustImage(["clone", "--", "disk.qcow2", ...names], { cwd: place });
    for (const name of names) {
      expect(digestOfFile(path.join(place, name))).toBe(digestOfFile(path.join(place, names[0]!)));
    }
    expect(readdirSync(place).toSorted()).toEqual(["disk.qcow2", ...names].toSorted());
  });

  test.concurrent("gets the permissions of the source, as the umask allows", async () => {
    const place = withSource();
    for (const [mode, umask, expected] of [
      [0o600, "022", 0o600],
      [0o666, "022", 0o644],
      [0o640, "000", 0o640],
      [0o444, "022", 0o444],
    ] as const) {
      chmodSync(path.join(place, "disk.qcow2"), mode);
      const script = `umask ${umask}; exec "$0" image clone -q disk.qcow2 a.qcow2`;
      await must(["sh", "-c", script, executable], { cwd: place });
      expect(statSync(path.join(place, "a.qcow2")).mode & 0o7777).toBe(expected);
      rmSync(path.join(place, "a.qcow2"));
    }
  });
});

/** One file system to clone on, or between two. */
interface Ground {
  name: string;
  shares: boolean;
  /** Where sources are, and where clones are made. */
  places: () => Promise<{ from: string; to: string }>;
}

const grounds: Ground[] = [
  {
    name: "ext4",
    shares: false,
    places: async () => same(await scene.mount("ext4", "96M")),
  },
  {
    name: "XFS",
    shares: true,
    places: async () => same(await scene.mount("xfs", "320M")),
  },
  {
    name: "btrfs",
    shares: true,
    places: async () => same(await scene.mount("btrfs", "256M")),
  },
  {
    name: "btrfs without copy-on-write",
    shares: true,
    places: async () => {
      const place = path.join(await scene.mount("btrfs", "256M"), "plain");
      mkdirSync(place);
      await must(["chattr", "+C", place]);
      // The clones are made in a directory that has not the attribute.
      const to = path.join(place, "../clones");
      mkdirSync(to);
      return { from: place, to };
    },
  },
  {
    name: "XFS to ext4",
    shares: false,
    places: async () => ({
      from: await scene.mount("xfs", "320M"),
      to: await scene.mount("ext4", "96M"),
    }),
  },
  {
    name: "XFS to another XFS",
    shares: false,
    places: async () => ({
      from: await scene.mount("xfs", "320M"),
      to: await scene.mount("xfs", "320M"),
    }),
  },
];

function same(place: string): { from: string; to: string } {
  return { from: place, to: place };
}

interface Report {
  source: string;
  clones: {
    target: string;
    strategy: string;
    reason?: string;
    "copied-bytes": number;
    "shared-bytes": number;
  }[];
}

async function cloned(args: string[], cwd: string): Promise<Report> {
  return JSON.parse(await mustImage(["clone", "--output", "json", ...args], { cwd })) as Report;
}

/** Bytes of a file that own blocks, and those of them that the file system says are shared. */
async function blocksOf(file: string): Promise<{ allocated: number; shared: number }> {
  await must(["sync", file]);
  const map = await must(["filefrag", "-v", "-b512", file]);
  let [allocated, shared] = [0, 0];
  for (const line of map.split("\n")) {
    const extent = /^ *\d+: +\d+\.\. +\d+: +\d+\.\. +\d+: +(\d+):(.*)$/.exec(line);
    if (extent === null) continue;
    allocated += Number(extent[1]) * 512;
    if (/shared/.test(extent[2]!)) shared += Number(extent[1]) * 512;
  }
  return { allocated, shared };
}

const systems = isRoot && have("mkfs.xfs", "mkfs.btrfs", "mkfs.ext4", "filefrag");

describe.runIf(judged && systems)("a clone", () => {
  describe.each(grounds)("on $name", ({ shares, places }) => {
    let from: string;
    let to: string;
    let source: string;
    const target = (name: string): string => path.join(to, name);

    beforeAll(async () => {
      ({ from, to } = await places());
      source = path.join(from, "source.qcow2");
      await qemuImg("create", "-q", "-f", "qcow2", source, "16M");
      await guest(source, "write -P 1 0 2M", "write -P 2 8M 100k", "write -z 12M 1M");
      await qemuImg("snapshot", "-c", "one", source);
      await guest(source, "write -P 3 1M 900k", "write -P 4 15M 64k", "discard 8M 64k");
      await qemuImg("snapshot", "-c", "two", source);
      await guest(source, "write -P 5 512k 1M");
      await must(["sync", "-f", from]);
    });

    test("holds the disk, without snapshots, and is clean", async () => {
      const [report] = (await cloned([source, target("disk.qcow2")], from)).clones;
      expect(report?.strategy).toBe(shares ? "reflink" : "copy");
      expect(await view(target("disk.qcow2"))).toEqual({
        check: 0,
        active: await digest(source),
        snapshots: [],
      });
      expect(await qemuImg("compare", source, target("disk.qcow2"))).toContain("identical");
    });

    test("holds what a snapshot held, by name and by id", async () => {
      const listed = await snapshotsOf(source);
      for (const { id, name } of listed) {
        for (const selector of [id, name]) {
          const file = target(`from-${selector}.qcow2`);
          await cloned(["--from-snapshot", selector, source, file], from);
          expect(await view(file)).toEqual({
            check: 0,
            active: await digest(source, id),
            snapshots: [],
          });
        }
      }
    });

    test("holds every snapshot when they are kept", async () => {
      await cloned(["--keep-snapshots", source, target("kept.qcow2")], from);
      expect(await view(target("kept.qcow2"))).toEqual(await view(source));
      const lists = [source, target("kept.qcow2")].map((file) => qemuImg("snapshot", "-l", file));
      const [theirs, ours] = await Promise.all(lists);
      expect(ours).toBe(theirs);
    });

    test("is independent: neither notices what a guest does to the other", async () => {
      const copy = path.join(from, "independent.qcow2");
      copyFileSync(source, copy);
      const before = await digest(copy);
      await cloned([copy, target("apart.qcow2")], from);
      await guest(copy, "write -P 0x51 0 3M");
      expect(await view(target("apart.qcow2"))).toMatchObject({ check: 0, active: before });
      const after = await digest(copy);
      await guest(target("apart.qcow2"), "write -P 0x52 0 3M");
      await mustImage(["snapshot", "-c", "new", target("apart.qcow2")]);
      expect(await view(copy)).toMatchObject({ check: 0, active: after });
      expect(await view(target("apart.qcow2"))).toMatchObject({ check: 0 });
    });

    test("says what it copied and what it shares, as the file system sees it", async () => {
      for (const kind of [[], ["--keep-snapshots"], ["--from-snapshot", "one"]]) {
        const file = target(`figures-${kind.length}${kind[0] ?? ""}.qcow2`);
        const { clones, source: named } = await cloned([...kind, source, file], from);
        expect(named).toBe(source);
        const [{ strategy, reason, ...figures }] = clones as [Report["clones"][number]];
        const { allocated, shared } = await blocksOf(file);
        // Tables that were written and then given back count as copied.
        const slack = 512 << 10;
        const { "copied-bytes": copied, "shared-bytes": reported } = figures;
        expect(Math.abs(copied + reported - allocated)).toBeLessThanOrEqual(slack);
        expect(Math.abs(reported - shared)).toBeLessThanOrEqual(slack);
        if (shares) {
          expect({ strategy, reason }).toEqual({ strategy: "reflink", reason: undefined });
          expect(copied).toBeLessThan(1 << 20);
        } else {
          expect(strategy).toBe("copy");
          expect(reason).toMatch(/cannot share blocks between files|different file systems/);
        }
      }
    });

    test("of which there are several is the same in each", async () => {
      const names = ["m1", "m2", "m3", "m4", "m5"].map((name) => target(`${name}.qcow2`));
      const report = await cloned([source, ...names], from);
      expect(report.clones.map((clone) => clone.target)).toEqual(names);
      const first = await view(names[0]!);
      expect(first).toEqual({ check: 0, active: await digest(source), snapshots: [] });
      for (const name of names.slice(1)) {
        expect(digestOfFile(name)).toBe(digestOfFile(names[0]!));
      }
    });

    test("by copy has blocks of its own", async () => {
      await cloned(["--strategy", "copy", source, target("own.qcow2")], from);
      expect((await blocksOf(target("own.qcow2"))).shared).toBe(0);
      expect(await qemuImg("compare", source, target("own.qcow2"))).toContain("identical");
    });

    if (shares) {
      test("by reflink shares blocks", async () => {
        await cloned(["--strategy", "reflink", source, target("shared.qcow2")], from);
        expect((await blocksOf(target("shared.qcow2"))).shared).toBeGreaterThan(2 << 20);
      });
    } else {
      test("by reflink is refused, and leaves nothing", async () => {
        const args = ["clone", "--strategy", "reflink", source, target("refused.qcow2")];
        expectRefusal(await image(args), /cannot be shared|cannot share/i);
        expect(existsSync(target("refused.qcow2"))).toBe(false);
      });
    }

    test("leaves no other file behind", () => {
      expect(readdirSync(to).filter((name) => name.startsWith("."))).toEqual([]);
    });
  });
});

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

  test.concurrent("with a relative backing file finds it from another directory", async () => {
    const place = scene.place();
    for (const name of ["images", "elsewhere/deep", "beside"]) {
      mkdirSync(path.join(place, name), { recursive: true });
    }
    const at = (...names: string[]): string => path.join(place, ...names);
    await qemuImg("create", "-q", "-f", "qcow2", at("images/base.qcow2"), "1M");
    await guest(at("images/base.qcow2"), "write -P 21 0 512k");
    const overlay = at("images/disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", overlay);
    await guest(overlay, "write -P 22 256k 128k");
    await qemuImg("snapshot", "-c", "one", overlay);
    const content = await digest(overlay);
    const targets = ["elsewhere/deep/a.qcow2", "beside/b.qcow2", "images/c.qcow2"].map((to) =>
      at(to),
    );
    symlinkSync("images", at("link"));
    for (const strategy of ["auto", "copy"]) {
      for (const source of [overlay, at("link/disk.qcow2")]) {
        await mustImage(["clone", "-q", "--strategy", strategy, source, ...targets]);
        for (const clone of targets) {
          expect(await view(clone)).toEqual({ check: 0, active: content, snapshots: [] });
          rmSync(clone);
        }
      }
    }
  });

  test.concurrent("with an absolute backing file keeps its name, and nobody opens it", async () => {
    const place = scene.place();
    const fifo = path.join(place, "trap");
    await must(["mkfifo", fifo]);
    const file = path.join(place, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", fifo, "-F", "raw", file, "1M");
    const ending = await image(["clone", "disk.qcow2", "a.qcow2"], { cwd: place, timeout: 5000 });
    expect(ending).toMatchObject({ status: 0, signal: null });
    const named = JSON.parse(
      await mustImage(["info", "--output", "json", path.join(place, "a.qcow2")]),
    ) as Record<string, unknown>;
    expect(named["backing-filename"]).toBe(fifo);
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

describe.runIf(judged && isRoot && have("mkfs.ext4"))("a clone that takes its time", () => {
  test("holes of the source stay holes in the copy", async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "1T");
    await guest(file, "write -P 1 0 1M", "write -P 2 900G 1M");
    const ending = await image(["clone", "--strategy", "copy", file, `${file}.copy`], {
      timeout: 20_000,
    });
    expect(ending).toMatchObject({ status: 0 });
    const [theirs, ours] = [statSync(file), statSync(`${file}.copy`)];
    expect(ours.size).toBe(theirs.size);
    expect(ours.blocks).toBeLessThanOrEqual(theirs.blocks + 64);
  });

  test("is gone without a trace when it is killed in the middle", async () => {
    using own = new Scene();
    const point = await own.mount("ext4", "512M");
    const file = path.join(point, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "200M");
    await guest(file, "write -P 1 0 100M", "write -P 2 100M 90M");
    const free = async (): Promise<number> => {
      await must(["sync", "-f", point]);
      return Number((await must(["stat", "-f", "-c", "%f", point])).trim());
    };
    const before = await free();
    const command = [executable, "image", "clone", "--strategy", "copy", file, `${file}.copy`];
    // 190 MiB from one file to another take longer than that.
    expect(await run(["timeout", "-s", "KILL", "0.05", ...command])).not.toMatchObject({
      status: 0,
    });
    expect(readdirSync(point).toSorted()).toEqual(["disk.qcow2", "lost+found"]);
    expect(Math.abs((await free()) - before)).toBeLessThan(64);
    expect(await image(["clone", "-q", "--strategy", "copy", file, `${file}.copy`])).toMatchObject({
      status: 0,
      stderr: "",
    });
  });
});
