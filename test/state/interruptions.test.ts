// Every changing operation, interrupted at every call of the core that it makes: by the end of the
// process, by an error, by a core that does not know what the medium will show. Afterwards the
// store is seen as before or as after the operation, and the next change leaves it clean.

import { cpSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import type { Native } from "../../src/native.ts";
import type { InstanceChange } from "../../src/state/change.ts";
import { findSnapshot } from "../../src/state/snapshots.ts";
import type { Store } from "../../src/state/store.ts";
import { deleteForeign } from "./foreign.ts";
import { canBefall, type Fate, LATE_FATES, mortal } from "./mortal.ts";
import { observe, remains } from "./observe.ts";
import { make, native, scene, temporary } from "./scene.ts";

interface Operation {
  /** Brings the store into the state before. */
  prepare?: ((store: Store, core: Native) => void) | undefined;
  act: (store: Store, core: Native) => void;
}

/** Something with a past: three snapshots, the second one restored, another configuration since. */
function withSnapshots(store: Store): void {
  make(store, ["web", "other"]);
  changing(store, (change) => {
    change.takeSnapshot({ comment: "fresh" });
    change.update({ cpus: 2 });
    change.grow(2 << 20);
    change.takeSnapshot({ name: "grown" });
    change.takeSnapshot({});
    change.restoreSnapshot(findSnapshot(change.view, "grown"));
    change.update({ cpus: 3, memoryBytes: 1 << 29 });
  });
}

function changing(store: Store, act: (change: InstanceChange) => void): void {
  using change = store.change("web");
  act(change);
}

/** An operation on the instance with a past. */
function onSnapshots(act: (change: InstanceChange) => void): Operation {
  return { prepare: withSnapshots, act: (store) => changing(store, act) };
}

/** Does it until it dies at the last call of that name. */
function interrupted(operation: Operation, call: keyof Native): Operation["prepare"] {
  return (store, core) => {
    operation.prepare?.(store, core);
    const place = temporary();
    cpSync(store.root, place, { recursive: true });
    const trial = mortal(core);
    operation.act(scene(place).open(trial.native), trial.native);
    const doomed = mortal(core, trial.calls.lastIndexOf(call) + 1);
    const { open } = scene(store.root);
    expect(() => operation.act(open(doomed.native), doomed.native)).toThrow();
    expect(doomed.isDead()).toBe(true);
  };
}

const batch: Operation = {
  prepare: (store) => make(store, ["web"]),
  act: (store, core) => make(store, ["a", "b", "c"], core),
};
const restore = onSnapshots((change) => {
  change.restoreSnapshot(findSnapshot(change.view, "snapshot1"));
});
const snapshot = onSnapshots((change) => void change.takeSnapshot({ comment: "now" }));

const operations: Record<string, Operation> = {
  "making the first instance": { act: (store, core) => make(store, ["web"], core) },
  "making an instance": {
    prepare: (store) => make(store, ["web"]),
    act: (store, core) => make(store, ["new"], core),
  },
  "making several instances": batch,
  "making more instances than are flushed one by one": {
    act: (store, core) => make(store, ["a", "b", "c", "d", "e"], core),
  },
  "taking a snapshot": snapshot,
  "restoring a snapshot": restore,
  "restoring the snapshot that is the head": onSnapshots((change) => {
    change.restoreSnapshot(findSnapshot(change.view, "grown"));
  }),
  "deleting the first snapshot": onSnapshots((change) => {
    change.deleteSnapshot(findSnapshot(change.view, "snapshot1"));
  }),
  "deleting the head": onSnapshots((change) => {
    change.deleteSnapshot(findSnapshot(change.view, "grown"));
  }),
  "deleting the newest snapshot": onSnapshots((change) => {
    change.deleteSnapshot(findSnapshot(change.view, "snapshot3"));
  }),
  "renaming a snapshot": onSnapshots((change) => {
    change.renameSnapshot(findSnapshot(change.view, "grown"), "larger");
  }),
  "commenting on a snapshot": onSnapshots((change) => {
    change.commentSnapshot(findSnapshot(change.view, "grown"), "larger than before");
  }),
  "changing cpus and memory": onSnapshots((change) => {
    change.update({ cpus: 8, memoryBytes: 2 ** 31 });
  }),
  "growing the disk": onSnapshots((change) => void change.grow(4 << 20)),
  "growing the disk after another program deleted the head": {
    prepare(store) {
      withSnapshots(store);
      deleteForeign(store.view(store.living("web")).diskPath, "grown");
    },
    act: (store) => changing(store, (change) => void change.grow(4 << 20)),
  },
  "restoring a snapshot after another program deleted its parent": {
    prepare(store) {
      withSnapshots(store);
      deleteForeign(store.view(store.living("web")).diskPath, "grown");
    },
    act: (store) =>
      changing(store, (change) => {
        change.restoreSnapshot(findSnapshot(change.view, "snapshot3"));
      }),
  },
  "naming clones": onSnapshots((change) => void change.nameClones(2)),
  "moving to the trash": { prepare: withSnapshots, act: (store) => void store.trash("web") },
  recovering: {
    prepare(store) {
      withSnapshots(store);
      store.trash("web");
    },
    act: (store) => void store.recover(store.find("web")!, "back"),
  },
  "purging from the trash": {
    prepare(store) {
      withSnapshots(store);
      store.trash("web");
    },
    act: (store) => store.purge(store.find("web")!),
  },
  "purging a live instance": {
    prepare: withSnapshots,
    act: (store) => store.purge(store.find("web")!),
  },
  "renaming an instance": { prepare: withSnapshots, act: (store) => store.rename("web", "site") },
  "finishing a batch that was interrupted after its commit": {
    prepare: interrupted(batch, "storeSync"),
    act: (store) => store.reserve([])[Symbol.dispose](),
  },
  "sweeping a batch that was interrupted before its commit": {
    prepare: interrupted(batch, "imageCreate"),
    act: (store) => store.reserve([])[Symbol.dispose](),
  },
  "sweeping a purge that was interrupted": {
    prepare: interrupted(
      { prepare: withSnapshots, act: (store) => store.purge(store.find("web")!) },
      "storeRemove",
    ),
    act: (store) => store.reserve([])[Symbol.dispose](),
  },
  "settling a restore that was interrupted after its commit": {
    prepare: interrupted(restore, "storeReplace"),
    act: (store) => changing(store, () => {}),
  },
  "taking a snapshot after one was interrupted": {
    prepare: interrupted(snapshot, "storeCreate"),
    act: snapshot.act,
  },
};

describe.each(Object.entries(operations))("%s", (_, { prepare, act }) => {
  const before = scene();
  prepare?.(before.open(), native);
  const old = observe(before.open());

  /** Lets it happen to a copy. */
  function meet(at?: number, fate?: Fate) {
    const root = path.join(temporary(), "store");
    if (before.exists()) cpSync(before.root, root, { recursive: true });
    const { open } = scene(root, 1000);
    const { native: core, calls, isDead } = mortal(native, at, fate);
    let error: unknown;
    try {
      act(open(core), core);
    } catch (caught) {
      error = caught;
    }
    return { store: open(), calls, isDead: isDead(), error };
  }

  const whole = meet();
  const fresh = observe(whole.store);

  function expectOldOrNew(at: number, fate: Fate): void {
    const call = `${whole.calls[at - 1]} (call ${at}) ${fate}`;
    const { store, isDead, error } = meet(at, fate);
    const seen = observe(store);
    expect(isDead, call).toBe(fate.startsWith("dies"));
    expect([old, fresh], call).toContainEqual(seen);
    // Whoever was told that it is done finds it done.
    if (error === undefined) expect(seen, call).toEqual(fresh);

    // An honest failure leaves nothing even for a moment.
    if (fate === "fails late") expect(remains(store), call).toEqual([]);

    store.reserve([])[Symbol.dispose]();
    expect(observe(store), `${call}, settled`).toEqual(seen);
    for (const { name, deletedAt } of store.list()) {
      if (deletedAt !== undefined) continue;
      using change = store.change(name);
      change.takeSnapshot({ name: "probe" });
      change.deleteSnapshot(findSnapshot(change.view, "probe"));
    }
    expect(remains(store), call).toEqual([]);
  }

  test("does what it is for", () => {
    expect(whole.error).toBeUndefined();
  });

  test("changes all or nothing when the process ends at any call", () => {
    for (const [index] of whole.calls.entries()) expectOldOrNew(index + 1, "dies");
  });

  test("changes all or nothing when any call fails", () => {
    for (const [index, call] of whole.calls.entries()) {
      if (canBefall("fails", call)) expectOldOrNew(index + 1, "fails");
    }
  });

  // Not every operation has calls that this can befall.
  const fates = LATE_FATES.filter((fate) => whole.calls.some((call) => canBefall(fate, call)));
  test.each(fates)("changes all or nothing when a call: %s", (fate) => {
    for (const [index, call] of whole.calls.entries()) {
      if (canBefall(fate, call)) expectOldOrNew(index + 1, fate);
    }
  });
});
