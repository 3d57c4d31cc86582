// What the parts of the store have in common: its files, and the world as a command lends it.

import type { Native, Waiting } from "../native.ts";
import type { StateWarning } from "./errors.ts";
import type { Files } from "./files.ts";

/** What the store needs of the world. */
export interface StoreContext {
  readonly native: Native;
  readonly now: () => { sec: number; nsec: number };
  readonly randomBytes: (count: number) => Uint8Array;
  readonly env: (name: string) => string | undefined;
  /** The version that the history names. */
  readonly version: string;
  /** Tells the user of what does not stop the command. */
  readonly warn: (warning: StateWarning) => void;
  /** Tells the user, after a second, who has what is at `path`. */
  readonly waiting: (path: string) => Waiting;
}

export interface StoreAccess extends StoreContext {
  readonly files: Files;
}

/** Random digits. */
export function randomHex(
  { randomBytes }: Pick<StoreContext, "randomBytes">,
  bytes: number,
): string {
  return Array.from(randomBytes(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The time as records have it: ISO 8601, UTC, milliseconds. */
export function timestamp({ now }: Pick<StoreContext, "now">): string {
  const { sec, nsec } = now();
  return new Date(sec * 1000 + Math.floor(nsec / 1e6)).toISOString();
}
