// Clones against cp, on file systems that are made for it: XFS and btrfs, which share blocks, and
// ext4, which does not. Needs root, for mounting.

import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import process from "node:process";

import { capture } from "../tools.ts";
import { type Device, minimumNs } from "./device.ts";
import { type Call, freshCopy, inTurns, median, type Sample } from "./measure.ts";
import { print } from "./report.ts";
import type { Row } from "./row.ts";
import { wallNs } from "./row.ts";
import type { Setting } from "./snapshots.ts";

const KINDS = ["xfs", "btrfs", "ext4"] as const;
const FILE_SYSTEM_BYTES = 6 * 2 ** 30;
/** What a clone may take beyond the kernel's own FICLONE. */
const FICLONE_ALLOWANCE_NS = 20e6;

const mounted = new Set<string>();
process.on("exit", unmountAll);

function unmountAll(): void {
  for (const point of mounted) spawnSync("umount", [point], { stdio: "ignore" });
}

/** Measures on each file system that can be made here; says which cannot. */
export async function benchClones(image: string, setting: Setting): Promise<Row[]> {
  if (process.getuid?.() !== 0) {
    print("skipped: clones against cp, which need root to mount XFS, btrfs and ext4");
    return [];
  }
  const rows: Row[] = [];
  for (const kind of KINDS) {
    const point = `${setting.directory}/${kind}`;
    const trouble = mountScratch(kind, point);
    if (trouble === undefined) {
      rows.push(...(await benchFileSystem(kind, point, image, setting)));
      unmountScratch(point);
    } else {
      print(`skipped: clones on ${kind}: ${trouble}`);
    }
  }
  return rows;
}

/** Ends what `mountScratch` began. */
export function unmountScratch(point: string): void {
  capture("umount", [point]);
  mounted.delete(point);
  rmSync(`${point}.image`);
}

/** Makes and mounts a file system; the loop device goes with the mount. Returns why it cannot. */
export function mountScratch(kind: string, point: string): string | undefined {
  const file = `${point}.image`;
  writeFileSync(file, "");
  truncateSync(file, FILE_SYSTEM_BYTES);
  mkdirSync(point, { recursive: true });
  const calls: Call[] = [
    [`mkfs.${kind}`, "-q", file],
    ["mount", "-o", "loop", file, point],
  ];
  for (const [program, ...args] of calls) {
    const { error, status, stderr } = spawnSync(program, args, { encoding: "utf8" });
    if (error === undefined && status === 0) continue;
    rmSync(file);
    return error ? `${program} is not installed` : stderr.trim();
  }
  mounted.add(point);
  return undefined;
}

/** Another program that makes a copy. */
interface Opponent {
  name: string;
  call: (source: string, target: string) => Call;
}

const reflink: Opponent = {
  name: "cp --reflink=always",
  call: (source, target) => ["cp", "--reflink=always", source, target],
};
/** Shares by itself where it can. Leaves what it copied in the cache. */
const cp: Opponent = { name: "cp", call: (source, target) => ["cp", source, target] };
/** As durable as a clone of ours is when it is there. */
const durableCp: Opponent = {
  name: "cp && sync",
  call: (source, target) => ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", source, target],
};

async function benchFileSystem(
  kind: string,
  point: string,
  image: string,
  setting: Setting,
): Promise<Row[]> {
  const withSnapshots = `${point}/snapshots.qcow2`;
  freshCopy(image, withSnapshots);
  // The same disk alone, as most images are.
  const plain = `${point}/plain.qcow2`;
  capture(setting.calque, ["image", "clone", "-q", "--strategy", "copy", withSnapshots, plain]);
  capture("sync", [plain]);
  const device = setting.bench.ask("device", point) as Device;
  const shares = kind !== "ext4";
  const opponents = shares ? [reflink, cp, durableCp] : [cp, durableCp];
  const contest = { subject: kind, point, opponents, shares, device };
  const rows = await benchContest({ ...contest, operation: "clone", source: plain }, setting);
  const [first] = rows;
  if (first?.ficloneNs !== undefined) {
    const met = wallNs(first.ours) <= first.ficloneNs + FICLONE_ALLOWANCE_NS;
    first.targets.push({ sentence: "at most 20 ms beyond FICLONE", met });
  }
  const dropping = { ...contest, operation: "clone less 3 snapshots", source: withSnapshots };
  return [...rows, ...(await benchContest(dropping, setting))];
}

interface Contest {
  subject: string;
  point: string;
  operation: string;
  source: string;
  opponents: readonly Opponent[];
  /** Whether this file system shares blocks. */
  shares: boolean;
  device: Device;
}

/** One row for each opponent, all from the same rounds. */
async function benchContest(contest: Contest, { bench, calque, rounds }: Setting): Promise<Row[]> {
  const { subject, point, operation, source, opponents, shares, device } = contest;
  const target = `${point}/target.qcow2`;
  const ours: Sample[] = [];
  const theirs: Sample[][] = opponents.map(() => []);
  const ficlone: number[] = [];
  const contestants = [
    () => ours.push(bench.measure([calque, "image", "clone", "-q", source, target])),
    ...opponents.map(
      ({ call }, index) =>
        () =>
          theirs[index]!.push(bench.measure(call(source, target))),
    ),
  ];
  if (shares) {
    contestants.push(() => {
      const answer = bench.ask("ficlone", source, target) as { ficloneNs: number };
      return ficlone.push(answer.ficloneNs);
    });
  }
  for (let round = 0; round < rounds; round += 1) {
    await inTurns(
      round,
      contestants.map((contestant) => () => {
        contestant();
        rmSync(target);
        capture("sync", ["--file-system", point]);
      }),
    );
  }
  const { clones } = JSON.parse(
    capture(calque, ["image", "clone", "--output", "json", source, target]),
  ) as { clones: { strategy: string; "copied-bytes": number }[] };
  capture("qemu-img", ["check", "-q", target]);
  rmSync(target);
  const { strategy, "copied-bytes": copied } = clones[0]!;
  const needed = { readBytes: copied, writtenBytes: copied, flushes: 1 };
  const shared = shares ? { ficloneNs: median(ficlone) } : {};
  return opponents.map((opponent, index): Row => {
    const row: Row = {
      subject,
      operation: `${operation} (${strategy})`,
      opponent: opponent.name,
      ours,
      theirs: theirs[index]!,
      minimumNs: minimumNs(needed, device) + (shared.ficloneNs ?? 0),
      targets: [],
    };
    return Object.assign(row, shared);
  });
}
