// How the right to change an instance is had: its lock first, then what an interrupted restore
// left, and records that a power cut kept from becoming whole.

import type { StoreAccess } from "./access.ts";
import { InstanceChange } from "./change.ts";
import { settle } from "./derive.ts";
import { broken, reasons } from "./errors.ts";
import { remember } from "./history.ts";
import { displayName, living, type Listed, unusable } from "./list.ts";
import type { InstanceName } from "./names.ts";
import { instancePaths, livePath, STORE_LOCK } from "./paths.ts";
import { encode } from "./schema.ts";
import { sweepTemporaryRecords } from "./sweep.ts";
import { readDurableFields, readRecord } from "./view.ts";

/** How often an instance may move away while we wait for its lock. */
const ATTEMPTS = 20;

/** Locks the live instance of that name, and settles what an interrupted restore has left. */
export function openChange(access: StoreAccess, name: InstanceName): InstanceChange {
  for (let attempts = 1; attempts <= ATTEMPTS; attempts += 1) {
    const where = living(access, name);
    // Of a batch that is being moved: it is where it belongs when who moves it has finished.
    if (where.directory !== livePath(where.name) && attempts === 1) {
      using _ = access.files.lock(STORE_LOCK, "shared", access.waiting(access.files.root));
      continue;
    }
    if (where.isLinked) access.warn({ code: "linked", instance: displayName(where) });
    const waiting = access.waiting(access.files.absolute(where.directory));
    const lock = access.files.lock(instancePaths(where.directory).lock, "exclusive", waiting);
    // Whoever had it has moved the instance, to the trash perhaps.
    if (lock === undefined) continue;
    try {
      sweepTemporaryRecords(access, instancePaths(where.directory));
      settlePending(access, where);
      return new InstanceChange(access, where, lock);
    } catch (error) {
      lock[Symbol.dispose]();
      throw error;
    }
  }
  throw unusable({ name }, broken(reasons.moving));
}

/** Under the instance's lock: works in, or drops, the note of a restore that was interrupted. */
function settlePending(access: StoreAccess, where: Listed): void {
  const { record: stored } = readRecord(access, where);
  const { pending } = stored;
  if (pending === undefined) return;
  const { record, outcome } = settle(stored, readDurableFields(access, where));
  access.files.replace(instancePaths(where.directory).record, encode("instance", record));
  const { operation, result } = pending;
  if (outcome === "finished") remember(access, where, { operation, id: result.head });
  if (outcome === "overtaken") {
    access.warn({ code: "overtaken", instance: displayName(where), operation });
  }
}
