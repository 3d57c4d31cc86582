// What the executable takes of memory where it has very much to say: the address space is limited
// to what `--version` runs in and 64 MiB more.

import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  closeSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";

import { afterAll, expect, test } from "vitest";

import { executable } from "./support.ts";

/** `--version` runs in 8 MiB. */
const LIMIT_KIB = (8 + 64) * 1024;

/** One less than there may be. */
const SNAPSHOTS = 65_535;
const CLUSTER = 65_536;
const MIB = 1 << 20;

const directory = mkdtempSync(path.join(os.tmpdir(), "calque-memory-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Its lines, and the status. */
function limited(...args: string[]): { lines: string[]; status: number } {
  const script = `ulimit -v ${LIMIT_KIB}; "$@"; echo "= $?"`;
  const output = execFileSync("sh", ["-c", script, "sh", executable, ...args], {
    encoding: "utf8",
    maxBuffer: 1 << 28,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = output.trimEnd().split("\n");
  return { lines, status: Number(lines.pop()!.slice(2)) };
}

/** An image with a table of these rows, in clusters that nobody counts. */
function withSnapshots(file: string, rows: readonly Buffer[]): void {
  execFileSync(executable, ["image", "create", "-f", "qcow2", file, "1M"]);
  const at = Math.ceil(statSync(file).size / CLUSTER) * CLUSTER;
  appendFileSync(file, Buffer.alloc(at - statSync(file).size));
  appendFileSync(file, Buffer.concat(rows));
  const header = Buffer.alloc(12);
  header.writeUInt32BE(rows.length, 0);
  header.writeBigUInt64BE(BigInt(at), 4);
  const descriptor = openSync(file, "r+");
  writeSync(descriptor, header, 0, header.length, 60);
  closeSync(descriptor);
}

/** A row of the table; its L1 table begins in the middle of a cluster, which a check tells. */
function row(id: string, name: Buffer): Buffer {
  const bytes = Buffer.alloc(Math.ceil((64 + id.length + name.length) / 8) * 8);
  bytes.writeBigUInt64BE(512n, 0);
  bytes.writeUInt16BE(id.length, 12);
  bytes.writeUInt16BE(name.length, 14);
  bytes.writeUInt32BE(1, 16);
  bytes.writeUInt32BE(24, 36);
  bytes.writeBigUInt64BE(BigInt(MIB), 48);
  bytes.write(id, 64);
  name.copy(bytes, 64 + id.length);
  return bytes;
}

function dayName(nth: number): string {
  return `before-the-update-of-day-${nth}`;
}

// The list was kept as the core's rows, as JavaScript's, and as one text: 140 MiB.
test("65 535 snapshots are listed and described in 64 MiB, and none is left out", () => {
  const file = path.join(directory, "many.qcow2");
  const rows = Array.from({ length: SNAPSHOTS }, (_, nth) =>
    row(String(nth + 1), Buffer.from(dayName(nth))),
  );
  withSnapshots(file, rows);
  for (const command of ["snapshot", "info"]) {
    const { lines, status } = limited("image", command, file);
    const listed = lines.slice(lines.indexOf("Snapshot list:") + 2);
    const words = listed.slice(0, SNAPSHOTS).map((line) => line.split(/ +/).slice(0, 2).join(" "));
    expect(status).toBe(0);
    expect(words).toEqual(rows.map((_, nth) => `${nth + 1} ${dayName(nth)}`));
  }
  const { lines, status } = limited("image", "info", "--output=json", file);
  const { snapshots } = JSON.parse(lines.join("\n"));
  expect(status).toBe(0);
  expect(snapshots.map((it: { name: string }) => it.name)).toEqual(
    rows.map((_, nth) => dayName(nth)),
  );
});

test("a check tells of 500 snapshots by names of 64 KiB in 64 MiB", () => {
  const file = path.join(directory, "long.qcow2");
  const rows = Array.from({ length: 500 }, (_, nth) =>
    row(String(nth + 1), Buffer.alloc(65_535, "n")),
  );
  withSnapshots(file, rows);
  const script = `ulimit -v ${LIMIT_KIB}; "$@" 2>&1; echo "= $?"`;
  const output = execFileSync("sh", ["-c", script, "sh", executable, "image", "check", file], {
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  expect(output.trimEnd().endsWith("= 2")).toBe(true);
  expect(output.match(/n{65535}/g)).toHaveLength(rows.length);
});
