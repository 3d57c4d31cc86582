// Power cuts: a command runs on a file system of its own, on a loop device; at each of its system
// calls it is stopped, and the file behind the loop device is copied as it is. Such a copy holds
// what has reached the disk by then and nothing else: what was written and not synced is missing.
// `kill -9` cannot show a forgotten sync; this can.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { must, type Scene, sleep } from "./support.ts";
import { mount, unmount } from "./support/scene.ts";

export type FileSystem = "ext4" | "xfs" | "btrfs";

/** As small as each of them can be made. */
const SIZES: Record<FileSystem, string> = { ext4: "64M", xfs: "300M", btrfs: "114M" };

/**
 * A journal that is committed after some seconds, as usual, would do what a command forgot, where
 * the machine is busy. Copies of one disk have one UUID, which XFS would refuse to mount twice.
 */
const OPTIONS: Record<FileSystem, string> = {
  ext4: "commit=300",
  xfs: "nouuid",
  btrfs: "commit=300",
};

/**
 * What changes a disk or makes it durable; but not copy_file_range, which a signal interrupts before
 * it has done anything, so that it would be stopped at for ever.
 */
const WRITING = [
  "write",
  "pwrite64",
  "fsync",
  "fdatasync",
  "syncfs",
  "ftruncate",
  "fallocate",
  "mkdirat",
  "renameat",
  "renameat2",
  "linkat",
  "unlinkat",
].join(",");

/** A disk with a file system, as a file. */
export class Disk {
  readonly file: string;
  readonly #scene: Scene;
  readonly #type: FileSystem;

  private constructor(scene: Scene, type: FileSystem, file: string) {
    this.#scene = scene;
    this.#type = type;
    this.file = file;
  }

  static async make(
    scene: Scene,
    type: FileSystem,
    options: readonly string[] = [],
  ): Promise<Disk> {
    const file = path.join(scene.place(), "disk");
    await must(["truncate", "-s", SIZES[type], file]);
    await must([`mkfs.${type}`, "-q", ...options, file]);
    return new Disk(scene, type, file);
  }

  /** What has reached the disk, on a disk of its own. */
  async copy(): Promise<Disk> {
    const file = path.join(this.#scene.place(), "disk");
    await must(["cp", "--sparse=always", this.file, file]);
    return new Disk(this.#scene, this.#type, file);
  }

  /** Mounts it for `use`, which gets the path of its root. */
  async mounted<Result>(
    mode: "rw" | "ro",
    use: (root: string) => Promise<Result>,
  ): Promise<Result> {
    const point = `${this.file}.mounted`;
    mkdirSync(point, { recursive: true });
    // The journal has to be replayed, which a loop device that is read-only itself would not allow.
    await mount(this.file, point, `loop,${OPTIONS[this.#type]}`);
    try {
      if (mode === "ro") await must(["mount", "-o", "remount,ro", point]);
      return await use(point);
    } finally {
      unmount(point);
    }
  }

  [Symbol.dispose](): void {
    rmSync(path.dirname(this.file), { recursive: true, force: true });
  }
}

/** A cut: what was on the disk after a system call, and which one that was. */
export interface Cut {
  disk: Disk;
  story: string;
  /** Whether the command had said by then that it is done. */
  isDone: boolean;
}

export interface CutOptions {
  /** Syncs that are only claimed to have been done, as strace numbers calls: `fsync:2`. */
  forgotten?: { call: string; when: string };
  /** Variables of the command. */
  env?: Record<string, string>;
  /** Called at each stop before the disk is copied: a kernel that writes back what it likes. */
  writeBack?: (stop: number) => Promise<void>;
}

/**
 * Runs a command on a mounted `disk` and copies the disk after each of its writing system calls.
 * The command must succeed.
 */
export async function cutPower(
  disk: Disk,
  command: string[],
  { forgotten, env = {}, writeBack }: CutOptions = {},
): Promise<Cut[]> {
  const trace = `${disk.file}.trace`;
  writeFileSync(trace, "");
  const stop = ["-e", `inject=${WRITING}:signal=SIGSTOP`];
  // The later rule wins for its call; that call is not stopped at, the next one is.
  const forget =
    forgotten === undefined
      ? []
      : ["-e", `inject=${forgotten.call}:retval=0:when=${forgotten.when}`];
  const args = ["-f", "-o", trace, "-e", `trace=${WRITING}`, ...stop, ...forget, ...command];
  const child = spawn("strace", args, {
    env: { ...process.env, LC_ALL: "C", TZ: "UTC", ...env },
    stdio: "pipe",
  });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (said += text));
  }
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  const end: { status?: number | null } = {};
  void ended.then((code) => (end.status = code));

  const cuts: Cut[] = [];
  while (end.status === undefined) {
    const calls = readFileSync(trace, "utf8");
    const stops = calls.match(/^\d+ +--- stopped by SIGSTOP ---$/gm) ?? [];
    if (stops.length > cuts.length) {
      await writeBack?.(stops.length);
      const story = describe(calls, cuts.length + 1);
      cuts.push({ disk: await disk.copy(), story, isDone: false });
      const pid = Number(/^\d+/.exec(stops.at(-1)!)?.[0]);
      await resume(pid, () => end.status !== undefined || goesOn(trace, cuts.length));
    } else {
      await sleep(1);
    }
  }
  if (end.status !== 0) throw new Error(`${command.join(" ")}: ${end.status}\n${said}`);
  cuts.push({ disk: await disk.copy(), story: "after the end", isDone: true });
  return cuts;
}

/** Lets a stopped process go on; it may not have stopped for good when it is first told to. */
async function resume(pid: number, isResumed: () => boolean): Promise<void> {
  while (!isResumed()) {
    process.kill(pid, "SIGCONT");
    await sleep(2);
  }
}

/** Whether the trace tells of life after that stop. */
function goesOn(trace: string, stop: number): boolean {
  const parts = readFileSync(trace, "utf8").split("--- stopped by SIGSTOP ---\n");
  return (parts[stop] ?? "") !== "";
}

/** The call that the stop came with, and its number among all. */
function describe(calls: string, stop: number): string {
  const before = calls.split("--- stopped by SIGSTOP ---")[stop - 1] ?? "";
  const call = before.match(/^\d+ +[a-z_0-9]+\(.*$/gm)?.at(-1) ?? "the start";
  return `after call ${stop}: ${call.replace(/^\d+ +/, "").slice(0, 120)}`;
}
