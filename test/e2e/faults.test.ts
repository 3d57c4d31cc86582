// System calls that fail, one after the other.
//
// The story: one EIO on the flush after the header update of `qemu-img snapshot -c` loses all
// snapshots. Error paths are where nobody looks; so here each call of each command fails once, and
// afterwards the image is what it was and there is an error, or it is what was asked for.

import { isDeepStrictEqual } from "node:util";

import { describe, expect, test } from "vitest";

import {
  changes,
  have,
  image,
  inTrouble,
  inParallel,
  judged,
  keep,
  look,
  makeOriginal,
  type Sweep,
} from "./support.ts";

const original = makeOriginal();

type Change = (typeof changes)[number];

/**
 * Lets one call of a command after the other go wrong. After each there is the old state and an
 * error, or the new state. Returns how often it went wrong.
 */
async function expectOldOrNew({ name, args }: Change, trouble: Sweep): Promise<number> {
  const after = await original.after(args);
  const before = { "disk.qcow2": await original.untouched() };
  const amiss: unknown[] = [];
  const tally = { refused: 0, done: 0 };
  for await (const { place, ending, met, story } of original.sweep(args, trouble)) {
    const found = await look(place).catch(String);
    const isDone = ending.status === 0 && isDeepStrictEqual(found, after);
    const isRefused =
      ending.status === 1 && /^error: \S/m.test(ending.stderr) && isDeepStrictEqual(found, before);
    if (!isDone && !isRefused) amiss.push({ story, ending, found });
    if (met) tally[isDone ? "done" : "refused"] += 1;
    else expect(ending.status).toBe(0);
  }
  expect(amiss).toEqual([]);
  const { call, what, each = "alone" } = trouble;
  keep("executable", `${call}: ${what}${each === "alone" ? "" : `, ${each}`}`, name, tally);
  return tally.done + tally.refused;
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
            async (what) => void (await expectOldOrNew(change, { call, what })),
          );
        },
      );

      test.concurrent.each(["pread64", "syncfs", "ioctl", "openat", "lseek", "copy_file_range"])(
        "%s",
        async (call) => void (await expectOldOrNew(change, { call, what: EIO })),
      );

      test.concurrent.each(["fstat", "statx", "newfstatat", "fcntl", "flock", "fstatfs"])(
        "%s",
        async (call) => void (await expectOldOrNew(change, { call, what: EIO })),
      );
    },
  );

  test("is met at all: the sweeps above are no idle runs", async () => {
    const [create, , , , , cloneOfFive] = changes;
    const write = { call: "pwrite64", what: EIO };
    expect(await expectOldOrNew(create, write)).toBeGreaterThanOrEqual(2);
    expect(await expectOldOrNew(create, { call: "fdatasync", what: EIO })).toBe(3);
    const publish = { call: "linkat", what: ENOSPC };
    expect(await expectOldOrNew(cloneOfFive, publish)).toBeGreaterThanOrEqual(5);
  });

  test.concurrent.each(changes)(
    "and goes on failing, of $name, leaves the old state or the new one",
    async (change) => {
      await inParallel(
        ["pwrite64", "ftruncate", "fallocate", "linkat", "pread64"],
        async (call) => {
          const what = call === "pread64" ? EIO : ENOSPC;
          await expectOldOrNew(change, { call, what, each: "with all that follow" });
        },
      );
    },
  );

  test.concurrent.each(changes)(
    "of $name only because of a signal is repeated",
    async ({ name, args }) => {
      const after = await original.after(args);
      await inParallel(
        ["pwrite64", "pread64", "fdatasync", "ftruncate", "fallocate"],
        async (call) => {
          const trouble = { call, what: "error=EINTR" };
          let done = 0;
          for await (const { place, ending, met, story } of original.sweep(args, trouble)) {
            expect({ story, ...ending }).toMatchObject({ story, status: 0 });
            expect(await look(place)).toEqual(after);
            if (met) done += 1;
          }
          keep("executable", `${call}: ${trouble.what}`, name, { refused: 0, done });
        },
      );
    },
  );

  test.concurrent.each(changes)(
    "by reading nothing, as a file does that somebody shortens, is an error of $name",
    async (change) => void (await expectOldOrNew(change, { call: "pread64", what: "retval=0" })),
  );
});

describe.runIf(judged && have("strace"))("a flush of the header that fails", () => {
  // ARCHITECTURE.md, "The commit": the old sector is written back and flushed; only if that fails
  // as well is the answer "unsettled".
  const snapshots = changes.filter(({ name }) => name.startsWith("snapshot"));

  test.concurrent.each(snapshots)("once leaves the old state of $name", async ({ args }) => {
    const place = original.copy();
    const [ending] = await inTrouble(args, { call: "fdatasync", what: EIO, when: "3" }, place);
    expect(ending).toMatchObject({ status: 1, stderr: expect.stringContaining("Input/output") });
    expect(ending.stderr).not.toContain("could not be written back");
    expect(await look(place)).toEqual({ "disk.qcow2": await original.untouched() });
  });

  test.concurrent.each(snapshots)("and then goes on failing says so of $name", async ({ args }) => {
    const place = original.copy();
    const [ending] = await inTrouble(args, { call: "fdatasync", what: EIO, when: "3+" }, place);
    expect(ending).toMatchObject({ status: 1 });
    expect(ending.stderr).toContain("could not be written back");
    // What the cache holds is one of the two states all the same, and the next command works.
    const { "disk.qcow2": after } = await look(place);
    const states = [await original.untouched(), (await original.after(args))["disk.qcow2"]];
    expect(states).toContainEqual(after);
    expect(await image(["snapshot", "-c", "next", "disk.qcow2"], { cwd: place })).toMatchObject({
      status: 0,
      stderr: "",
    });
  });
});
