// Lets every change to an image tell its plan: once to a callback that throws, and once to one that
// listens. Nothing may have happened after the first, and what was planned after the second.

import type { ChangeEvent, Native, OnChange, Reply } from "../../src/native.ts";
import { CallbackError } from "./scene.ts";

/** What each change did, under the name of its operation. */
export function playPlans(native: Native): Record<string, unknown> {
  const path = "planned.qcow2";
  native.imageCreate({
    path,
    size: 64 << 20,
    clusterSize: 65536,
    compat: "1.1",
    refcountBits: 16,
    lazyRefcounts: false,
    extendedEntries: false,
    compressionType: "zlib",
  });
  const date = { dateSec: 1_700_000_000, dateNsec: 5 };
  const changes: Record<string, (event: OnChange) => Reply<object>> = {
    snapshotCreate: (event) =>
      native.snapshotCreate({ path, name: "one", leastId: 7, ...date }, event),
    imageGrow: (event) => native.imageGrow({ path, size: 128 << 20 }, event),
    snapshotApply: (event) => native.snapshotApply({ path, selector: "one" }, event),
    snapshotRename: (event) =>
      native.snapshotRename({ path, selector: "one", name: "eins" }, event),
    snapshotDelete: (event) => native.snapshotDelete({ path, selector: "eins" }, event),
  };

  const now = () => ({
    list: native.snapshotList({ path }).report,
    fileLength: native.imageInfo({ path }).report?.fileLength,
    leaks: native.imageCheck({ path }).report?.leaks,
  });
  const plans: Record<string, unknown> = {};
  for (const [name, change] of Object.entries(changes)) {
    const before = now();
    const thrown = thrownBy(() =>
      change(({ planned }) => {
        if (planned !== undefined) throw new CallbackError(name);
      }),
    );
    const isUntouched = JSON.stringify(now()) === JSON.stringify(before);
    const events: ChangeEvent[] = [];
    const { report, failure } = change((event) => void events.push(event));
    const planned = events[0]?.planned;
    plans[name] = {
      thrown,
      isUntouched,
      failure,
      events: events.length,
      isBefore: planned?.before === before.list?.commitFields,
      isAfter: planned?.after === now().list?.commitFields,
      changes: planned?.before !== planned?.after,
      snapshot: planned?.snapshot,
      report: { ...report, commit: undefined },
      virtualSize: now().list?.virtualSize,
    };
  }
  return plans;
}

/** Repairs an image that leaks, at the second attempt. */
export function playRepair(native: Native): Record<string, unknown> {
  const path = "leaking.qcow2";
  const now = () => native.imageCheck({ path }).report;
  const before = now();
  const thrown = thrownBy(() =>
    native.imageRepair({ path, repair: "all" }, () => {
      throw new CallbackError("imageRepair");
    }),
  );
  const isUntouched = JSON.stringify(now()) === JSON.stringify(before);
  const events: ChangeEvent[] = [];
  const { report } = native.imageRepair(
    { path, repair: "all" },
    (event) => void events.push(event),
  );
  return {
    thrown,
    isUntouched,
    isAfter: events[0]?.planned?.after === native.snapshotList({ path }).report?.commitFields,
    lines: report?.found.problems,
    leaksFixed: report?.leaksFixed,
    leaks: report?.checked?.leaks,
  };
}

function thrownBy(act: () => unknown): unknown {
  try {
    return { returned: act() };
  } catch (error) {
    return error instanceof CallbackError ? error.detail : String(error);
  }
}
