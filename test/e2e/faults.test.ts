// System calls that fail, one after the other.
//
// The story: one EIO on the flush after the header update of `qemu-img snapshot -c` loses all
// snapshots. Error paths are where nobody looks; so here each call of each command fails once, and
// afterwards the image is what it was and there is an error, or it is what was asked for.

import { rmSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";

import { beforeAll, describe, expect, test } from "vitest";

import {
  changes,
  copyInto,
  eventful,
  have,
  image,
  inParallel,
  inTrouble,
  judged,
  look,
  Scene,
  type View,
} from "./support.ts";

const scene = new Scene();
const original = scene.path("original.qcow2");
let untouched: View;

beforeAll(async () => {
  if (!judged) return;
  await eventful(original);
  const place = scene.place();
  copyInto(place, original);
  untouched = (await look(place))["disk.qcow2"]!;
  return () => scene[Symbol.dispose]();
});

const endings = new Map<readonly string[], Promise<Record<string, View>>>();

/** The directory after a command, untroubled. */
function expected(args: readonly string[]): Promise<Record<string, View>> {
  const known = endings.get(args) ?? runUntroubled(args);
  endings.set(args, known);
  return known;
}

async function runUntroubled(args: readonly string[]): Promise<Record<string, View>> {
  const place = scene.place();
  copyInto(place, original);
  expect(await image([...args], { cwd: place })).toMatchObject({ status: 0 });
  return look(place);
}

/**
 * Lets call number 1, 2, 3 … go wrong until the command gets through untouched. What must hold after
 * each is checked; how often it went wrong is returned.
 */
async function sweep(
  args: readonly string[],
  call: string,
  what: string,
  all = "",
): Promise<number> {
  const after = await expected(args);
  const before = { "disk.qcow2": untouched };
  const amiss: unknown[] = [];
  for (let number = 1; ; number += 1) {
    const place = scene.place();
    copyInto(place, original);
    const when = `${number}${all}`;
    const [ending, met] = await inTrouble(args, { call, what, when }, place);
    const found = await look(place).catch(String);
    rmSync(place, { recursive: true });
    const isDone = ending.status === 0 && isDeepStrictEqual(found, after);
    const isRefused =
      ending.status === 1 && /^error: \S/m.test(ending.stderr) && isDeepStrictEqual(found, before);
    if (!isDone && !isRefused)
      amiss.push({ trouble: `${call}:${what}:when=${when}`, ending, found });
    if (!met) {
      expect(ending.status).toBe(0);
      expect(amiss).toEqual([]);
      return number - 1;
    }
  }
}

const EIO = "error=EIO";
const ENOSPC = "error=ENOSPC";

describe.runIf(judged && have("strace"))("a system call that fails", () => {
  describe.each(changes)(
    "of $name leaves the old state and an error, or the new state",
    (change) => {
      test.concurrent.each(["pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "linkat"])(
        "%s",
        async (call) => {
          await inParallel(
            [EIO, ENOSPC],
            async (what) => void (await sweep(change.args, call, what)),
          );
        },
      );

      test.concurrent.each(["pread64", "syncfs", "ioctl", "openat", "lseek", "copy_file_range"])(
        "%s",
        async (call) => void (await sweep(change.args, call, EIO)),
      );

      test.concurrent.each(["fstat", "statx", "newfstatat", "fcntl", "flock", "fstatfs"])(
        "%s",
        async (call) => void (await sweep(change.args, call, EIO)),
      );
    },
  );

  test("is met at all: the sweeps above are no idle runs", async () => {
    const [create, , , , , cloneOfFive] = changes;
    expect(await sweep(create.args, "pwrite64", EIO)).toBeGreaterThanOrEqual(2);
    expect(await sweep(create.args, "fdatasync", EIO)).toBe(3);
    expect(await sweep(cloneOfFive.args, "linkat", ENOSPC)).toBeGreaterThanOrEqual(5);
  });

  test.concurrent.each(changes)(
    "and goes on failing, of $name, leaves the old state or the new one",
    async ({ args }) => {
      await inParallel(
        ["pwrite64", "ftruncate", "fallocate", "linkat", "pread64"],
        async (call) => {
          await sweep(args, call, call === "pread64" ? EIO : ENOSPC, "+");
        },
      );
    },
  );

  test.concurrent.each(changes)(
    "of $name only because of a signal is repeated",
    async ({ args }) => {
      const after = await expected(args);
      await inParallel(
        ["pwrite64", "pread64", "fdatasync", "ftruncate", "fallocate"],
        async (call) => {
          for (let number = 1; ; number += 1) {
            const place = scene.place();
            copyInto(place, original);
            const trouble = { call, what: "error=EINTR", when: `${number}` };
            const [ending, met] = await inTrouble(args, trouble, place);
            expect({ trouble, ...ending }).toMatchObject({ trouble, status: 0 });
            expect(await look(place)).toEqual(after);
            rmSync(place, { recursive: true });
            if (!met) return;
          }
        },
      );
    },
  );

  test.concurrent.each(changes)(
    "by reading nothing, as a file does that somebody shortens, is an error of $name",
    async ({ args }) => void (await sweep(args, "pread64", "retval=0")),
  );
});

describe.runIf(judged && have("strace"))("a flush of the header that fails", () => {
  // ARCHITECTURE.md, "The commit": the old sector is written back and flushed; only if that fails as
  // well is the answer "unsettled".
  const snapshots = changes.filter(({ name }) => name.startsWith("snapshot"));

  test.concurrent.each(snapshots)("once leaves the old state of $name", async ({ args }) => {
    const place = scene.place();
    copyInto(place, original);
    const [ending] = await inTrouble(args, { call: "fdatasync", what: EIO, when: "3" }, place);
    expect(ending).toMatchObject({ status: 1, stderr: expect.stringContaining("Input/output") });
    expect(ending.stderr).not.toContain("could not be written back");
    expect(await look(place)).toEqual({ "disk.qcow2": untouched });
  });

  test.concurrent.each(snapshots)("and then goes on failing says so of $name", async ({ args }) => {
    const place = scene.place();
    copyInto(place, original);
    const [ending] = await inTrouble(args, { call: "fdatasync", what: EIO, when: "3+" }, place);
    expect(ending).toMatchObject({ status: 1 });
    expect(ending.stderr).toContain("could not be written back");
    // What the cache holds is one of the two states all the same, and the next command works.
    const { "disk.qcow2": after } = await look(place);
    const states = [untouched, (await expected(args))["disk.qcow2"]];
    expect(states).toContainEqual(after);
    expect(await image(["snapshot", "-c", "next", "disk.qcow2"], { cwd: place })).toMatchObject({
      status: 0,
      stderr: "",
    });
  });
});
