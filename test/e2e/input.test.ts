// Bad input: what is no image, what is half of one, what lies about itself, and what may not be
// touched. Each ends in a clear error and the right status, and leaves everything as it was.

import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import path from "node:path";

import { beforeAll, describe, expect, test } from "vitest";

import {
  digest,
  digestOfFile,
  type Ending,
  executable,
  expectRefusal,
  guest,
  image,
  inParallel,
  isRoot,
  judged,
  makeOriginal,
  must,
  nobody,
  qemuImg,
  random,
  run,
  Scene,
} from "./support.ts";

const { scene, file: original } = makeOriginal();

/** Every command that opens an image, on a file of this name. */
function commandsOn(file: string): string[][] {
  return [
    ["info", file],
    ["info", "--output", "json", "-U", file],
    ["check", file],
    ["snapshot", "-l", file],
    ["snapshot", "-c", "new", file],
    ["snapshot", "-a", "one", file],
    ["snapshot", "-d", "one", file],
    ["snapshot", "--rename", "one", "eins", file],
    ["clone", file, "clone.qcow2"],
    ["clone", "--keep-snapshots", file, "clone.qcow2"],
    ["clone", "--from-snapshot", "one", "--strategy", "copy", file, "clone.qcow2"],
  ];
}

const BOUND = 10_000;

/** Five of them, others each turn: where there are hundreds of files to try. */
function someCommandsOn(file: string, turn: number): string[][] {
  return commandsOn(file).filter((_, at) => (at * 5 + turn * 3) % 11 < 5);
}

/** Whether a command only looks at an image. */
function isReading([verb = "", operation]: string[]): boolean {
  return verb === "info" || verb === "check" || operation === "-l";
}

/** Runs every command on a file, which each has to refuse for that reason, and looks around. */
async function expectRefused(
  place: string,
  name: string,
  reason: RegExp,
  commands = commandsOn(name),
): Promise<void> {
  const before = readdirSync(place).toSorted();
  for (const args of commands) {
    const ending = await image(args, { cwd: place, timeout: BOUND });
    expect({ args, ...ending }).toMatchObject({ args, status: 1, signal: null, stdout: "" });
    expectRefusal(ending, reason);
    expect(readdirSync(place).toSorted()).toEqual(before);
  }
}

describe.runIf(judged)("what is no image is refused by every command, for the right reason", () => {
  test.concurrent("a file that is missing", async () => {
    await expectRefused(scene.place(), "disk.qcow2", /No such file or directory/);
  });

  test.concurrent("a name below a file", async () => {
    const place = scene.place();
    writeFileSync(path.join(place, "file"), "");
    await expectRefused(place, "file/disk.qcow2", /Not a directory/);
  });

  test.concurrent("an empty file", async () => {
    const place = scene.place();
    writeFileSync(path.join(place, "disk.qcow2"), "");
    await expectRefused(place, "disk.qcow2", /not in qcow2 format/);
  });

  test.concurrent("a raw disk, even if a guest wrote qcow2 into it", async () => {
    const place = scene.place();
    // The story: a guest writes a header that names a file of the host into its raw disk, and the
    // next tool guesses the format (CVE-2008-2004 and the long line behind it).
    const raw = Buffer.alloc(1 << 20);
    readFileSync(original).copy(raw, 512, 0, 4096);
    writeFileSync(path.join(place, "raw.img"), raw);
    await expectRefused(place, "raw.img", /not in qcow2 format/);
    expect(readFileSync(path.join(place, "raw.img")).equals(raw)).toBe(true);
  });

  test.concurrent.each(["vmdk", "vdi", "vhdx", "qcow", "qed"])("an image in %s", async (format) => {
    const place = scene.place();
    await qemuImg("create", "-q", "-f", format, path.join(place, "disk.img"), "1M");
    await expectRefused(place, "disk.img", /not in qcow2 format|Unsupported qcow2 version 1/);
  });

  test.concurrent("a directory", async () => {
    const place = scene.place();
    mkdirSync(path.join(place, "disk.qcow2"));
    await expectRefused(place, "disk.qcow2", /to be a regular file/);
  });

  test.concurrent("a FIFO, which nobody waits for", async () => {
    const place = scene.place();
    await must(["mkfifo", path.join(place, "disk.qcow2")]);
    await expectRefused(place, "disk.qcow2", /regular file/);
  });

  test.runIf(isRoot)("a character device, and a socket", { concurrent: true }, async () => {
    const place = scene.place();
    await must(["mknod", path.join(place, "null"), "c", "1", "3"]);
    await expectRefused(place, "null", /regular file/);
    const server = createServer().listen(path.join(place, "socket"));
    await once(server, "listening");
    await expectRefused(place, "socket", /regular file/);
    server.close();
  });

  test.concurrent("a symbolic link to nothing, and one to itself", async () => {
    const place = scene.place();
    symlinkSync("nowhere", path.join(place, "disk.qcow2"));
    await expectRefused(place, "disk.qcow2", /No such file or directory/);
    symlinkSync("loop.qcow2", path.join(place, "loop.qcow2"));
    await expectRefused(place, "loop.qcow2", /Too many levels of symbolic links|loop/);
  });

  test.concurrent("a name that is too long", async () => {
    await expectRefused(scene.place(), `${"x".repeat(300)}.qcow2`, /File name too long/);
  });
});

describe.runIf(judged)("an image that is cut off", () => {
  test.concurrent("is refused or sound, at every length, and stays as it is", async () => {
    const whole = readFileSync(original);
    const inHeader = [1, 3, 4, 7, 8, 20, 71, 72, 99, 103, 104, 111, 112, 511, 512, 513, 1023];
    const clusters = Array.from({ length: Math.ceil(whole.length / 1024) }, (_, at) => at * 1024);
    const lengths = [...inHeader, ...clusters.filter((_, at) => at % 9 === 1)];
    await inParallel(lengths, async (length) => {
      const place = scene.place();
      const file = path.join(place, "disk.qcow2");
      const pristine = whole.subarray(0, length);
      for (const args of someCommandsOn("disk.qcow2", length)) {
        writeFileSync(file, pristine);
        const ending = await image(args, { cwd: place, timeout: BOUND });
        await expectSane({ place, args, ending, pristine, story: `${length} bytes` });
      }
      rmSync(place, { recursive: true });
    });
  });

  test.concurrent("is refused by what needs the missing part", async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    copyFileSync(original, file);
    truncateSync(file, 3 * 1024);
    // What only looks shows what qemu-img shows, for which the missing part is zeros.
    const others = commandsOn("disk.qcow2").filter((args) => !isReading(args));
    await expectRefused(place, "disk.qcow2", /./, others);
  });
});

interface Outcome {
  place: string;
  args: string[];
  ending: Ending;
  pristine: Buffer;
  story: string;
}

/**
 * What must hold whatever an image says of itself: no panic, bounded time, a clear error; and a
 * file that is byte-identical, unless the command succeeded.
 */
async function expectSane({ place, args, ending, pristine, story }: Outcome): Promise<void> {
  const text = `${story}, ${args.join(" ")}: ${JSON.stringify(ending).slice(0, 600)}`;
  const isCheck = args[0] === "check";
  expect(ending.signal, text).toBeNull();
  expect(isCheck ? [0, 1, 2, 3, 63] : [0, 1], text).toContain(ending.status);
  expect(ending.stderr, text).not.toMatch(/panicked/);
  if (ending.status === 1) expect(ending.stderr, text).toMatch(/^error: \S/m);
  const file = path.join(place, "disk.qcow2");
  if (ending.status !== 0 || isReading(args) || args[0] === "clone") {
    expect(readFileSync(file).equals(pristine), text).toBe(true);
  } else {
    // It was changed: then it had to be sound, and still is.
    await writeAndCheck(file, pristine, text);
  }
  const left = readdirSync(place).toSorted();
  if (args[0] === "clone" && ending.status === 0) {
    expect(left, text).toEqual(["clone.qcow2", "disk.qcow2"]);
    rmSync(path.join(place, "clone.qcow2"));
  } else {
    expect(left, text).toEqual(["disk.qcow2"]);
  }
}

/** A change must not make an image worse than qemu-img finds it before. */
async function writeAndCheck(file: string, pristine: Buffer, story: string): Promise<void> {
  const copy = `${path.dirname(file)}.before`;
  writeFileSync(copy, pristine);
  const before = await run(["qemu-img", "check", "-q", "-f", "qcow2", copy]);
  const after = await run(["qemu-img", "check", "-q", "-f", "qcow2", file]);
  rmSync(copy);
  if (before.status === 0) expect(after.status, story).toBe(0);
  else expect([0, before.status], story).toContain(after.status);
}

describe.runIf(judged)("an image that lies about itself", () => {
  type Poke = [at: number, bytes: number, value: bigint];
  const header: [field: string, where: [at: number, bytes: number]][] = [
    ["backing_file_offset", [8, 8]],
    ["backing_file_size", [16, 4]],
    ["cluster_bits", [20, 4]],
    ["size", [24, 8]],
    ["crypt_method", [32, 4]],
    ["l1_size", [36, 4]],
    ["l1_table_offset", [40, 8]],
    ["refcount_table_offset", [48, 8]],
    ["refcount_table_clusters", [56, 4]],
    ["nb_snapshots", [60, 4]],
    ["snapshots_offset", [64, 8]],
    ["incompatible_features", [72, 8]],
    ["compatible_features", [80, 8]],
    ["autoclear_features", [88, 8]],
    ["refcount_order", [96, 4]],
    ["header_length", [100, 4]],
    ["compression_type", [104, 1]],
    ["the first extension's type", [112, 4]],
    ["the first extension's length", [116, 4]],
  ];
  const values = [
    0n,
    1n,
    2n,
    7n,
    512n,
    1024n,
    1025n,
    3072n,
    1n << 20n,
    (1n << 31n) - 1n,
    1n << 31n,
  ];
  const wide = [0xffffffffn, 1n << 40n, 1n << 55n, 1n << 56n, (1n << 63n) - 512n, (1n << 64n) - 1n];

  let turn = 0;

  async function expectSaneAfter(pokes: Poke[], story: string): Promise<void> {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    const bytes = readFileSync(original);
    for (const [at, width, value] of pokes) {
      const number = Buffer.alloc(8);
      number.writeBigUInt64BE(value);
      number.copy(bytes, at, 8 - width);
    }
    for (const args of someCommandsOn("disk.qcow2", turn++)) {
      writeFileSync(file, bytes);
      const ending = await image(args, { cwd: place, timeout: BOUND });
      await expectSane({ place, args, ending, pristine: bytes, story });
    }
    rmSync(place, { recursive: true });
  }

  test.concurrent.each(header)("in %s is survived", async (field, [at, bytes]) => {
    const fitting = [...values, ...wide].filter((value) => value < 1n << BigInt(8 * bytes));
    await inParallel(fitting, (value) =>
      expectSaneAfter([[at, bytes, value]], `${field} = ${value}`),
    );
  });

  test.concurrent("anywhere in its tables is survived", async () => {
    const below = random(0xca1);
    const bytes = readFileSync(original);
    const at = (offset: number): number =>
      Number(bytes.readBigUInt64BE(offset) & 0xfffffffffffe00n);
    const tables = [at(40), at(at(40)), at(48), at(at(48)), at(64)];
    const many = Array.from({ length: 40 }, (_, round) => {
      const table = tables[round % tables.length]!;
      const value = [
        0n,
        1n << 62n,
        (1n << 64n) - 1n,
        BigInt(below(400) * 1024),
        0x8000000000000200n,
      ];
      const poke: Poke = [table + 8 * below(round % 5 === 4 ? 12 : 4), 8, value[below(5)]!];
      return { poke, story: poke.join(" ") };
    });
    await inParallel(many, ({ poke, story }) => expectSaneAfter([poke], story));
  });

  // The story: a cluster of the disk and of two snapshots is counted twice, not three times.
  // Deleting one snapshot makes it look private, and the next write of the guest changes the other
  // snapshot.
  test.concurrent("with a count that is too low loses no snapshot, or is refused", async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "1M");
    await guest(file, "write -P 9 0 64k");
    for (const name of ["one", "two"]) await qemuImg("snapshot", "-c", name, file);
    await guest(file, "write -P 8 64k 64k");
    const bytes = readFileSync(file);
    const at = (offset: number): number =>
      Number(bytes.readBigUInt64BE(offset) & 0xfffffffffffe00n);
    const cluster = at(at(at(40))) / 65536;
    expect(bytes.readUInt16BE(at(at(48)) + 2 * cluster)).toBe(3);
    bytes.writeUInt16BE(2, at(at(48)) + 2 * cluster);
    writeFileSync(file, bytes);
    const held = await digest(file, "2");
    const ending = await image(["snapshot", "-d", "one", file]);
    if (ending.status !== 0) {
      expectRefusal(ending, /too low/);
      expect(readFileSync(file).equals(bytes)).toBe(true);
    } else {
      await guest(file, "write -P 0x44 0 64k");
      expect(await digest(file, "2")).toBe(held);
    }
  });

  test.concurrent("with a table of 65536 snapshots that are not there is refused at once", async () => {
    await expectSaneAfter([[60, 4, 65536n]], "65536 snapshots");
  });

  test.concurrent("about its backing file makes nobody open that", async () => {
    const place = scene.place();
    const fifo = path.join(place, "trap");
    await must(["mkfifo", fifo]);
    const file = path.join(place, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", fifo, "-F", "raw", file, "1M");
    // Whoever opens the FIFO hangs, and is found out by the clock.
    for (const args of commandsOn("disk.qcow2").slice(0, 5)) {
      const ending = await image(args, { cwd: place, timeout: BOUND });
      expect({ args, ...ending }).toMatchObject({ args, signal: null, status: 0 });
    }
  });
});

describe.runIf(judged && isRoot)("without permission", () => {
  /** As another user, who may enter the place. */
  function asNobody(args: string[], cwd: string): Promise<Ending> {
    const who = ["setpriv", `--reuid=${nobody}`, `--regid=${nobody}`, "--clear-groups"];
    return run([...who, program, "image", ...args], { cwd, timeout: BOUND });
  }

  let program: string;

  beforeAll(() => {
    chmodSync(scene.directory, 0o755);
    program = scene.path("calque");
    copyFileSync(executable, program);
  });

  test.concurrent("to read, every command is refused", async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    copyFileSync(original, file);
    chmodSync(file, 0o600);
    for (const args of commandsOn("disk.qcow2")) {
      expectRefusal(await asNobody(args, place), /Permission denied/);
    }
    expect(digestOfFile(file)).toBe(digestOfFile(original));
    expect(readdirSync(place)).toEqual(["disk.qcow2"]);
  });

  test.concurrent("to write, what reads works and what changes is refused", async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    copyFileSync(original, file);
    chmodSync(file, 0o644);
    for (const args of commandsOn("disk.qcow2")) {
      const ending = await asNobody(args, place);
      const reads = args[0] === "info" || args[0] === "check" || args[1] === "-l";
      if (reads) expect({ args, ...ending }).toMatchObject({ args, status: 0, stderr: "" });
      else expectRefusal(ending, /Permission denied/);
    }
    expect(digestOfFile(file)).toBe(digestOfFile(original));
    expect(readdirSync(place)).toEqual(["disk.qcow2"]);
  });

  test.concurrent("to the directory, nothing is created or cloned", async () => {
    const place = scene.place();
    const other = scene.place();
    chownSync(other, nobody, nobody);
    const file = path.join(other, "disk.qcow2");
    copyFileSync(original, file);
    chownSync(file, nobody, nobody);
    expectRefusal(
      await asNobody(["create", path.join(place, "new.qcow2"), "1M"], "/"),
      /Permission denied/,
    );
    expectRefusal(
      await asNobody(["clone", file, path.join(place, "a.qcow2")], "/"),
      /Permission denied/,
    );
    expect(readdirSync(place)).toEqual([]);
    // The file is theirs and the place is too: then it works, and the clone is theirs as well.
    expect(await asNobody(["clone", "disk.qcow2", "a.qcow2"], other)).toMatchObject({ status: 0 });
    expect(statSync(path.join(other, "a.qcow2"))).toMatchObject({ uid: nobody, gid: nobody });
  });

  test.concurrent("a read-only file of one's own is refused by what changes it", async () => {
    const place = scene.place();
    chownSync(place, nobody, nobody);
    const file = path.join(place, "disk.qcow2");
    copyFileSync(original, file);
    chownSync(file, nobody, nobody);
    chmodSync(file, 0o444);
    expectRefusal(
      await asNobody(["snapshot", "-c", "x", "disk.qcow2"], place),
      /Permission denied/,
    );
    expectRefusal(await asNobody(["create", "disk.qcow2", "1M"], place), /Permission denied/);
    expect(digestOfFile(file)).toBe(digestOfFile(original));
    expect(await asNobody(["clone", "disk.qcow2", "a.qcow2"], place)).toMatchObject({ status: 0 });
  });

  test.concurrent("an immutable file is refused by what changes it", async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    copyFileSync(original, file);
    await must(["chattr", "+i", file]);
    try {
      expectRefusal(
        await image(["snapshot", "-c", "x", file]),
        /Operation not permitted|Permission denied/,
      );
      expectRefusal(
        await image(["create", file, "1M"]),
        /Operation not permitted|Permission denied/,
      );
    } finally {
      await must(["chattr", "-i", file]);
    }
    expect(digestOfFile(file)).toBe(digestOfFile(original));
  });
});

describe.runIf(judged && isRoot)("a read-only file system", () => {
  test("is read by what reads, refuses what changes, and can be cloned from", async () => {
    using own = new Scene();
    const point = await own.mount("ext4", "16M");
    copyFileSync(original, path.join(point, "disk.qcow2"));
    await must(["mount", "-o", "remount,ro", point]);
    for (const args of commandsOn("disk.qcow2")) {
      const ending = await image(args, { cwd: point, timeout: BOUND });
      const reads = args[0] === "info" || args[0] === "check" || args[1] === "-l";
      if (reads) expect({ args, ...ending }).toMatchObject({ args, status: 0, stderr: "" });
      else expectRefusal(ending, /Read-only file system/);
    }
    expectRefusal(
      await image(["create", "new.qcow2", "1M"], { cwd: point }),
      /Read-only file system/,
    );
    const clone = own.path("clone.qcow2");
    expect(await image(["clone", path.join(point, "disk.qcow2"), clone])).toMatchObject({
      status: 0,
    });
    expect(await qemuImg("compare", path.join(point, "disk.qcow2"), clone)).toContain("identical");
  });
});

describe.runIf(judged)("a size that cannot be", () => {
  test.concurrent("of a file is refused by create, and leaves none", async () => {
    const place = scene.place();
    for (const size of ["-1", "8E", "16E", "9P", "x", "", "1.5.2"]) {
      expectRefusal(await image(["create", "--", "new.qcow2", size], { cwd: place }));
      expect(readdirSync(place)).toEqual([]);
    }
  });

  test.concurrent("of a file is refused by the system, and leaves none", async () => {
    const place = scene.place();
    const limited = ["prlimit", "--fsize=65536", executable, "image"];
    const ending = await run([...limited, "create", "new.qcow2", "1G"], { cwd: place });
    expect(ending.signal).toBeNull();
    expectRefusal(ending, /File too large/);
    expect(readdirSync(place)).toEqual([]);
    copyFileSync(original, path.join(place, "disk.qcow2"));
    for (const args of [
      ["clone", "disk.qcow2", "a.qcow2"],
      ["snapshot", "-c", "x", "disk.qcow2"],
    ]) {
      const refused = await run([...limited, ...args], { cwd: place });
      expectRefusal(refused, /File too large/);
      expect(readdirSync(place)).toEqual(["disk.qcow2"]);
      expect(digestOfFile(path.join(place, "disk.qcow2"))).toBe(digestOfFile(original));
    }
  });
});

describe.runIf(judged)("no descriptors left", () => {
  test.concurrent("is an error of a clone, at every limit, that leaves nothing", async () => {
    const place = scene.place();
    copyFileSync(original, path.join(place, "disk.qcow2"));
    let succeeded = 0;
    for (let limit = 3; limit < 16; limit += 1) {
      const command = ["prlimit", `--nofile=${limit}`, executable, "image"];
      const ending = await run([...command, "clone", "disk.qcow2", "a.qcow2", "b.qcow2"], {
        cwd: place,
      });
      if (ending.status === 0) {
        succeeded += 1;
        rmSync(path.join(place, "a.qcow2"));
        rmSync(path.join(place, "b.qcow2"));
      } else {
        expectRefusal(ending, /Too many open files/);
      }
      expect({ limit, left: readdirSync(place) }).toEqual({ limit, left: ["disk.qcow2"] });
    }
    expect(succeeded).toBeGreaterThan(0);
  });
});

test.runIf(judged)(
  "an image whose last cluster is partly missing is still used, as by qemu-img",
  async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "1M");
    await guest(file, "write -P 9 0 64k");
    truncateSync(file, statSync(file).size - 512);
    const fd = openSync(file, "r+");
    writeSync(fd, Buffer.from([1]), 0, 1, statSync(file).size - 1);
    closeSync(fd);
    expect(await image(["snapshot", "-c", "x", file])).toMatchObject({ status: 0, stderr: "" });
    await qemuImg("check", "-q", file);
  },
);
