// Snapshot operations, check and info against qemu-img. Each program lives through the same chain
// of operations on its own copy of the image, in turns: operation by operation, who begins changes.

import { rmSync } from "node:fs";

import { capture } from "../tools.ts";
import type { Device } from "./device.ts";
import { minimumNs, type Needed } from "./device.ts";
import type { Master } from "./images.ts";
import { type Bench, type Call, countSyncs, freshCopy, inTurns } from "./measure.ts";
import { readingTargets, type Row, snapshotTargets, wallNs, wasStopped } from "./row.ts";

/** Operations that change nothing can be measured several times in one round. */
const REPEATS = 5;

interface Step {
  operation: string;
  /** As the program `bench` names it. */
  kind: "create" | "apply" | "delete" | "check" | "info";
  name: string;
  args: string[];
  /** Whether the image is another one afterwards. */
  changes: boolean;
}

function chain(master: Master): Step[] {
  const snapshot = (operation: string, kind: Step["kind"], flag: string, name: string): Step => ({
    operation,
    kind,
    name,
    args: ["snapshot", flag, name],
    changes: true,
  });
  return [
    snapshot("create", "create", "-c", "one"),
    snapshot("create again", "create", "-c", "two"),
    snapshot("apply", "apply", "-a", master.apply),
    snapshot("delete", "delete", "-d", master.delete),
    { operation: "check", kind: "check", name: "", args: ["check"], changes: false },
    { operation: "info", kind: "info", name: "", args: ["info"], changes: false },
  ];
}

export interface Setting {
  bench: Bench;
  calque: string;
  device: Device;
  directory: string;
  rounds: number;
  /** After so many seconds the other program is ended. */
  patienceSeconds: number;
  /** What ours needs to say its version. */
  runtimeBytes: number;
}

/** The other program's syncs are counted where what it does takes no longer than this. */
const COUNTABLE_NS = 30e9;

/** Runs the chain on `master`; all copies are judged by qemu-img at the end of each round. */
export async function benchSnapshots(master: Master, setting: Setting): Promise<Row[]> {
  const { bench, calque, directory, rounds } = setting;
  const steps = chain(master);
  const rows = steps.map((step): Row => ({
    subject: master.subject,
    operation: step.operation,
    opponent: "qemu-img",
    ours: [],
    theirs: [],
    targets: [],
  }));
  const check = rows[steps.findIndex(({ kind }) => kind === "check")]!;
  const ours = `${directory}/ours.qcow2`;
  const theirs = `${directory}/theirs.qcow2`;
  const unpunched = `${directory}/unpunched.qcow2`;
  const ourCall = (step: Step, image = ours): Call => [calque, "image", ...step.args, image];
  const theirCall = (step: Step): Call => ["qemu-img", ...step.args, theirs];

  for (let round = 0; round < rounds; round += 1) {
    for (const copy of [ours, theirs, unpunched]) freshCopy(master.path, copy);
    for (const [index, step] of steps.entries()) {
      const row = rows[index]!;
      const contestants = [
        () => row.ours.push(bench.measure(ourCall(step))),
        () => {
          // That it takes longer need not be seen twice.
          if (wasStopped(row)) return;
          row.theirs.push(bench.measureAtMost(setting.patienceSeconds, theirCall(step)));
        },
      ];
      if (step.changes) {
        const call = ourCall(step, unpunched);
        row.committed ??= [];
        const { committed } = row;
        contestants.push(() => committed.push(bench.measure(call, "measure-without-punching")));
      }
      const repeats = step.changes ? 1 : REPEATS;
      for (let repeat = 0; repeat < repeats; repeat += 1) {
        await inTurns(round + index + repeat, contestants);
      }
      // An image that was left in the middle of a change is nobody's to go on with.
      if (step.changes && wasStopped(row)) freshCopy(ours, theirs);
    }
    for (const copy of [ours, theirs, unpunched]) judge(copy, check, setting);
  }

  // The same chain once more, not for the clock: what it has to do at least, and the syncs.
  for (const copy of [ours, theirs]) freshCopy(master.path, copy);
  for (const [index, step] of steps.entries()) {
    const row = rows[index]!;
    const needed = bench.ask("minimum", ours, step.kind, step.name) as Needed;
    row.minimumNs = minimumNs(needed, setting.device);
    row.ourSyncs = countSyncs(ourCall(step), directory);
    const isCountable = !wasStopped(row) && wallNs(row.theirs) < COUNTABLE_NS;
    if (isCountable) row.theirSyncs = countSyncs(theirCall(step), directory);
    else if (step.changes) freshCopy(ours, theirs);
    const { demands } = master;
    const { runtimeBytes } = setting;
    row.targets = step.changes
      ? snapshotTargets(row, step.kind === "create", demands, runtimeBytes)
      : readingTargets(row, step.kind === "check", demands, runtimeBytes);
  }
  for (const copy of [ours, theirs, unpunched]) rmSync(copy);
  return rows;
}

/** Fails unless the image is sound, in qemu-img's opinion, or ours where that takes too long. */
function judge(image: string, check: Row, { bench, calque, patienceSeconds }: Setting): void {
  const theirs: Call = ["qemu-img", "check", image];
  const isJudged = !wasStopped(check) && !bench.measureAtMost(patienceSeconds, theirs).stopped;
  if (!isJudged) capture(calque, ["image", "check", "-q", image]);
}
