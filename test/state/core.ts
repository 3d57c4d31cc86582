// The scene of the store's tests: a real store in a directory of its own, on the real core, with a
// clock and random numbers that the test knows. Also for processes that are no tests.

import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { type Native, unwrap } from "../../src/native.ts";
import type { StoreContext } from "../../src/state/access.ts";
import { StateError, type StateWarning } from "../../src/state/errors.ts";
import { newRecord, replica } from "../../src/state/identity.ts";
import { openStore, type Store } from "../../src/state/store.ts";

/** The core, as `scripts/addon.ts` built it. */
export const native = createRequire(import.meta.url)("../../native/binding/calque.node") as Native;

const PREFIX = "calque-state-";
const directories = new Set<string>();

/** Removes what `temporary` made. */
export function tidy(): void {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
  directories.clear();
}

/**
 * An empty directory that goes after the tests; if they are interrupted, then before the next ones,
 * for its name tells whose it was.
 */
export function temporary(): string {
  if (directories.size === 0) {
    sweep();
    process.once("exit", tidy);
  }
  const directory = mkdtempSync(path.join(os.tmpdir(), `${PREFIX}${process.pid}-`));
  directories.add(directory);
  return directory;
}

/** Removes the directories of processes that are gone. */
function sweep(): void {
  for (const name of readdirSync(os.tmpdir())) {
    const owner = name.startsWith(PREFIX) ? /^\d+(?=-)/.exec(name.slice(PREFIX.length)) : null;
    if (owner === null || isAlive(Number(owner[0]))) continue;
    rmSync(path.join(os.tmpdir(), name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

export interface Scene {
  readonly root: string;
  readonly warnings: StateWarning[];
  readonly context: StoreContext;
  /** Whether there is a store. */
  readonly exists: () => boolean;
  /** As a new process sees it. */
  readonly open: (operations?: Native) => Store;
}

/** A store that is not there yet, or the one at `root`. `seed` decides about its random numbers. */
export function scene(root = path.join(temporary(), "store"), seed = 1): Scene {
  const warnings: StateWarning[] = [];
  let seconds = 1_795_606_149 + seed;
  let state = seed;
  const context: StoreContext = {
    native,
    now: () => ({ sec: (seconds += 1), nsec: 330_473_000 }),
    randomBytes: (count) => Uint8Array.from({ length: count }, nextByte),
    env: (name) => (name === "CALQUE_HOME" ? root : undefined),
    version: "0.1.0",
    warn: (warning) => void warnings.push(warning),
    waiting: () => () => {},
  };
  return {
    root,
    warnings,
    context,
    exists: () => existsSync(root),
    open: (operations = native) => openStore({ ...context, native: operations }),
  };

  /** A Lehmer generator: the same numbers in each run. */
  function nextByte(): number {
    state = (state * 48_271) % 2_147_483_647;
    return state & 0xff;
  }
}

/** What was refused, or what was thrown or returned instead. */
export function refusal(action: () => unknown): unknown {
  try {
    return action();
  } catch (error) {
    return error instanceof StateError ? error.details : error;
  }
}

/** Makes instances with empty disks of a megabyte, all with one commit. */
export function make(store: Store, names: readonly string[], core = native): void {
  const maker = store.maker();
  using stage = store.reserve(names);
  for (const name of stage.names) {
    createDisk(stage.diskPath(name), core);
    const origin = { kind: "create" } as const;
    const record = newRecord(maker, { name, cpus: 1, memoryBytes: 1 << 30, origin });
    stage.write(name, record, { event: { operation: "create" } });
  }
  stage.commit();
}

export function createDisk(file: string, core = native): void {
  const layout = { clusterSize: 65_536, compat: "1.1", refcountBits: 16 } as const;
  const features = {
    lazyRefcounts: false,
    extendedEntries: false,
    compressionType: "zlib",
  } as const;
  unwrap(core.imageCreate({ path: file, size: 1 << 20, ...layout, ...features }));
}

/** Clones as the command does: counted, reserved, copied, committed. */
export function clone(store: Store, source: string, count: number, core = native): string[] {
  const maker = store.maker();
  let view;
  let names;
  {
    using change = store.change(source);
    change.ensureStopped();
    view = change.view;
    names = change.nameClones(count);
  }
  using stage = store.reserve(names);
  const targets = names.map((name) => stage.diskPath(name));
  unwrap(core.imageClone({ source: view.diskPath, targets, strategy: "auto" }));
  for (const name of names) {
    const { record } = replica(view, maker, { name });
    stage.write(name, record, { event: { operation: "clone", source } });
  }
  stage.commit();
  return names;
}
