// The targets of a clone: what is refused before anything is there, and what they may be called.

import {
  chmodSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  readdirSync,
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
  digestOfFile,
  eventful,
  executable,
  expectRefusal,
  image,
  isRoot,
  judged,
  must,
  mustImage,
  run,
  Scene,
} from "./support.ts";

const scene = new Scene();
const original = scene.path("original.qcow2");

beforeAll(async () => {
  if (judged) await eventful(original);
});

afterAll(() => scene[Symbol.dispose]());

/**
 * Everything in a directory. Links are named and not followed, which Node's own recursion does: a
 * link to its own directory leads 40 deep there, but less when somebody mounts or unmounts
 * meanwhile, since the kernel then starts the look-up over and counts its links twice.
 */
function listing(place: string): string[] {
  const lines: string[] = [];
  const list = (directory: string): void => {
    for (const entry of readdirSync(path.join(place, directory), { withFileTypes: true })) {
      const name = path.join(directory, entry.name);
      const file = path.join(place, name);
      if (entry.isSymbolicLink()) lines.push(`${name} -> ${readlinkSync(file)}`);
      else if (entry.isFile()) lines.push(`${name} ${digestOfFile(file)}`);
      else {
        lines.push(`${name}/`);
        list(name);
      }
    }
  };
  list("");
  return lines.toSorted();
}

function withSource(): string {
  const place = scene.place();
  copyInto(place, original);
  return place;
}

/** Refused, and the directory is as it was. */
async function expectNothing(place: string, args: string[], reason: RegExp): Promise<void> {
  const before = listing(place);
  for (const strategy of ["auto", "copy"]) {
    expectRefusal(await image(["clone", "--strategy", strategy, ...args], { cwd: place }), reason);
    expect(listing(place)).toEqual(before);
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
    await expectNothing(place, ["disk.qcow2", "directory"], /: File exists$/m);
    for (const name of ["directory/", ".", "..", "/", "directory/.", "directory/.."]) {
      await expectNothing(place, ["disk.qcow2", name], /: Is a directory$/m);
    }
  });

  // The story: `k/` became the file `k`.
  test.concurrent("that only a directory can be called is refused, and nothing else is made", async () => {
    const place = withSource();
    writeFileSync(path.join(place, "file"), "");
    for (const [name, reason] of [
      ["k/", "Is a directory"],
      ["k//", "Is a directory"],
      [path.join(place, "k/"), "Is a directory"],
      ["k/.", "No such file or directory"],
      ["k/..", "No such file or directory"],
      ["missing/k/", "No such file or directory"],
      ["file/", "Is a directory"],
      ["file/.", "Not a directory"],
    ] as const) {
      const sentence = `error: Cannot clone "disk.qcow2" to "${name}": ${reason}\n`;
      await expectNothing(place, ["disk.qcow2", name], new RegExp(`^${RegExp.escape(sentence)}$`));
      await expectNothing(place, ["disk.qcow2", "a.qcow2", name], new RegExp(reason));
    }
  });

  test.concurrent("that is the source is refused, by any spelling", async () => {
    const place = withSource();
    linkSync(path.join(place, "disk.qcow2"), path.join(place, "hard.qcow2"));
    const absolute = path.join(place, "disk.qcow2");
    for (const name of ["disk.qcow2", "./disk.qcow2", absolute, "hard.qcow2"]) {
      await expectNothing(place, ["disk.qcow2", name], /: File exists$/m);
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

  test.concurrent("in a directory that was removed is refused as a missing one", async () => {
    const file = path.join(withSource(), "disk.qcow2");
    const script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" image clone "$1" a.qcow2';
    const ending = await run(["sh", "-c", script, executable, file], { cwd: scene.place() });
    expect(ending).toMatchObject({
      status: 1,
      stdout: "",
      stderr: `error: Cannot clone "${file}" to "a.qcow2": No such file or directory\n`,
    });
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
    await expectNothing(withSource(), ["disk.qcow2", ""], /to "": No such file or directory$/m);
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
