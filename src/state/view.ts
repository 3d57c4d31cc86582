// One instance at one moment, read without locks and without writing: also while others change it,
// from a read-only file system, and while a virtual machine runs on it.
//
// The record is read first and once more at the end; the image in between, whose snapshot table and
// header fields come from one read; then the snapshots' records. If the record has changed
// meanwhile, or an entry's record is not there and the image has changed, everything is read anew.
// After a few times the instance's lock is taken, shared, which keeps out whoever changes it.

import { NativeFailure, type SnapshotInfo, type SnapshotListReport } from "../native.ts";
import type { StoreAccess } from "./access.ts";
import { asFacts, belongs, type Facts, settle, snapshotId, unknownIds } from "./derive.ts";
import { broken, type Problem, reasons, StateError } from "./errors.ts";
import { decodeRecord, displayName, judgeDisk, unusable } from "./list.ts";
import { type InstancePaths, instancePaths, snapshotFile, SNAPSHOTS } from "./paths.ts";
import { decode, type InstanceRecord, type SnapshotRecord } from "./schema.ts";

/** What was read. */
export interface Moment {
  /** How much of it: without the snapshots' records, `facts` know names and numbers alone. */
  readonly extent: Extent;
  /** The record, as it is stored. */
  readonly stored: InstanceRecord;
  readonly image: SnapshotListReport;
  /** Everything derived from it takes the record as settled. */
  readonly facts: Facts;
  /** Snapshots whose record is there and cannot be used. */
  readonly problems: ReadonlyMap<SnapshotInfo, Problem>;
}

/** Which instance, wherever its directory is. */
export interface Whereabouts {
  readonly name: string;
  readonly id?: string | undefined;
  readonly directory: string;
}

const ATTEMPTS = 5;

/** Whether the snapshots' records are read as well. */
export type Extent = "with records" | "without records";

/** Whether the instance's lock is the reader's. */
type Guard = "locked" | "unlocked";

/**
 * Reads an instance. Throws a `StateError`: `missing` when its directory has gone, `broken`,
 * `newer`.
 */
export function readMoment(access: StoreAccess, where: Whereabouts, extent: Extent): Moment {
  const moment = readSeveralTimes(access, where, extent, "unlocked");
  if (moment !== undefined) return moment;
  const waiting = access.waiting(access.files.absolute(where.directory));
  // There is none before the first change, and nothing then keeps that one out.
  using lock = access.files.lock(instancePaths(where.directory).lock, "shared", waiting);
  return readAtLast(access, where, extent, lock === undefined ? "unlocked" : "locked");
}

/** The same, for who has the instance's lock: nobody else changes the record meanwhile. */
export function readMomentLocked(access: StoreAccess, where: Whereabouts, extent: Extent): Moment {
  return readAtLast(access, where, extent, "locked");
}

function readAtLast(access: StoreAccess, where: Whereabouts, extent: Extent, guard: Guard): Moment {
  const moment = readSeveralTimes(access, where, extent, guard);
  if (moment !== undefined) return moment;
  throw unusable(where, broken(reasons.changing));
}

function readSeveralTimes(
  access: StoreAccess,
  where: Whereabouts,
  extent: Extent,
  guard: Guard,
): Moment | undefined {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    const moment = readOnce(access, where, extent, guard);
    if (moment !== undefined) return moment;
  }
  return undefined;
}

/** Undefined when somebody changed it meanwhile. */
function readOnce(
  access: StoreAccess,
  where: Whereabouts,
  extent: Extent,
  guard: Guard,
): Moment | undefined {
  const paths = instancePaths(where.directory);
  const { text, record: stored } = readRecord(access, where);
  const hasChanged = (): boolean =>
    guard === "unlocked" && access.files.readOne(paths.record) !== text;
  const image = readImage(access, paths);
  if (image === "busy") return undefined;
  if ("reason" in image) {
    if (hasChanged()) return undefined;
    throw unusable(where, image);
  }
  const { record } = settle(stored, image.commitFields);
  const bare = { record, entries: image.snapshots, records: new Map(), leftovers: new Map() };
  if (extent === "without records") {
    if (hasChanged()) return undefined;
    return { extent, stored, image, facts: asFacts(bare), problems: new Map() };
  }
  const { records, problems, isComplete } = readSnapshotRecords(access, paths, image.snapshots);
  const facts = withLeftovers(access, paths, asFacts({ ...bare, records }));
  if (hasChanged()) return undefined;
  if (!isComplete) {
    // Foreign snapshots, or some that were deleted after the image was read.
    const again = readImage(access, paths);
    const isSame = again !== "busy" && "commitFields" in again;
    if (!isSame || again.commitFields !== image.commitFields) return undefined;
  }
  return { extent, stored, image, facts, problems };
}

/** The record and the text that it was read from. */
export function readRecord(
  { files }: StoreAccess,
  where: Whereabouts,
): { text: string; record: InstanceRecord } {
  const [file] = files.read([instancePaths(where.directory).record]);
  if (file!.failure?.code === "not-found") {
    const [directory] = files.stat([where.directory]);
    const isGone = directory!.failure?.code === "not-found";
    if (isGone) throw new StateError({ code: "missing", instance: displayName(where) });
  }
  const { content, problem } = decodeRecord(file!);
  if (problem !== undefined) throw unusable(where, problem);
  return { text: file!.text!, record: content };
}

/** What the image says, or what is wrong with it; `busy` when somebody kept changing it. */
function readImage(
  { native, files }: StoreAccess,
  { disk }: InstancePaths,
  { settled = false } = {},
): SnapshotListReport | Problem | "busy" {
  const problem = judgeDisk(files.stat([disk])[0]!);
  if (problem !== undefined) return problem;
  // Shared with whoever runs it: what is read here does not change while a guest writes.
  const request = { path: files.absolute(disk), forceShare: true, settled };
  const snapshots: SnapshotInfo[] = [];
  const { report, failure } = native.snapshotList(request, (piece) =>
    snapshots.push(...piece.snapshots),
  );
  if (report !== undefined) return { ...report, snapshots: [...snapshots, ...report.snapshots] };
  if (failure!.code === "busy") return "busy";
  if (failure!.code === "unsettled") throw new NativeFailure(failure!);
  return broken(failure!.reason);
}

/**
 * The header's fields, of which it is certain that a power cut does not take them back: what
 * follows from them may be written down. A `NativeFailure` where it is not.
 */
export function readDurableFields(access: StoreAccess, where: Whereabouts): string {
  const image = readImage(access, instancePaths(where.directory), { settled: true });
  if (image === "busy") throw unusable(where, broken(reasons.changing));
  if ("reason" in image) throw unusable(where, image);
  return image.commitFields;
}

interface SnapshotRecords {
  records: Map<SnapshotInfo, SnapshotRecord>;
  problems: Map<SnapshotInfo, Problem>;
  /** Whether there was a file for each entry. */
  isComplete: boolean;
}

function readSnapshotRecords(
  { files }: StoreAccess,
  paths: InstancePaths,
  entries: readonly SnapshotInfo[],
): SnapshotRecords {
  const result: SnapshotRecords = { records: new Map(), problems: new Map(), isComplete: true };
  const wanted = entries.flatMap((entry) => {
    const id = snapshotId(entry.id);
    return id === undefined ? [] : [{ entry, id }];
  });
  const texts = files.read(wanted.map(({ id }) => paths.snapshot(id)));
  for (const [index, { entry, id }] of wanted.entries()) {
    const { text, failure } = texts[index]!;
    const name = `${SNAPSHOTS}/${snapshotFile(id)}`;
    if (failure?.code === "not-found") {
      result.isComplete = false;
    } else if (text === undefined) {
      result.problems.set(entry, broken(reasons.unreadable(name, failure!.reason)));
    } else {
      const { content, problem } = decode("snapshot", name, text);
      if (problem !== undefined) result.problems.set(entry, problem);
      else if (belongs(content, entry)) result.records.set(entry, content);
    }
  }
  return result;
}

/** The facts, with the parents of snapshots that something refers to and that are not there. */
function withLeftovers({ files }: StoreAccess, paths: InstancePaths, facts: Facts): Facts {
  const leftovers = new Map(facts.leftovers);
  const known = { ...facts, leftovers };
  for (let ids = unknownIds(known); ids.length > 0; ids = unknownIds(known)) {
    const texts = files.read(ids.map((id) => paths.snapshot(id)));
    for (const [index, id] of ids.entries()) {
      const { text = "" } = texts[index]!;
      const { content } = decode("snapshot", SNAPSHOTS, text);
      leftovers.set(id, content?.id === id ? content.parent : 0);
    }
  }
  return known;
}
