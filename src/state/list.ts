// Which instances there are: what the directories say and each record by itself, without locks and
// without writing.
//
// Instances move between stage, instances and trash while somebody looks. So the directories are
// read before the records and once more after them; if something moved, everything is read anew,
// and after a few times under store.lock, shared, which keeps all movers out. One that moves
// forward while the directories are read is seen twice, and is known by its inode.
//
// A directory of a committed batch is an instance wherever it still lies. Nothing else in stage is.
// What has a name that the store would not give is nobody's: it is left alone and warned of.

import type { StoreEntry } from "../native.ts";
import type { StoreAccess } from "./access.ts";
import { broken, type Problem, reasons, StateError } from "./errors.ts";
import type { FileKind, FileText } from "./files.ts";
import { deletionTime, isName, isPurgedId, isStageId, parseTrashed } from "./names.ts";
import {
  DISK,
  INSTANCES,
  instancePaths,
  RECORD,
  STAGE,
  stagePaths,
  STORE_LOCK,
  TRASH,
} from "./paths.ts";
import { decode, type InstanceRecord } from "./schema.ts";

/** An instance, whole or broken, as a list shows it. */
export interface Listed {
  readonly name: string;
  /** In the trash: what tells it from others of its name. */
  readonly id: string | undefined;
  readonly deletedAt: Date | undefined;
  /** Relative to the store. */
  readonly directory: string;
  /** Why it cannot be used. Whether its disk is an image only shows when somebody opens it. */
  readonly problem: Problem | undefined;
  /** Whether the disk has a name elsewhere, through which somebody may write to it. */
  readonly isLinked: boolean;
  /** As it is stored: a view settles it. */
  readonly record: InstanceRecord | undefined;
  /** The one whose directory was copied to make this one: they have one identity. */
  readonly copyOf: string | undefined;
}

/** How often the directories are read before others have to wait. */
const ATTEMPTS = 4;

/** All instances: live ones by name, then the trash by name, newest first. */
export function listAll(access: StoreAccess): Listed[] {
  return markCopies(consistently(access, undefined));
}

/** The names of all instances, live or trashed, without reading any. */
export function listNames(access: StoreAccess): string[] {
  return survey(access, undefined).map(({ name }) => name);
}

/** The instances of one name, in the same order. */
export function listNamesakes(access: StoreAccess, name: string): Listed[] {
  return consistently(access, name);
}

/**
 * The live one of that name, if it is whole; else why there is none, as a `StateError`. What is
 * called `NAME@ID` is never alive.
 */
export function living(access: StoreAccess, name: string): Listed {
  const found = livingWhole(access, name);
  if (found !== undefined) return found;
  const trashed = parseTrashed(name);
  const namesakes = listNamesakes(access, trashed?.name ?? name);
  const listed = trashed === undefined ? namesakes.find(({ id }) => id === undefined) : undefined;
  if (listed === undefined) {
    const isDeleted =
      trashed === undefined ? namesakes.length > 0 : namesakes.some(({ id }) => id === trashed.id);
    const code = isDeleted ? "deleted" : "missing";
    throw new StateError({ code, instance: name });
  }
  if (listed.problem !== undefined) throw unusable(listed, listed.problem);
  return listed;
}

/**
 * The live one, if it is where it belongs and whole: then nothing else has to be looked at, for
 * wherever it moves next, it was there.
 */
function livingWhole(access: StoreAccess, name: string): Listed | undefined {
  const [listed] = inspect(access, instancesCalled(access, name));
  return listed?.problem === undefined ? listed : undefined;
}

/** The problem with an instance, as what ends a command that wants to use it. */
export function unusable(where: Parameters<typeof displayName>[0], problem: Problem): StateError {
  const { kind: code, reason } = problem;
  return new StateError({ code, instance: displayName(where), reason });
}

/** As `listNamesakes`, for who has store.lock. */
export function listNamesakesLocked(access: StoreAccess, name: string): Listed[] {
  return listOnce(access, name).listed;
}

/** A directory that is an instance, or pretends to be. */
interface Place {
  name: string;
  id: string | undefined;
  directory: string;
  kind: StoreEntry["kind"];
  inode: string;
}

/** One name, or all of them. */
type Wanted = string | undefined;

function consistently(access: StoreAccess, wanted: Wanted): Listed[] {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    const { listed, isStable } = listOnce(access, wanted);
    if (isStable) return listed;
  }
  const { files } = access;
  using _ = files.lock(STORE_LOCK, "shared", access.waiting(files.root));
  return listOnce(access, wanted).listed;
}

function listOnce(access: StoreAccess, wanted: Wanted) {
  const places = survey(access, wanted);
  const listed = inspect(access, places);
  const again = survey(access, wanted);
  return { listed, isStable: isSame(places, again) };
}

function isSame(places: readonly Place[], others: readonly Place[]): boolean {
  return (
    places.length === others.length &&
    places.every(({ directory, kind, inode }, index) => {
      const other = others[index]!;
      return directory === other.directory && kind === other.kind && inode === other.inode;
    })
  );
}

/** Where instances are, in the order in which they are listed. */
function survey(access: StoreAccess, wanted: Wanted): Place[] {
  const isWanted = ({ name }: Place): boolean => wanted === undefined || name === wanted;
  // In the direction in which they move, so that none is missed on its way to `instances`.
  const staged = committed(access).filter(isWanted);
  const trashed = trash(access).filter(isWanted);
  const live = wanted === undefined ? instances(access) : instancesCalled(access, wanted);
  const names = new Set(live.map(({ name }) => name));
  const inodes = new Set(live.map(({ inode }) => inode));
  return [
    ...[...live, ...staged.filter(({ name }) => !names.has(name))].toSorted(byName),
    ...trashed.filter(({ inode }) => !inodes.has(inode)).toSorted(byNameAndAge),
  ];
}

function instances({ files, warn }: StoreAccess): Place[] {
  return files.list(INSTANCES).flatMap(({ name, kind, inode }) => {
    const directory = `${INSTANCES}/${name}`;
    if (isName(name)) return { name, id: undefined, directory, kind, inode };
    warn({ code: "foreign-file", path: directory });
    return [];
  });
}

/** The same for one name, however many others there are. */
function instancesCalled({ files }: StoreAccess, name: string): Place[] {
  if (!isName(name)) return [];
  const directory = `${INSTANCES}/${name}`;
  const entry = files.statOne(directory);
  return entry === undefined
    ? []
    : [{ name, id: undefined, directory, kind: entry.kind, inode: entry.inode }];
}

function trash({ files, warn }: StoreAccess): Place[] {
  return files.list(TRASH).flatMap(({ name, kind, inode }) => {
    const directory = `${TRASH}/${name}`;
    const trashed = parseTrashed(name);
    if (trashed !== undefined) {
      return { name: trashed.name, id: trashed.id, directory, kind, inode };
    }
    warn({ code: "foreign-file", path: directory });
    return [];
  });
}

/** What committed batches have not moved to its place yet. */
function committed({ files, warn }: StoreAccess): Place[] {
  return files.list(STAGE).flatMap(({ name: id, kind }) => {
    if (kind === "directory" && isPurgedId(id)) return [];
    if (!isStageId(id) || kind !== "directory") {
      warn({ code: "foreign-file", path: `${STAGE}/${id}` });
      return [];
    }
    return committedIn(files.list(`${STAGE}/${id}`), id);
  });
}

/** The instances among what is in a stage: none before its commit. */
export function committedIn(entries: readonly StoreEntry[], id: string): Place[] {
  const stage = stagePaths(id);
  const isCommit = ({ name, kind }: StoreEntry): boolean =>
    kind === "file" && `${stage.directory}/${name}` === stage.commit;
  if (!entries.some(isCommit)) return [];
  return entries
    .filter(({ name, kind }) => kind === "directory" && isName(name))
    .map(({ name, kind, inode }) => ({
      name,
      id: undefined,
      directory: stage.instance(name),
      kind,
      inode,
    }));
}

function byName(one: Place, other: Place): number {
  return one.name < other.name ? -1 : one.name > other.name ? 1 : 0;
}

function byNameAndAge(one: Place, other: Place): number {
  return byName(one, other) || ((one.id ?? "") > (other.id ?? "") ? -1 : 1);
}

/** Reads the records, and looks what the disks are: two calls, however many there are. */
function inspect({ files }: StoreAccess, places: readonly Place[]): Listed[] {
  const paths = places.map(({ directory }) => instancePaths(directory));
  const records = files.read(paths.map(({ record }) => record));
  const disks = files.stat(paths.map(({ disk }) => disk));
  return places.map(({ name, id, directory, kind }, index) => {
    const { content: record, problem } = decodeRecord(records[index]!);
    const wrong =
      kind === "directory"
        ? (problem ?? judgeDisk(disks[index]!))
        : broken(reasons.kind(directory, kind, "a directory"));
    const deletedAt = id === undefined ? undefined : deletionTime(id);
    const isLinked = kind === "directory" && isLinkedFile(disks[index]!);
    return { name, id, deletedAt, directory, problem: wrong, isLinked, record, copyOf: undefined };
  });
}

/** The record of an instance from its file, or what is wrong with it. */
export function decodeRecord({ text, failure }: FileText): ReturnType<typeof decode<"instance">> {
  if (text !== undefined) return decode("instance", RECORD, text);
  const { code, reason } = failure!;
  return {
    problem: broken(
      code === "not-found" ? reasons.missing(RECORD) : reasons.unreadable(RECORD, reason),
    ),
  };
}

/** What is wrong with a disk before it is opened: it must be a file, and no link to one. */
export function judgeDisk({ file, failure }: FileKind): Problem | undefined {
  if (file !== undefined) {
    return file.kind === "file" ? undefined : broken(reasons.kind(DISK, file.kind, "a file"));
  }
  const { code, reason } = failure!;
  return broken(code === "not-found" ? reasons.missing(DISK) : reasons.unreadable(DISK, reason));
}

/** Two names of one file: what `import --move` leaves if it ends between its commit and its end. */
function isLinkedFile({ file }: FileKind): boolean {
  return file?.kind === "file" && file.linkCount > 1;
}

/**
 * Says of each that has the uuid of another whose copy it is. The directory does not tell which was
 * first: the live one is taken for it, then the one with the shortest name, for copies tend to be
 * called after what was copied.
 */
function markCopies(listed: readonly Listed[]): Listed[] {
  const originals = new Map<string, Listed>();
  for (const one of listed) {
    const uuid = one.record?.uuid;
    if (uuid === undefined) continue;
    const other = originals.get(uuid);
    if (other === undefined || isRather(one, other)) originals.set(uuid, one);
  }
  return listed.map((one) => {
    const original = one.record && originals.get(one.record.uuid);
    if (original === undefined || original === one) return one;
    return Object.assign(one, { copyOf: displayName(original) });
  });
}

function isRather(one: Listed, other: Listed): boolean {
  if ((one.id === undefined) !== (other.id === undefined)) return one.id === undefined;
  return one.name.length < other.name.length;
}

/** What users call it: `NAME@ID` in the trash. */
export function displayName({ name, id }: { name: string; id?: string | undefined }): string {
  return id === undefined ? name : `${name}@${id}`;
}
