// `npm run locks`: how often programs that meet on one image get into each other's way, counted.
// Builds what it needs first.
//
//   npm run locks -- [--starts N] [--pairs N] [--rounds N] [--only PART] [--in DIRECTORY]
//                    [--calque FILE] [--record] [--no-build]
//
// `--only` is starts, races or readers. `--record` keeps in bench/results what is printed and, as
// JSON, every figure. Ends with status 1 where a figure that has to be zero is not. A short form is
// among the tests, in test/e2e/locks-figures.test.ts.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";

import { describeMachine, print, printed } from "./bench/report.ts";
import { type Contestant, countRaces, damages, type RaceReport } from "./locks/races.ts";
import { countReaders, type ReadersReport } from "./locks/readers.ts";
import { countStarts, type StartsReport } from "./locks/starts.ts";
import { fail, positive, root, run, temporaryDirectory } from "./tools.ts";

const PARTS = ["starts", "races", "readers"];

/** Who meets whom. What happens without Calque is there for comparison. */
const pairs: readonly (readonly [Contestant, Contestant])[] = [
  ["calque", "calque"],
  ["calque", "qemu-img"],
  ["calque", "slow qemu-img"],
  ["calque", "machine"],
  ["calque", "slow machine"],
  ["qemu-img", "qemu-img"],
  ["qemu-img", "slow qemu-img"],
  ["qemu-img", "machine"],
  ["qemu-img", "slow machine"],
];

const { values: options } = parseArgs({
  options: {
    starts: { type: "string", default: "1000" },
    pairs: { type: "string", default: "1000" },
    rounds: { type: "string", default: "300" },
    only: { type: "string", multiple: true, default: PARTS },
    in: { type: "string", default: os.tmpdir() },
    calque: { type: "string", default: "dist/calque" },
    record: { type: "boolean", default: false },
    "no-build": { type: "boolean", default: false },
  },
});
const unknown = options.only.find((part) => !PARTS.includes(part));
if (unknown !== undefined) fail(`no part "${unknown}": it is ${PARTS.join(", ")}`);

process.env.PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
if (!options["no-build"]) run(process.execPath, ["scripts/build-binary.ts"]);
const calque = path.resolve(options.calque);
const directory = temporaryDirectory(options.in, "calque-locks-");
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));

const began = new Date();
const machine = describeMachine(calque, directory);
print(`${machine.calque} and ${machine.qemuImg}`);
print(
  `${machine.processors} × ${machine.processor}, Linux ${machine.kernel}, ${machine.fileSystem}`,
);
/** Figures that have to be zero and are not. */
const misses: string[] = [];

const starts = options.only.includes("starts") ? await measureStarts() : undefined;
const races = options.only.includes("races") ? await measureRaces() : [];
const readers = options.only.includes("readers") ? await measureReaders() : [];
print("");
print(misses.length === 0 ? "every figure that has to be zero is" : misses.join("\n"));
if (options.record) record();
process.exitCode = misses.length === 0 ? 0 : 1;

async function measureStarts(): Promise<StartsReport> {
  const report = await countStarts(calque, directory, positive("--starts", options.starts));
  const { alone, beside, looks, said } = report;
  print("\nQEMUs that start (`qemu-io -c length`, to write)");
  print(`  alone                                ${alone.failed} of ${alone.started} failed`);
  print(`  beside info, check, -l and list      ${beside.failed} of ${beside.started} failed`);
  print(`  (${looks} looks meanwhile)`);
  if (said !== undefined) print(`  ${said.trim()}`);
  if (beside.failed > alone.failed) misses.push("MISS  QEMUs fail more often beside readers");
  return report;
}

async function measureRaces(): Promise<RaceReport[]> {
  const rounds = positive("--rounds", options.rounds);
  const heads = ["rounds", "both done", "damaged", ...damages];
  print("\nTwo that start within 12 ms on one image");
  print(`  ${"".padEnd(32)}${heads.map((head) => head.padStart(10)).join("")}`);
  const reports = [];
  for (const pair of pairs) {
    const report = await countRaces(calque, pair, directory, rounds);
    const cells = [report.rounds, report.both, report.damaged];
    const figures = [...cells, ...damages.map((damage) => report.damages[damage])];
    const name = `${pair[0]}, ${pair[1]}`;
    print(`  ${name.padEnd(32)}${figures.map((it) => String(it).padStart(10)).join("")}`);
    reports.push(report);
    if (pair[0] !== "calque") continue;
    if (report.damaged > 0) misses.push(`MISS  ${name}: ${report.damaged} images damaged`);
    if (pair[1] === "calque" && report.both < rounds) misses.push(`MISS  ${name}: one was refused`);
  }
  return reports;
}

async function measureReaders(): Promise<(ReadersReport & { beside: string })[]> {
  const count = positive("--pairs", options.pairs);
  print("\n`info` and `check` in loops beside snapshots that are taken and deleted");
  const reports = [];
  const programs: Record<string, [string, ...string[]]> = {
    calque: [calque, "image"],
    "qemu-img": ["qemu-img"],
  };
  for (const [beside, program] of Object.entries(programs)) {
    const report = await countReaders(calque, program, directory, count);
    const { clean, busy, other, said } = report;
    print(
      `  ${report.pairs} pairs by ${beside.padEnd(10)}` +
        `${clean} answers clean, ${busy} in use or busy, ${other} anything else`,
    );
    if (said !== undefined) print(`  ${said.trim()}`);
    if (other > 0) misses.push(`MISS  readers beside ${beside} were told something else`);
    reports.push({ ...report, beside });
  }
  return reports;
}

function record(): void {
  const results = path.join(root, "bench/results");
  const file = path.join(results, `locks-${began.toISOString().slice(0, 10)}`);
  mkdirSync(results, { recursive: true });
  const command = ["npm run locks --", ...process.argv.slice(2)].join(" ");
  const figures = { command, date: began.toISOString(), machine, starts, races, readers };
  writeFileSync(`${file}.json`, `${JSON.stringify(figures, null, 1)}\n`);
  writeFileSync(`${file}.md`, ["```", `$ ${command}`, ...printed, "```", ""].join("\n"));
  console.log(`recorded in ${path.relative(root, file)}.md`);
}
