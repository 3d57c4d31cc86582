// An instance as commands see it: its configuration as settled, and its snapshots with their names
// resolved and their lineage as names.

import type { SnapshotInfo } from "../native.ts";
import type { StoreAccess } from "./access.ts";
import { counter, type Facts, head, parent, snapshotId, upToDate } from "./derive.ts";
import { type Problem, StateError } from "./errors.ts";
import { displayName } from "./list.ts";
import { instancePaths } from "./paths.ts";
import type { InstanceRecord, SnapshotRecord } from "./schema.ts";
import type { Moment, Whereabouts } from "./view.ts";

export interface InstanceSummary {
  readonly name: string;
  /** In the trash: what tells it from others of its name. */
  readonly id: string | undefined;
  /** Settled; in an `InstanceView` its counters are up to date as well. */
  readonly record: InstanceRecord;
  /** Absolute. */
  readonly diskPath: string;
  /** The size of the disk that the guest sees. */
  readonly diskBytes: number;
  readonly snapshotCount: number;
}

export interface InstanceView extends InstanceSummary {
  /** By creation. */
  readonly snapshots: readonly SnapshotView[];
  /** The number of the last snapshot: the next one gets a larger one. */
  readonly counter: number;
  /** The id of the snapshot that will be the parent of the next one, or 0. */
  readonly head: number;
}

export interface SnapshotView {
  readonly id: string;
  /** As the image has it; not unique among snapshots of other programs. */
  readonly name: string;
  /** The same as JSON, only where it is not UTF-8. */
  readonly nameJson: string | undefined;
  readonly createdAt: { readonly sec: number; readonly nsec: number };
  /** The name of the snapshot that it was taken after. */
  readonly parent: string | undefined;
  /** The names of those that were taken after it, by creation. */
  readonly children: readonly string[];
  /** What Calque recorded when it took the snapshot. */
  readonly record: SnapshotRecord | undefined;
  /** The size of the disk that it holds. */
  readonly diskBytes: number;
  /** Made by another program: there is no record, and a restore brings back the disk alone. */
  readonly isForeign: boolean;
  /** Why the record cannot be used: a restore brings back the disk alone here, too. */
  readonly problem: Problem | undefined;
}

export function summarize(
  access: StoreAccess,
  where: Whereabouts,
  moment: Moment,
): InstanceSummary {
  const { image, facts } = moment;
  return {
    name: where.name,
    id: where.id,
    record: facts.record,
    diskPath: access.files.absolute(instancePaths(where.directory).disk),
    diskBytes: image.virtualSize,
    snapshotCount: image.snapshots.length,
  };
}

export function present(access: StoreAccess, where: Whereabouts, moment: Moment): InstanceView {
  const { facts } = moment;
  return {
    ...summarize(access, where, moment),
    record: upToDate(facts),
    snapshots: snapshotViews(moment),
    counter: counter(facts),
    head: head(facts),
  };
}

function snapshotViews({ facts, image, problems }: Moment): SnapshotView[] {
  const entries = facts.entries.toSorted(byCreation);
  const parents = new Map(entries.map((entry) => [entry, parent(facts, entry)]));
  const names = namesById(facts);
  const children = new Map<number, string[]>();
  for (const [{ name }, id] of parents) {
    const siblings = children.get(id);
    if (siblings === undefined) children.set(id, [name]);
    else siblings.push(name);
  }
  return entries.map((entry) => {
    const record = facts.records.get(entry);
    return {
      id: entry.id,
      name: entry.name,
      nameJson: entry.nameJson,
      createdAt: { sec: entry.dateSec, nsec: entry.dateNsec },
      parent: names.get(parents.get(entry)!),
      children: children.get(snapshotId(entry.id) ?? -1) ?? [],
      record,
      diskBytes: entry.diskSize ?? record?.diskBytes ?? image.virtualSize,
      isForeign: record === undefined && !problems.has(entry),
      problem: problems.get(entry),
    };
  });
}

function namesById({ entries }: Facts): Map<number, string> {
  return new Map(entries.map(({ id, name }) => [snapshotId(id) ?? -1, name]));
}

function byCreation(one: SnapshotInfo, other: SnapshotInfo): number {
  return one.dateSec - other.dateSec || one.dateNsec - other.dateNsec;
}

/**
 * The snapshot that `selector` means: `@ID`, else a name. Among snapshots of one name, the one that
 * Calque took is meant; several of other programs, or several of one id, are ambiguous.
 */
export function findSnapshot(
  view: Pick<InstanceView, "name" | "id" | "snapshots">,
  selector: string,
): SnapshotView {
  const { snapshots } = view;
  const instance = displayName(view);
  const byId = snapshots.filter(({ id }) => `@${id}` === selector);
  const byName = snapshots.filter(({ name }) => name === selector);
  const own = byName.filter(({ isForeign }) => !isForeign);
  const [found = [], ..._] = [byId, own, byName].filter(({ length }) => length > 0);
  const [snapshot, ...others] = found;
  if (snapshot === undefined) {
    throw new StateError({ code: "snapshot-missing", instance, snapshot: selector });
  }
  // The core goes by ids, so that these must be unique as well.
  const twins = snapshots.filter(({ id }) => id === snapshot.id);
  if (others.length > 0 || twins.length > 1) {
    const ids = (others.length > 0 ? found : twins).map(({ id }) => id);
    throw new StateError({ code: "snapshot-ambiguous", instance, snapshot: selector, ids });
  }
  return snapshot;
}
