// What an instance is, derived from what its record, its image and its snapshots' records say:
// pure functions.
//
// The image decides. A snapshot is there if the image lists it, and whether a restore has happened
// stands in the image's header; so each change is one commit in the image, and the record may lag
// behind it:
//
// - Taking a snapshot does not write the record at all. A snapshot of ours with an id above
//   `snapshotCount` was taken after the record was written, and is the head.
// - Deleting one writes the record before the image. What is written (`deletion`) reads right with
//   the snapshot and without it: `parents` says what stands in for an id only once that id is gone.
// - Restoring writes a note before the image, and `settle` says what it means.
//
// An id is never used twice, except by other programs: a record belongs to an entry of the image
// only if id, seconds and nanoseconds are the same.

import type { SnapshotInfo } from "../native.ts";
import type { InstanceRecord, SnapshotRecord } from "./schema.ts";
import { shapes } from "./shapes.ts";

/** What is known about an instance at one moment. */
export interface Facts {
  /** Settled: without a pending restore. */
  readonly record: InstanceRecord;
  /** The image's snapshots, in its order. */
  readonly entries: readonly SnapshotInfo[];
  /** The records that belong to them. An entry without one is foreign. */
  readonly records: ReadonlyMap<SnapshotInfo, SnapshotRecord>;
  /**
   * Parents, by id, of snapshots that another program deleted: their records are left. An id of
   * which nothing is left has 0.
   */
  readonly leftovers: ReadonlyMap<number, number>;
  /** The ids of `entries`, as far as they are numbers. */
  readonly present: ReadonlySet<number>;
}

export function asFacts(facts: Omit<Facts, "present">): Facts {
  const ids = facts.entries.flatMap(({ id }) => snapshotId(id) ?? []);
  return { ...facts, present: new Set(ids) };
}

/** The number that a snapshot's id is; undefined where it is none that Calque would give. */
export function snapshotId(text: string): number | undefined {
  const id = Number(text);
  return /^[1-9]\d*$/.test(text) && Number.isSafeInteger(id) ? id : undefined;
}

/** Whether the record is about this entry of the image. */
export function belongs(record: SnapshotRecord, entry: SnapshotInfo): boolean {
  const { id, dateSec, dateNsec } = record;
  return `${id}` === entry.id && dateSec === entry.dateSec && dateNsec === entry.dateNsec;
}

/**
 * What a note about a restore means: the header is as it was to become, and so it is `finished`;
 * or as it was, and nothing has happened; or neither, because somebody changed the image since, and
 * what the note says is of no use. Recovery ends here: the disk is never touched again, the user
 * may have worked on it.
 */
export function settle(
  record: InstanceRecord,
  commitFields: string,
): { record: InstanceRecord; outcome: "finished" | "dropped" | "overtaken" | "none" } {
  const { pending, ...rest } = record;
  if (pending === undefined) return { record, outcome: "none" };
  if (commitFields === pending.after) {
    return { record: { ...rest, ...restorable(pending.result) }, outcome: "finished" };
  }
  return { record: rest, outcome: commitFields === pending.before ? "dropped" : "overtaken" };
}

/** What a restore brings back. */
const RESTORABLE = new Set([
  "cpus",
  "memoryBytes",
  "interfaces",
  "mounts",
  "snapshotCount",
  "head",
]);

/**
 * What a note puts into the record: that, and what this version does not know. What else a record
 * has stays as it is, whatever the note holds.
 */
function restorable(
  result: NonNullable<InstanceRecord["pending"]>["result"],
): Partial<InstanceRecord> {
  const names = shapes.instance.fields.map(({ name }) => name);
  const fixed = new Set(names.filter((name) => !RESTORABLE.has(name)));
  return Object.fromEntries(Object.entries(result).filter(([key]) => !fixed.has(key)));
}

/** How many snapshots were taken: what the record may say about it. */
export function ownCount(facts: Facts): number {
  return Math.max(facts.record.snapshotCount, newestOwn(facts));
}

/**
 * The greatest number that a snapshot has or had, those of other programs included while they are
 * there: the next one gets a larger id. Ids that begin with digits count as QEMU reads them.
 */
export function counter(facts: Facts): number {
  const numbers = facts.entries.map(({ id }) => Number(/^\d+/.exec(id)?.[0] ?? 0));
  return Math.max(ownCount(facts), largest(numbers.filter(Number.isSafeInteger)));
}

/** The id of the snapshot that the disk goes on from, or 0: the parent of the next one. */
export function head(facts: Facts): number {
  const newest = newestOwn(facts);
  return newest > facts.record.snapshotCount ? newest : follow(facts, facts.record.head).end;
}

/** The id of the snapshot that this one was taken after, or 0. */
export function parent(facts: Facts, entry: SnapshotInfo): number {
  const record = facts.records.get(entry);
  return record === undefined ? 0 : follow(facts, record.parent).end;
}

/** Ids that something refers to and nobody knows: `leftovers` should say what they were. */
export function unknownIds(facts: Facts): number[] {
  return [facts.record.head, ...rawParents(facts)].flatMap((id) => follow(facts, id).unknown ?? []);
}

/** The record, brought up to date with what the image says. Says nothing new. */
export function upToDate(facts: Facts): InstanceRecord {
  return {
    ...facts.record,
    snapshotCount: ownCount(facts),
    head: head(facts),
    parents: neededParents(facts),
  };
}

/** The record to write before the image loses `entry`: true before that and after it. */
export function deletion(facts: Facts, entry: SnapshotInfo): InstanceRecord {
  const record = upToDate(facts);
  const id = snapshotId(entry.id);
  if (id === undefined) return record;
  const parents = { ...record.parents, [id]: parent(facts, entry) };
  const after = asFacts({
    ...facts,
    record: { ...record, parents },
    entries: facts.entries.filter((other) => other !== entry),
  });
  const isNeeded = [record.head, ...rawParents(after)].some((start) =>
    follow(after, start).passed.includes(id),
  );
  return isNeeded ? after.record : record;
}

/** Parents of ids that are gone, as far as something still refers to them. */
function neededParents(facts: Facts): Record<string, number> {
  const passed = rawParents(facts).flatMap((id) => follow(facts, id).passed);
  return Object.fromEntries(passed.map((id) => [id, standIn(facts, id) ?? 0]));
}

/**
 * From an id to the next one that is there, or 0, over the `passed` ones, which are gone. Ends at
 * an `unknown` one; and a circle, which only a damaged record can hold, ends at 0.
 */
function follow(facts: Facts, start: number): { end: number; passed: number[]; unknown?: number } {
  const passed: number[] = [];
  let id = start;
  while (id !== 0 && !facts.present.has(id)) {
    if (passed.includes(id)) return { end: 0, passed };
    passed.push(id);
    const next = standIn(facts, id);
    if (next === undefined) return { end: 0, passed, unknown: id };
    id = next;
  }
  return { end: id, passed };
}

function standIn(facts: Facts, id: number): number | undefined {
  return facts.record.parents[id] ?? facts.leftovers.get(id);
}

/** The greatest id of a snapshot that has a record, or 0. */
function newestOwn(facts: Facts): number {
  return largest(owned(facts).map(({ id }) => id));
}

/** The parents of those, as recorded: they may be gone. */
function rawParents(facts: Facts): number[] {
  return owned(facts).map((record) => record.parent);
}

function owned({ entries, records }: Facts): SnapshotRecord[] {
  return entries.flatMap((entry) => records.get(entry) ?? []);
}

/** The largest of them, or 0. There may be more than a call can have arguments. */
function largest(numbers: readonly number[]): number {
  return numbers.reduce((one, other) => Math.max(one, other), 0);
}
