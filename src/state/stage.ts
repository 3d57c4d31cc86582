// Instances in the making: reserved by name, filled where nobody looks, visible by one commit.
//
// 1. Under store.lock: the stage with its lock, the manifest, a directory for each instance.
// 2. The maker fills them: disks, records, histories.
// 3. Everything in the stage is made durable. A crash up to here leaves a stage that the next
//    changing command removes; its names are free as soon as its lock is.
// 4. The commit, under store.lock. One instance: its directory is renamed to its place, durably; a
//    crash after that leaves an empty stage. Several: the manifest is renamed to `commit.json`, durably;
//    a crash after that leaves instances that `settle.ts` moves to their places.
// 5. The stage is removed.
//
// A maker that gives up, or dies, before the commit has changed nothing.

import { type StoreAccess, randomHex } from "./access.ts";
import { StateError } from "./errors.ts";
import { attempt, failureOf, type Lock } from "./files.ts";
import { type Event, historyLine } from "./history.ts";
import { ensureDirectory, underStoreLock } from "./locks.ts";
import { ensureName, type InstanceName } from "./names.ts";
import { INSTANCES, instancePaths, livePath, STAGE, type StagePaths, stagePaths } from "./paths.ts";
import { encode, type InstanceRecord, schemaVersion, type SnapshotRecord } from "./schema.ts";
import { finishBatch, mayBeCommitted, removeStage, reservedNames } from "./settle.ts";

/** With more than so many, flushing the whole file system once is cheaper than each. */
const FEW = 4;

/** What goes with an instance besides its disk. */
interface Accompaniment {
  /** The first line of its history. */
  event: Event;
  /** Of snapshots that its image has. */
  snapshots?: readonly SnapshotRecord[];
}

/**
 * Reserves the names, from here on ours. Throws a `StateError` with the first that cannot be had:
 * `invalid-name`, `name-taken`, `being-prepared`.
 */
export function reserve(access: StoreAccess, names: readonly string[]): Stage {
  for (const name of names) ensureName(name);
  const id = randomHex(access, 8);
  const lock = underStoreLock(access, () => {
    ensureFree(access, names);
    return makeStage(access, id, names);
  });
  return new Stage(access, id, names, lock);
}

/** Refuses names that somebody has, or is about to have. Certain only under store.lock. */
export function ensureFree(access: StoreAccess, names: readonly string[]): void {
  const taken = new Set(access.files.list(INSTANCES).map(({ name }) => name));
  const reserved = reservedNames(access);
  const seen = new Set<string>();
  for (const name of names) {
    if (taken.has(name) || seen.has(name)) throw new StateError({ code: "name-taken", name });
    if (reserved.has(name)) throw new StateError({ code: "being-prepared", name });
    seen.add(name);
  }
}

/**
 * Under store.lock: a stage that nobody sweeps, because its lock is ours from the beginning. If it
 * cannot be made whole, nothing of it is left.
 */
function makeStage(access: StoreAccess, id: string, names: readonly string[]): Lock {
  const { files } = access;
  const stage = stagePaths(id);
  ensureDirectory(access, STAGE);
  files.makeDirectory(stage.directory);
  let lock: Lock | undefined;
  try {
    // Nobody can have it: whoever looks into stages holds store.lock.
    lock = files.tryLock(stage.lock) as Lock;
    files.create(stage.manifest, encode("manifest", { ...schemaVersion, names: [...names] }));
    for (const name of names) {
      const paths = instancePaths(stage.instance(name));
      files.makeDirectory(paths.directory);
      files.create(paths.lock, "");
      // Made here, so that it is durable before the first snapshot relies on it.
      files.makeDirectory(paths.snapshots);
    }
    return lock;
  } catch (error) {
    removeStage(access, stage);
    lock?.[Symbol.dispose]();
    throw error;
  }
}

/** The right to make instances of the reserved names, until it is disposed of. */
export class Stage implements Disposable {
  readonly names: readonly InstanceName[];
  readonly #access: StoreAccess;
  readonly #id: string;
  readonly #paths: StagePaths;
  readonly #lock: Lock;
  readonly #written = new Map<string, string[]>();
  #isOver = false;

  constructor(access: StoreAccess, id: string, names: readonly InstanceName[], lock: Lock) {
    this.names = names;
    this.#access = access;
    this.#id = id;
    this.#paths = stagePaths(id);
    this.#lock = lock;
  }

  /** The absolute path at which the disk is to be made. */
  diskPath(name: InstanceName): string {
    return this.#access.files.absolute(instancePaths(this.#paths.instance(name)).disk);
  }

  /** Writes everything of an instance but its disk. Once for each name, before the commit. */
  write(
    name: InstanceName,
    record: InstanceRecord,
    { event, snapshots = [] }: Accompaniment,
  ): void {
    const { files } = this.#access;
    const paths = instancePaths(this.#paths.instance(name));
    const written = [paths.lock, paths.record, paths.history, paths.disk, paths.snapshots];
    files.create(paths.record, encode("instance", record));
    files.create(paths.history, historyLine(this.#access, event));
    for (const snapshot of snapshots) {
      files.create(paths.snapshot(snapshot.id), encode("snapshot", snapshot));
      written.push(paths.snapshot(snapshot.id));
    }
    this.#written.set(name, [...written, paths.directory]);
  }

  /** Makes all of them visible: all at once, durably, or none. */
  commit(): void {
    const missing = this.names.find((name) => !this.#written.has(name));
    if (missing !== undefined) throw new Error(`${missing} has no record`);
    // The core gives a disk the mode of its source.
    const disks = this.names.map((name) => instancePaths(this.#paths.instance(name)).disk);
    this.#access.files.protect(disks);
    this.#sync();
    underStoreLock(this.#access, () =>
      this.names.length === 1 ? this.#publish() : this.#commit(),
    );
    this.#end();
  }

  [Symbol.dispose](): void {
    if (this.#isOver) return;
    const failure = attempt(() => {
      // A commit that failed may have been seen, and may survive: then it is to be finished.
      if (!mayBeCommitted(this.#access, this.#paths)) removeStage(this.#access, this.#paths);
    });
    this.#end();
    if (failure === undefined) return;
    const { directory } = this.#paths;
    this.#access.warn({ code: "unfinished", path: directory, reason: failure.reason });
  }

  #end(): void {
    this.#isOver = true;
    this.#lock[Symbol.dispose]();
  }

  #sync(): void {
    const { files } = this.#access;
    if (this.names.length > FEW) {
      files.syncAll();
      return;
    }
    const { manifest, directory } = this.#paths;
    files.sync([...[...this.#written.values()].flat(), manifest, directory, STAGE]);
  }

  #publish(): void {
    const [name] = this.names;
    const { files } = this.#access;
    try {
      files.moveDurably(this.#paths.instance(name!), livePath(name!));
    } catch (error) {
      // Whoever takes names without the store's lock can still be in the way.
      if (failureOf(error)?.code !== "target-exists") throw error;
      throw new StateError({ code: "name-taken", name: name! });
    }
    removeStage(this.#access, this.#paths);
  }

  #commit(): void {
    const taken = new Set(this.#access.files.list(INSTANCES).map(({ name }) => name));
    const name = this.names.find((one) => taken.has(one));
    if (name !== undefined) throw new StateError({ code: "name-taken", name });
    this.#access.files.moveDurably(this.#paths.manifest, this.#paths.commit);
    if (finishBatch(this.#access, this.#id)) removeStage(this.#access, this.#paths);
  }
}
