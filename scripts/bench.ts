// `npm run bench`: `dist/calque` against qemu-img and cp, in one run, interleaved, as medians of
// whole processes. Builds what it needs first.
//
//   npm run bench -- [--rounds N] [--size GIB]… [--layout LAYOUT]… [--patience SECONDS]
//                    [--in DIRECTORY] [--only PART]… [--record] [--no-build]
//
// Twelve GiB of free space are enough, in `bench/work` or where `--in` says; everything is removed
// at the end. `--only` is start, fabricated, real, clone or instances. `--size` (10, 100, 1024, …)
// and `--layout` (sequential, shuffled, aged) are those of the fabricated images. qemu-img is ended
// after `--patience` seconds, once for each row, which then says `>`. `--record` keeps in
// bench/results what is printed and, as JSON, every sample. Everybody works on a copy of his own,
// with warm caches; the rows that miss a target are printed as such.

import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";

import { benchClones } from "./bench/clones.ts";
import type { Device } from "./bench/device.ts";
import { benchInstances } from "./bench/instances.ts";
import { ageWithQemu, fabricate, LAYOUTS } from "./bench/images.ts";
import { Bench, inTurns } from "./bench/measure.ts";
import { describeMachine, print, printed, printRows, printSummary } from "./bench/report.ts";
import { type Row, wallNs } from "./bench/row.ts";
import { benchSnapshots, type Setting } from "./bench/snapshots.ts";
import { buildExample } from "./examples.ts";
import { fail, positive, root, run, temporaryDirectory } from "./tools.ts";

/** Processes of a few milliseconds are started more often. */
const STARTS_PER_ROUND = 10;
const workDirectory = path.join(root, "bench/work");
const USUAL_GIBIBYTES = 10;
const PARTS = ["start", "fabricated", "real", "clone", "instances"];

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    size: { type: "string", multiple: true, default: [String(USUAL_GIBIBYTES)] },
    layout: { type: "string", multiple: true, default: [...LAYOUTS] },
    patience: { type: "string", default: "600" },
    in: { type: "string", default: workDirectory },
    only: { type: "string", multiple: true, default: PARTS },
    record: { type: "boolean", default: false },
    "no-build": { type: "boolean", default: false },
  },
});
const rounds = positive("--rounds", options.rounds);
const sizes = options.size.map((size) => positive("--size", size));
const layouts = LAYOUTS.filter((layout) => options.layout.includes(layout));
const patienceSeconds = positive("--patience", options.patience);
const unknown = options.only.find((part) => !PARTS.includes(part));
if (unknown !== undefined) fail(`no part "${unknown}": it is ${PARTS.join(", ")}`);

process.env.PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
if (spawnSync("qemu-img", ["--version"]).error) {
  fail("qemu-img is not installed: there is nothing to compare with (package qemu-utils)");
}
if (spawnSync("strace", ["--version"]).error) {
  print("skipped: counting syncs, because strace is not installed");
}
if (!options["no-build"]) run(process.execPath, ["scripts/build-binary.ts"]);
const calque = path.join(root, "dist/calque");
const bench = new Bench(buildExample("bench"));

if (options.in === workDirectory) mkdirSync(workDirectory, { recursive: true });
const directory = temporaryDirectory(options.in, "bench-");
// After the unmounting, which was registered first.
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));

const machine = describeMachine(calque, directory);
const device = bench.ask("device", directory) as Device;
const runtimeBytes = bench.measure([calque, "--version"]).peakBytes;
const setting: Setting = {
  bench,
  calque,
  device,
  directory,
  rounds,
  patienceSeconds,
  runtimeBytes,
};
const rows: Row[] = [];

print(`${machine.calque} against ${machine.qemuImg}, medians of ${rounds} rounds`);
print(
  `${machine.processors} × ${machine.processor}, Linux ${machine.kernel}, ${machine.fileSystem}`,
);
print(
  `the file system reads ${speed(device.readBytesPerSecond)}, writes ` +
    `${speed(device.writeBytesPerSecond)}, flushes in ${(device.flushNs / 1e6).toFixed(2)} ms`,
);
print("peak MiB and syncs: calque's/the other's; T_min: bytes at these speeds, and flushes, which");
print("the commit is compared with; what comes after it gives back the old metadata's blocks");

if (options.only.includes("start")) show([await benchStart()]);
if (options.only.includes("fabricated")) {
  for (const size of sizes) {
    for (const layout of layouts) {
      const master = fabricate(bench, directory, size, layout);
      show(await benchSnapshots(master, setting));
      rmSync(master.path);
    }
  }
}
if (["real", "clone", "instances"].some((part) => options.only.includes(part))) {
  const master = ageWithQemu(directory);
  if (options.only.includes("real")) show(await benchSnapshots(master, setting));
  if (options.only.includes("clone")) show(await benchClones(master.path, setting));
  if (options.only.includes("instances")) show(await benchInstances(master.path, setting));
}
printSummary(rows);
if (options.record) record();

function show(more: Row[]): void {
  printRows(more);
  rows.push(...more);
}

async function benchStart(): Promise<Row> {
  const row: Row = {
    subject: "start",
    operation: "--version",
    opponent: "qemu-img",
    ours: [],
    theirs: [],
    targets: [],
  };
  for (let round = 0; round < rounds * STARTS_PER_ROUND; round += 1) {
    await inTurns(round, [
      () => row.ours.push(bench.measure([calque, "--version"])),
      () => row.theirs.push(bench.measure(["qemu-img", "--version"])),
    ]);
  }
  const met = wallNs(row.ours) <= 0.9 * wallNs(row.theirs);
  row.targets.push({ sentence: "at most 0.9 of qemu-img's", met });
  return row;
}

function record(): void {
  const now = new Date().toISOString();
  const results = path.join(root, "bench/results");
  // Images of other sizes than usual take their time, and a page of their own.
  const other = isUsual(sizes) ? "" : `-${sizes.join("-")}-gib`;
  const file = path.join(results, `${now.slice(0, 10)}${other}.json`);
  mkdirSync(results, { recursive: true });
  const command = ["npm run bench --", ...process.argv.slice(2)].join(" ");
  writeFileSync(
    file,
    `${JSON.stringify({ command, date: now, machine, device, rows }, null, 1)}\n`,
  );
  const page = ["```", `$ ${command}`, ...printed, "```", ""].join("\n");
  writeFileSync(file.replace(/json$/, "md"), page);
  console.log(`recorded in ${path.relative(root, file)}`);
}

function isUsual([size, ...others]: number[]): boolean {
  return size === USUAL_GIBIBYTES && others.length === 0;
}

function speed(bytesPerSecond: number): string {
  return `${(bytesPerSecond / 1e9).toFixed(2)} GB/s`;
}
