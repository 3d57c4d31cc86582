// `kill -9`, before each writing system call of each command and at odd moments.
//
// The story: of 400 runs of `qemu-img snapshot -a` that were killed, 90 left a snapshot that the
// next boot changes, and `check` did not say so. So here every survivor is booted as well.

import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import path from "node:path";

import { beforeAll, describe, expect, test } from "vitest";

import {
  changes,
  copyInto,
  digestOfFile,
  eventful,
  executable,
  guest,
  have,
  image,
  inParallel,
  inTrouble,
  judged,
  look,
  random,
  Scene,
  sleep,
  view,
  type View,
} from "./support.ts";

const scene = new Scene();
const original = scene.path("original.qcow2");
let untouched: View;

beforeAll(async () => {
  if (!judged) return;
  await eventful(original);
  untouched = await view(original);
  return () => scene[Symbol.dispose]();
});

type Change = (typeof changes)[number];

const writing = [
  ..."pwrite64 ftruncate fallocate fdatasync fsync syncfs copy_file_range ioctl".split(" "),
  ..."linkat unlinkat renameat2 fcntl openat close".split(" "),
];

/** What may be there after a command was killed: the image in one of two states, whole clones. */
async function expectOldOrNew(place: string, { name, args }: Change, story: string): Promise<void> {
  const { "disk.qcow2": disk, ...others } = await look(place);
  const after = await untroubled(args);
  expect([untouched, after["disk.qcow2"]], story).toContainEqual(disk);
  for (const [file, found] of Object.entries(others)) {
    expect(name, story).toMatch(/^clone/);
    expect(found, `${file}: ${story}`).toEqual(after[file]);
  }
}

const endings = new Map<readonly string[], Promise<Record<string, View>>>();

function untroubled(args: readonly string[]): Promise<Record<string, View>> {
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
    const pristine = digestOfFile(original);
    let kills = 0;
    await inParallel(writing, async (call) => {
      for (let number = 1; ; number += 1) {
        const place = scene.place();
        const file = copyInto(place, original);
        const trouble = { call, what: "signal=SIGKILL", when: `${number}` };
        const [ending, met] = await inTrouble(change.args, trouble, place);
        const story = `killed before ${call} ${number} of ${change.args.join(" ")}`;
        if (met) {
          kills += 1;
          await expectOldOrNew(place, change, story);
          // An image that holds the very bytes it held needs no further proof.
          if (digestOfFile(file) !== pristine) {
            await expectUsable(place, change);
            await boot(file);
          }
        } else {
          expect(ending, story).toMatchObject({ status: 0 });
        }
        rmSync(place, { recursive: true });
        if (!met) return;
      }
    });
    expect(kills).toBeGreaterThan(10);
  });

  test("of create leaves at most a file that the next create replaces", async () => {
    const { args } = changes.find(({ name }) => name === "create")!;
    await inParallel(["pwrite64", "ftruncate", "fdatasync", "fcntl"], async (call) => {
      for (let number = 1; ; number += 1) {
        const place = scene.place();
        const trouble = { call, what: "signal=SIGKILL", when: `${number}` };
        const [, met] = await inTrouble(args, trouble, place);
        expect(await image([...args], { cwd: place })).toMatchObject({ status: 0, stderr: "" });
        expect(Object.entries(await look(place))).toEqual([
          ["new.qcow2", { check: 0, active: expect.stringMatching(/^4194304:/), snapshots: [] }],
        ]);
        if (!met) return;
      }
    });
  });
});

describe.runIf(judged)("kill -9 at an odd moment", () => {
  const inPlace = changes.filter(({ name }) => name !== "create");

  test.concurrent.each(inPlace)("of $name leaves the old state or the new one", async (change) => {
    const below = random(0x9e11);
    for (let round = 0; round < 12; round += 1) {
      const place = scene.place();
      const file = copyInto(place, original);
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
      await boot(file);
      rmSync(place, { recursive: true });
    }
  });
});
