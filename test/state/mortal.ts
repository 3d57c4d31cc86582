// A core that ends at a chosen call, counted over the whole of a command: how a crash between two
// steps, or an error in any of them, comes about in a test.

import type { Failure, Native, OnChange, Reply } from "../../src/native.ts";

/** What does not befall every operation. */
export const LATE_FATES = [
  "dies halfway",
  "finds no space",
  "fails late",
  "unsettled, old",
  "unsettled, new",
] as const;

/**
 * What happens at that call.
 *
 * - `dies`: nothing, and the process is gone with it: it holds no lock and calls nothing any more.
 * - `dies halfway`: the same while a directory is removed, of which all but one name is gone.
 * - `fails`: nothing, and it says so. What follows goes on.
 * - `finds no space`: the same, because the disk is full for a moment.
 * - `fails late`: a change to an image is planned, and then does not happen.
 * - `unsettled, old`: the same, and the core cannot tell.
 * - `unsettled, new`: it happens, a change to an image or to a name, and the core cannot tell.
 */
export type Fate = "dies" | "fails" | (typeof LATE_FATES)[number];

/** Only these have something between the plan and the end… */
const CHANGES = new Set([
  "imageGrow",
  "snapshotApply",
  "snapshotCreate",
  "snapshotDelete",
  "snapshotRename",
]);

/** …and these something between what is seen and what the medium has. */
const REPLACEMENTS = new Set(["storeRename", "storeReplace"]);

export class Death extends Error {
  override readonly name = "Death";
}

export interface Mortal {
  readonly native: Native;
  /** The operations that were called, the last one included. */
  readonly calls: string[];
  readonly isDead: () => boolean;
}

/** These need space. */
const WRITES = new Set([
  "storeAppend",
  "storeCreate",
  "storeLock",
  "storeMakeDirectory",
  "storeRename",
  "storeReplace",
]);

/** Whether this fate can befall this operation. */
export function canBefall(fate: Fate, operation: string): boolean {
  // A lock is given back by closing a file; that does not fail.
  if (operation === "storeUnlock") return fate === "dies";
  if (fate === "dies halfway") return operation === "storeRemove";
  if (fate === "finds no space") return WRITES.has(operation) || CHANGES.has(operation);
  if (fate === "dies" || fate === "fails" || CHANGES.has(operation)) return true;
  return fate === "unsettled, new" && REPLACEMENTS.has(operation);
}

/** `core` until call number `at`, from 1; then `fate`. */
export function mortal(core: Native, at = Infinity, fate: Fate = "dies"): Mortal {
  const calls: string[] = [];
  const locks = new Set<number>();
  let isDead = false;

  const native = new Proxy(core, {
    get: (target, name: keyof Native) => (request: never, event: never) => {
      const operation = Reflect.get(target, name) as Operation;
      if (isDead) {
        // A process that is gone gives its locks back without a word.
        if (name === "storeUnlock") return {};
        throw new Death(name);
      }
      calls.push(name);
      return calls.length === at
        ? meet(operation, request, event)
        : call(operation, request, event);
    },
  });
  return { native, calls, isDead: () => isDead };

  function meet(operation: Operation, request: object, event?: OnChange): Reply<object> {
    switch (fate) {
      case "dies halfway":
        removeHalf(request as Parameters<Native["storeRemove"]>[0]);
        return die(operation);
      case "dies":
        return die(operation);
      case "fails":
        return { failure: failure("io") };
      case "finds no space":
        return { failure: failure("no-space") };
      case "fails late":
        return callInVain(operation, request, event) ?? { failure: failure("io") };
      case "unsettled, old":
        return callInVain(operation, request, event) ?? { failure: failure("unsettled") };
      case "unsettled, new":
        operation(request, event);
        return { failure: failure("unsettled") };
    }
  }

  function die(operation: Operation): never {
    isDead = true;
    for (const handle of locks) core.storeUnlock({ handle });
    throw new Death(operation.name);
  }

  function removeHalf({ root, path }: { root: string; path: string }): void {
    const names = core.storeList({ root, path }).report?.entries.map(({ name }) => name) ?? [];
    for (const name of names.slice(1)) core.storeRemove({ root, path: `${path}/${name}` });
    if (names[0] !== undefined) removeHalf({ root, path: `${path}/${names[0]}` });
  }

  function call(operation: Operation, request: object, event?: OnChange): Reply<object> {
    const reply = operation(request, event);
    const { handle } = (reply.report ?? {}) as { handle?: number };
    if (handle !== undefined) locks.add(handle);
    if (operation.name === "storeUnlock") locks.delete((request as { handle: number }).handle);
    return reply;
  }
}

type Operation = (request: object, event?: OnChange) => Reply<object>;

/** Lets an operation come as far as its plan; what it answers if it does not. */
function callInVain(operation: Operation, request: object, event?: OnChange) {
  const enough = new Error("the core fails here");
  try {
    return operation(request, (change) => {
      event?.(change);
      if (change.planned !== undefined) throw enough;
    });
  } catch (error) {
    if (error !== enough) throw error;
    return undefined;
  }
}

function failure(code: "io" | "no-space" | "unsettled"): Failure {
  return { code, stage: "operation", reason: "Input/output error" };
}
