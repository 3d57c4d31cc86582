// Where `create` cannot make a file: refused as qemu-img refuses it, and nothing is made.
//
// The stories: `k/` became the file `k`, and in a directory that was removed the reason was
// "Operation not permitted".

import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";

import { afterAll, describe, expect, test } from "vitest";

import { type Ending, executable, have, isRoot, judged, run, Scene } from "./support.ts";

const scene = new Scene();

afterAll(() => scene[Symbol.dispose]());

/** What qemu-img says, in our words for who says it. */
function translated(ending: Ending): Ending {
  return { ...ending, stderr: ending.stderr.replace(/^qemu-img: /m, "error: ") };
}

/** In a new directory of `place` that is removed as soon as it is the current one. */
async function expectRefusedWhenRemoved(place: string): Promise<void> {
  const gone = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" "$@"';
  for (const name of ["k", "./k", "k/", "."]) {
    const there = (...command: string[]): Promise<Ending> =>
      run(["sh", "-c", gone, ...command, "create", "-f", "qcow2", name, "1M"], { cwd: place });
    const expected = translated(await there("qemu-img"));
    expect(expected).toMatchObject({ status: 1 });
    expect(await there(executable, "image")).toEqual(expected);
  }
}

describe.runIf(judged)("an image is not created", () => {
  test.concurrent.each([
    "k/",
    "k//",
    "k/.",
    "k/..",
    "missing/k",
    "missing/k/",
    "file/",
    "file/.",
    "file/k",
    "directory/",
    "directory/.",
    "dangling/",
    ".",
    "..",
    "/",
    "",
    "x".repeat(256),
  ])("under the name %j", async (name) => {
    const place = scene.place();
    mkdirSync(path.join(place, "directory"));
    writeFileSync(path.join(place, "file"), "");
    symlinkSync("nowhere", path.join(place, "dangling"));
    const before = readdirSync(place);
    const line = ["create", "-f", "qcow2", name, "1M"];
    const expected = translated(await run(["qemu-img", ...line], { cwd: place }));
    expect(expected).toMatchObject({ status: 1 });
    expect(await run([executable, "image", ...line], { cwd: place })).toEqual(expected);
    expect(readdirSync(place)).toEqual(before);
  });

  test.concurrent("in a directory that was removed", async () => {
    await expectRefusedWhenRemoved(scene.place());
  });

  const systems = (["ext4", "xfs", "btrfs"] as const).filter((type) => have(`mkfs.${type}`));

  test.runIf(isRoot).each(systems)("in a directory that was removed, on %s", async (type) => {
    await expectRefusedWhenRemoved(await scene.mount(type, "320M"));
  });
});
