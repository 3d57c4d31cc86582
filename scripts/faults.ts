// `npm run faults`: everything that makes calls fail, counted: the core's sweeps over its storage,
// in memory, and those of the executable's system calls, by way of strace; and `kill -9` before
// each of them. All of it is a part of `npm test`, too. Builds what it needs first.
//
//   npm run faults -- [--seeds N] [--only PART]… [--record] [--no-build]
//
// `--seeds` has the core's sweeps done to so many sets of images. `--only` is core or executable.
// `--record` keeps in docs/results what is printed. Ends with status 1 if a test fails.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";

import { describeMachine, print, printed } from "./bench/report.ts";
import { fail, positive, root, run, temporaryDirectory, tryRun } from "./tools.ts";

const PARTS = ["core", "executable"];

const { values: options } = parseArgs({
  options: {
    seeds: { type: "string", default: "1" },
    only: { type: "string", multiple: true, default: PARTS },
    record: { type: "boolean", default: false },
    "no-build": { type: "boolean", default: false },
  },
});
const seeds = positive("--seeds", options.seeds);
const unknown = options.only.find((part) => !PARTS.includes(part));
if (unknown !== undefined) fail(`no part "${unknown}": it is ${PARTS.join(", ")}`);
if (!options["no-build"]) run(process.execPath, ["scripts/build-binary.ts"]);

/** The first is that of `npm test`. */
const FIRST_SEED = 20_240;

interface Row {
  who: string;
  trouble: string;
  operation: string;
  refused: number;
  done: number;
  unsettled: number;
}

const directory = temporaryDirectory(os.tmpdir(), "calque-faults-");
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
const file = path.join(directory, "rows");
writeFileSync(file, "");

const failures: string[] = [];
if (options.only.includes("core")) {
  for (let seed = FIRST_SEED; seed < FIRST_SEED + seeds; seed += 1) {
    // The sweeps of `faults`, and the one of `repair`.
    for (const [target, filter] of [["faults"], ["repair", "faults::"]] as const) {
      const cargo = "test --release --locked --quiet --package qcow2 --test".split(" ");
      attempt("cargo", [...cargo, target, ...(filter === undefined ? [] : [filter])], seed);
    }
  }
}
if (options.only.includes("executable")) {
  const vitest = path.join(root, "node_modules/vitest/vitest.mjs");
  const tests = ["test/e2e/faults.test.ts", "test/e2e/kill.test.ts"];
  attempt(process.execPath, [vitest, "run", ...tests], FIRST_SEED);
}

const machine = describeMachine(path.join(root, "dist/calque"), directory);
print(`${machine.calque}; ${machine.qemuImg}`);
print(`${machine.processors} × ${machine.processor}, Linux ${machine.kernel}`);
const rows = readRows();
report("core", "Calls of the core that fail", "operation");
report("executable", "System calls of the executable that fail", "command");
report("killed", "Commands that were killed before a system call", "command");
print("");
print(failures.length === 0 ? "every one of them ended as it has to" : failures.join("\n"));
if (options.record) record();
process.exitCode = failures.length === 0 ? 0 : 1;

function attempt(program: string, args: string[], seed: number): void {
  const status = tryRun(program, args, { CALQUE_SWEEPS: file, CALQUE_SEED: String(seed) });
  if (status !== 0) failures.push(`with seed ${seed}, ${args.slice(1).join(" ")}: ${status}`);
}

function readRows(): Row[] {
  const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => {
    const [who, trouble, operation, ...endings] = line.split("\t") as [string, string, string];
    const [refused, done, unsettled] = endings.map(Number) as [number, number, number];
    return { who, trouble, operation, refused, done, unsettled };
  });
}

/** Two tables of the same runs: by what was done, and by what went wrong. */
function report(who: string, title: string, operation: string): void {
  const mine = rows.filter((row) => row.who === who);
  if (mine.length === 0) return;
  print(`\n## ${title}`);
  table(mine, operation, (row) => row.operation);
  table(mine, "what went wrong", (row) => row.trouble);
}

function table(mine: readonly Row[], head: string, key: (row: Row) => string): void {
  const { who } = mine[0]!;
  const endings =
    who === "killed"
      ? ["the file as it was", "another file, old or new state"]
      : ["error, old state", "done all the same", "unsettled"];
  print(`\n| ${head} | runs | ${endings.join(" | ")} |`);
  print(`|---|${"--:|".repeat(endings.length + 1)}`);
  const groups = [...Map.groupBy(mine, key)].toSorted(([a], [b]) => (a < b ? -1 : 1));
  for (const [name, group] of [...groups, ["all", mine] as const]) {
    const sum = (count: (row: Row) => number): number =>
      group.map(count).reduce((total, more) => total + more, 0);
    const all = [sum((row) => row.refused), sum((row) => row.done), sum((row) => row.unsettled)];
    const runs = all.reduce((total, count) => total + count, 0);
    print(`| ${name} | ${runs} | ${all.slice(0, endings.length).join(" | ")} |`);
  }
}

function record(): void {
  const day = new Date().toISOString().slice(0, 10);
  const command = ["npm run faults --", ...process.argv.slice(2)].join(" ");
  const target = path.join(root, `docs/results/faults-${day}.md`);
  mkdirSync(path.dirname(target), { recursive: true });
  const head = [
    `# A run of the sweeps over calls that fail, ${day}`,
    "",
    "What they do, and what is asked of each ending: [crash-safety.md](../crash-safety.md).",
    "",
    "```",
    command,
    "```",
    "",
  ];
  writeFileSync(target, [...head, ...printed, ""].join("\n"));
  console.log(`recorded in ${path.relative(root, target)}`);
}
