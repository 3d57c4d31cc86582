// Records of snapshots that are not in the image: what an interrupted command left, or what another
// program's deletion did. They go when the image is next changed: under the instance's lock and the
// image's writer lock, when what the image says is what the medium holds.
//
// So does what a power cut leaves of a record that was being replaced; that needs the instance's
// lock alone.
//
// Where something still refers to such a snapshot, what its record says about its parent is first
// written into the instance's record. A crash in between leaves both, which say the same.

import type { StoreAccess } from "./access.ts";
import { snapshotId, upToDate } from "./derive.ts";
import { attempt, whereSpace } from "./files.ts";
import { type InstancePaths, isTemporary, RECORD, snapshotFile } from "./paths.ts";
import { decode, encode } from "./schema.ts";
import type { Moment } from "./view.ts";

/** Under the instance's lock: removes records that were not complete when their writer ended. */
export function sweepTemporaryRecords({ files }: StoreAccess, paths: InstancePaths): void {
  for (const directory of [paths.directory, paths.snapshots]) {
    attempt(() => {
      for (const { name } of files.list(directory)) {
        if (isTemporary(name)) files.remove(`${directory}/${name}`);
      }
    });
  }
}

/** Removes those without a snapshot; says whether the instance's record had to be written for it. */
export function sweepSnapshotRecords(
  access: StoreAccess,
  paths: InstancePaths,
  moment: Moment,
): boolean {
  const { files } = access;
  const stale = staleRecords(access, paths, moment);
  const record = upToDate(moment.facts);
  const isNew = (id: number): boolean =>
    Object.hasOwn(record.parents, id) && !Object.hasOwn(moment.stored.parents, id);
  const isWritten = stale.some(isNew);
  const write = (): void => files.replace(paths.record, encode("instance", record));
  // On a full disk they stay, as what they say has no other place.
  if (isWritten && !whereSpace(write)) return false;
  // What cannot be removed is for the next change.
  for (const id of stale) attempt(() => files.remove(paths.snapshot(id)));
  return isWritten;
}

/** The ids of records that belong to no snapshot. What a newer Calque wrote is left alone. */
function staleRecords(
  { files }: StoreAccess,
  paths: InstancePaths,
  { facts, problems }: Moment,
): number[] {
  const used = new Set(
    [...facts.records.keys(), ...problems.keys()].map(({ id }) => snapshotFile(Number(id))),
  );
  const ids = files
    .list(paths.snapshots)
    .filter(({ name }) => !used.has(name))
    .flatMap(({ name }) => recordId(name) ?? []);
  const texts = files.read(ids.map((id) => paths.snapshot(id)));
  return ids.filter((_, index) => {
    const { problem } = decode("snapshot", RECORD, texts[index]!.text ?? "");
    return problem?.kind !== "newer";
  });
}

/** The id whose record a file of this name is. */
function recordId(name: string): number | undefined {
  const id = snapshotId(name.replace(/\.json$/, ""));
  return id !== undefined && name === snapshotFile(id) ? id : undefined;
}
