// A repair that is killed, or fails, before each of its writing system calls.
//
// The story: `qemu-img check -r` changes counts and tables where they stand. Killed in the middle,
// it leaves an image that is damaged in another way than before.

import { closeSync, copyFileSync, openSync, readSync, writeSync } from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import {
  copyInto,
  digestOfFile,
  eventful,
  guest,
  have,
  image,
  inParallel,
  judged,
  Scene,
  sweep,
  view,
  type View,
} from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());
const sound = scene.path("sound.qcow2");
const CLUSTER = 1024;

/** Writes a number into an image. */
function put(fd: number, at: number, bytes: 2 | 8, value: bigint): void {
  const word = Buffer.alloc(8);
  word.writeBigUInt64BE(value);
  writeSync(fd, word, 8 - bytes, bytes, at);
}

function get(fd: number, at: number): bigint {
  const word = Buffer.alloc(8);
  readSync(fd, word, 0, 8, at);
  return word.readBigUInt64BE();
}

/** Sets the count of a cluster that the first refcount block counts. */
function count(fd: number, cluster: number, value: number): void {
  const block = Number(get(fd, Number(get(fd, 48))));
  put(fd, block + 2 * cluster, 2, BigInt(value));
}

/** What a repair is for, by what has to be done about it. */
const DAMAGES = [
  {
    what: "leaks",
    name: "leaks",
    damage: (fd: number) => [3, 5, 9].forEach((at) => count(fd, at, 9)),
  },
  {
    what: "all",
    name: "counts that are too low, and flags that are wrong",
    damage: (fd: number) => {
      for (const at of [20, 30, 40, 50]) count(fd, at, 1);
      const l1 = Number(get(fd, 40));
      put(fd, l1, 8, get(fd, l1) ^ (1n << 63n));
    },
  },
  {
    what: "all",
    name: "a refcount block that is nowhere",
    damage: (fd: number) => put(fd, Number(get(fd, 48)), 8, BigInt(CLUSTER * 100_000)),
  },
] as const;

const writing = "pwrite64 ftruncate fallocate fdatasync fcntl close".split(" ");

describe.runIf(judged && have("strace")).each(DAMAGES)("a repair of $name", ({ what, damage }) => {
  const damaged = scene.path(`${what}-${DAMAGES.findIndex((it) => it.damage === damage)}.qcow2`);
  const args = ["check", "-q", "-r", what, "disk.qcow2"];
  let before: View;

  beforeAll(async () => {
    await eventful(sound);
    copyFileSync(sound, damaged);
    const fd = openSync(damaged, "r+");
    damage(fd);
    closeSync(fd);
    before = await view(damaged);
    expect(before.check).not.toBe(0);
  });

  const place = (): string => {
    const directory = scene.place();
    copyInto(directory, damaged);
    return directory;
  };

  /** The damage as it was, or none; and everything is still there. */
  async function expectOldOrNew(file: string, story: string): Promise<void> {
    const now = await view(file);
    expect([before, { ...before, check: 0 }], story).toContainEqual(now);
    const again = await image(["check", "-q", "-r", "all", "disk.qcow2"], {
      cwd: path.dirname(file),
    });
    expect(again.status, story).toBe(0);
    expect(await view(file), story).toEqual({ ...before, check: 0 });
    await guest(file, "write -P 0xee 0 300k", "write -P 0xef 650k 370k");
    const { check, snapshots } = await view(file);
    expect({ check, snapshots }, story).toEqual({ check: 0, snapshots: before.snapshots });
  }

  test("killed at any moment leaves the damage as it was, or none", async () => {
    let kills = 0;
    await inParallel(writing, async (call) => {
      const attempts = sweep(args, { call, what: "signal=SIGKILL" }, place);
      for await (const { place: directory, ending, met, story } of attempts) {
        if (!met) {
          expect(ending, story).toMatchObject({ status: 0 });
          continue;
        }
        kills += 1;
        const file = path.join(directory, "disk.qcow2");
        if (digestOfFile(file) !== digestOfFile(damaged)) await expectOldOrNew(file, story);
      }
    });
    expect(kills).toBeGreaterThan(8);
  });

  test("failing at any call says so, and leaves the damage as it was", async () => {
    let failures = 0;
    await inParallel(["pwrite64", "ftruncate", "fdatasync"], async (call) => {
      const attempts = sweep(args, { call, what: "error=ENOSPC" }, place);
      for await (const { place: directory, ending, met, story } of attempts) {
        const file = path.join(directory, "disk.qcow2");
        if (!met) continue;
        failures += 1;
        if (ending.status !== 0) {
          expect(ending.stderr, story).toMatch(/error: Check failed: No space left on device\n/);
          expect(ending.status, story).toBe(1);
          expect(await view(file), story).toEqual(before);
        }
        await expectOldOrNew(file, story);
      }
    });
    expect(failures).toBeGreaterThan(3);
  });
});
