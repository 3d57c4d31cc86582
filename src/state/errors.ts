// What the store can say no to, and what it can warn of: closed lists of codes with what a sentence
// about them needs. The sentences are the commands' business; only the reasons why something is
// broken are worded here, because they come from many places and mean the same everywhere.

import type { InstanceName } from "./names.ts";

/** Why an operation on instances was refused. Nothing has happened then. */
export type Refusal =
  /** CALQUE_HOME is not an absolute path. */
  | { code: "store-relative"; value: string }
  /** Neither CALQUE_HOME nor XDG_DATA_HOME nor HOME says where the store is. */
  | { code: "store-unknown" }
  /** The store is not the caller's alone, or is none. */
  | { code: "store-refused"; root: string; reason: string }
  | { code: "missing"; instance: string }
  | { code: "deleted"; instance: string }
  | { code: "broken"; instance: string; reason: string }
  | { code: "newer"; instance: string; reason: string }
  /** `holder` where the system tells: `qemu-system-x86 (process 4711)`. */
  | { code: "in-use"; instance: string; holder?: string }
  | { code: "invalid-name"; name: string }
  /** A name that was made up is longer than names may be; the way out is to give one. */
  | { code: "name-too-long"; name: string; limit: number }
  | { code: "name-taken"; name: InstanceName }
  | { code: "being-prepared"; name: InstanceName }
  | { code: "snapshot-missing"; instance: string; snapshot: string }
  /** `ids` tell them apart: `@ID`. */
  | { code: "snapshot-ambiguous"; instance: string; snapshot: string; ids: string[] }
  | { code: "snapshot-exists"; instance: string; snapshot: string }
  | { code: "snapshot-invalid-name"; snapshot: string }
  /** Made by another program: there is no record that could hold a comment. */
  | { code: "snapshot-foreign"; instance: string; snapshot: string }
  /** Its record, the file `path`, cannot be used. */
  | {
      code: "snapshot-broken";
      instance: string;
      snapshot: string;
      kind: Problem["kind"];
      reason: string;
      path: string;
    }
  /** Ids go up for ever, and a snapshot with the id `highest` leaves none above it. */
  | { code: "too-many-snapshots"; instance: string; highest: string }
  /** No hardware address was found that nobody in the store has. */
  | { code: "addresses-exhausted"; attempts: number; inUse: number };

/** A `Refusal` on its way to the command that has the sentence for it. */
export class StateError extends Error {
  override readonly name = "StateError";
  readonly details: Refusal;

  constructor(details: Refusal) {
    super(Object.values(details).join(": "));
    this.details = details;
  }

  get code(): Refusal["code"] {
    return this.details.code;
  }
}

/** What a command should tell, though it goes on. Paths are relative to the store. */
export type StateWarning =
  /** A name in the store that breaks its rules: left alone, and in nobody's list. */
  | { code: "foreign-file"; path: string }
  /** Somebody changed the image after an interrupted `operation`, whose record was dropped. */
  | { code: "overtaken"; instance: string; operation: string }
  /** What was done is done, but `history` will not tell. */
  | { code: "history-unwritten"; instance: string; reason: string }
  /** The disk has a name elsewhere too: who writes through that one damages the instance. */
  | { code: "linked"; instance: string }
  /** Done, but cleaning up was not possible; the next changing command tries again. */
  | { code: "unfinished"; path: string; reason: string };

/** Why an instance cannot be used; it is listed all the same, and nobody else is disturbed. */
export interface Problem {
  /** `newer`: made by a newer Calque, and not touched. */
  kind: "broken" | "newer";
  reason: string;
}

export function broken(reason: string): Problem {
  return { kind: "broken", reason };
}

/** The words for what is broken. `file` is what users find in the instance's directory. */
export const reasons = {
  missing: (file: string) => `${file} is missing`,
  unreadable: (file: string, why: string) => `${file} cannot be read: ${why}`,
  empty: (file: string) => `${file} is empty`,
  notJson: (file: string) => `${file} is not JSON`,
  tooDeep: (file: string) => `${file} is nested too deeply`,
  notObject: (file: string) => `${file} is not a JSON object`,
  invalid: (file: string, field: string) => `${file} is damaged at "${field}"`,
  newer: (file: string, schema: number) => `${file} has schema ${schema}`,
  kind: (what: string, is: "file" | "directory" | "link" | "other", wanted: string) =>
    `${what} is ${KINDS[is]}, not ${wanted}`,
  changing: "its image keeps changing",
  moving: "its directory keeps moving",
} as const;

const KINDS = {
  file: "a file",
  directory: "a directory",
  link: "a symbolic link",
  other: "neither a file nor a directory",
} as const;
