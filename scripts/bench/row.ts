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

/** The targets of a snapshot operation. */
export function snapshotTargets(row: Row, isFiftyfold: boolean): Target[] {
  const targets = [
    neverSlower(row),
    { sentence: "peak memory below theirs", met: peakBytes(row.ours) < peakBytes(row.theirs) },
  ];
  if (row.ourSyncs !== undefined) {
    targets.push({ sentence: "at most 3 syncs", met: row.ourSyncs <= 3 });
  }
  if (isFiftyfold) {
    const met = wallNs(row.theirs) >= 50 * committedNs(row);
    targets.push({ sentence: "50× faster up to the commit", met });
  }
  return targets;
}
