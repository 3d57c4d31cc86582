// Moving whole instances: into the trash and out of it, out of the store, to another name. Each is
// one rename, durable, of a directory whose lock is held and whose disk nobody uses.
//
// A crash before the rename leaves the instance where it was; after it, where it was to be. What
// is purged is moved among the stages: once it is there, nobody sees it, and what removing it
// leaves the next changing command sweeps. Nothing is written for it, so it works on a full disk.

import { randomHex, type StoreAccess } from "./access.ts";
import { StateError } from "./errors.ts";
import { failureOf, Lock } from "./files.ts";
import { remember } from "./history.ts";
import { displayName, type Listed, listNamesakes, listNamesakesLocked, unusable } from "./list.ts";
import { Busy, ensureDirectory, underStoreLock } from "./locks.ts";
import { ensureName, type InstanceName, purgedId, trashId } from "./names.ts";
import {
  INSTANCES,
  instancePaths,
  livePath,
  STAGE,
  stagePaths,
  TRASH,
  trashPath,
} from "./paths.ts";
import { removeStage } from "./settle.ts";
import { ensureFree } from "./stage.ts";
import { ensureUnused } from "./use.ts";

/** Moves a live instance into the trash and frees its name; what tells it from others there. */
export function moveToTrash(access: StoreAccess, name: InstanceName): string {
  return relocate(access, { name }, (listed) => {
    const namesakes = listNamesakesLocked(access, name).flatMap(({ id }) => id ?? []);
    const suffix = Number.parseInt(randomHex(access, 2), 16);
    const id = trashId({ seconds: access.now().sec, suffix }, namesakes);
    const directory = trashPath(name, id);
    ensureDirectory(access, TRASH);
    access.files.moveDurably(listed.directory, directory);
    remember(access, { name, id, directory }, { operation: "delete" });
    return id;
  });
}

/** Moves an instance out of the trash, as `name`, which must be free. */
export function recover(access: StoreAccess, listed: Listed, name: InstanceName): void {
  ensureName(name);
  relocate(access, listed, (current) => {
    ensureFree(access, [name]);
    const directory = livePath(name);
    ensureDirectory(access, INSTANCES);
    access.files.moveDurably(current.directory, directory);
    remember(access, { name, directory }, { operation: "recover", from: displayName(current) });
  });
}

/** Gives a live instance another name. */
export function rename(access: StoreAccess, name: InstanceName, target: InstanceName): void {
  ensureName(target);
  if (name === target) return;
  relocate(access, { name }, (listed) => {
    ensureFree(access, [target]);
    const directory = livePath(target);
    access.files.moveDurably(listed.directory, directory);
    remember(access, { name: target, directory }, { operation: "rename", from: name });
  });
}

/** Removes an instance for ever, live or from the trash. Somebody may have done so already. */
export function purge(access: StoreAccess, listed: Listed): void {
  try {
    moveOut(access, listed);
  } catch (error) {
    if (!(error instanceof StateError) || error.code !== "missing") throw error;
  }
}

function moveOut(access: StoreAccess, listed: Listed): void {
  const gone = stagePaths(purgedId(randomHex(access, 8)));
  const { lock } = relocateLocked(access, listed, ({ directory }) => {
    ensureDirectory(access, STAGE);
    access.files.moveDurably(directory, gone.directory);
  });
  // Under the instance's own lock, which has moved along: nobody sweeps it meanwhile.
  removeStage(access, gone);
  lock[Symbol.dispose]();
}

/**
 * Lets `move` move an instance, under store.lock and the instance's lock, unless somebody uses it.
 * Broken instances move as well, so that one can get rid of them; those of a newer Calque do not.
 */
function relocate<T>(access: StoreAccess, wanted: Wanted, move: (listed: Listed) => T): T {
  const { result, lock } = relocateLocked(access, wanted, move);
  lock[Symbol.dispose]();
  return result;
}

/** The same; the instance's lock stays with the caller. */
function relocateLocked<T>(
  access: StoreAccess,
  wanted: Wanted,
  move: (listed: Listed) => T,
): { result: T; lock: Lock } {
  // Who asks for what is not there makes no store for that.
  pick(listNamesakes(access, wanted.name), wanted);
  return underStoreLock(access, () => {
    const listed = pick(listNamesakesLocked(access, wanted.name), wanted);
    if (listed.problem?.kind === "newer") throw unusable(listed, listed.problem);
    const { lock: path } = instancePaths(listed.directory);
    const lock = tryLock(access, listed, path);
    if (!(lock instanceof Lock)) return new Busy({ lock: path, subject: listed.directory });
    try {
      ensureUnused(access, listed);
      return { result: move(listed), lock };
    } catch (error) {
      lock[Symbol.dispose]();
      throw error;
    }
  });
}

/** Which one: live, or in the trash under its id. */
type Wanted = Parameters<typeof displayName>[0];

/** The one that is wanted; throws `missing` or `deleted`. */
function pick(namesakes: readonly Listed[], wanted: Wanted): Listed {
  const listed = namesakes.find(({ id }) => id === wanted.id);
  if (listed !== undefined) return listed;
  const code = wanted.id === undefined && namesakes.length > 0 ? "deleted" : "missing";
  throw new StateError({ code, instance: displayName(wanted) });
}

/** Its lock; of what cannot even have one, the problem is thrown. */
function tryLock(
  { files }: StoreAccess,
  listed: Listed,
  lock: string,
): ReturnType<typeof files.tryLock> {
  try {
    return files.tryLock(lock);
  } catch (error) {
    if (failureOf(error) === undefined || listed.problem === undefined) throw error;
    throw unusable(listed, listed.problem);
  }
}
