// `npm run fuzz`: each target of native/fuzz under libFuzzer for a while, from the seeds that the
// library's own generator makes and what earlier runs found. Ends with one row per target.
//
//   npm run fuzz -- [--seconds N] [--record] [TARGET…]
//
// Needs a C++ compiler and cargo-fuzz (`cargo install cargo-fuzz --locked`); any Rust toolchain
// does, because the code under test has nothing for a sanitizer to find. A finding is a file in
// target/fuzz/artifacts, and ends the run of its target with status 1. `--record` keeps the rows in
// bench/results. The deterministic minute of the same targets is a part of `npm test`.

import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";

import { capture, cargoTarget, fail, root, run } from "./tools.ts";

const ALL = [
  "header",
  "snapshots",
  "entries",
  "content",
  "check",
  "operations",
  "generated",
  "files",
];

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "60" },
    record: { type: "boolean", default: false },
  },
});
const seconds = Number(options.seconds);
if (!Number.isInteger(seconds) || seconds < 1) fail("--seconds is a whole number of seconds");
const unknown = positionals.find((target) => !ALL.includes(target));
if (unknown !== undefined) fail(`no target "${unknown}": it is ${ALL.join(", ")}`);
const targets = positionals.length === 0 ? ALL : positionals;
if (spawnSync("cargo", ["fuzz", "--version"]).status !== 0) {
  fail("cargo-fuzz is not installed: `cargo install cargo-fuzz --locked`");
}

/** Inputs longer than this are not tried: two clusters of the largest size take seconds each. */
const MOST_BYTES = 256 << 10;

interface Row {
  target: string;
  status: number | null;
  executions: number;
  perSecond: number;
  /** Edges of the code that were taken. */
  edges: number;
  /** Inputs that were kept because each of them takes other ways than the rest. */
  corpus: number;
  peakMebibytes: number;
}

const place = path.join(cargoTarget, "fuzz");
const rows: Row[] = [];
for (const target of targets) rows.push(await fuzz(target));

const lines = [
  `${seconds} s for each target, ${os.availableParallelism()} × ${os.cpus()[0]?.model.trim()}`,
  capture("rustc", ["--version"]).trim(),
  "",
  "| target | executions | a second | edges | corpus | peak RSS, MiB | findings |",
  "|---|--:|--:|--:|--:|--:|--:|",
  ...rows.map(
    (row) =>
      `| ${row.target} | ${row.executions} | ${row.perSecond} | ${row.edges} | ${row.corpus} ` +
      `| ${row.peakMebibytes} | ${row.status === 0 ? 0 : 1} |`,
  ),
];
console.log(lines.join("\n"));
if (options.record) {
  const day = new Date().toISOString().slice(0, 10);
  const command = ["$ npm run fuzz --", ...process.argv.slice(2)].join(" ");
  const text = ["```", command, "```", "", ...lines, ""].join("\n");
  writeFileSync(path.join(root, `bench/results/${day}-fuzz.md`), text);
}
process.exitCode = rows.some(({ status }) => status !== 0) ? 1 : 0;

/** Runs one target in view of the user. */
async function fuzz(target: string): Promise<Row> {
  const corpus = path.join(place, "corpus", target);
  const artifacts = path.join(place, "artifacts", target);
  for (const directory of [corpus, artifacts]) mkdirSync(directory, { recursive: true });
  run("cargo", [
    ..."run --quiet --locked --package qcow2-fuzz --example seeds --".split(" "),
    target,
    corpus,
  ]);
  const child = spawn(
    "cargo",
    [
      ..."fuzz run --fuzz-dir native/fuzz --sanitizer none --dev --features libfuzzer".split(" "),
      `--target-dir=${place}`,
      target,
      corpus,
      "--",
      `-artifact_prefix=${artifacts}/`,
      `-max_total_time=${seconds}`,
      `-max_len=${MOST_BYTES}`,
      "-timeout=20",
      "-rss_limit_mb=1024",
      "-print_final_stats=1",
    ],
    { stdio: ["ignore", "inherit", "pipe"] },
  );
  const status = new Promise<number | null>((resolve) => child.on("close", resolve));
  let output = "";
  for await (const chunk of child.stderr.setEncoding("utf8")) {
    process.stderr.write(chunk as string);
    output += chunk as string;
  }
  const last = (pattern: RegExp): number => Number([...output.matchAll(pattern)].at(-1)?.[1] ?? 0);
  return {
    target,
    status: await status,
    executions: last(/^stat::number_of_executed_units: +(\d+)/gm),
    perSecond: last(/^stat::average_exec_per_sec: +(\d+)/gm),
    edges: last(/ cov: (\d+) /g),
    corpus: last(/ corp: (\d+)\//g),
    peakMebibytes: last(/^stat::peak_rss_mb: +(\d+)/gm),
  };
}
