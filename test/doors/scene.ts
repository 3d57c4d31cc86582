// Calls every operation on images, in an order that gives each something to do, and writes down
// what came back. It runs through either door, in a directory of its own, and must see the same.

import type { Native } from "../../src/native.ts";

/** What a call did, in a form that survives JSON. */
type Answer = { returned: unknown } | { threw: string } | { callbackThrew: unknown };

export type Answers = Record<string, Answer>;

/** Collects what calls do, each under its title. */
export function recorder(): {
  answers: Answers;
  call: (title: string, act: () => unknown) => void;
} {
  const answers: Answers = {};
  const call = (title: string, act: () => unknown): void => {
    try {
      answers[title] = { returned: act() };
    } catch (error) {
      // The doors word their complaints about wrong types differently; that they complain counts.
      answers[title] =
        error instanceof CallbackError ? { callbackThrew: error.detail } : { threw: "an error" };
    }
  };
  return { answers, call };
}

/** All answers about images. */
export function playScene(native: Native): Answers {
  const { answers, call } = recorder();

  const path = "disk.qcow2";
  const create = {
    path,
    size: 64 << 20,
    clusterSize: 65536,
    compat: "1.1",
    refcountBits: 16,
    lazyRefcounts: false,
    extendedEntries: false,
    compressionType: "zlib",
  } as const;
  const date = { dateSec: 1_700_000_000, dateNsec: 5 };

  call("coreVersion", () => native.coreVersion());

  call("imageInfo of nothing", () => native.imageInfo({ path: "missing.qcow2" }));
  call("imageCheck of nothing", () => native.imageCheck({ path: "missing.qcow2" }));
  call("imageGrow of nothing", () => native.imageGrow({ path: "missing.qcow2", size: 1 }));
  call("imageRepair of nothing", () =>
    native.imageRepair({ path: "missing.qcow2", repair: "all" }),
  );
  call("snapshotList of nothing", () => native.snapshotList({ path: "missing.qcow2" }));

  call("imageCreate", () => native.imageCreate(create));
  call("imageCreate, all options", () =>
    native.imageCreate({
      path: "other.qcow2",
      size: 2 ** 40,
      clusterSize: 2 << 20,
      compat: "1.1",
      refcountBits: 64,
      lazyRefcounts: true,
      extendedEntries: true,
      compressionType: "zstd",
      noWait: true,
    }),
  );
  call("imageCreate, version 2", () =>
    native.imageCreate({ ...create, path: "old.qcow2", compat: "0.10" }),
  );
  call("imageCreate where it cannot be", () =>
    native.imageCreate({ ...create, path: "missing/disk.qcow2" }),
  );
  call("imageCreate, too large", () =>
    native.imageCreate({ ...create, path: "large.qcow2", size: Number.MAX_SAFE_INTEGER }),
  );

  call("snapshotCreate", () => native.snapshotCreate({ path, name: "one", ...date }));
  call("snapshotCreate, with an id", () =>
    native.snapshotCreate({ path, name: "zwei – ②", leastId: 7, ...date, noWait: true }),
  );
  call("snapshotCreate of a name that exists", () =>
    native.snapshotCreate({ path, name: "one", ...date }),
  );
  call("snapshotList", () => native.snapshotList({ path }));
  call("imageInfo", () => native.imageInfo({ path, forceShare: true }));
  call("imageInfo, all options", () => native.imageInfo({ path: "other.qcow2" }));
  call("imageInfo, version 2", () => native.imageInfo({ path: "old.qcow2" }));

  call("imageGrow", () => native.imageGrow({ path, size: 128 << 20 }));
  call("imageGrow, smaller", () => native.imageGrow({ path, size: 1 << 20 }));
  call("snapshotApply", () => native.snapshotApply({ path, selector: "1" }));
  call("snapshotApply of nothing", () => native.snapshotApply({ path, selector: "nothing" }));
  call("snapshotRename", () =>
    native.snapshotRename({ path, selector: "one", name: "eins", noWait: false }),
  );
  call("imageCheck", () => native.imageCheck({ path, forceShare: false }));
  call("imageRepair", () => native.imageRepair({ path, repair: "leaks" }));
  call("imageRepair, all options", () =>
    native.imageRepair({ path, repair: "all", noWait: true }, () => {}),
  );
  call("imageUsers", () => native.imageUsers({ paths: [path, "missing.qcow2", path] }));

  call("imageClone", () =>
    native.imageClone({ source: path, targets: ["a", "b"], strategy: "copy" }),
  );
  call("imageClone onto what exists", () =>
    native.imageClone({ source: path, targets: ["a"], strategy: "auto" }),
  );
  call("imageClone, all options", () =>
    native.imageClone(
      {
        source: path,
        targets: ["c"],
        strategy: "copy",
        fromSnapshot: "eins",
        keepSnapshots: false,
        noWait: true,
      },
      () => {},
    ),
  );
  const raw = { target: "disk.raw", targetFormat: "raw" } as const;
  call("imageConvert", () =>
    native.imageConvert({ source: path, sourceFormat: "qcow2", ...raw }, () => {}),
  );
  call("imageConvert, all options", () =>
    native.imageConvert({
      source: path,
      sourceFormat: "qcow2",
      fromSnapshot: "eins",
      flatten: true,
      target: "flat.qcow2",
      targetFormat: "qcow2",
      noWait: true,
    }),
  );
  call("imageConvert onto what exists", () =>
    native.imageConvert({ source: path, sourceFormat: "raw", ...raw }),
  );
  call("imageConvert of nothing", () =>
    native.imageConvert({ source: "missing.qcow2", sourceFormat: "qcow2", ...raw }),
  );
  call("snapshotList, settled", () => native.snapshotList({ path, settled: true }));
  call("snapshotDelete of neither name nor id", () => native.snapshotDelete({ path }));
  call("snapshotDelete of an id that nobody has", () => native.snapshotDelete({ path, id: "9" }));
  call("snapshotDelete", () => native.snapshotDelete({ path, selector: "eins" }));
  call("snapshotDelete of nothing", () => native.snapshotDelete({ path, selector: "eins" }));
  call("imageCheck at the end", () => native.imageCheck({ path }));

  playWrongTypes(native, call);
  return answers;
}

/** The names of all operations; an addon exports its enumerations too. */
export function operations(native: Native): string[] {
  const functions = Object.entries(native).filter(([, value]) => typeof value === "function");
  return functions.map(([name]) => name).toSorted();
}

/** Requests that no typed caller makes: each must throw, and none may do anything. */
function playWrongTypes(native: Native, call: (title: string, act: () => unknown) => void): void {
  const untyped = native as unknown as Record<string, (...values: unknown[]) => unknown>;
  for (const name of operations(native).filter((key) => key !== "coreVersion")) {
    const wrong: unknown[] = [undefined, "disk.qcow2", 7, {}, { path: 7, source: 7 }];
    for (const request of wrong) {
      call(`${name}(${JSON.stringify(request)})`, () => untyped[name]?.(request));
    }
  }
  const sizes = [1.5, -1, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY, 10n, "1048576"];
  for (const size of sizes) {
    call(`imageGrow to ${String(size)} ${typeof size}`, () =>
      untyped.imageGrow?.({ path: "old.qcow2", size }),
    );
  }
  for (const mode of ["write", "Shared", 1]) {
    call(`storeLock by ${mode}`, () =>
      untyped.storeLock?.({ root: "/", path: "never", mode, create: true }),
    );
  }
  for (const handle of [1.5, -1, 2 ** 32, "1"]) {
    call(`storeUnlock at ${handle}`, () => untyped.storeUnlock?.({ handle }));
  }
  for (const dateSec of [1.5, -1, 2 ** 32]) {
    call(`snapshotCreate at ${dateSec}`, () =>
      untyped.snapshotCreate?.({ path: "old.qcow2", name: "x", dateSec, dateNsec: 0 }),
    );
  }
  for (const repair of ["none", "All", 1]) {
    call(`imageRepair by ${repair}`, () => untyped.imageRepair?.({ path: "old.qcow2", repair }));
  }
  for (const strategy of ["linked", "Copy", 1]) {
    call(`imageClone by ${strategy}`, () =>
      untyped.imageClone?.({ source: "old.qcow2", targets: ["never"], strategy }),
    );
  }
  for (const targetFormat of ["vmdk", "Raw", 1]) {
    call(`imageConvert to ${targetFormat}`, () =>
      untyped.imageConvert?.({
        source: "old.qcow2",
        sourceFormat: "qcow2",
        target: "never",
        targetFormat,
      }),
    );
  }
  call("imageClone with no function as its callback", () =>
    untyped.imageClone?.({ source: "old.qcow2", targets: ["never"], strategy: "copy" }, 7),
  );
  call("nothing happened", () => [
    native.imageInfo({ path: "never" }).failure?.code,
    native.snapshotList({ path: "old.qcow2" }).report?.snapshots.length,
  ]);
}

/** Copies a source that takes long enough for a callback, which refuses to go on. */
export function playInterruption(native: Native, source: string): Record<string, unknown> {
  const progress: { copiedBytes: number; totalBytes: number }[] = [];
  let thrown: unknown;
  try {
    native.imageClone({ source, targets: ["interrupted"], strategy: "copy" }, (step) => {
      progress.push(step);
      throw new CallbackError({ copied: 1 });
    });
  } catch (error) {
    thrown = error instanceof CallbackError ? error.detail : String(error);
  }
  return {
    calls: progress.length,
    isInside: progress.every((step) => step.copiedBytes <= step.totalBytes),
    thrown,
    left: native.imageInfo({ path: "interrupted" }).failure?.code,
  };
}

/** Only the program itself throws this, so that it can be told from anything else. */
export class CallbackError extends Error {
  readonly detail: unknown;

  constructor(detail: unknown) {
    super("a callback threw");
    this.detail = detail;
  }
}
