// Calls every operation on the files of a store, and on files that move into it, and writes down
// what came back: the same through either door.

import type { Native } from "../../src/native.ts";
import { type Answers, recorder } from "./scene.ts";

/** All answers about the store `store` in `directory`. */
export function playStore(native: Native, directory: string): Answers {
  const { answers, call } = recorder();
  const root = `${directory}/store`;

  call("storeOpen of nothing", () => native.storeOpen({ root }));
  call("storeOpen of a relative path", () => native.storeOpen({ root: "store", create: true }));
  call("storeOpen", () => native.storeOpen({ root, create: true }));

  call("storeMakeDirectory", () => native.storeMakeDirectory({ root, path: "instances" }));
  call("storeMakeDirectory again", () => native.storeMakeDirectory({ root, path: "instances" }));
  call("storeCreate", () =>
    native.storeCreate({ root, path: "instances/a", text: "Grüße – ②\n", durable: true }),
  );
  call("storeCreate again", () => native.storeCreate({ root, path: "instances/a", text: "" }));
  call("storeReplace", () => native.storeReplace({ root, path: "instances/b", text: "b" }));
  call("storeReplace of a directory", () =>
    native.storeReplace({ root, path: "instances", text: "" }),
  );
  call("storeAppend", () => native.storeAppend({ root, path: "instances/b", text: "c" }));
  call("storeAppend where it cannot be", () =>
    native.storeAppend({ root, path: "missing/b", text: "c" }),
  );
  call("storeRead", () =>
    native.storeRead({
      root,
      paths: ["instances/a", "instances/b", "missing", "instances", "../store"],
    }),
  );
  call("storeRead of nothing", () => native.storeRead({ root: `${directory}/missing`, paths: [] }));
  call("storeList", () => withoutInodes(native.storeList({ root, path: "instances" })));
  call("storeList of the root", () => withoutInodes(native.storeList({ root, path: "." })));
  call("storeList of a file", () => native.storeList({ root, path: "instances/a" }));
  call("storeStat", () =>
    withoutInodes(native.storeStat({ root, paths: ["instances/a", "missing", "../store"] })),
  );
  call("storeProtect", () => native.storeProtect({ root, paths: ["instances/a"] }));
  call("storeProtect of nothing", () => native.storeProtect({ root, paths: ["missing"] }));
  call("storeSync", () => native.storeSync({ root, paths: [".", "instances", "instances/a"] }));
  call("storeSync of everything", () => native.storeSync({ root }));
  call("storeSync of nothing", () => native.storeSync({ root, paths: ["missing"] }));

  const lock = { root, path: "store.lock" } as const;
  call("storeLock of nothing", () => native.storeLock({ ...lock, mode: "exclusive" }));
  call("storeLock", () =>
    native.storeLock({ ...lock, mode: "exclusive", wait: true, create: true }, () => {}),
  );
  call("storeLock, taken", () => native.storeLock({ ...lock, mode: "shared", wait: false }));
  call("storeLock, held already", () => native.storeLock({ ...lock, mode: "shared", wait: true }));
  call("storeUnlock", () => native.storeUnlock({ handle: 1 }));
  call("storeUnlock again", () => native.storeUnlock({ handle: 1 }));

  call("storeRename", () =>
    native.storeRename({ root, source: "instances/b", target: "instances/c", durable: true }),
  );
  call("storeRename onto what exists", () =>
    native.storeRename({ root, source: "instances/a", target: "instances/c" }),
  );
  call("storeRename of nothing", () =>
    native.storeRename({ root, source: "missing", target: "instances/d" }),
  );

  playMove(native, directory, call);

  call("storeRemove", () => native.storeRemove({ root, path: "instances" }));
  call("storeRemove again", () => native.storeRemove({ root, path: "instances" }));
  call("storeRemove of the root", () => native.storeRemove({ root, path: "." }));
  call("storeList at the end", () => withoutInodes(native.storeList({ root, path: "." })));
  return answers;
}

/** Moves a disk into the store, where it keeps its stamp. */
function playMove(
  native: Native,
  directory: string,
  call: (title: string, act: () => unknown) => void,
): void {
  const root = `${directory}/store`;
  const path = "store/instances/a";
  const source = "store/instances/a";
  const { stamp = "" } = native.fileStamp({ path }).report ?? {};
  call("fileStamp", () => {
    const again = native.fileStamp({ path });
    return again.report === undefined ? again : { report: again.report.stamp === stamp };
  });
  call("fileStamp of nothing", () => native.fileStamp({ path: "missing" }));
  call("storeLink", () => native.storeLink({ root, source, target: "linked" }));
  call("storeLink onto what exists", () => native.storeLink({ root, source, target: "linked" }));
  call("storeLink of nothing", () => native.storeLink({ root, source: "missing", target: "x" }));
  call("fileRemove of another", () => native.fileRemove({ path, stamp: "" }));
  call("fileRemove", () => native.fileRemove({ path, stamp }));
  call("fileRemove again", () => native.fileRemove({ path, stamp }));
}

/** Every inode is a number of its own; that it is one counts. */
function withoutInodes(reply: unknown): unknown {
  const text = JSON.stringify(reply, (key, value: unknown) =>
    key === "inode" ? /^\d+$/.test(String(value)) : value,
  );
  return JSON.parse(text);
}
