// One line of the benchmark: what was compared, every sample, and whether the targets are met.

import type { Sample } from "./measure.ts";
import { median } from "./measure.ts";

/** What a row is held against. */
export interface Target {
  sentence: string;
  met: boolean;
}

/** A comparison. `ours` and `theirs` were measured in one run, interleaved. */
export interface Row {
  /** On what: an image, a file system. */
  subject: string;
  operation: string;
  /** The other program. */
  opponent: string;
  ours: Sample[];
  theirs: Sample[];
  /** Ours again, unable to punch: the time until the change is durable; freeing comes after. */
  committed?: Sample[];
  /** The physical minimum, T_min of bytes and flushes. */
  minimumNs?: number;
  /** Sync calls, counted with strace. */
  ourSyncs?: number | undefined;
  theirSyncs?: number | undefined;
  /** A bare FICLONE of the same file. */
  ficloneNs?: number;
  targets: Target[];
}

export const wallNs = (samples: readonly Sample[]): number =>
  median(samples.map((sample) => sample.wallNs));

export const peakBytes = (samples: readonly Sample[]): number =>
  median(samples.map((sample) => sample.peakBytes));

/** The time until the change is durable, which for some is the whole. */
export const committedNs = (row: Row): number => wallNs(row.committed ?? row.ours);

export const neverSlower = (row: Row): Target => ({
  sentence: `not slower than ${row.opponent}`,
  met: wallNs(row.ours) <= wallNs(row.theirs),
});

/** Whether the other program was ended before it was done: its time is a lower bound. */
export const wasStopped = (row: Row): boolean =>
  row.theirs.some((sample) => sample.stopped === true);

/** What the core may need beyond what the program needs anyway. */
const MEMORY_BYTES = 64 * 2 ** 20;

/** Memory is bounded, however large the disk; `runtimeBytes` is what the program needs anyway. */
const bounded = (row: Row, runtimeBytes: number): Target => ({
  sentence: "at most 64 MiB above the runtime",
  met: peakBytes(row.ours) <= runtimeBytes + MEMORY_BYTES,
});

/** What is asked of an image, besides what is asked of all. */
export interface Demands {
  /** How many times faster a change is, up to the commit. */
  fasterThanTheirs?: number;
  /** Where a new snapshot has to be this near to T_min. */
  timesMinimum?: number;
  /** How many times faster a check is. */
  fasterCheck?: number;
}

const times = (row: Row, factor: number, what: string, ns: number): Target => ({
  sentence: `${factor}× faster${what}`,
  met: wallNs(row.theirs) >= factor * ns,
});

/** The targets of what changes nothing. */
export function readingTargets(
  row: Row,
  isCheck: boolean,
  demands: Demands,
  runtimeBytes: number,
): Target[] {
  const targets = [neverSlower(row), bounded(row, runtimeBytes)];
  if (isCheck && demands.fasterCheck !== undefined) {
    targets.push(times(row, demands.fasterCheck, "", wallNs(row.ours)));
  }
  return targets;
}

/** The targets of a snapshot operation. */
export function snapshotTargets(
  row: Row,
  isCreate: boolean,
  demands: Demands,
  runtimeBytes: number,
): Target[] {
  const targets = [neverSlower(row), bounded(row, runtimeBytes)];
  // What a program takes that was ended early is not what it would have taken.
  if (!wasStopped(row)) {
    const met = peakBytes(row.ours) < peakBytes(row.theirs);
    targets.push({ sentence: "peak memory below theirs", met });
  }
  if (row.ourSyncs !== undefined) {
    targets.push({ sentence: "at most 3 syncs", met: row.ourSyncs <= 3 });
  }
  if (demands.fasterThanTheirs !== undefined) {
    targets.push(times(row, demands.fasterThanTheirs, " up to the commit", committedNs(row)));
  }
  if (isCreate && demands.timesMinimum !== undefined && row.minimumNs !== undefined) {
    const met = committedNs(row) <= demands.timesMinimum * row.minimumNs;
    targets.push({ sentence: `the commit within ${demands.timesMinimum}× of T_min`, met });
  }
  return targets;
}
