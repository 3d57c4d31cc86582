// `kill -9`, before each writing system call of each command and at odd moments.
//
// The story: of 400 runs of `qemu-img snapshot -a` that were killed, 90 left a snapshot that the
// next boot changes, and `check` did not say so. So here every survivor is booted as well.

import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import {
  changes,
  digestOfFile,
  executable,
  guest,
  have,
  image,
  inParallel,
  judged,
  keep,
  look,
  makeOriginal,
  random,
  sleep,
  sweep,
  view,
} from "./support.ts";

const original = makeOriginal();

type Change = (typeof changes)[number];

const writing = [
  ..."pwrite64 ftruncate fallocate fdatasync fsync syncfs copy_file_range ioctl".split(" "),
  ..."linkat unlinkat renameat2 fcntl openat close".split(" "),
];

/** What may be there after a command was killed: the image in one of two states, whole clones. */
async function expectOldOrNew(place: string, { name, args }: Change, story: string): Promise<void> {
  const { "disk.qcow2": disk, ...others } = await look(place);
  const after = await original.after(args);
  expect([await original.untouched(), after["disk.qcow2"]], story).toContainEqual(disk);
  for (const [file, found] of Object.entries(others)) {
    expect(name, story).toMatch(/^clone/);
    expect(found, `${file}: ${story}`).toEqual(after[file]);
  }
}

/** The guest writes everywhere; no snapshot may notice. */
async function boot(file: string): Promise<void> {
  const before = await view(file);
  await guest(file, "write -P 0xee 0 300k", "write -P 0xef 650k 370k");
  const { check, snapshots } = await view(file);
  expect({ check, snapshots }).toEqual({ check: 0, snapshots: before.snapshots });
}

/** The command that was killed can be run again, whatever it had done. */
async function expectUsable(place: string, { args, name }: Change): Promise<void> {
  const isClone = name.startsWith("clone");
  if (isClone)
    for (const file of "abcde") rmSync(path.join(place, `${file}.qcow2`), { force: true });
  const ending = await image([...args], { cwd: place });
  if (ending.status !== 0) {
    expect(ending.stderr).toMatch(
      /already exists|There is a snapshot|not found|No such file|exists/,
    );
  }
  expect(await image(["snapshot", "-c", "afterwards", "disk.qcow2"], { cwd: place })).toMatchObject(
    {
      status: 0,
      stderr: "",
    },
  );
  expect(await image(["check", "-q", "disk.qcow2"], { cwd: place })).toMatchObject({ status: 0 });
}

describe.runIf(judged && have("strace"))("kill -9 before a system call", () => {
  const inPlace = changes.filter(({ name }) => name !== "create");

  test.concurrent.each(inPlace)("of $name leaves the old state or the new one", async (change) => {
    const pristine = digestOfFile(original.file);
    let kills = 0;
    await inParallel(writing, async (call) => {
      const trouble = { call, what: "signal=SIGKILL" };
      const tally = { refused: 0, done: 0 };
      for await (const { place, ending, met, story } of original.sweep(change.args, trouble)) {
        if (!met) {
          expect(ending, story).toMatchObject({ status: 0 });
          continue;
        }
        await expectOldOrNew(place, change, story);
        // An image that holds the very bytes it held needs no further proof.
        const file = path.join(place, "disk.qcow2");
        const isUntouched = digestOfFile(file) === pristine;
        tally[isUntouched ? "refused" : "done"] += 1;
        if (!isUntouched) {
          await expectUsable(place, change);
          await boot(file);
        }
      }
      kills += tally.refused + tally.done;
      keep("killed", call, change.name, tally);
    });
    expect(kills).toBeGreaterThan(10);
  });

  test("of create leaves at most a file that the next create replaces", async () => {
    const { args } = changes.find(({ name }) => name === "create")!;
    await inParallel(["pwrite64", "ftruncate", "fdatasync", "fcntl"], async (call) => {
      const trouble = { call, what: "signal=SIGKILL" };
      for await (const { place } of sweep(args, trouble, () => original.scene.place())) {
        expect(await image([...args], { cwd: place })).toMatchObject({ status: 0, stderr: "" });
        expect(Object.entries(await look(place))).toEqual([
          ["new.qcow2", { check: 0, active: expect.stringMatching(/^4194304:/), snapshots: [] }],
        ]);
      }
    });
  });
});

describe.runIf(judged)("kill -9 at an odd moment", () => {
  const inPlace = changes.filter(({ name }) => name !== "create");

  test.concurrent.each(inPlace)("of $name leaves the old state or the new one", async (change) => {
    const below = random(0x9e11);
    for (let round = 0; round < 12; round += 1) {
      const place = original.copy();
      const child = spawn(executable, ["image", ...change.args], { cwd: place, stdio: "ignore" });
      const ended = new Promise((resolve) => child.once("exit", resolve));
      await sleep(below(16));
      child.kill("SIGKILL");
      await ended;
      await expectOldOrNew(place, change, `round ${round} of ${change.name}`);
      // Nobody waits for the dead: its locks are gone with it.
      const next = await image(["snapshot", "--no-wait", "-c", "next", "disk.qcow2"], {
        cwd: place,
      });
      expect(next).toMatchObject({ status: 0, stderr: "" });
      await boot(path.join(place, "disk.qcow2"));
      rmSync(place, { recursive: true });
    }
  });
});
