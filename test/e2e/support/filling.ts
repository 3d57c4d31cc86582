// File systems without space, or with exactly so much.

import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import path from "node:path";

import { must } from "./programs.ts";

/** Writes into one file until not another byte goes in, also after everything has settled. */
export async function fill(point: string, name = "ballast"): Promise<void> {
  while (pour(path.join(point, name)) > 0) await must(["sync", "-f", point]);
}

function pour(target: string): number {
  const file = openSync(target, "a");
  let chunk = Buffer.alloc(1 << 20, 0x5a);
  let written = 0;
  try {
    while (chunk.length >= 512) {
      try {
        written += writeSync(file, chunk);
      } catch (error) {
        if (!isFull(error)) throw error;
        chunk = chunk.subarray(0, chunk.length / 2);
      }
    }
  } finally {
    closeSync(file);
  }
  return written;
}

function isFull(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOSPC";
}

/** What a file system can run out of. */
export type Scarce = "blocks" | "inodes";

const BULK = "bulk";
const PEBBLES = "pebbles";
/** So many blocks can be given back one by one. */
const PEBBLE_COUNT = 4000;

/**
 * Fills a file system so that its last blocks, or inodes, can be given back one by one. The bulk is
 * allocated and never written, so that copies of the disk stay small.
 */
export async function pack(point: string, scarce: Scarce): Promise<void> {
  const place = path.join(point, PEBBLES);
  mkdirSync(place);
  const pebble = Buffer.alloc(scarce === "blocks" ? statfsSync(point).bsize : 0, 0x5a);
  const limit = scarce === "blocks" ? PEBBLE_COUNT : Infinity;
  for (let count = 0; count < limit; count += 1) {
    const file = path.join(place, `${count}`.padStart(5, "0"));
    try {
      writeFileSync(file, pebble, { flag: "wx" });
    } catch (error) {
      if (!isFull(error)) throw error;
      break;
    }
  }
  await must(["sync", "-f", point]);
  if (scarce === "inodes") return;
  const bulk = path.join(point, BULK);
  const script = `
    end=0 size=$((1 << 26))
    while [ $size -ge 1024 ]; do
      if fallocate -o $end -l $size "$0" 2>/dev/null; then
        end=$((end + size))
      else
        size=$((size / 2))
      fi
    done`;
  await must(["sh", "-c", script, bulk]);
  await fill(point, BULK);
}

/** Gives so many blocks, or inodes, back. False where there are not as many. */
export async function unpack(point: string, count: number): Promise<boolean> {
  const place = path.join(point, PEBBLES);
  const pebbles = readdirSync(place).slice(0, count);
  for (const pebble of pebbles) rmSync(path.join(place, pebble));
  await must(["sync", "-f", point]);
  return pebbles.length === count;
}

/** Gives everything back. */
export async function empty(point: string): Promise<void> {
  for (const name of [PEBBLES, BULK]) {
    rmSync(path.join(point, name), { recursive: true, force: true });
  }
  await must(["sync", "-f", point]);
}
