// Instances: what the store adds to the core. Lists of many, snapshots beside `image snapshot -c`,
// and many clones at once beside the kernel's bare FICLONEs.

import { existsSync, mkdirSync, rmSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { capture } from "../tools.ts";
import { mountScratch, unmountScratch } from "./clones.ts";
import { countSyncs, freshCopy, inTurns, type Sample } from "./measure.ts";
import { print } from "./report.ts";
import { type Row, wallNs } from "./row.ts";
import type { Setting } from "./snapshots.ts";

const INSTANCES = 1000;
const SNAPSHOTS = 10;
const CLONES = 1000;

/** A list may take this long, process start included. */
const LIST_NS = 150e6;
/** What an instance's snapshot may take beside the image's alone, its own syncs apart. */
const SNAPSHOT_FACTOR = 1.3;
/** What many clones may take beside the bare FICLONEs. */
const CLONES_FACTOR = 1.2;
const CLONES_ALLOWANCE_NS = 1e9;

/** All rows. `image` is a disk with real content. */
export async function benchInstances(image: string, setting: Setting): Promise<Row[]> {
  const rows = [await benchSnapshot(image, setting)];
  if (process.getuid?.() !== 0) {
    print("skipped: many instances, which need root to mount XFS and btrfs");
    return rows;
  }
  // In one piece: what a fragmented disk costs is paid by the bare FICLONEs as well, a hundred
  // times what is asked about here.
  const compact = path.join(setting.directory, "compact.qcow2");
  capture("qemu-img", ["convert", "-O", "qcow2", image, compact]);
  for (const kind of ["xfs", "btrfs"] as const) {
    const point = `${setting.directory}/${kind}`;
    const trouble = mountScratch(kind, point);
    if (trouble === undefined) {
      rows.push(await benchManyClones(kind, point, compact, setting));
      if (kind === "xfs") rows.push(await benchList(kind, point, compact, setting));
      unmountScratch(point);
    } else {
      print(`skipped: many instances on ${kind}: ${trouble}`);
    }
  }
  rmSync(compact);
  return rows;
}

/** Makes an instance of the image in a store of its own, and everybody below works on that. */
function openStore(directory: string, image: string, calque: string): string {
  const home = path.join(directory, "home");
  process.env.CALQUE_HOME = home;
  capture(calque, ["import", image, "--name", "web"]);
  return home;
}

/** `snapshot` beside `image snapshot -c` on a copy of the same disk. */
async function benchSnapshot(
  image: string,
  { bench, calque, device, directory, rounds }: Setting,
): Promise<Row> {
  const home = openStore(directory, image, calque);
  const alone = `${directory}/alone.qcow2`;
  freshCopy(`${home}/instances/web/disk.qcow2`, alone);
  const [ours, theirs]: [Sample[], Sample[]] = [[], []];
  for (let round = 0; round < rounds; round += 1) {
    await inTurns(round, [
      () => ours.push(bench.measure([calque, "snapshot", "web", "--name", `bench${round}`])),
      () => theirs.push(bench.measure([calque, "image", "snapshot", "-c", `bench${round}`, alone])),
    ]);
  }
  const ourSyncs = countSyncs([calque, "snapshot", "web", "--name", "counted"], directory);
  const theirSyncs = countSyncs([calque, "image", "snapshot", "-c", "counted", alone], directory);
  const ownSyncs = (ourSyncs ?? 0) - (theirSyncs ?? 0);
  const met = wallNs(ours) - ownSyncs * device.flushNs <= SNAPSHOT_FACTOR * wallNs(theirs);
  rmSync(home, { recursive: true });
  rmSync(alone);
  return {
    subject: "instance",
    operation: "snapshot",
    opponent: "image snapshot -c",
    ours,
    theirs,
    ourSyncs,
    theirSyncs,
    targets: [{ sentence: `at most ${SNAPSHOT_FACTOR} of it, ${ownSyncs} own syncs apart`, met }],
  };
}

/** Many clones with one command, and the same number of bare FICLONEs. */
async function benchManyClones(
  kind: string,
  point: string,
  image: string,
  { bench, calque, rounds }: Setting,
): Promise<Row> {
  const home = openStore(point, image, calque);
  const source = `${home}/instances/web/disk.qcow2`;
  const bare = path.join(point, "bare");
  const [ours, theirs]: [Sample[], Sample[]] = [[], []];
  for (let round = 0; round < rounds; round += 1) {
    await inTurns(round, [
      () => {
        const call = ["clone", "web", "--name", "many", "--count", `${CLONES}`];
        ours.push(bench.measure([calque, ...call]));
        capture(calque, ["delete", "--purge", ...numbered("many", CLONES)]);
        capture("sync", ["--file-system", point]);
      },
      () => {
        mkdirSync(bare);
        let wall = 0;
        for (const name of numbered("many", CLONES)) {
          const { ficloneNs } = bench.ask("ficlone", source, `${bare}/${name}`) as {
            ficloneNs: number;
          };
          wall += ficloneNs;
        }
        theirs.push({ wallNs: wall, userNs: 0, systemNs: wall, peakBytes: 0 });
        rmSync(bare, { recursive: true });
        capture("sync", ["--file-system", point]);
      },
    ]);
  }
  rmSync(home, { recursive: true });
  const limit = CLONES_FACTOR * wallNs(theirs) + CLONES_ALLOWANCE_NS;
  return {
    subject: kind,
    operation: `clone --count ${CLONES}`,
    opponent: `${CLONES} bare FICLONEs`,
    ours,
    theirs,
    targets: [
      { sentence: `at most ${CLONES_FACTOR} of them and a second`, met: wallNs(ours) <= limit },
    ],
  };
}

/** `list` of many instances with snapshots, beside a program that only reads their records. */
async function benchList(
  kind: string,
  point: string,
  image: string,
  { bench, calque, rounds }: Setting,
): Promise<Row> {
  const home = openStore(point, image, calque);
  for (let number = 1; number <= SNAPSHOTS; number += 1) capture(calque, ["snapshot", "web"]);
  const call = ["clone", "web", "--keep-snapshots", "--count", `${INSTANCES - 1}`];
  capture(calque, call);
  const [ours, theirs]: [Sample[], Sample[]] = [[], []];
  for (let round = 0; round < rounds; round += 1) {
    await inTurns(round, [
      () => ours.push(bench.measure([calque, "list"])),
      () =>
        theirs.push(bench.measure(["sh", "-c", 'cat "$1"/instances/*/instance.json', "sh", home])),
    ]);
  }
  if (existsSync(home)) rmSync(home, { recursive: true });
  return {
    subject: kind,
    operation: `list ${INSTANCES} with ${SNAPSHOTS} snapshots`,
    opponent: "cat of the records",
    ours,
    theirs,
    targets: [{ sentence: "at most 150 ms", met: wallNs(ours) <= LIST_NS }],
  };
}

function numbered(name: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${name}-${index + 1}`);
}
