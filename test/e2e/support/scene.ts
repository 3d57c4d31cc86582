// A scene: a directory and file systems of its own, gone when the test ends.

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { env, must } from "./programs.ts";

/** A directory that is gone when the test ends. */
export class Scene implements Disposable {
  readonly directory: string;
  readonly #cleanups: (() => void)[] = [];
  #places = 0;

  constructor(base = os.tmpdir()) {
    this.directory = mkdtempSync(path.join(base, "calque-e2e-"));
  }

  path(...names: string[]): string {
    return path.join(this.directory, ...names);
  }

  /** A new empty directory in it. */
  place(): string {
    this.#places += 1;
    const place = this.path(`place-${this.#places}`);
    mkdirSync(place);
    return place;
  }

  /** Done at the end, the last one first. */
  defer(cleanup: () => void): void {
    this.#cleanups.push(cleanup);
  }

  /** A file system of its own, unmounted at the end. Needs root. */
  async mount(
    type: "ext4" | "xfs" | "btrfs",
    size: string,
    options: string[] = [],
  ): Promise<string> {
    const backing = this.path(`${type}-${this.#cleanups.length}.img`);
    const point = `${backing}.mounted`;
    mkdirSync(point);
    await must(["truncate", "-s", size, backing]);
    await must([`mkfs.${type}`, "-q", ...options, backing]);
    await mount(backing, point);
    this.defer(() => unmount(point));
    return point;
  }

  [Symbol.dispose](): void {
    for (const cleanup of this.#cleanups.toReversed()) cleanup();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

// A worker that is stopped in the middle of a test leaves no mount behind.
const mounted = new Set<string>();
process.on("exit", () => mounted.forEach(unmount));

/** Mounts a file with a file system, until `unmount` or the end of the process. Needs root. */
export async function mount(file: string, point: string, options = "loop"): Promise<void> {
  await must(["mount", "-o", options, file, point]);
  mounted.add(point);
}

export function unmount(point: string): void {
  if (!mounted.delete(point)) return;
  const ended = spawnSync("umount", [point], { env });
  // Somebody still has a file open; it goes when they do.
  if (ended.status !== 0) spawnSync("umount", ["-l", point], { env });
}
