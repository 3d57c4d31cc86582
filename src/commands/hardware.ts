// Options about what an instance should run on, as Multipass's `launch` reads and refuses them, and
// about its disk.

import { UsageError } from "../failure.ts";
import type { DiskFormat } from "../native.ts";
import { parseMemorySize } from "../text/memory-size.ts";
import { sentence } from "../text/sentences.ts";

/** With less no instance may run. */
export const LEAST_MEMORY_BYTES = 128 * 2 ** 20;

export function parseCpus(value: string): number {
  const cpus = /^\d+$/.test(value) ? Number(value) : 0;
  if (Number.isSafeInteger(cpus) && cpus >= 1) return cpus;
  throw new UsageError(sentence("hardware.cpus", { value }));
}

export function parseMemory(value: string): number {
  const bytes = parseMemorySize(value);
  if (bytes !== undefined && bytes >= LEAST_MEMORY_BYTES) return bytes;
  throw new UsageError(sentence("hardware.memory", { value }));
}

export function parseDisk(value: string): number {
  const bytes = parseMemorySize(value);
  if (bytes !== undefined && bytes > 0) return bytes;
  throw new UsageError(sentence("hardware.disk", { value }));
}

/** What a disk outside of the store is, as whoever names it says. */
export function parseDiskFormat(value: string): DiskFormat {
  if (value === "qcow2" || value === "raw") return value;
  throw new UsageError(sentence("import.format", { value }));
}
