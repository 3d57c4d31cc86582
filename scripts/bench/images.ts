// The images of the benchmark. Most have metadata only, written straight by the program `bench`, and
// are as large as one likes; one of 1 GiB has data, written and aged by QEMU itself.

import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { rmSync, writeFileSync } from "node:fs";

import { capture, fail } from "../tools.ts";
import type { Bench } from "./measure.ts";
import type { Demands } from "./row.ts";

const GIB = 2 ** 30;
const SECTOR = 4096;

/** An image and what is done to it. */
export interface Master {
  subject: string;
  path: string;
  /** Which snapshot is applied, which deleted; in images without, those the benchmark makes. */
  apply: string;
  delete: string;
  /** What is asked of an image like this. */
  demands: Demands;
}

export const LAYOUTS = ["sequential", "shuffled", "aged"] as const;
export type Layout = (typeof LAYOUTS)[number];

/** Makes an image of metadata. */
export function fabricate(
  bench: Bench,
  directory: string,
  gibibytes: number,
  layout: Layout,
): Master {
  const path = `${directory}/${layout}.qcow2`;
  bench.ask("fabricate", path, String(gibibytes * GIB), layout);
  const hasSnapshots = layout === "aged";
  return {
    subject: `${gibibytes < 1024 ? `${gibibytes} GiB` : `${gibibytes / 1024} TiB`} ${layout}`,
    path,
    apply: hasSnapshots ? "aged-1" : "one",
    delete: hasSnapshots ? "aged-2" : "one",
    demands: demands(gibibytes, layout),
  };
}

function demands(gibibytes: number, layout: Layout): Demands {
  return {
    ...(layout === "shuffled" && gibibytes >= 10 ? { fasterThanTheirs: 50 } : {}),
    ...(layout === "sequential" && gibibytes >= 1024 ? { fasterThanTheirs: 10 } : {}),
    ...(gibibytes >= 1024 ? { timesMinimum: 3 } : {}),
    ...(gibibytes >= 100 ? { fasterCheck: 3 } : {}),
  };
}

/**
 * Makes an image of real data, as an old guest leaves it: filled in runs in random order, then
 * three times a snapshot and random writes over an eighth of the disk, all through QEMU.
 */
export function ageWithQemu(directory: string): Master {
  const path = `${directory}/real.qcow2`;
  const pattern = `${directory}/random.bin`;
  writeFileSync(pattern, randomBytes(1 << 20));
  capture("qemu-img", ["create", "-q", "-f", "qcow2", path, String(GIB)]);
  const random = seeded(0x5eed);
  const write = (offset: number, length: number) =>
    `write -q -s ${pattern} ${offset} ${Math.min(length, GIB - offset)}`;

  const fill = [];
  for (let offset = 0; offset < GIB;) {
    const length = SECTOR * (1 + random(255));
    fill.push(write(offset, length));
    offset += length;
  }
  for (let last = fill.length - 1; last > 0; last -= 1) {
    const other = random(last + 1);
    [fill[last], fill[other]] = [fill[other]!, fill[last]!];
  }
  qemuIo(path, fill);
  for (const name of ["aged-1", "aged-2", "aged-3"]) {
    capture("qemu-img", ["snapshot", "-c", name, path]);
    const changes = [];
    for (let written = 0; written < GIB / 8;) {
      const length = SECTOR * (1 + random(64));
      changes.push(write(SECTOR * random(GIB / SECTOR), length));
      written += length;
    }
    qemuIo(path, changes);
  }
  rmSync(pattern);
  capture("sync", [path]);
  return {
    subject: "1 GiB of real, aged data",
    path,
    apply: "aged-1",
    delete: "aged-2",
    demands: {},
  };
}

function qemuIo(path: string, commands: string[]): void {
  const { error, status, stderr } = spawnSync("qemu-io", ["-t", "unsafe", "-f", "qcow2", path], {
    input: `${commands.join("\n")}\n`,
    stdio: ["pipe", "ignore", "pipe"],
    encoding: "utf8",
  });
  if (error) fail(`qemu-io is not installed; it comes with qemu-img (${error.message})`);
  if (status !== 0 || stderr !== "") fail(`qemu-io ended with ${status}: ${stderr}`);
}

/** Whole numbers below a bound, the same in every run (xorshift). */
function seeded(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}
