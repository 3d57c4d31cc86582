// The right to change one instance: its lock, from reading the record to the commit of the change.
//
// What the image holds is changed by the core, in one commit. What belongs to it is written by us
// in the core's `planned`: when all of the commit but the header is durable, nobody else can change
// the image, and what it says is what the medium holds.
//
// - Taking a snapshot: its record, a new file. A crash after that leaves a record without an entry,
//   which is nobody's.
// - Deleting one: the instance's record, which reads right before the commit and after it. The
//   snapshot's record goes after the commit; a crash leaves it, and again it is nobody's. On a full
//   disk the instance's record has to wait for the space that the commit frees: until it is
//   written the snapshot's record stays and says the same, as after another program's deletion.
// - Restoring one: a note in the instance's record. A crash after that leaves what the header says,
//   see `settle`; after the commit the note is worked in.
//
// Renaming a snapshot and growing the disk change the image alone. A comment, cpus and memory, the
// count of clones are one record, which is replaced.
//
// If the core fails, what was written is taken back; but not where it cannot tell which state the
// medium will show. Then both have to read right, as after a crash.

import {
  type ChangeEvent,
  type CommitReport,
  type OnChange,
  type PlannedCommit,
  type RepairKind,
  type RepairReport,
  type Reply,
  type SnapshotInfo,
  unwrap,
} from "../native.ts";
import { type StoreAccess, timestamp } from "./access.ts";
import { asFacts, counter, deletion, head, ownCount, snapshotId, upToDate } from "./derive.ts";
import { broken, reasons, StateError } from "./errors.ts";
import { attempt, failureOf, type Lock, whereSpace } from "./files.ts";
import { type Event, remember } from "./history.ts";
import { restored } from "./identity.ts";
import { displayName, type Listed, unusable } from "./list.ts";
import { cloneNames, type InstanceName, isName, snapshotName } from "./names.ts";
import { type InstancePaths, instancePaths, RECORD } from "./paths.ts";
import { encode, type InstanceRecord, schemaVersion, type SnapshotRecord } from "./schema.ts";
import { type InstanceView, present, type SnapshotView } from "./snapshots.ts";
import { sweepSnapshotRecords } from "./sweep.ts";
import { takenNames } from "./taken.ts";
import { ensureUnused } from "./use.ts";
import { type Extent, type Moment, readMomentLocked, readRecord } from "./view.ts";

/** What belongs to a commit of the core. */
interface Companion {
  /** Writes it. May come twice: deleting on a full disk tries another way. */
  planned(commit: PlannedCommit, moment: Moment): void;
  /** Takes it back: the commit did not happen. */
  undo(): void;
}

/** Far from where whole numbers end, and far above what anybody has. */
const MOST_CLONES = 2 ** 52;

const NOTHING: Companion = { planned: () => {}, undo: () => {} };

/** An instance that is ours to change until this is disposed of. */
export class InstanceChange implements Disposable {
  readonly #access: StoreAccess;
  readonly #where: Listed;
  readonly #paths: InstancePaths;
  readonly #lock: Lock;
  /** As last read; forgotten with each change. */
  #moment: Moment | undefined;

  constructor(access: StoreAccess, where: Listed, lock: Lock) {
    this.#access = access;
    this.#where = where;
    this.#paths = instancePaths(where.directory);
    this.#lock = lock;
  }

  [Symbol.dispose](): void {
    this.#lock[Symbol.dispose]();
  }

  /** The instance as it is now. */
  get view(): InstanceView {
    return present(this.#access, this.#where, this.#current());
  }

  /** Refuses with `in-use` when a virtual machine runs on it, or anybody else may write to it. */
  ensureStopped(): void {
    ensureUnused(this.#access, this.#where);
  }

  /** Takes a snapshot; without a name it is called `snapshotN`, N one more than ever were taken. */
  takeSnapshot({ name: wanted, comment = "" }: { name?: string; comment?: string }): {
    name: string;
    id: number;
    commit: CommitReport;
  } {
    // Names and numbers are the image's; the snapshots' records are read when the commit is planned.
    const { facts } = this.#current("without records");
    const taken = new Set(facts.entries.map(({ name }) => name));
    const last = counter(facts);
    const name = wanted ?? snapshotName(last, (text) => taken.has(text));
    this.#ensureSnapshotName(name, taken);
    if (!Number.isSafeInteger(last + 1)) throw this.#tooMany(`${last}`);
    const { sec: dateSec, nsec: dateNsec } = this.#access.now();
    let path: string | undefined;
    const { id, commit } = this.#commit(
      (event) =>
        this.#access.native.snapshotCreate(
          { path: this.#disk, name, leastId: last + 1, dateSec, dateNsec },
          event,
        ),
      {
        planned: ({ snapshot }, moment) => {
          const number = snapshotId(snapshot!.id);
          if (number === undefined) throw this.#tooMany(snapshot!.id);
          const record = snapshotRecord(moment, { ...snapshot!, id: number, comment });
          path = this.#paths.snapshot(number);
          this.#writeSnapshotRecord(path, record);
        },
        undo: () => {
          if (path !== undefined) this.#access.files.remove(path);
        },
      },
    );
    this.#remember({ operation: "snapshot", snapshot: name, id });
    return { name, id: Number(id), commit };
  }

  /** Makes the instance what it was at a snapshot; of a foreign one, its disk. */
  restoreSnapshot(snapshot: SnapshotView, bitmaps: "refuse" | "drop" = "refuse"): CommitReport {
    let stored: InstanceRecord | undefined;
    let settled: InstanceRecord | undefined;
    const { commit } = this.#commit(
      (event) =>
        this.#access.native.snapshotApply(
          { path: this.#disk, selector: snapshot.id, dropBitmaps: bitmaps === "drop" },
          event,
        ),
      {
        planned: ({ before, after }, moment) => {
          const { facts } = moment;
          this.#entryOf(snapshot, moment);
          const result = {
            ...restored(snapshot),
            snapshotCount: ownCount(facts),
            head: snapshotId(snapshot.id) ?? 0,
          };
          const at = timestamp(this.#access);
          stored = moment.stored;
          settled = upToDate(asFacts({ ...facts, record: { ...stored, ...result } }));
          const pending = { operation: "restore" as const, before, after, result, at };
          this.#replaceRecord({ ...stored, pending });
        },
        undo: () => {
          if (stored !== undefined) this.#replaceRecord(stored);
        },
      },
    );
    // It is restored: the note says so to everybody, until the next change works it in.
    this.#tidy(this.#paths.record, () => this.#replaceRecord(settled!));
    this.#remember({ operation: "restore", snapshot: snapshot.name, id: snapshot.id });
    return commit;
  }

  deleteSnapshot(snapshot: SnapshotView): CommitReport {
    let stored: InstanceRecord | undefined;
    let late: InstanceRecord | undefined;
    const { commit } = this.#commit(
      (event) => this.#access.native.snapshotDelete({ path: this.#disk, id: snapshot.id }, event),
      {
        planned: (_, moment) => {
          const record = deletion(moment.facts, this.#entryOf(snapshot, moment));
          late = undefined;
          if (encode("instance", record) === encode("instance", moment.stored)) return;
          if (whereSpace(() => this.#replaceRecord(record))) stored ??= moment.stored;
          else late = record;
        },
        undo: () => {
          if (stored !== undefined) this.#replaceRecord(stored);
        },
      },
    );
    if (commit.recountFailure !== undefined) {
      const { recountFailure: reason } = commit;
      this.#access.warn({ code: "unfinished", path: this.#paths.disk, reason });
    }
    const isWritten =
      late === undefined || this.#tidy(this.#paths.record, () => this.#replaceRecord(late!));
    if (isWritten && snapshot.record !== undefined) {
      const path = this.#paths.snapshot(snapshot.record.id);
      this.#tidy(path, () => this.#access.files.remove(path));
    }
    this.#remember({ operation: "delete", snapshot: snapshot.name, id: snapshot.id });
    return commit;
  }

  /** Undefined if that is its name already. */
  renameSnapshot(snapshot: SnapshotView, name: string): CommitReport | undefined {
    if (name === snapshot.name) return undefined;
    const { facts } = this.#current("without records");
    this.#ensureSnapshotName(name, new Set(facts.entries.map((entry) => entry.name)));
    const { commit } = this.#commit((event) =>
      this.#access.native.snapshotRename({ path: this.#disk, selector: snapshot.id, name }, event),
    );
    this.#remember({ operation: "rename", snapshot: snapshot.name, id: snapshot.id, to: name });
    return commit;
  }

  /** Refuses with `snapshot-foreign` or `snapshot-broken` where no record can hold a comment. */
  commentSnapshot({ id, name, record, problem }: SnapshotView, comment: string): void {
    if (record === undefined) {
      const about = { instance: displayName(this.#where), snapshot: name };
      if (problem === undefined) throw new StateError({ code: "snapshot-foreign", ...about });
      // Only what has a number has a record.
      const path = this.#access.files.absolute(this.#paths.snapshot(snapshotId(id)!));
      throw new StateError({ code: "snapshot-broken", ...about, ...problem, path });
    }
    if (record.comment === comment) return;
    const path = this.#paths.snapshot(record.id);
    this.#access.files.replace(path, encode("snapshot", { ...record, comment }));
    this.#moment = undefined;
    this.#remember({ operation: "comment", snapshot: name, id });
  }

  /** Changes what is recorded, for the next start. */
  update(values: { cpus?: number; memoryBytes?: number }): void {
    const { record } = readRecord(this.#access, this.#where);
    this.#replaceRecord({ ...record, ...values });
    this.#remember({ operation: "set", ...values });
  }

  /** Makes the disk larger; what is on it does not change. */
  grow(bytes: number): CommitReport {
    const commit = this.#commit((event) =>
      this.#access.native.imageGrow({ path: this.#disk, size: bytes }, event),
    );
    this.#remember({ operation: "grow", bytes });
    return commit;
  }

  /** Puts right what a check of the disk finds; snapshots stay, and what the record says. */
  repair(kind: RepairKind): RepairReport {
    const report = this.#commit((event) =>
      this.#access.native.imageRepair({ path: this.#disk, repair: kind }, event),
    );
    const { leaksFixed, corruptionsFixed, commit } = report;
    if (commit !== undefined) {
      this.#remember({ operation: "repair", leaksFixed, corruptionsFixed });
    }
    return report;
  }

  /**
   * Names for clones that were given none, free when this looked, and counts them. They are counted
   * before they are made, so that two clones of one source never get one name; one that fails
   * leaves a gap.
   */
  nameClones(count: number): InstanceName[] {
    const record = this.#countedRecord();
    const taken = takenNames(this.#access);
    const { names, last } = cloneNames(this.#where.name, {
      count,
      cloned: record.cloneCount,
      isTaken: (name) => taken.has(name),
    });
    this.#replaceRecord({ ...record, cloneCount: last });
    return names;
  }

  /** Counts clones that have names of their own. */
  countClones(count: number): void {
    const record = this.#countedRecord();
    this.#replaceRecord({ ...record, cloneCount: record.cloneCount + count });
  }

  /** The record, whose count of clones can grow. Nobody has made so many. */
  #countedRecord(): InstanceRecord {
    const { record } = readRecord(this.#access, this.#where);
    if (record.cloneCount <= MOST_CLONES) return record;
    throw unusable(this.#where, broken(reasons.invalid(RECORD, "cloneCount")));
  }

  #current(extent: Extent = "with records"): Moment {
    const known = this.#moment?.extent;
    if (known === "with records" || known === extent) return this.#moment!;
    return (this.#moment = readMomentLocked(this.#access, this.#where, extent));
  }

  get #disk(): string {
    return this.#access.files.absolute(this.#paths.disk);
  }

  /** One commit of the core, with what belongs to it. */
  #commit<Report>(operate: (event: OnChange) => Reply<Report>, companion = NOTHING): Report {
    // A disk that is a link is found out here, before the core follows it.
    this.#current("without records");
    // Whether it is certain that nothing has happened.
    let isVoid = false;
    const event = ({ waitingFor, planned }: ChangeEvent): void => {
      if (waitingFor !== undefined) this.#access.waiting(this.#disk)(waitingFor);
      if (planned === undefined) return;
      try {
        // Anew: other programs may have changed the image since, and may leave it with a header
        // that looks the same, for they find the same places free.
        this.#moment = undefined;
        const hasWritten = sweepSnapshotRecords(this.#access, this.#paths, this.#current());
        if (hasWritten) this.#moment = undefined;
        companion.planned(planned, this.#current());
      } catch (error) {
        isVoid = true;
        throw error;
      }
    };
    try {
      const reply = operate(event);
      isVoid = reply.failure !== undefined && reply.failure.code !== "unsettled";
      return unwrap(reply);
    } catch (error) {
      if (isVoid) attempt(() => companion.undo());
      // Who uses it is worth more than that somebody does.
      if (failureOf(error)?.code === "in-use") this.ensureStopped();
      throw error;
    } finally {
      this.#moment = undefined;
    }
  }

  /** The entry that the view is of: the core goes by ids, which other programs use again. */
  #entryOf({ id, name, createdAt }: SnapshotView, { facts }: Moment): SnapshotInfo {
    const found = facts.entries.find(
      (entry) =>
        entry.id === id && entry.dateSec === createdAt.sec && entry.dateNsec === createdAt.nsec,
    );
    if (found !== undefined) return found;
    const instance = displayName(this.#where);
    throw new StateError({ code: "snapshot-missing", instance, snapshot: name });
  }

  #writeSnapshotRecord(path: string, record: SnapshotRecord): void {
    const { files } = this.#access;
    // A stale one is nobody's: this id is new.
    files.remove(path);
    if (files.ensureDirectory(this.#paths.snapshots)) files.sync([this.#paths.directory]);
    files.createDurably(path, encode("snapshot", record));
  }

  #replaceRecord(record: InstanceRecord): void {
    this.#access.files.replace(this.#paths.record, encode("instance", record));
    this.#moment = undefined;
  }

  /**
   * What follows a commit, and what the next change does as well if this one cannot. Whether it is
   * done.
   */
  #tidy(path: string, action: () => void): boolean {
    const failure = attempt(action);
    if (failure === undefined) return true;
    this.#access.warn({ code: "unfinished", path, reason: failure.reason });
    return false;
  }

  #remember(event: Event): void {
    remember(this.#access, this.#where, event);
  }

  #ensureSnapshotName(name: string, taken: ReadonlySet<string>): void {
    if (!isName(name)) throw new StateError({ code: "snapshot-invalid-name", snapshot: name });
    if (!taken.has(name)) return;
    const instance = displayName(this.#where);
    throw new StateError({ code: "snapshot-exists", instance, snapshot: name });
  }

  #tooMany(highest: string): StateError {
    const instance = displayName(this.#where);
    return new StateError({ code: "too-many-snapshots", instance, highest });
  }
}

interface NewSnapshot {
  id: number;
  name: string;
  dateSec: number;
  dateNsec: number;
  comment: string;
}

/** What the image cannot hold about a snapshot that is about to be taken. */
function snapshotRecord({ facts, image }: Moment, snapshot: NewSnapshot): SnapshotRecord {
  const { cpus, memoryBytes, interfaces, mounts } = facts.record;
  const { id, name, dateSec, dateNsec, comment } = snapshot;
  return {
    ...schemaVersion,
    id,
    name,
    dateSec,
    dateNsec,
    comment,
    parent: head(facts),
    cpus,
    memoryBytes,
    diskBytes: image.virtualSize,
    interfaces,
    mounts,
  };
}
