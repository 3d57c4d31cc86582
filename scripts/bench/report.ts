// What the benchmark prints and keeps.

import { readFileSync } from "node:fs";
import os from "node:os";

import { capture } from "../tools.ts";
import { committedNs, peakBytes, type Row, wallNs, wasStopped } from "./row.ts";

const firstLine = (program: string): string =>
  capture(program, ["--version"]).split("\n")[0]!.trim();

/** Everything printed so far. */
export const printed: string[] = [];

/** Prints lines, and keeps them for the record. */
export function print(text: string): void {
  console.log(text);
  printed.push(text);
}

/** Where the numbers come from. */
export interface Machine {
  processor: string;
  processors: number;
  memoryBytes: number;
  kernel: string;
  fileSystem: string;
  calque: string;
  qemuImg: string;
  node: string;
}

export function describeMachine(calque: string, directory: string): Machine {
  const model = /^model name\s*: (.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"));
  return {
    processor: model?.[1] ?? os.arch(),
    processors: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    kernel: os.release(),
    fileSystem: describeFileSystem(directory),
    calque: firstLine(calque).replace(/ +/g, " "),
    qemuImg: firstLine("qemu-img"),
    node: process.version,
  };
}

/** With its options: where blocks are discarded at once, freeing them takes longer than the rest. */
function describeFileSystem(directory: string): string {
  const [kind, options] = ["FSTYPE", "OPTIONS"].map((column) =>
    capture("findmnt", ["-n", "-o", column, "-T", directory]).trim(),
  );
  return `${kind} (${options})`;
}

const HEAD = [
  "calque",
  "to commit",
  "other",
  "faster",
  "T_min",
  "T/T_min",
  "peak MiB",
  "syncs",
] as const;

const NAME_WIDTH = 56;

/** Prints the rows of one subject as soon as they are there. */
export function printRows(rows: readonly Row[]): void {
  for (const [index, row] of rows.entries()) {
    if (index === 0 || rows[index - 1]!.subject !== row.subject) {
      print(`\n${row.subject.padEnd(NAME_WIDTH)}${HEAD.map((name) => name.padStart(10)).join("")}`);
    }
    const cells = [
      time(wallNs(row.ours)),
      row.committed === undefined ? "" : time(committedNs(row)),
      `${wasStopped(row) ? ">" : ""}${time(wallNs(row.theirs))}`,
      `${wasStopped(row) ? ">" : ""}${ratio(wallNs(row.theirs) / wallNs(row.ours))}×`,
      row.minimumNs === undefined ? "" : time(row.minimumNs),
      row.minimumNs === undefined ? "" : ratio(committedNs(row) / row.minimumNs),
      `${mebibytes(peakBytes(row.ours))}/${mebibytes(peakBytes(row.theirs))}`,
      row.ourSyncs === undefined ? "" : `${row.ourSyncs}/${row.theirSyncs ?? "?"}`,
    ];
    const name = `  ${row.operation}, ${row.opponent}`;
    print(`${name.padEnd(NAME_WIDTH)}${cells.map((cell) => cell.padStart(10)).join("")}`);
    if (row.ficloneNs !== undefined) print(`    bare FICLONE: ${time(row.ficloneNs)}`);
    for (const met of [true, false]) {
      const sentences = row.targets.filter((it) => it.met === met).map((it) => it.sentence);
      if (sentences.length > 0) print(`    ${met ? "pass" : "MISS"}: ${sentences.join(", ")}`);
    }
  }
}

/** Counts the targets over all rows. */
export function printSummary(rows: readonly Row[]): void {
  const targets = rows.flatMap((row) => row.targets.map((target) => ({ ...target, row })));
  const missed = targets.filter(({ met }) => !met);
  print(`\n${targets.length - missed.length} of ${targets.length} targets met`);
  for (const { row, sentence } of missed) {
    print(`  MISS  ${row.subject}: ${row.operation}: ${sentence}`);
  }
}

function time(ns: number): string {
  const ms = ns / 1e6;
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;
}

function ratio(value: number): string {
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}
