// Sentences of the commands on instances that only the world brings about: a file system that
// cannot share, a lock that somebody holds, a directory that others own. Here the built executable
// says them; `test/commands` plays the same in process.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, copyFileSync, mkdirSync, statSync } from "node:fs";
import path from "node:path";

import { afterAll, describe, expect, test } from "vitest";

import { unwrap } from "../../src/native.ts";
import { executable as onTerminal } from "../commands/executable.ts";
import { native } from "../state/scene.ts";
import { calque, mustCalque } from "./instances.ts";
import {
  type Ending,
  executable,
  guest,
  isRoot,
  judged,
  nobody,
  qemuImg,
  run,
  Scene,
} from "./support.ts";
import { mount, unmount } from "./support/scene.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

describe.runIf(judged)("on a file system that cannot share blocks", () => {
  test("clones and exports are copies, which is said, unless they are to share", async () => {
    using elsewhere = new Scene("/dev/shm");
    const home = elsewhere.path("home");
    await mustCalque(home, ["create", "foo", "--disk", "2M"]);
    await guest(path.join(home, "instances/foo/disk.qcow2"), "write -P 1 0 1M");
    expect(await calque(home, ["clone", "foo"])).toEqual({
      status: 0,
      signal: null,
      stdout: "Cloned from foo to foo-clone1.\n",
      stderr: expect.stringMatching(
        /^hint: 1\.\dMiB copied, not shared: tmpfs cannot share blocks between files\n$/,
      ) as string,
    });
    expect(await calque(home, ["clone", "foo", "--strategy", "reflink"])).toEqual({
      status: 2,
      signal: null,
      stdout: "",
      stderr:
        "clone failed: blocks cannot be shared: tmpfs cannot share blocks between files\n" +
        "hint: `--strategy auto` copies where blocks cannot be shared\n",
    });
    expect(await mustCalque(home, ["list", "--format", "csv"])).not.toContain("foo-clone2");
    expect(await mustCalque(home, ["history", "foo-clone1"])).toContain("strategy: copy");

    const file = elsewhere.path("foo.qcow2");
    const { stdout, stderr } = await calque(home, ["export", "foo", file]);
    expect(stdout).toMatch(/^Exported foo to \S+\/foo\.qcow2 \(copy, 1\.\dMiB copied\)\.\n$/);
    expect(stderr).toBe("hint: no blocks are shared: tmpfs cannot share blocks between files\n");
  });
});

describe.runIf(judged)("a copy", () => {
  test("shows on a terminal how far it is, and nothing of it stays", async () => {
    const home = scene.place();
    await mustCalque(home, ["create", "foo", "--disk", "64M"]);
    await guest(path.join(home, "instances/foo/disk.qcow2"), "write -P 1 0 64M");
    const surroundings = { argv0: "calque", typed: true, answers: [], env: { CALQUE_HOME: home } };
    const line = ["clone", "foo", "--strategy", "copy"];
    const shown = await onTerminal({ ...surroundings, terminal: true })(...line);
    expect(shown.replaceAll("\r! \u001b[K", "|")).toMatch(
      /^Cloned from foo to foo-clone1\.\n! (\|Copying: \S+ of 64\.\dMiB, \d+ %)+\|= 0$/,
    );
  });
});

describe("whoever comes second", () => {
  test("says after a second whom it waits for, and then does its work", async () => {
    const home = scene.place();
    await mustCalque(home, ["create", "foo", "--disk", "1M"]);
    const lock = { root: home, path: "instances/foo/lock", mode: "exclusive" } as const;
    const { handle } = unwrap(native.storeLock(lock));
    const child = spawn(executable, ["snapshot", "foo"], { env: { CALQUE_HOME: home } });
    let said = "";
    child.stderr.once("data", () => void unwrap(native.storeUnlock({ handle: handle! })));
    for (const stream of [child.stderr, child.stdout]) {
      stream.on("data", (data: Buffer) => void (said += data.toString()));
    }
    expect(await once(child, "close")).toEqual([0, null]);
    expect(said).toMatch(
      /^Waiting for .*\(process \d+\) to finish with ".*\/foo"\nSnapshot taken: foo\.snapshot1\n$/,
    );
  });
});

/** A directory of somebody who is not root, and commands that they give. */
function theirs(): {
  place: string;
  home: string;
  calque: (...args: string[]) => Promise<Ending>;
} {
  const place = scene.place();
  chmodSync(scene.directory, 0o755);
  chownSync(place, nobody, nobody);
  const program = path.join(place, "calque");
  copyFileSync(executable, program);
  const home = path.join(place, "home");
  const who = ["setpriv", `--reuid=${nobody}`, `--regid=${nobody}`, "--clear-groups"];
  const command = [...who, "env", `CALQUE_HOME=${home}`, program];
  return { place, home, calque: (...args) => run([...command, ...args]) };
}

describe.runIf(judged && isRoot)("a user who is not root", () => {
  test("is told that it is not known who uses a disk that they cannot open", async () => {
    const { home, calque: program } = theirs();
    await program("create", "foo", "--disk", "1M");
    chmodSync(path.join(home, "instances/foo/disk.qcow2"), 0);
    expect(await program("list")).toEqual({
      status: 0,
      signal: null,
      stdout: expect.stringMatching(/^foo +Unknown /m) as string,
      stderr: 'warning: whether instance "foo" runs is not known: Permission denied\n',
    });
  });

  test("is told of a moved file that could not be removed, and is one with the instance", async () => {
    const { place, home, calque: program } = theirs();
    const held = path.join(place, "held");
    mkdirSync(held);
    const file = path.join(held, "foo.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "1M");
    chownSync(file, nobody, nobody);
    // The directory is root's: files in it are not to be removed.
    const { status, stdout, stderr } = await program("import", "--move", file);
    expect([status, stdout, stderr.split("\n")]).toEqual([
      0,
      "Imported: foo\n",
      [
        `warning: "${file}" was imported, but not removed: Permission denied`,
        `hint: the instance and "${file}" may be one file: what is written to one is written to both`,
        "",
      ],
    ]);
    const { ino } = statSync(file);
    expect(statSync(path.join(home, "instances/foo/disk.qcow2")).ino).toBe(ino);
  });
});

describe.runIf(judged && isRoot)("something mounted in the store", () => {
  test("is left alone by a deletion, which says so and is done", async () => {
    const home = scene.place();
    await mustCalque(home, ["create", "foo", "--disk", "1M"]);
    await mustCalque(home, ["snapshot", "foo"]);
    const record = path.join(home, "instances/foo/snapshots/1.json");
    await mount(record, record, "bind");
    try {
      expect(await calque(home, ["delete", "--purge", "foo.snapshot1"])).toEqual({
        status: 0,
        signal: null,
        stdout: "",
        stderr: expect.stringMatching(
          /^warning: "instances\/foo\/snapshots\/1\.json" in the store could not be cleaned up: .+\n$/,
        ) as string,
      });
    } finally {
      unmount(record);
    }
    expect(await mustCalque(home, ["list", "--snapshots"])).toBe("No snapshots found.\n");
    expect(await mustCalque(home, ["snapshot", "foo"])).toBe("Snapshot taken: foo.snapshot2\n");
  });
});
