// Names: of instances and snapshots, of clones that were given none, of what is in the trash.
//
// Those of instances and snapshots follow Multipass's rule, that of host names, and have at most 63
// characters, as many as a guest's host name can have. So no name can leave a directory, hide in it
// or mean an option, and `.` and `@` are free to separate.

import { StateError } from "./errors.ts";

/** A name that follows the rule. */
export type InstanceName = string;

const MAX_LENGTH = 63;

/** ASCII letters, digits and hyphens; first a letter, last no hyphen. */
export function isName(text: string): boolean {
  return text.length <= MAX_LENGTH && /^[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?$/.test(text);
}

/** Refuses a name that somebody chose. */
export function ensureName(name: string): InstanceName {
  if (!isName(name)) throw new StateError({ code: "invalid-name", name });
  return name;
}

/** Names for clones that get one together: `name` for one, else `name-1` and so on. */
export function numberedNames(name: string, count: number): InstanceName[] {
  ensureName(name);
  if (count === 1) return [name];
  return Array.from({ length: count }, (_, index) => madeUp(`${name}-${index + 1}`));
}

/**
 * Names for `count` clones of `source` that were given none: `source-cloneN`, N from the first
 * number that no clone had, over names that are taken. `last` is the largest N among them.
 */
export function cloneNames(
  source: string,
  { count, cloned, isTaken }: CloneNaming,
): { names: InstanceName[]; last: number } {
  const names: string[] = [];
  let last = cloned;
  while (names.length < count) {
    last += 1;
    const name = madeUp(`${source}-clone${last}`);
    if (!isTaken(name)) names.push(name);
  }
  return { names, last };
}

interface CloneNaming {
  /** How many are wanted. */
  count: number;
  /** The number that the last clone got. */
  cloned: number;
  isTaken: (name: string) => boolean;
}

/** The first of `name-2`, `name-3`, … that is free: an offer to somebody whose name is taken. */
export function freeName(name: string, isTaken: (name: string) => boolean): InstanceName {
  for (let number = 2; ; number += 1) {
    const suffix = `-${number}`;
    const stem = name.slice(0, MAX_LENGTH - suffix.length).replace(/-+$/, "");
    if (!isTaken(stem + suffix)) return stem + suffix;
  }
}

/** The name of the snapshot with the number `counter + 1`: over names that are taken. */
export function snapshotName(counter: number, isTaken: (name: string) => boolean): string {
  let number = counter + 1;
  while (isTaken(`snapshot${number}`)) number += 1;
  return `snapshot${number}`;
}

function madeUp(name: string): InstanceName {
  if (name.length > MAX_LENGTH) {
    throw new StateError({ code: "name-too-long", name, limit: MAX_LENGTH });
  }
  return name;
}

/** What `NAME@ID` means, as directories of the trash are called. */
export function parseTrashed(text: string): { name: InstanceName; id: string } | undefined {
  const [, name = "", id = ""] = /^([^@]*)@(\d{8}-\d{6}-[0-9a-f]{4})$/.exec(text) ?? [];
  return isName(name) ? { name, id } : undefined;
}

/** When the instance was deleted whose trash id this is. */
export function deletionTime(id: string): Date {
  const [, ...parts] = /^(....)(..)(..)-(..)(..)(..)/.exec(id) ?? [];
  const [year = 0, month = 1, ...rest] = parts.map(Number);
  return new Date(Date.UTC(year, month - 1, ...rest));
}

/**
 * The trash id for an instance that is deleted at `seconds` since 1970; `suffix` is random, below
 * 65 536. Ids of one name go up even if the clock does not: the greatest is the newest.
 */
export function trashId(
  { seconds, suffix }: { seconds: number; suffix: number },
  namesakes: readonly string[],
): string {
  const id = joinTrashId(seconds, suffix);
  const newest = namesakes.toSorted().at(-1);
  if (newest === undefined || newest < id) return id;
  const next = Number.parseInt(newest.slice(-4), 16) + 1;
  return joinTrashId(deletionTime(newest).getTime() / 1000 + (next >> 16), next & 0xffff);
}

function joinTrashId(seconds: number, suffix: number): string {
  const [date = "", time = ""] = new Date(seconds * 1000).toISOString().split(/[T.]/);
  const hex = suffix.toString(16).padStart(4, "0");
  return [date.replaceAll("-", ""), time.replaceAll(":", ""), hex].join("-");
}

/** Whether this is what stages are called. */
export function isStageId(text: string): boolean {
  return /^[0-9a-f]{16}$/.test(text);
}

/** What an instance on its way out is called; `id` is one that a stage could have. */
export function purgedId(id: string): string {
  return `purged-${id}`;
}

/** Whether this is what an instance on its way out is called. */
export function isPurgedId(text: string): boolean {
  return /^purged-[0-9a-f]{16}$/.test(text);
}
