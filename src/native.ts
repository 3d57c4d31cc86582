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
  imageInfo(request: { path: string; forceShare?: boolean }): Reply<ImageInfo>;
  imageCheck(request: { path: string; forceShare?: boolean }): Reply<CheckReport>;
  imageCreate(request: ImageCreateRequest, waiting?: Waiting): Reply<ImageCreateReport>;
  imageGrow(request: ImageGrowRequest, waiting?: Waiting): Reply<CommitReport>;
  imageClone(
    request: ImageCloneRequest,
    progress?: (progress: CloneProgress) => void,
  ): Reply<CloneReport>;
  snapshotList(request: { path: string; forceShare?: boolean }): Reply<SnapshotListReport>;
  snapshotCreate(request: SnapshotCreateRequest, waiting?: Waiting): Reply<SnapshotReport>;
  snapshotApply(request: SnapshotApplyRequest, waiting?: Waiting): Reply<SnapshotReport>;
  snapshotDelete(request: SnapshotDeleteRequest, waiting?: Waiting): Reply<SnapshotReport>;
  snapshotRename(request: SnapshotRenameRequest, waiting?: Waiting): Reply<SnapshotReport>;
}

/** Exactly one of the two is there. */
export interface Reply<Report> {
  report?: Report;
  failure?: Failure;
}

/** Called once, after a second of waiting for another Calque, with a description of it. */
export type Waiting = (holder: string) => void;

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
  | "invalid-argument";

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
  bitmaps: BitmapInfo[];
  /** In the order of their table. */
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
  id: string;
  /** What is not UTF-8 in it is replaced. */
  name: string;
  /** The name's bytes in hexadecimal, only where it is not UTF-8. */
  nameBytes?: string;
  vmStateSize: Bytes;
  dateSec: number;
  dateNsec: number;
  vmClockSec: number;
  vmClockNsec: number;
  /** Decimal; absent when it was not recorded. */
  icount?: string;
  diskSize?: Bytes;
}

export interface SnapshotListReport {
  snapshots: SnapshotInfo[];
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
  /** qemu-img's line for each problem, at most 65 536. */
  problems: string[];
  problemsOmitted: Bytes;
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
  leastId?: number;
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

export interface SnapshotDeleteRequest {
  path: string;
  /** A name. */
  selector: string;
  noWait?: boolean;
}

export interface SnapshotRenameRequest {
  path: string;
  /** The present name. */
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
}

export interface ImageCloneRequest {
  source: string;
  targets: string[];
  strategy: "auto" | "reflink" | "copy";
  /** The snapshot, by id or name, whose content the clones get. */
  fromSnapshot?: string;
  keepSnapshots?: boolean;
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
  /** Why blocks could not be shared. */
  reason?: string;
  copiedBytes: Bytes;
  sharedBytes: Bytes;
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
