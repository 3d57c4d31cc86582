// A store on a file system that is full: for each command that changes it, from no free block
// upwards, until it has what it needs.
//
// The story: a guest fills the disk of its host. What needs space says so and changes nothing; what
// gives space back works, or there would be no way out.

import { mkdirSync, readdirSync } from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { calque, leftovers, look, mustCalque, type Sight } from "./instances.ts";
import { Disk, type FileSystem } from "./power.ts";
import {
  empty,
  guest,
  have,
  isRoot,
  judged,
  must,
  pack,
  qemuImg,
  type Scarce,
  Scene,
  unpack,
} from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

interface Ground {
  type: FileSystem;
  scarce: Scarce;
  options: readonly string[];
}

const grounds: readonly Ground[] = [
  { type: "ext4", scarce: "blocks", options: ["-m", "0"] },
  { type: "ext4", scarce: "inodes", options: ["-m", "0", "-N", "256"] },
  { type: "xfs", scarce: "blocks", options: [] },
  { type: "btrfs", scarce: "blocks", options: [] },
];

/** FILES are on the full file system too, OUTSIDE is elsewhere. */
const hungry: readonly (readonly string[])[] = [
  ["create", "new", "--disk", "4M"],
  ["import", "OUTSIDE/spare.qcow2"],
  ["import", "OUTSIDE/spare.raw", "--format", "raw"],
  ["import", "--move", "FILES/spare.qcow2"],
  ["snapshot", "web", "--comment", "third"],
  ["restore", "--destructive", "web.one"],
  ["set", "local.web.two.name=zwei"],
  ["set", "local.web.two.comment=a=b"],
  ["set", "local.web.cpus=7"],
  ["set", "local.web.disk=8M"],
  ["clone", "web", "--name", "copy"],
  ["clone", "web", "--name", "many", "--count", "3"],
  ["clone", "web", "--name", "copy", "--keep-snapshots", "--strategy", "copy"],
  ["export", "web", "FILES/out.qcow2"],
];

/** What gives space back; but btrfs takes a new block even for what is overwritten. */
const deletions: readonly (readonly string[])[] = [
  ["delete", "--purge", "web.one"],
  ["delete", "--purge", "web.two"],
  ["delete", "--purge", "web.two", "web.one"],
];

/** What gives space back too, or only moves something. */
const moves: readonly (readonly string[])[] = [
  ["delete", "web"],
  ["delete", "--purge", "web"],
  ["delete", "--purge", "--all"],
  ["recover", "old"],
  ["purge"],
];

const outside = scene.place();

async function spares(place: string): Promise<void> {
  const spare = path.join(place, "spare.qcow2");
  await qemuImg("create", "-q", "-f", "qcow2", spare, "4M");
  await guest(spare, "write -P 9 0 100k");
  await must(["cp", spare, path.join(place, "spare.raw")]);
}

function places(root: string): { home: string; files: string } {
  return { home: path.join(root, "home"), files: path.join(root, "files") };
}

/** A full disk: a store with a past, and files beside it. */
async function furnish(root: string, scarce: Scarce): Promise<void> {
  const { home, files } = places(root);
  mkdirSync(files);
  await spares(files);
  for (const name of ["web", "db", "old"]) {
    await mustCalque(home, ["create", name, "--disk", "4M"]);
  }
  const disk = (await mustCalque(home, ["path", "web"])).trim();
  await guest(disk, "write -P 1 0 100k");
  await mustCalque(home, ["snapshot", "web", "--name", "one", "--comment", "first"]);
  await guest(disk, "write -P 2 50k 100k");
  await mustCalque(home, ["snapshot", "web", "--name", "two"]);
  await guest(disk, "write -P 3 1M 64k");
  await mustCalque(home, ["delete", "old"]);
  await pack(root, scarce);
}

/** All that there is to see: the store, what is in its directories, the files beside it. */
interface Scenery {
  store: Sight;
  files: string[];
  records: string[];
}

async function survey(root: string): Promise<Scenery> {
  const { home, files } = places(root);
  const store = await look(home);
  // A deletion that failed may leave the list in another order, which nobody relies on.
  for (const { disk } of Object.values(store)) disk.snapshots = disk.snapshots.toSorted();
  const records = readdirSync(home, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".json"))
    // A trashed one and a live one have their files in other places.
    .map((name) => name.replace(/@[^/]*/, ""));
  return { store, files: readdirSync(files).toSorted(), records: records.toSorted() };
}

function words(args: readonly string[], root: string): string[] {
  const { files } = places(root);
  return args.map((word) => word.replace("FILES", files).replace("OUTSIDE", outside));
}

/** The records of the snapshots that there are. */
const RECORDS: Record<string, string> = { one: "1.json", two: "2.json" };

/** The same, where leaks are fine. */
function leakless(store: Sight): Sight {
  const entries = Object.entries(store).map(([name, { disk, ...rest }]) => {
    const check = disk.check === 3 ? 0 : disk.check;
    return [name, { ...rest, disk: { ...disk, check } }] as const;
  });
  return Object.fromEntries(entries);
}

/** How many blocks are free at each attempt: one more each time, and later some more. */
function nextStep(free: number): number {
  return Math.ceil(free / 6) || 1;
}

/** Whatever was left would be gone by now; and is not seen. */
async function expectSettled(root: string): Promise<void> {
  const { home } = places(root);
  const found = await look(home);
  await empty(root);
  await mustCalque(home, ["create", "settled", "--disk", "1M"]);
  await mustCalque(home, ["delete", "--purge", "settled"]);
  expect(leftovers(home)).toEqual([]);
  expect(await look(home)).toEqual(found);
}

function named(changes: readonly (readonly string[])[]) {
  return changes.map((args) => ({ name: args.join(" "), args }));
}

const able = judged && isRoot && have("mkfs.ext4", "mkfs.xfs", "mkfs.btrfs");

describe.runIf(able).each(grounds)("on $type without $scarce", ({ type, scarce, options }) => {
  let disk: Disk;
  let before: Scenery;
  beforeAll(async () => {
    await spares(outside);
    disk = await Disk.make(scene, type, options);
    await disk.mounted("rw", (root) => furnish(root, scarce));
    before = await disk.mounted("rw", survey);
  });

  /** What the command leaves where there is space. */
  async function outcome(args: readonly string[]): Promise<Scenery> {
    using trial = await disk.copy();
    return await trial.mounted("rw", async (root) => {
      await empty(root);
      await mustCalque(places(root).home, words(args, root));
      return survey(root);
    });
  }

  const [needing, modest] =
    type === "btrfs"
      ? [[...hungry, ...deletions.slice(0, 2)], moves]
      : [hungry, [...deletions, ...moves]];

  test.concurrent.each(named(needing))(
    "`$name` changes nothing until there is space for all of it",
    async ({ args }) => {
      const after = await outcome(args);
      using trial = await disk.copy();
      await trial.mounted("rw", async (root) => {
        const { home } = places(root);
        for (let free = 0; ;) {
          const { status, stderr } = await calque(home, words(args, root));
          const story = { free, status, stderr };
          if (status === 0) {
            // Only the history may have found no space, and the count of what a deletion freed.
            expect(stderr).not.toMatch(/^warning: (?!the history |"instances.web.disk.qcow2")/m);
            const { store, ...rest } = await survey(root);
            const isDeletion = args[0] === "delete";
            const seen = { ...rest, store: isDeletion ? leakless(store) : store };
            expect({ ...story, ...seen }).toEqual({ ...story, ...after });
            break;
          }
          expect(story).toMatchObject({
            status: 2,
            stderr: expect.stringMatching(/No space left on device/),
          });
          expect(stderr).not.toMatch(/panicked|internal error/);
          expect({ ...story, ...(await survey(root)) }).toEqual({ ...story, ...before });
          expect({ ...story, leftovers: leftovers(home) }).toEqual({ ...story, leftovers: [] });
          const step = nextStep(free);
          if (!(await unpack(root, step))) throw new Error(`${free} ${scarce} do not suffice`);
          free += step;
        }
        await expectSettled(root);
      });
    },
  );

  test.concurrent.each(named(modest))("`$name` works", async ({ args }) => {
    const after = await outcome(args);
    using trial = await disk.copy();
    await trial.mounted("rw", async (root) => {
      const { home } = places(root);
      const { status, stderr } = await calque(home, words(args, root));
      expect({ status, stderr }).toMatchObject({ status: 0 });
      // Where the space that came back is too little for new counts, it is leaked until the next
      // change; never more than that.
      expect(leakless((await survey(root)).store)).toEqual(leakless(after.store));
      await expectSettled(root);
      if (after.store["web"]?.state === "Stopped") {
        await mustCalque(home, ["set", "local.web.disk=8M"]);
        await mustCalque(home, ["snapshot", "web", "--name", "one-more"]);
        await mustCalque(home, ["delete", "--purge", "web.one-more"]);
        const { web } = await look(home);
        expect(web).toMatchObject({ disk: { check: 0 }, snapshots: after.store["web"].snapshots });
        const ids = Object.keys(after.store["web"].snapshots).map((name) => RECORDS[name]);
        expect(readdirSync(path.join(home, "instances/web/snapshots"))).toEqual(ids);
      }
    });
  });
});
