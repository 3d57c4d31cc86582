// A process that does one thing after another to a store that others work on: `racer.ts ROOT SEED`.
// It ends when its standard input does, with a line for each thing that should not have happened.

import process from "node:process";

import { type FailureCode, NativeFailure } from "../../src/native.ts";
import { type Refusal, StateError } from "../../src/state/errors.ts";
import type { Listed } from "../../src/state/list.ts";
import type { Store } from "../../src/state/store.ts";
import { clone, scene } from "./core.ts";

/** What may happen to whoever is not alone. */
const REFUSALS = new Set<Refusal["code"]>([
  ...(["missing", "deleted", "name-taken", "being-prepared", "snapshot-exists"] as const),
  ...(["snapshot-missing", "in-use"] as const),
]);
// The clone here does not hold its source, which somebody may move away: `not-found`.
const FAILURES = new Set<FailureCode>(["in-use", "busy", "snapshot-exists", "not-found"]);

const [root = "", seed = "1"] = process.argv.slice(2);
const { context, open } = scene(root, Number(seed));

/** A number below `count`. */
function draw(count: number): number {
  const [high = 0, low = 0] = context.randomBytes(2);
  return (high * 256 + low) % count;
}

function any<T>(list: readonly T[]): T | undefined {
  return list[draw(list.length)];
}

const live = (store: Store): Listed[] => store.list().filter(({ id }) => id === undefined);
const trashed = (store: Store): Listed[] => store.list().filter(({ id }) => id !== undefined);

const deeds: ((store: Store) => void)[] = [
  // Reading, where nothing may go wrong at all.
  (store) => {
    const listed = store.list();
    const broken = listed.filter(({ problem }) => problem !== undefined);
    if (broken.length > 0) throw new Error(`broken: ${JSON.stringify(broken)}`);
    const twice = listed.filter(({ copyOf }) => copyOf !== undefined);
    if (twice.length > 0) throw new Error(`seen twice: ${JSON.stringify(twice)}`);
    const one = any(listed);
    if (one === undefined) return;
    const { snapshots } = store.view(one);
    const foreign = snapshots.filter(({ isForeign }) => isForeign);
    if (foreign.length > 0) throw new Error(`without a record: ${JSON.stringify(foreign)}`);
  },
  (store) => {
    using change = store.change(any(live(store))?.name ?? "base-1");
    if (change.view.snapshots.length < 5) change.takeSnapshot({ comment: seed });
  },
  (store) => {
    using change = store.change(any(live(store))?.name ?? "base-1");
    const snapshot = any(change.view.snapshots);
    if (snapshot !== undefined) change.restoreSnapshot(snapshot);
  },
  (store) => {
    using change = store.change(any(live(store))?.name ?? "base-1");
    const snapshot = any(change.view.snapshots);
    if (snapshot !== undefined) change.deleteSnapshot(snapshot);
  },
  (store) => {
    if (store.list().length > 12) return;
    clone(store, any(live(store))?.name ?? "base-1", 1 + draw(3));
  },
  (store) => void store.trash(any(live(store))?.name ?? "base-1"),
  (store) => {
    const one = any(trashed(store));
    if (one !== undefined) store.recover(one);
  },
  (store) => {
    // The instances that were there at the beginning are to be there at the end.
    const one = any(trashed(store).filter(({ name }) => name.includes("clone")));
    if (one !== undefined) store.purge(one);
  },
];

function isExpected(error: unknown): boolean {
  if (error instanceof SuppressedError) return isExpected(error.suppressed);
  if (error instanceof StateError) return REFUSALS.has(error.code);
  if (error instanceof NativeFailure) return FAILURES.has(error.failure.code);
  return false;
}

const end = new AbortController();
process.stdin.on("end", () => end.abort()).resume();
while (!end.signal.aborted) {
  const deed = any(deeds)!;
  try {
    deed(open());
  } catch (error) {
    const isReader =
      deed === deeds[0] && !(error instanceof StateError && error.code === "missing");
    if (isReader || !isExpected(error)) {
      const details = error instanceof StateError ? error.details : error;
      process.stdout.write(`${deeds.indexOf(deed)}: ${JSON.stringify(details)} ${String(error)}\n`);
      process.stdout.write(`${error instanceof Error ? (error.stack ?? "") : ""}\n`);
    }
  }
  process.stderr.write(".");
  // Lets the end of the input arrive.
  await new Promise((resolve) => setImmediate(resolve));
}
