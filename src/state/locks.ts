// The order of the locks: store.lock, then an instance's lock or a stage's, then the bytes in the
// image, which the core takes.
//
// An instance's lock may be held for as long as a large disk takes, and everybody needs store.lock.
// So nobody waits for another lock while holding store.lock: who finds one busy gives store.lock
// back, waits without it, and starts over with fresh eyes.

import type { StoreAccess } from "./access.ts";
import type { Lock } from "./files.ts";
import { DIRECTORIES, STORE_LOCK } from "./paths.ts";

/** What `work` returns when it needs a lock that somebody has. */
export class Busy {
  readonly lock: string;
  /** What the lock is for, as the user is told. */
  readonly subject: string;

  constructor({ lock, subject }: { lock: string; subject: string }) {
    this.lock = lock;
    this.subject = subject;
  }
}

/** Does `work` while nobody else changes which instances there are. */
export function underStoreLock<T>(access: StoreAccess, work: () => T | Busy): T {
  for (;;) {
    const result = lockedOnce(access, work);
    if (!(result instanceof Busy)) return result;
    waitFor(access, result);
  }
}

function lockedOnce<T>(access: StoreAccess, work: () => T): T {
  using _ = lockStore(access);
  return work();
}

/** Takes store.lock, and makes the store before if there is none. */
function lockStore(access: StoreAccess): Lock {
  const { files } = access;
  const waiting = access.waiting(files.root);
  const lock = isFounded(access) ? files.lock(STORE_LOCK, "exclusive", waiting) : undefined;
  if (lock !== undefined) return lock;
  found(access);
  return files.lock(STORE_LOCK, "exclusive", waiting)!;
}

/** Whether the store has its lock, and so all that was made before it. */
export function isFounded({ files }: StoreAccess): boolean {
  return files.list(".").some(({ name }) => name === STORE_LOCK);
}

/**
 * Makes an empty store. The lock is made last, by who takes it first: where it is, the directories
 * are durable, so that no instance is ever published in one that a power cut takes away.
 */
function found({ files }: StoreAccess): void {
  files.ensureRoot();
  for (const directory of DIRECTORIES) files.ensureDirectory(directory);
  files.syncAll();
}

/** Makes one of the store's directories again, durably, where somebody has removed it. */
export function ensureDirectory(
  { files }: StoreAccess,
  directory: (typeof DIRECTORIES)[number],
): void {
  if (files.ensureDirectory(directory)) files.sync(["."]);
}

function waitFor({ files, waiting }: StoreAccess, { lock, subject }: Busy): void {
  // Undefined when it is gone: then whoever looks again will see that.
  using _ = files.lock(lock, "exclusive", waiting(files.absolute(subject)));
}
