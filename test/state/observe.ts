// A store as everybody sees it, for comparison; and what must be true of one that is settled.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";

import { unwrap } from "../../src/native.ts";
import type { Store } from "../../src/state/store.ts";
import { native } from "./scene.ts";

/** All that readers show, but for the history. */
export function observe(store: Store) {
  return store.list().map((listed) => {
    const { name, deletedAt, problem, copyOf } = listed;
    if (problem !== undefined) return { name, problem };
    const { record, diskBytes, snapshots, counter, head } = store.view(listed);
    return {
      name,
      isDeleted: deletedAt !== undefined,
      copyOf,
      record,
      diskBytes,
      counter,
      head,
      snapshots,
    };
  });
}

/** What is still to be cleaned up in a store whose last change has settled it. */
export function remains(store: Store): string[] {
  const inside = (...parts: string[]): string => path.join(store.root, ...parts);
  const found = list(inside("stage")).map((name) => `stage/${name}`);
  for (const { directory } of store.list()) {
    const record = JSON.parse(readFileSync(inside(directory, "instance.json"), "utf8")) as object;
    if ("pending" in record) found.push(`${directory}: pending`);
    const disk = inside(directory, "disk.qcow2");
    const { snapshots } = unwrap(native.snapshotList({ path: disk }));
    const expected = snapshots.map(({ id }) => `${id}.json`);
    const actual = list(inside(directory, "snapshots"));
    const [wanted, there] = [expected, actual].map((names) => names.toSorted().join(" "));
    if (wanted !== there) found.push(`${directory}/snapshots: ${there}`);
    const { corruptions, leaks, checkErrors } = unwrap(native.imageCheck({ path: disk }));
    if (corruptions + leaks + checkErrors > 0) found.push(`${disk}: not clean`);
  }
  return found;
}

function list(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory) : [];
}
