// The store's files: the core's operations on one root, with failures thrown as `NativeFailure`.
// Nothing here knows what the files mean. Paths lead from the root down and never through a
// symbolic link; the core refuses whatever does not.

import {
  type Failure,
  type FailureCode,
  type Native,
  NativeFailure,
  type Reply,
  type StoreEntry,
  type StoreReadReport,
  type StoreStatReport,
  unwrap,
  type Waiting,
} from "../native.ts";

/** What a file contains, or why it could not be read. */
export type FileText = StoreReadReport["files"][number];
/** What a file is, or why that could not be found out. */
export type FileKind = StoreStatReport["files"][number];
type StoreStat = NonNullable<FileKind["file"]>;

export class Files {
  readonly #native: Native;
  #root: string;

  /** `root` as `storeOpen` reports it. */
  constructor(native: Native, root: string) {
    this.#native = native;
    this.#root = root;
  }

  get root(): string {
    return this.#root;
  }

  /** Makes the root, unless it is there. */
  ensureRoot(): void {
    this.#root = unwrap(this.#native.storeOpen({ root: this.#root, create: true })).root;
  }

  /** The path by which the core's operations on images know a file. */
  absolute(path: string): string {
    return `${this.#root}/${path}`;
  }

  read(paths: readonly string[]): FileText[] {
    if (paths.length === 0) return [];
    return unwrap(this.#native.storeRead(this.#at({ paths: [...paths] }))).files;
  }

  /** The text of one file; undefined when there is none. */
  readOne(path: string): string | undefined {
    return unlessMissing(() => textOf(this.read([path])[0]!));
  }

  stat(paths: readonly string[]): FileKind[] {
    if (paths.length === 0) return [];
    return unwrap(this.#native.storeStat(this.#at({ paths: [...paths] }))).files;
  }

  /** What one file is; undefined when there is none. */
  statOne(path: string): StoreStat | undefined {
    return unlessMissing(() => fileOf(this.stat([path])[0]!));
  }

  /** What is in a directory, by byte order of the names; nothing when there is none. */
  list(path: string): StoreEntry[] {
    return unlessMissing(() => unwrap(this.#native.storeList(this.#at({ path }))).entries) ?? [];
  }

  /** Makes a directory, unless it is there; says whether it did. */
  ensureDirectory(path: string): boolean {
    return unless("target-exists", this.#native.storeMakeDirectory(this.#at({ path })));
  }

  makeDirectory(path: string): void {
    unwrap(this.#native.storeMakeDirectory(this.#at({ path })));
  }

  /** Makes a file that must not be there. It may be lost or empty after a power cut. */
  create(path: string, text: string): void {
    unwrap(this.#native.storeCreate(this.#at({ path, text })));
  }

  /** The same, and does not return before it would survive a power cut. */
  createDurably(path: string, text: string): void {
    unwrap(this.#native.storeCreate(this.#at({ path, text, durable: true })));
  }

  /** Makes the file hold `text`, durably; whatever happens, it holds the old text or the new. */
  replace(path: string, text: string): void {
    unwrap(this.#native.storeReplace(this.#at({ path, text })));
  }

  append(path: string, text: string): void {
    unwrap(this.#native.storeAppend(this.#at({ path, text })));
  }

  /** Moves, never onto anything. */
  move(source: string, target: string): void {
    unwrap(this.#native.storeRename(this.#at({ source, target })));
  }

  /** The same, and does not return before it would survive a power cut. */
  moveDurably(source: string, target: string): void {
    unwrap(this.#native.storeRename(this.#at({ source, target, durable: true })));
  }

  /** Removes a file, or a directory with all that is in it; that there is none is fine. */
  remove(path: string): void {
    unwrap(this.#native.storeRemove(this.#at({ path })));
  }

  /** Lets nobody but the owner read or write these files. */
  protect(paths: readonly string[]): void {
    unwrap(this.#native.storeProtect(this.#at({ paths: [...paths] })));
  }

  /** Makes these files and directories durable. */
  sync(paths: readonly string[]): void {
    unwrap(this.#native.storeSync(this.#at({ paths: [...paths] })));
  }

  /** Makes everything in the store's file system durable: once, where there is much. */
  syncAll(): void {
    unwrap(this.#native.storeSync({ root: this.#root }));
  }

  /** Waits until the lock is ours. Undefined when its directory is gone by then, or was before. */
  lock(path: string, mode: "exclusive" | "shared", waiting: Waiting): Lock | undefined {
    const create = mode === "exclusive";
    return this.#lock(
      this.#native.storeLock(this.#at({ path, mode, wait: true, create }), waiting),
    );
  }

  /** Takes the lock if nobody has it: else `busy`. Undefined when its directory is gone. */
  tryLock(path: string): Lock | "busy" | undefined {
    const reply = this.#native.storeLock(this.#at({ path, mode: "exclusive", create: true }));
    const isBusy = reply.report !== undefined && reply.report.handle === undefined;
    return isBusy ? "busy" : this.#lock(reply);
  }

  #lock(reply: Reply<{ handle?: number }>): Lock | undefined {
    if (reply.failure?.code === "not-found") return undefined;
    const { handle } = unwrap(reply);
    return handle === undefined ? undefined : new Lock(this.#native, handle);
  }

  #at<Request extends object>(request: Request): Request & { root: string } {
    return { root: this.#root, ...request };
  }
}

/** A lock that is ours until it is disposed of, or the process ends. */
export class Lock implements Disposable {
  readonly #native: Native;
  readonly #handle: number;

  constructor(native: Native, handle: number) {
    this.#native = native;
    this.#handle = handle;
  }

  [Symbol.dispose](): void {
    this.#native.storeUnlock({ handle: this.#handle });
  }
}

/** The text that was read, or the failure thrown. */
export function textOf(file: FileText): string {
  if (file.text === undefined) throw new NativeFailure(file.failure!);
  return file.text;
}

/** What the file is, or the failure thrown. */
function fileOf({ file, failure }: FileKind): StoreStat {
  if (file === undefined) throw new NativeFailure(failure!);
  return file;
}

/** What `action` returns, or undefined where it meets a file that is not there. */
export function unlessMissing<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (failureOf(error)?.code === "not-found") return undefined;
    throw error;
  }
}

/** The failure of the core that an exception stands for. */
export function failureOf(error: unknown): Failure | undefined {
  return error instanceof NativeFailure ? error.failure : undefined;
}

/** Runs what only cleans up: a failure of the core is returned; everything else is thrown. */
export function attempt(action: () => void): Failure | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    const failure = failureOf(error);
    if (failure === undefined) throw error;
    return failure;
  }
}

/** Whether there was space to do it; throws any other failure. */
export function whereSpace(action: () => void): boolean {
  const failure = attempt(action);
  if (failure === undefined) return true;
  if (failure.code !== "no-space") throw new NativeFailure(failure);
  return false;
}

/** Whether it was done; throws any other failure than the one of that code. */
function unless(code: FailureCode, reply: Reply<object>): boolean {
  if (reply.failure?.code === code) return false;
  unwrap(reply);
  return true;
}
