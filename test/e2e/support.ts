// The scene of the end-to-end tests: images made by qemu-img and qemu-io, the built executable, file
// systems on loop devices, and what qemu-img says about the result. Everything is asynchronous, so
// that the tests of a file, which mostly wait for disks, overlap.

import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { expect } from "vitest";

const root = path.resolve(import.meta.dirname, "../..");
/** The program under test; CALQUE names another one. */
export const executable = path.resolve(process.env.CALQUE ?? path.join(root, "dist/calque"));
export const isRoot = process.getuid?.() === 0;
export const nobody = 65534;

const env = { PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin`, LC_ALL: "C", TZ: "UTC" };

/** Whether all these programs are installed. */
export function have(...programs: string[]): boolean {
  return programs.every((name) => env.PATH.split(":").some((dir) => existsSync(`${dir}/${name}`)));
}

/** Without these nothing here can be made or judged. */
export const judged = have("qemu-img", "qemu-io");

export interface Ending {
  status: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

interface Surroundings {
  cwd?: string;
  /** After this many milliseconds it is killed, and `signal` says so. */
  timeout?: number;
}

/** Runs a program to its end, however it ends. */
export function run(
  command: string[],
  { cwd, timeout = 60_000 }: Surroundings = {},
): Promise<Ending> {
  const [program = "", ...args] = command;
  const options = { cwd, env, timeout, killSignal: "SIGKILL", maxBuffer: 1 << 28 } as const;
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      if (error !== null && typeof error.code === "string") reject(error);
      else resolve({ status: child.exitCode, signal: child.signalCode, stdout, stderr });
    });
    child.stdin?.end();
  });
}

/** `calque image …` on the built executable. */
export function image(args: string[], where: Surroundings = {}): Promise<Ending> {
  return run([executable, "image", ...args], where);
}

/** Runs a program that has to succeed; what it wrote to stdout. */
export async function must(command: string[], where: Surroundings = {}): Promise<string> {
  const { status, signal, stdout, stderr } = await run(command, where);
  if (status !== 0) {
    throw new Error(`${command.join(" ")}: ${status ?? signal}\n${stdout}${stderr}`);
  }
  return stdout;
}

/** `calque image …` that has to succeed. */
export function mustImage(args: string[], where: Surroundings = {}): Promise<string> {
  return must([executable, "image", ...args], where);
}

/** Commands of a guest that has the image; `write -P 7 0 64k` and the like. */
export async function guest(file: string, ...commands: string[]): Promise<void> {
  const list = commands.flatMap((command) => ["-c", command]);
  const said = await must(["qemu-io", "-f", "qcow2", ...list, file]);
  if (/failed|error/i.test(said)) throw new Error(`qemu-io on ${file}: ${said}`);
}

export function qemuImg(...args: string[]): Promise<string> {
  return must(["qemu-img", ...args]);
}

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
    await must(["mount", "-o", "loop", backing, point]);
    mounted.add(point);
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

function unmount(point: string): void {
  if (!mounted.delete(point)) return;
  const ended = spawnSync("umount", [point], { env });
  // Somebody still has a file open; it goes when they do.
  if (ended.status !== 0) spawnSync("umount", ["-l", point], { env });
}

/** What the disk holds: active content, then every snapshot by name. All figures by qemu-img. */
export interface View {
  /** `qemu-img check`'s status. */
  check: number | null;
  active: string;
  /** `ID NAME: digest of the content`, in the order of the table. */
  snapshots: string[];
}

interface Listed {
  id: string;
  name: string;
}

/** Looks at the image through qemu-img's eyes. */
export async function view(file: string): Promise<View> {
  const { status } = await run(["qemu-img", "check", "-q", "-f", "qcow2", file]);
  const listed = await snapshotsOf(file);
  const snapshots = [];
  for (const { id, name } of listed) {
    snapshots.push(`${id} ${name}: ${await digest(file, id)}`);
  }
  return { check: status, active: await digest(file), snapshots };
}

/** The snapshots that qemu-img lists. */
export async function snapshotsOf(file: string): Promise<Listed[]> {
  const info = JSON.parse(await qemuImg("info", "-f", "qcow2", "--output=json", file)) as {
    snapshots?: Listed[];
  };
  return (info.snapshots ?? []).map(({ id, name }) => ({ id, name }));
}

let digests = 0;

/** A digest of what a guest would read, of the disk as it is or at a snapshot. */
export async function digest(file: string, snapshotId?: string): Promise<string> {
  digests += 1;
  const raw = path.join(os.tmpdir(), `calque-e2e-raw-${process.pid}-${digests}`);
  const from = snapshotId === undefined ? [] : ["-l", `snapshot.id=${snapshotId}`];
  try {
    await qemuImg("convert", "-f", "qcow2", "-O", "raw", ...from, file, raw);
    const bytes = readFileSync(raw);
    return `${bytes.length}:${sha256(bytes)}`;
  } finally {
    rmSync(raw, { force: true });
  }
}

export function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex").slice(0, 16);
}

export function digestOfFile(file: string): string {
  return sha256(readFileSync(file));
}

/** A number generator with a seed, for sequences that can be repeated. */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/**
 * An image of 1 MiB with clusters of 1 KiB, so that there are several tables of each kind: data,
 * zeros and holes, shared and not, and the snapshots `one` and `two`.
 */
export async function eventful(file: string, options = "cluster_size=1k"): Promise<void> {
  await qemuImg("create", "-q", "-f", "qcow2", "-o", options, file, "1M");
  await guest(file, "write -P 1 0 200k", "write -P 2 500k 30k", "write -z 64k 8k");
  await qemuImg("snapshot", "-c", "one", file);
  await guest(file, "write -P 3 100k 90k", "write -P 4 900k 20k");
  await qemuImg("snapshot", "-c", "two", file);
  await guest(file, "write -P 5 4k 20k", "write -P 6 700k 9k", "discard 520k 10k");
}

/** Everything that changes something, on `disk.qcow2` in the current directory. */
export const changes = [
  { name: "snapshot -c", args: ["snapshot", "-c", "three", "disk.qcow2"] },
  { name: "snapshot -a", args: ["snapshot", "-a", "one", "disk.qcow2"] },
  { name: "snapshot -d", args: ["snapshot", "-d", "one", "disk.qcow2"] },
  { name: "snapshot --rename", args: ["snapshot", "--rename", "one", "eins", "disk.qcow2"] },
  { name: "clone", args: ["clone", "disk.qcow2", "a.qcow2", "b.qcow2"] },
  {
    name: "clone of five",
    args: ["clone", "disk.qcow2", ..."abcde".split("").map((name) => `${name}.qcow2`)],
  },
  {
    name: "clone --from-snapshot",
    args: ["clone", "--strategy", "copy", "--from-snapshot", "one", "disk.qcow2", "a.qcow2"],
  },
  { name: "clone --keep-snapshots", args: ["clone", "--keep-snapshots", "disk.qcow2", "a.qcow2"] },
  { name: "create", args: ["create", "-q", "new.qcow2", "4M"] },
] as const;

/** A copy of an image in a directory of its own, as `disk.qcow2`. */
export function copyInto(place: string, original: string): string {
  const file = path.join(place, "disk.qcow2");
  copyFileSync(original, file);
  return file;
}

/** Every file of a directory: name → what it holds. Bytes that were seen before are not asked again. */
export async function look(place: string): Promise<Record<string, View>> {
  const all: Record<string, View> = {};
  for (const name of readdirSync(place).toSorted()) {
    const file = path.join(place, name);
    const key = digestOfFile(file);
    const known = seen.get(key) ?? view(file);
    seen.set(key, known);
    all[name] = await known;
  }
  return all;
}

const seen = new Map<string, Promise<View>>();

/** A command that refuses: a clear error, no panic, not killed by the clock. */
export function expectRefusal(ending: Ending, because?: RegExp | string): void {
  expect(ending).toMatchObject({ status: 1, signal: null });
  expect(ending.stderr).toMatch(/^error: \S/m);
  expect(ending.stderr).not.toMatch(/panicked|internal error|RUST_BACKTRACE/i);
  if (because !== undefined) expect(ending.stderr).toMatch(because);
}

/** Works on `items`, a few at a time. */
export async function inParallel<Item>(
  items: readonly Item[],
  work: (item: Item) => Promise<void>,
  atOnce = 4,
): Promise<void> {
  const rest = items.values();
  const worker = async (): Promise<void> => {
    for (const item of rest) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

/** A process that holds an image; ended, and waited for, at the end of the block. */
export class Holder implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#ended = new Promise((resolve) => child.once("exit", resolve));
  }

  /** qemu-io with the image open; it prompts when it has it. */
  static async io(file: string, ...flags: string[]): Promise<Holder> {
    const child = spawn("qemu-io", [...flags, file], { env, stdio: ["pipe", "pipe", "inherit"] });
    const holder = new Holder(child);
    await new Promise((resolve) => child.stdout.once("data", resolve));
    return holder;
  }

  /** Any program, from when `isReady` says so. */
  static async of(command: string[], isReady: () => boolean | Promise<boolean>): Promise<Holder> {
    const [program = "", ...args] = command;
    const holder = new Holder(spawn(program, args, { env, stdio: "ignore" }));
    await until(isReady);
    return holder;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill("SIGKILL");
    }
    await this.#ended;
  }
}

export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await isSo()); tries += 1) {
    if (tries > 1000) throw new Error("it never happened");
    await sleep(10);
  }
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** How a system call goes wrong in a traced command. */
export interface Trouble {
  call: string;
  /** As strace writes it: `error=EIO`, `signal=SIGKILL`, `retval=0`. */
  what: string;
  /** The number of the call, from 1; with a `+`, that one and all that follow. */
  when: string;
}

/** Runs `calque image …` in trouble; whether it met any is the second answer. */
export async function inTrouble(
  args: readonly string[],
  { call, what, when }: Trouble,
  cwd: string,
): Promise<[Ending, boolean]> {
  const trace = `${cwd}.trace`;
  writeFileSync(trace, "");
  // With a filter in the kernel other calls are not slowed down, but no signal is sent.
  const filter = what.startsWith("signal=") ? [] : ["--seccomp-bpf"];
  const strace = ["strace", "-f", ...filter, "-o", trace, "-e", `trace=${call}`];
  const inject = ["-e", `inject=${call}:${what}:when=${when}`];
  const ending = await run([...strace, ...inject, executable, "image", ...args], { cwd });
  const text = readFileSync(trace, "utf8");
  rmSync(trace);
  return [ending, /\(INJECTED\)|killed by SIGKILL/.test(text)];
}
