// The store as commands use it. Whoever reads takes no lock and writes nothing; whoever changes
// first finishes or removes what an interrupted command has left, see `settle.ts`.

import type { ImageUser } from "../native.ts";
import type { StoreAccess, StoreContext } from "./access.ts";
import type { InstanceChange } from "./change.ts";
import { StateError } from "./errors.ts";
import { Files } from "./files.ts";
import { readHistory } from "./history.ts";
import { Maker } from "./identity.ts";
import { listAll, type Listed, listNamesakes, living, unusable } from "./list.ts";
import { freeName, type InstanceName, parseTrashed } from "./names.ts";
import { openChange } from "./open.ts";
import { findRoot } from "./root.ts";
import type { HistoryEntry } from "./schema.ts";
import { settleStages } from "./settle.ts";
import { type InstanceSummary, type InstanceView, present, summarize } from "./snapshots.ts";
import { ensureFree, reserve, type Stage } from "./stage.ts";
import { takenNames } from "./taken.ts";
import { moveToTrash, purge, recover, rename } from "./trash.ts";
import { imageUsers } from "./use.ts";
import { readMoment } from "./view.ts";

/** Finds the store. Touches nothing; the first instance that is made makes the store as well. */
export function openStore(context: StoreContext): Store {
  return new Store(context);
}

/** Failures are `StateError`s, and of the core `NativeFailure`s. */
export class Store {
  readonly #access: StoreAccess;

  constructor(context: StoreContext) {
    const { native, now, randomBytes, env, version, waiting } = context;
    const files = new Files(native, findRoot(context));
    const warn = onlyOnce(context.warn);
    this.#access = { native, now, randomBytes, env, version, waiting, warn, files };
  }

  /** Absolute. */
  get root(): string {
    return this.#access.files.root;
  }

  /** All instances, broken ones too: live ones by name, then the trash by name, newest first. */
  list(): Listed[] {
    return listAll(this.#access);
  }

  /** The live one of that name, else the newest in the trash. `NAME@ID` is the one in the trash. */
  find(name: string): Listed | undefined {
    const trashed = parseTrashed(name);
    if (trashed === undefined) return listNamesakes(this.#access, name)[0];
    return this.trashedNamesakes(trashed.name).find(({ id }) => id === trashed.id);
  }

  /** The live one of that name. Throws `missing`, `deleted`, `broken` or `newer` without one. */
  living(name: string): Listed {
    return living(this.#access, name);
  }

  /** The newest first. */
  trashedNamesakes(name: string): Listed[] {
    return listNamesakes(this.#access, name).filter(({ id }) => id !== undefined);
  }

  /** What the instance and its snapshots are at one moment. Throws `broken`, `newer`, `missing`. */
  view(listed: Listed): InstanceView {
    return this.#following(listed, (where) =>
      present(this.#access, where, readMoment(this.#access, where, "with records")),
    );
  }

  /** The same without its snapshots: what a thousand instances can be asked for. */
  summary(listed: Listed): InstanceSummary {
    return this.#following(listed, (where) =>
      summarize(this.#access, where, readMoment(this.#access, where, "without records")),
    );
  }

  /** Who uses their disks, of those that have no problem: one look at all. */
  users(listed: readonly Listed[]): Map<Listed, ImageUser> {
    const whole = listed.filter(({ problem }) => problem === undefined);
    const users = imageUsers(
      this.#access,
      whole.map(({ directory }) => directory),
    );
    return new Map(whole.map((one, index) => [one, users[index]!]));
  }

  /** What happened to it, oldest first. */
  history(listed: Listed): HistoryEntry[] {
    return readHistory(this.#access, listed);
  }

  /** Makes identities that nobody here has; reads all records for that. */
  maker(): Maker {
    return new Maker(
      this.#access,
      this.list().flatMap(({ record }) => record ?? []),
    );
  }

  /** The right to change an instance. Throws `missing`, `deleted`, `broken` or `newer`. */
  change(name: string): InstanceChange {
    settleStages(this.#access);
    return openChange(this.#access, name);
  }

  /**
   * The right to make instances of these names. Throws `invalid-name`, `name-taken` or
   * `being-prepared`. Not while holding an `InstanceChange`: locks have an order.
   */
  reserve(names: readonly string[]): Stage {
    settleStages(this.#access);
    return reserve(this.#access, names);
  }

  /**
   * Refuses names that `reserve` would refuse, as far as one look can tell: before something is
   * done that a refusal should have come before.
   */
  ensureFree(names: readonly string[]): void {
    ensureFree(this.#access, names);
  }

  /** Moves a live instance to the trash, unless it is in use; what tells it from others there. */
  trash(name: string): string {
    settleStages(this.#access);
    return moveToTrash(this.#access, name);
  }

  /** Removes an instance for ever, live or from the trash, unless it is in use or gone already. */
  purge(listed: Listed): void {
    settleStages(this.#access);
    purge(this.#access, listed);
  }

  /** Moves an instance out of the trash. Throws `name-taken` or `being-prepared`. */
  recover(listed: Listed, name: string = listed.name): InstanceName {
    settleStages(this.#access);
    recover(this.#access, listed, name);
    return name;
  }

  /** Gives a live instance another name, unless it is in use. */
  rename(name: string, target: string): void {
    settleStages(this.#access);
    rename(this.#access, name, target);
  }

  /** A name like this one that is free: to be offered to somebody whose name is not. */
  freeName(name: InstanceName): InstanceName {
    const taken = takenNames(this.#access);
    return freeName(name, (other) => taken.has(other));
  }

  /** Reads an instance, at its new place if it moves before it is read. */
  #following<T>(listed: Listed, read: (where: Listed) => T): T {
    if (listed.problem !== undefined) throw unusable(listed, listed.problem);
    try {
      return read(listed);
    } catch (error) {
      if (!(error instanceof StateError) || error.code !== "missing") throw error;
      const uuid = listed.record?.uuid;
      const moved = this.list().find(({ record }) => record?.uuid === uuid);
      if (moved === undefined || moved.problem !== undefined) throw error;
      return read(moved);
    }
  }
}

/** The same warning is given once, however often the store is looked at. */
function onlyOnce(warn: StoreContext["warn"]): StoreContext["warn"] {
  const given = new Set<string>();
  return (warning) => {
    const key = JSON.stringify(warning);
    if (given.has(key)) return;
    given.add(key);
    warn(warning);
  };
}
