// What `list` and `info` show, from what the store knows.

import type { ImageUser } from "../native.ts";
import type { Listed } from "../state/list.ts";
import type { InstanceRecord } from "../state/schema.ts";
import type { InstanceSummary, InstanceView, SnapshotView } from "../state/snapshots.ts";
import type {
  Addition,
  Additions,
  InstanceDetails,
  InstanceEntry,
  Mount,
  SnapshotDetails,
  SnapshotEntry,
  State,
} from "../text/entries.ts";
import { asWritten } from "../text/name.ts";
import { isoTimestamp } from "../text/timestamp.ts";
import { problemText } from "./store.ts";

/** The instance that comes first in every list. */
const PRIMARY = "primary";

/** An instance with the name under which it is shown. */
export interface Shown {
  readonly name: string;
  readonly listed: Listed;
}

/**
 * Instances with the names by which they can be addressed, in Multipass's order. A name is that of
 * the live instance, else of the newest in the trash; the others have their id behind it.
 */
export function inOrder(all: readonly Listed[]): Shown[] {
  const taken = new Set<string>();
  // The store lists live ones first, and the newest of the trash before older ones.
  const shown = all.map((listed) => {
    const { name, id } = listed;
    const isFirst = !taken.has(name);
    taken.add(name);
    return { name: isFirst || id === undefined ? name : `${name}@${id}`, listed };
  });
  const primary = shown.filter(({ name }) => name === PRIMARY);
  const others = shown.filter(({ name }) => name !== PRIMARY);
  // No two have one name.
  return [...primary, ...others.toSorted((a, b) => (a.name < b.name ? -1 : 1))];
}

/** What `list` shows of an instance. `user` is who has its disk open, where somebody looked. */
export function instanceEntry({ name, listed }: Shown, user: ImageUser | undefined): InstanceEntry {
  const state = stateOf(listed, user);
  const problem =
    listed.problem === undefined ? user?.failure?.reason : problemText(listed.problem);
  return {
    name,
    state,
    // The one address that Multipass shows of an instance that runs and has none.
    ipv4: state === "Running" ? ["N/A"] : [],
    imageRelease: listed.record?.image.release ?? "",
    additions: additions({
      problem,
      copy_of: listed.copyOf,
      used_by: user?.use === "free" ? undefined : user?.holder,
    }),
  };
}

function stateOf({ id, problem }: Listed, user: ImageUser | undefined): State {
  if (id !== undefined) return "Deleted";
  if (problem !== undefined) return "Broken";
  if (user?.failure !== undefined) return "Unknown";
  return user?.use === "writer" ? "Running" : "Stopped";
}

/** What is found out about an instance besides its record. */
interface Knowledge {
  /** Of the store. */
  readonly root: string;
  readonly user: ImageUser | undefined;
  readonly summary: InstanceSummary | undefined;
}

/** What `info` shows of an instance; without a summary, what its record says. */
export function instanceDetails(
  { name, listed }: Shown,
  { root, user, summary }: Knowledge,
): InstanceDetails {
  const entry = instanceEntry({ name, listed }, user);
  const record = summary?.record ?? listed.record;
  return {
    ...entry,
    imageHash: record?.image.hash ?? "",
    snapshotCount: summary?.snapshotCount,
    mounts: record === undefined ? [] : mountsOf(record),
    additions: additions({
      configuration: record === undefined ? undefined : configurationOf(record, summary),
      created_at: record?.createdAt,
      deleted_at: listed.deletedAt?.toISOString(),
      directory: `${root}/${listed.directory}`,
      disk_path: summary?.diskPath,
      ...Object.fromEntries(entry.additions),
    }),
  };
}

/** What Multipass tells of running instances only, but is known. */
function configurationOf(
  { cpus, memoryBytes }: InstanceRecord,
  summary: InstanceSummary | undefined,
): ReadonlyMap<string, number> {
  const numbers = new Map([
    ["cpus", cpus],
    ["memory", memoryBytes],
  ]);
  return summary === undefined ? numbers : numbers.set("disk", summary.diskBytes);
}

/** A snapshot with the name under which it is shown. */
export interface ShownSnapshot {
  readonly name: string;
  readonly snapshot: SnapshotView;
}

/**
 * Snapshots with the names by which they can be addressed, as `findSnapshot` has it: `@ID` where
 * the name is empty or means another one, or no certain one, which only other programs bring about.
 */
export function shownSnapshots({ snapshots }: InstanceView): ShownSnapshot[] {
  const own = new Set<string>();
  const ids = new Set(snapshots.map(({ id }) => `@${id}`));
  const counts = new Map<string, number>();
  for (const { name, isForeign } of snapshots) {
    if (!isForeign) own.add(name);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return snapshots.map((snapshot) => {
    const { id, name, isForeign } = snapshot;
    const isUnique = counts.get(name) === 1 || (own.has(name) && !isForeign);
    const isMeant = isUnique && !ids.has(name);
    return { name: isMeant && name !== "" ? nameOf(snapshot) : `@${id}`, snapshot };
  });
}

/** The name as it stands in the image, byte for byte. */
function nameOf({ name, nameJson }: SnapshotView): string {
  return asWritten(name, nameJson);
}

/** What `list --snapshots` shows. */
export function snapshotEntry(instance: string, { name, snapshot }: ShownSnapshot): SnapshotEntry {
  return {
    instance,
    name,
    parent: snapshot.parent ?? "",
    comment: snapshot.record?.comment ?? "",
  };
}

/** What `info` shows of a snapshot. */
export function snapshotDetails(instance: string, shown: ShownSnapshot): SnapshotDetails {
  const { snapshot } = shown;
  const { record, createdAt, diskBytes, problem } = snapshot;
  return {
    ...snapshotEntry(instance, shown),
    cpus: record?.cpus,
    memoryBytes: record?.memoryBytes,
    diskBytes,
    mounts: record === undefined ? [] : mountsOf(record),
    createdSec: createdAt.sec,
    children: snapshot.children,
    additions: additions({
      id: snapshot.id,
      created_at: isoTimestamp(createdAt),
      disk_bytes: diskBytes,
      memory_bytes: record?.memoryBytes,
      problem: problem === undefined ? undefined : problemText(problem),
    }),
  };
}

/** By target. */
function mountsOf({ mounts }: Pick<InstanceRecord, "mounts">): Mount[] {
  return Object.entries(mounts)
    .map(([target, { sourcePath, uidMappings, gidMappings }]) => ({
      target,
      source: sourcePath,
      uidMappings,
      gidMappings,
    }))
    .toSorted((a, b) => (a.target < b.target ? -1 : 1));
}

function additions(keys: Readonly<Record<string, Addition | undefined>>): Additions {
  const known = new Map<string, Addition>();
  for (const [key, value] of Object.entries(keys)) {
    if (value !== undefined) known.set(key, value);
  }
  return known;
}
