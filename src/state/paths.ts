// Where everything lies in the store. The only file that knows the names; all paths are relative to
// the store's root.
//
//   store.lock               held to reserve, publish, rename, delete, recover and sweep
//   instances/NAME/          an instance; its files are in `InstancePaths`
//   trash/NAME@ID/           the same directory, moved. ID is YYYYMMDD-HHMMSS-xxxx, UTC: the name
//                            says what and when, so that nothing needs to be written to delete
//   stage/ID/stage.lock      held by the maker of what is in there, while it lives
//   stage/ID/manifest.json   the names that are reserved
//   stage/ID/commit.json     the same file, renamed: the batch is committed
//   stage/ID/NAME/           an instance that is being made; no name has a dot, as these files have
//   stage/purged-ID/         an instance that is on its way out: the same directory, moved, so that
//                            nothing needs to be written to purge
//
// Lock files are created once and neither replaced nor removed while their directory lives: a lock
// on a file that something replaced is granted twice.

export const STORE_LOCK = "store.lock";
export const INSTANCES = "instances";
export const TRASH = "trash";
export const STAGE = "stage";
/** What a store consists of, besides its lock. */
export const DIRECTORIES = [INSTANCES, TRASH, STAGE] as const;

/** The names within an instance's directory, for sentences about it. */
export const RECORD = "instance.json";
export const DISK = "disk.qcow2";
export const SNAPSHOTS = "snapshots";
export const MANIFEST = "manifest.json";

/** The files of an instance, whichever directory it is in. */
export interface InstancePaths {
  readonly directory: string;
  readonly lock: string;
  readonly record: string;
  readonly disk: string;
  readonly snapshots: string;
  readonly history: string;
  /** What the image cannot hold about one of its snapshots. */
  snapshot(id: number): string;
}

export function instancePaths(directory: string): InstancePaths {
  const snapshots = `${directory}/${SNAPSHOTS}`;
  return {
    directory,
    lock: `${directory}/lock`,
    record: `${directory}/${RECORD}`,
    disk: `${directory}/${DISK}`,
    snapshots,
    history: `${directory}/history.jsonl`,
    snapshot: (id) => `${snapshots}/${snapshotFile(id)}`,
  };
}

/** The name of a snapshot's record in its directory. */
export function snapshotFile(id: number): string {
  return `${id}.json`;
}

/** What a file's next content is called until it is complete. */
export function isTemporary(name: string): boolean {
  return /^\.(?:instance|[1-9]\d*)\.json\.new$/.test(name);
}

export function livePath(name: string): string {
  return `${INSTANCES}/${name}`;
}

export function trashPath(name: string, id: string): string {
  return `${TRASH}/${name}@${id}`;
}

/** The files of a stage. */
export interface StagePaths {
  readonly directory: string;
  readonly lock: string;
  readonly manifest: string;
  readonly commit: string;
  instance(name: string): string;
}

export function stagePaths(id: string): StagePaths {
  const directory = `${STAGE}/${id}`;
  return {
    directory,
    lock: `${directory}/stage.lock`,
    manifest: `${directory}/${MANIFEST}`,
    commit: `${directory}/commit.json`,
    instance: (name) => `${directory}/${name}`,
  };
}
