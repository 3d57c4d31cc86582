// What the core can do, and how it answers. `native/api` says the same in Rust; both doors, the
// Node-API addon and the executable's host, have these functions under these names.
//
// A request goes in, a report or a failure comes out. Failures are data: they have happened to
// others before. A request of the wrong type throws, an exception in a callback passes through, and
// a panic of the core ends the executable or arrives as an Error: both are bugs.

/** A size, an offset or a count: a whole number up to 2^53 - 1. */
export type Bytes = number;

export interface Native {
  coreVersion(): string;
  /** `piece` hears of long lists all but the end: parts of the snapshots, then of the bitmaps. */
  imageInfo(
    request: { path: string; forceShare?: boolean },
    piece?: (piece: ImageInfo) => void,
  ): Reply<ImageInfo>;
  /** `piece` hears lines about problems, where there are more than the report has at its end. */
  imageCheck(
    request: { path: string; forceShare?: boolean },
    piece?: (problems: string[]) => void,
  ): Reply<CheckReport>;
  /** Of the events only `waitingFor` comes. */
  imageCreate(request: ImageCreateRequest, event?: OnChange): Reply<ImageCreateReport>;
  imageGrow(request: ImageGrowRequest, event?: OnChange): Reply<CommitReport>;
  /** Puts right what a check finds, in one commit, and checks once more. */
  imageRepair(request: ImageRepairRequest, event?: OnChange): Reply<RepairReport>;
  imageClone(
    request: ImageCloneRequest,
    progress?: (progress: CloneProgress) => void,
  ): Reply<CloneReport>;
  imageConvert(
    request: ImageConvertRequest,
    progress?: (progress: ConvertProgress) => void,
  ): Reply<ConvertReport>;
  /** `piece` hears all but the end of a long list. */
  snapshotList(
    request: SnapshotListRequest,
    piece?: (piece: SnapshotListReport) => void,
  ): Reply<SnapshotListReport>;
  snapshotCreate(request: SnapshotCreateRequest, event?: OnChange): Reply<SnapshotReport>;
  snapshotApply(request: SnapshotApplyRequest, event?: OnChange): Reply<SnapshotReport>;
  snapshotDelete(request: SnapshotDeleteRequest, event?: OnChange): Reply<SnapshotReport>;
  snapshotRename(request: SnapshotRenameRequest, event?: OnChange): Reply<SnapshotReport>;
  /** Who uses each of these images, in order. Takes nothing; stale as soon as it is there. */
  imageUsers(request: { paths: string[] }): Reply<ImageUsersReport>;

  // Files that are about to move into the store.

  /**
   * Where a file really is, and the same stamp as long as it is the same file and nobody has
   * written to it.
   */
  fileStamp(request: { path: string }): Reply<{ path: string; stamp: string }>;
  /**
   * Removes an image's name, durably; at the end of a symbolic link, the name that it leads to.
   * `busy` where the stamp is no longer true, `in-use` where somebody uses the image.
   */
  fileRemove(request: { path: string; stamp: string }): Reply<Done>;

  // The store's files. A `path` leads from the store's `root` down, through directories and never
  // through a symbolic link; `.` is the root itself. A root of another owner, or one that others
  // may write to, is `not-ours`, whatever is asked for.

  /** Finds the store at an absolute path; `create` makes it, with what is missing above it. */
  storeOpen(request: { root: string; create?: boolean }): Reply<StoreOpenReport>;
  /**
   * Locks a file against other `storeLock`s. Without `wait`, no handle means that somebody else has
   * it; `waiting` hears who, after a second. With `create`, a missing file is made.
   *
   * `not-found` also when the path names another file, or none, by the time the lock is ours.
   */
  storeLock(request: StoreLockRequest, waiting?: Waiting): Reply<StoreLockReport>;
  storeUnlock(request: { handle: number }): Reply<Done>;
  /** The text of each file, in order: regular, UTF-8, at most 16 MiB. */
  storeRead(request: { root: string; paths: string[] }): Reply<StoreReadReport>;
  /** What a directory contains, in the order of the names' bytes. */
  storeList(request: { root: string; path: string }): Reply<StoreListReport>;
  /** What each file is, in order. */
  storeStat(request: { root: string; paths: string[] }): Reply<StoreStatReport>;
  /** Makes a directory for the owner alone. */
  storeMakeDirectory(request: { root: string; path: string }): Reply<Done>;
  /** Makes a file that is not there; `durable` also survives a power cut. */
  storeCreate(request: StoreCreateRequest): Reply<Done>;
  /**
   * Makes the file hold `text`, durably; a crash leaves the old text or the new one. Two who
   * replace one file at a time need a lock between them.
   */
  storeReplace(request: { root: string; path: string; text: string }): Reply<Done>;
  /** Adds `text` at the end of the file, which is made if need be: all of it or nothing. */
  storeAppend(request: { root: string; path: string; text: string }): Reply<Done>;
  /** Moves a file or directory; what is at `target` stays, and is `target-exists`. */
  storeRename(request: StoreRenameRequest): Reply<Done>;
  /**
   * Gives a regular file from outside, which belongs to the caller, a second name in the store;
   * what is at `target` stays. `cannot-share` where the file system cannot do that, or the file has
   * other names.
   */
  storeLink(request: { root: string; source: string; target: string }): Reply<Done>;
  /**
   * Removes a file, a link, or a directory with all that is in it. Nothing there is as good. What
   * is `mounted` in it stays, and whatever the removal had not come to.
   */
  storeRemove(request: { root: string; path: string }): Reply<Done>;
  /** Lets nobody but the owner read or write these files. */
  storeProtect(request: { root: string; paths: string[] }): Reply<Done>;
  /** Makes each of these files and directories durable; without `paths` the whole file system. */
  storeSync(request: { root: string; paths?: string[] }): Reply<Done>;
}

/** Exactly one of the two is there. */
export interface Reply<Report> {
  report?: Report;
  failure?: Failure;
}

/** Called once, after a second of waiting for another Calque, with a description of it. */
export type Waiting = (holder: string) => void;

/** Hears of a change on its way. What it throws ends the change, and nothing has happened. */
export type OnChange = (event: ChangeEvent) => void;

/** Exactly one of the two is there. */
export interface ChangeEvent {
  /** Who has the image, once, after a second of waiting for another Calque. */
  waitingFor?: string;
  /**
   * What the commit will do, once everything but the header is durable. A second one takes the
   * place of the first: deleting on a full disk tries another way. Neither says that it will
   * succeed.
   */
  planned?: PlannedCommit;
}

export interface PlannedCommit {
  /** Bytes 24 to 71 of the header now, in hexadecimal. */
  before: string;
  /** The same bytes after the commit. */
  after: string;
  /** The snapshot that is taken, applied, deleted or renamed, as in the report. */
  snapshot?: PlannedSnapshot;
}

export interface PlannedSnapshot {
  id: string;
  name: string;
  dateSec: number;
  dateNsec: number;
}

/** Nothing to report: it was done. */
export type Done = object;

/** An operation that could not be done. */
export interface Failure {
  code: FailureCode;
  /** `open`: the image could not be opened; `operation`: it was, and then something failed. */
  stage: "open" | "operation";
  /** The reason alone, in qemu-img's words where it has some. */
  reason: string;
  /** A line that belongs before the sentence. */
  preface?: string;
  /** The way out, for a line of its own after the sentence. */
  hint?: string;
  /** The file it is about. */
  path?: string;
  /** Where in that file, in hexadecimal with `0x`. */
  offset?: string;
}

/** The closed list of what can go wrong. */
export type FailureCode =
  | "not-found"
  | "permission-denied"
  | "read-only"
  | "not-a-file"
  | "wrong-format"
  | "unsupported-version"
  | "unsupported-feature"
  | "invalid-header"
  | "invalid-snapshot-table"
  | "marked-corrupt"
  | "marked-dirty"
  | "corrupt"
  | "in-use"
  | "locks-unsupported"
  | "busy"
  | "unsettled"
  | "no-space"
  | "io"
  | "snapshot-not-found"
  | "snapshot-exists"
  | "snapshot-ambiguous"
  | "invalid-name"
  | "too-many-snapshots"
  | "refcount-overflow"
  | "too-large"
  | "has-bitmaps"
  | "has-snapshots"
  | "cannot-shrink"
  | "target-exists"
  | "cannot-share"
  | "invalid-argument"
  | "not-a-directory"
  | "not-ours"
  | "not-text"
  | "mounted";

export type Compat = "0.10" | "1.1";
export type CompressionType = "zlib" | "zstd";

/** What an image says about itself. */
export interface ImageInfo {
  path: string;
  virtualSize: Bytes;
  /** What the file occupies in its file system. */
  actualSize: Bytes;
  fileLength: Bytes;
  clusterSize: number;
  compat: Compat;
  compressionType: CompressionType;
  lazyRefcounts: boolean;
  refcountBits: number;
  corrupt: boolean;
  dirty: boolean;
  /** Whether L2 entries have subclusters. */
  extendedEntries: boolean;
  encryption?: "aes" | "luks";
  /** As the image names it; never opened. */
  backingFile?: string;
  backingFormat?: string;
  dataFile?: string;
  dataFileRaw?: boolean;
  bitmapCount: number;
  /** All of them, or a part; so with the snapshots, in the order of their table. */
  bitmaps: BitmapInfo[];
  snapshotCount: number;
  snapshots: SnapshotInfo[];
}

/** A persistent bitmap. */
export interface BitmapInfo {
  name: string;
  /** Bytes of the disk per bit. */
  granularity: Bytes;
  /** qemu-img's names of the set flags. */
  flags: string[];
}

/** An internal snapshot, as its table entry says. */
export interface SnapshotInfo {
  /** What is not UTF-8 in it is replaced; so in the name. */
  id: string;
  name: string;
  /** The same as JSON, only where they are not UTF-8; see `text/name.ts`. */
  idJson?: string;
  nameJson?: string;
  vmStateSize: Bytes;
  dateSec: number;
  dateNsec: number;
  vmClockSec: number;
  vmClockNsec: number;
  /** Decimal; absent when it was not recorded. */
  icount?: string;
  diskSize?: Bytes;
}

export interface SnapshotListRequest {
  path: string;
  forceShare?: boolean;
  /**
   * Answers only with what a power cut would not take back: flushes first, and is `unsettled` where
   * the medium has another header than the cache.
   */
  settled?: boolean;
}

export interface SnapshotListReport {
  /** All of them, or a part. */
  snapshots: SnapshotInfo[];
  /** The size of the disk, and bytes 24 to 71 of the header in hexadecimal: of the same moment. */
  virtualSize: Bytes;
  commitFields: string;
}

/** Counted as `qemu-img check` counts. */
export interface CheckReport {
  imageEndOffset: Bytes;
  totalClusters: Bytes;
  allocatedClusters: Bytes;
  fragmentedClusters: Bytes;
  compressedClusters: Bytes;
  corruptions: Bytes;
  leaks: Bytes;
  /** Errors that kept parts of the image from being checked. */
  checkErrors: Bytes;
  /** qemu-img's line for each problem, at most 65 536, or the last of them. */
  problems: string[];
  problemsOmitted: Bytes;
}

/** Space that is counted and unused, or everything that can be put right. */
export type RepairKind = "leaks" | "all";

export interface ImageRepairRequest {
  path: string;
  repair: RepairKind;
  noWait?: boolean;
}

/** Counted as `qemu-img check -r` counts. */
export interface RepairReport {
  /** What was found and not repaired; its lines also tell what was. */
  found: CheckReport;
  leaksFixed: Bytes;
  corruptionsFixed: Bytes;
  /** The refcount structures have to be made anew, which was not asked for; nothing was written. */
  mustRebuild: boolean;
  /** The check afterwards, where something was repaired. */
  checked?: CheckReport;
  /** What it cost, where something was written. */
  commit?: CommitReport;
}

/** An existing file is overwritten, once nobody else uses it. */
export interface ImageCreateRequest {
  path: string;
  /** Rounded up to whole sectors. */
  size: Bytes;
  clusterSize: number;
  compat: Compat;
  refcountBits: number;
  lazyRefcounts: boolean;
  extendedEntries: boolean;
  compressionType: CompressionType;
  noWait?: boolean;
}

export interface ImageCreateReport {
  path: string;
  virtualSize: Bytes;
  fileLength: Bytes;
}

export interface ImageGrowRequest {
  path: string;
  size: Bytes;
  noWait?: boolean;
}

export interface SnapshotCreateRequest {
  path: string;
  name: string;
  leastId?: Bytes;
  dateSec: number;
  dateNsec: number;
  noWait?: boolean;
}

export interface SnapshotApplyRequest {
  path: string;
  /** An id or, if there is none such, a name. */
  selector: string;
  dropBitmaps?: boolean;
  noWait?: boolean;
}

/** By name or by id: exactly one of the two. */
export interface SnapshotDeleteRequest {
  path: string;
  /** A name. */
  selector?: string;
  id?: string;
  noWait?: boolean;
}

export interface SnapshotRenameRequest {
  path: string;
  /** An id or, if there is none such, the present name. */
  selector: string;
  name: string;
  noWait?: boolean;
}

/** The snapshot that an operation was about, and what the change cost. */
export interface SnapshotReport {
  id: string;
  /** After the operation. */
  name: string;
  commit: CommitReport;
}

export interface CommitReport {
  writtenBytes: Bytes;
  flushes: number;
  /** Freed bytes given back to the file system. */
  punchedBytes: Bytes;
  /** Why some were not; the change itself is committed. */
  punchFailure?: string;
  /** Why what a deleted snapshot used leaks until the next change; the snapshot is gone. */
  recountFailure?: string;
}

export interface ImageCloneRequest {
  source: string;
  targets: string[];
  strategy: "auto" | "reflink" | "copy";
  /** The snapshot, by id or name, whose content the clones get. */
  fromSnapshot?: string;
  keepSnapshots?: boolean;
  /** Makes copies of a version 2 image images of version 3. */
  upgrade?: boolean;
  noWait?: boolean;
}

/** Over all targets. */
export interface CloneProgress {
  copiedBytes: Bytes;
  totalBytes: Bytes;
  /** Who has the source, once, after a second of waiting for another Calque. */
  waitingFor?: string;
}

export interface CloneReport {
  source: string;
  /** In the order of the targets. */
  clones: CloneInfo[];
}

export interface CloneInfo {
  target: string;
  strategy: "reflink" | "copy";
  /** Why blocks are not shared, where that was wanted. */
  reason?: string;
  copiedBytes: Bytes;
  /** With other files, as the file system said; none where it cannot tell. */
  sharedBytes?: Bytes;
  /** The name of its backing file, where the source's own would not have led there. */
  backingFile?: string;
  /** It is of version 3, and the source is not. */
  upgraded?: boolean;
}

/** Makes a new file of the content of a disk. */
export interface ImageConvertRequest {
  source: string;
  sourceFormat: DiskFormat;
  /** The snapshot, by id or name, whose content is meant. */
  fromSnapshot?: string;
  /**
   * Opens the files of the chain that backs the source, and takes the content of all. Otherwise a
   * source with a backing file is refused.
   */
  flatten?: boolean;
  target: string;
  targetFormat: DiskFormat;
  noWait?: boolean;
}

/** What a file is, as whoever names it says. */
export type DiskFormat = "qcow2" | "raw";

/** How far through the disk, holes included. */
export interface ConvertProgress {
  doneBytes: Bytes;
  totalBytes: Bytes;
  /** Who has a source, once for each, after a second of waiting for another Calque. */
  waitingFor?: string;
}

export interface ConvertReport {
  /** `reflink` if any of its blocks are a source's. */
  strategy: "reflink" | "copy";
  /** Why none are, where there was data. */
  reason?: string;
  copiedBytes: Bytes;
  sharedBytes: Bytes;
  /** The size of the disk, which may be rounded up to a sector. */
  virtualSize: Bytes;
  /** The files that were read, in the order in which each is backed by the next. */
  opened: string[];
}

export interface ImageUsersReport {
  /** In the order of the paths. */
  users: ImageUser[];
}

/** Who uses an image. */
export interface ImageUser {
  /**
   * `calque`: another Calque reads or changes it; `reader`: a QEMU reads it; `writer`: a virtual
   * machine, or anything else that can write to it. `free` also where nothing could be found out.
   */
  use: "free" | "calque" | "reader" | "writer";
  /** Whoever that is, for a sentence: `qemu-system-x86 (process 4711)`. */
  holder?: string;
  /** Why nothing could be found out. */
  failure?: Failure;
}

export interface StoreOpenReport {
  /** The store's real path, for the other operations. */
  root: string;
  exists: boolean;
}

export interface StoreLockRequest {
  root: string;
  path: string;
  /** `shared` works on a read-only file system. */
  mode: "exclusive" | "shared";
  wait?: boolean;
  create?: boolean;
}

export interface StoreLockReport {
  /** Stands for the lock, until `storeUnlock` or the end of the process. */
  handle?: number;
}

export interface StoreReadReport {
  /** In the order of the paths, each with one of the two. */
  files: { text?: string; failure?: Failure }[];
}

export interface StoreListReport {
  entries: StoreEntry[];
}

export interface StoreEntry {
  /** What is not UTF-8 in it is replaced, and then `kind` is `other`. */
  name: string;
  kind: "file" | "directory" | "link" | "other";
  /** Tells whether a name means the same file in two listings, or in two `storeStat`s. */
  inode: string;
}

export interface StoreStatReport {
  /** In the order of the paths, each with one of the two. */
  files: { file?: StoreFile; failure?: Failure }[];
}

export interface StoreFile extends StoreEntry {
  sizeBytes: Bytes;
  /** How many names it has. */
  linkCount: number;
}

export interface StoreCreateRequest {
  root: string;
  path: string;
  text: string;
  durable?: boolean;
}

export interface StoreRenameRequest {
  root: string;
  source: string;
  target: string;
  durable?: boolean;
}

/** A failure on its way to the command that knows the sentence for it. */
export class NativeFailure extends Error {
  override readonly name = "NativeFailure";
  readonly failure: Failure;

  constructor(failure: Failure) {
    super(failure.reason);
    this.failure = failure;
  }
}

/** The report, or the failure thrown as a `NativeFailure`. */
export function unwrap<Report>(reply: Reply<Report>): Report {
  if (reply.failure !== undefined) throw new NativeFailure(reply.failure);
  if (reply.report === undefined) throw new TypeError("the core answered nothing");
  return reply.report;
}
