// What is in stage/ when a changing command begins, and what is to become of it.
//
// A stage's lock is made and taken under store.lock, before anything else is in the stage, and held
// by its maker to the end. So a stage whose lock can be had has no maker any more:
//
// - With a commit it is finished: the instances move to their places, one sync, and the stage goes.
//   A crash in between leaves the rest of them under their commit, where readers see them.
// - Without one it goes: the manifest first, so that its names are free at once, then, without
//   store.lock, whatever else it holds. A crash in between leaves a stage that reserves nothing.
//
// What is purged is moved in here as it is, with its own lock. It reserves nothing, whatever files
// it holds, and goes as soon as that lock can be had.

import type { Failure } from "../native.ts";
import type { StoreAccess } from "./access.ts";
import { attempt, Lock } from "./files.ts";
import { committedIn } from "./list.ts";
import { underStoreLock } from "./locks.ts";
import { isPurgedId, isStageId } from "./names.ts";
import {
  INSTANCES,
  instancePaths,
  livePath,
  MANIFEST,
  STAGE,
  type StagePaths,
  stagePaths,
} from "./paths.ts";
import { decode } from "./schema.ts";

/** Finishes what was committed and removes what never will be. Every changing command begins so. */
export function settleStages(access: StoreAccess): void {
  if (remainingIds(access).length === 0) return;
  const abandoned = underStoreLock(access, () => takeOver(access));
  if (abandoned.length === 0) return;
  // What was moved into a stage is removed only when it cannot come back at its old place.
  const failure = attempt(() => access.files.syncAll());
  for (const { stage, lock } of abandoned) {
    if (failure === undefined) removeStage(access, stage);
    else warnUnfinished(access, stage, failure);
    lock[Symbol.dispose]();
  }
}

/** A stage whose maker is gone and whose lock is ours. */
interface Abandoned {
  stage: StagePaths;
  lock: Lock;
}

/** Under store.lock: the stages that are to be removed. */
function takeOver(access: StoreAccess): Abandoned[] {
  return remainingIds(access).flatMap((id) => tryToTakeOver(access, id) ?? []);
}

/** One that cannot be dealt with is warned of, and does not keep others from their work. */
function tryToTakeOver(access: StoreAccess, id: string): Abandoned | undefined {
  const { files } = access;
  const stage = stagePaths(id);
  const isPurged = isPurgedId(id);
  let lock: Lock | undefined;
  let isDone = false;
  const failure = attempt(() => {
    const held = files.tryLock(isPurged ? instancePaths(stage.directory).lock : stage.lock);
    if (!(held instanceof Lock)) return;
    lock = held;
    isDone =
      !isPurged && mayBeCommitted(access, stage) ? finishBatch(access, id) : release(access, stage);
  });
  if (failure !== undefined) warnUnfinished(access, stage, failure);
  if (lock !== undefined && isDone) return { stage, lock };
  lock?.[Symbol.dispose]();
  return undefined;
}

/** Stages, and instances on their way out. */
function remainingIds({ files }: StoreAccess): string[] {
  return files
    .list(STAGE)
    .filter(({ name, kind }) => kind === "directory" && (isStageId(name) || isPurgedId(name)))
    .map(({ name }) => name);
}

/** Unless it is certain that there is no commit, nothing of a stage may be removed. */
export function mayBeCommitted({ files }: StoreAccess, { commit }: StagePaths): boolean {
  return files.stat([commit])[0]!.failure?.code !== "not-found";
}

/**
 * Under store.lock, after the commit of a batch: moves its instances to their places, and makes
 * that durable. Says whether all are there. Failures are warnings: it is committed, and the next
 * changing command goes on with what is left.
 */
export function finishBatch(access: StoreAccess, id: string): boolean {
  const { files } = access;
  const { directory } = stagePaths(id);
  let isDone = true;
  for (const instance of committedIn(files.list(directory), id)) {
    const failure = attempt(() => files.move(instance.directory, livePath(instance.name)));
    if (failure === undefined) continue;
    warnUnfinished(access, instance, failure);
    isDone = false;
  }
  const failure = attempt(() => files.sync([INSTANCES, directory]));
  if (failure === undefined) return isDone;
  warnUnfinished(access, { directory }, failure);
  return false;
}

/** Under store.lock: frees the names of a stage that is given up. */
function release({ files }: StoreAccess, stage: StagePaths): boolean {
  files.remove(stage.manifest);
  return true;
}

/** Removes a stage whose lock is ours. What remains is swept by the next changing command. */
export function removeStage(access: StoreAccess, stage: StagePaths): void {
  const failure = attempt(() => access.files.remove(stage.directory));
  if (failure !== undefined) warnUnfinished(access, stage, failure);
}

function warnUnfinished(
  { warn }: StoreAccess,
  { directory }: { directory: string },
  { reason }: Failure,
): void {
  warn({ code: "unfinished", path: directory, reason });
}

/** Names that are taken although no list shows them: those that are being made. */
export function reservedNames(access: StoreAccess): Set<string> {
  const { files } = access;
  const stages = remainingIds(access).filter(isStageId);
  const manifests = files.read(stages.map((id) => stagePaths(id).manifest));
  return new Set(
    manifests.flatMap(({ text = "" }) => decode("manifest", MANIFEST, text).content?.names ?? []),
  );
}
