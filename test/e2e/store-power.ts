// Power cuts while the store changes: on each file system, for each command, after each of its
// writing system calls. What is found then is what was there before or what the command makes of
// it; whatever is found, the next command that changes anything cleans up.
//
// The story: an editor of records that renames a new file into place without syncing it first works
// for years, and leaves an empty record after the one power cut that matters.

import { mkdirSync } from "node:fs";
import path from "node:path";

import { beforeAll, describe, expect, test } from "vitest";

import { calque, leftovers, look, mustCalque, type Sight } from "./instances.ts";
import { type Cut, cutPower, Disk, type FileSystem } from "./power.ts";
import { executable, guest, have, isRoot, judged, must, qemuImg, Scene } from "./support.ts";

/** Every command that changes the store. */
const changes: readonly (readonly string[])[] = [
  ["create", "new", "--disk", "4M"],
  ["import", "FILES/spare.qcow2"],
  ["import", "FILES/spare.raw", "--format", "raw"],
  ["import", "--move", "FILES/spare.qcow2"],
  ["snapshot", "web", "--comment", "third"],
  ["restore", "--destructive", "web.one"],
  ["delete", "--purge", "web.one"],
  ["delete", "--purge", "web.two"],
  ["set", "local.web.two.name=zwei"],
  ["set", "local.web.two.comment=a=b"],
  ["set", "local.web.cpus=7"],
  ["set", "local.web.disk=8M"],
  ["clone", "web"],
  ["clone", "web", "--name", "many", "--count", "3"],
  ["clone", "web", "--keep-snapshots"],
  ["clone", "web", "--from-snapshot", "one"],
  ["delete", "web"],
  ["delete", "--purge", "web"],
  ["recover", "old"],
  ["purge"],
];

/** The store and the files beside it, below the root of the file system. */
function places(root: string): { home: string; files: string } {
  return { home: path.join(root, "home"), files: path.join(root, "files") };
}

async function furnish(root: string): Promise<void> {
  const { home, files } = places(root);
  mkdirSync(files);
  const spare = path.join(files, "spare.qcow2");
  await qemuImg("create", "-q", "-f", "qcow2", spare, "4M");
  await guest(spare, "write -P 9 0 100k");
  await must(["truncate", "-s", "2M", path.join(files, "spare.raw")]);
  for (const name of ["web", "db", "old"]) {
    await mustCalque(home, ["create", name, "--disk", "4M"]);
  }
  const disk = (await mustCalque(home, ["path", "web"])).trim();
  await guest(disk, "write -P 1 0 300k");
  await mustCalque(home, ["snapshot", "web", "--name", "one", "--comment", "first"]);
  await guest(disk, "write -P 2 200k 300k");
  await mustCalque(home, ["set", "local.web.cpus=2"]);
  await mustCalque(home, ["snapshot", "web", "--name", "two"]);
  await guest(disk, "write -P 3 1M 64k");
  await mustCalque(home, ["delete", "old"]);
}

/** A disk with a store, and what is seen in it. */
interface Ground {
  disk: Disk;
  before: Sight;
}

async function prepare(scene: Scene, type: FileSystem): Promise<Ground> {
  const disk = await Disk.make(scene, type);
  const before = await disk.mounted("rw", async (root) => {
    await furnish(root);
    return look(places(root).home);
  });
  return { disk, before };
}

/** What the command leaves when nothing comes in between. */
async function outcome(disk: Disk, args: readonly string[]): Promise<Sight> {
  using trial = await disk.copy();
  return await trial.mounted("rw", async (root) => {
    const { home, files } = places(root);
    await mustCalque(home, words(args, files));
    return look(home);
  });
}

function words(args: readonly string[], files: string): string[] {
  return args.map((word) => word.replace("FILES", files));
}

async function cuts(
  disk: Disk,
  args: readonly string[],
  forgotten?: { call: string; when: string },
): Promise<Cut[]> {
  using trial = await disk.copy();
  return await trial.mounted("rw", (root) => {
    const { home, files } = places(root);
    return cutPower(trial, [executable, ...words(args, files)], {
      env: { CALQUE_HOME: home },
      ...(forgotten === undefined ? {} : { forgotten }),
    });
  });
}

/** What is wrong after the cut, in a few words; undefined if nothing is. */
async function judge(
  { disk, isDone }: Cut,
  before: Sight,
  after: Sight,
): Promise<string | undefined> {
  // Readers write nothing, not even here.
  const found = await disk.mounted("ro", (root) => look(places(root).home));
  const [isOld, isNew] = [before, after].map((sight) => same(found, sight));
  if (!isNew && !(isOld && !isDone)) {
    return `neither old nor new: ${JSON.stringify(found)}`;
  }
  return disk.mounted("rw", async (root) => {
    const { home } = places(root);
    // The next command on anything cleans up what is the store's, the next on an instance what is
    // that instance's.
    const living = Object.keys(found).filter((name) => found[name]?.state === "Stopped");
    const expected = { ...found };
    await mustCalque(home, ["create", "settled", "--disk", "1M"]);
    await mustCalque(home, ["delete", "--purge", "settled"]);
    for (const name of living) {
      const settling = await calque(home, ["set", `local.${name}.cpus=64`]);
      if (settling.status !== 0) return `the next command fails: ${settling.stderr}`;
      expected[name] = { ...found[name]!, cpus: 64 };
    }
    const settled = await look(home);
    if (!same(settled, expected)) return `settled otherwise: ${JSON.stringify(settled)}`;
    const rest = leftovers(home);
    return rest.length > 0 ? `left over: ${rest.join(", ")}` : undefined;
  });
}

function same(one: Sight, other: Sight): boolean {
  return JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
}

function sorted(value: unknown): unknown {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  const entries = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, item]) => [key, sorted(item)]));
}

const able = judged && isRoot && have("strace", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs");

/**
 * The tests on one file system. Each has a file of its own, so that they run beside each other:
 * there are hundreds of cuts, and each takes a third of a second.
 */
export function testPowerCuts(type: FileSystem): void {
  describe.runIf(able)(`power cuts on ${type}`, () => {
    let ground: Ground;
    beforeAll(async () => {
      const scene = new Scene();
      ground = await prepare(scene, type);
      return () => scene[Symbol.dispose]();
    });

    test.each(changes.map((args) => ({ name: args.join(" "), args })))(
      "while `$name` leave the old state or the new one",
      async ({ args }) => {
        const { disk, before } = ground;
        const after = await outcome(disk, args);
        expect(same(before, after), "the command changes something").toBe(false);
        const wrong: string[] = [];
        const made = await cuts(disk, args);
        for (const cut of made) {
          const verdict = await judge(cut, before, after);
          if (verdict !== undefined) wrong.push(`${cut.story}: ${verdict}`);
          cut.disk[Symbol.dispose]();
        }
        expect(wrong).toEqual([]);
        expect(made.length).toBeGreaterThan(4);
      },
    );

    // What this test is worth: it finds what it is for.
    test.each([
      { what: "of the directory, after a rename", args: ["delete", "web"], call: "fsync" },
      {
        what: "of a record, and of its directory",
        args: ["set", "local.web.cpus=7"],
        call: "fsync",
      },
      { what: "of the image", args: ["set", "local.web.disk=8M"], call: "fdatasync" },
    ])("show a sync $what that was forgotten", async ({ args, call }) => {
      const { disk, before } = ground;
      const after = await outcome(disk, args);
      const verdicts = [];
      for (const cut of await cuts(disk, args, { call, when: "1+" })) {
        verdicts.push(await judge(cut, before, after));
        cut.disk[Symbol.dispose]();
      }
      expect(verdicts.filter((verdict) => verdict !== undefined)).not.toEqual([]);
    });
  });
}
