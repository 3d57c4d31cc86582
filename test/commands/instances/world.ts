// The program on a real store with real images, in process or as it is built.

import { execFileSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import type { Native } from "../../../src/native.ts";
import type { InstanceRecord } from "../../../src/state/schema.ts";
import { openStore, type Store } from "../../../src/state/store.ts";
import { native, scene } from "../../state/scene.ts";
import { app } from "../app.ts";
import type { Surroundings } from "../transcript.ts";
import { vehicle } from "../vehicle.ts";
import { cloning, converting } from "./core.ts";

interface Options extends Partial<Surroundings> {
  /** For tests that are `played`, as the core is. */
  randomBytes?: (count: number) => Uint8Array;
  /** Operations that are played instead of done. */
  core?: Partial<Native>;
}

export interface World {
  readonly root: string;
  /** The store, to set the scene. */
  readonly store: Store;
  /** The time at which the store does what it does. */
  readonly clock: { sec: number; nsec: number };
  /** The program; in what it says, the store's path is `STORE`. */
  readonly cli: (...args: string[]) => Promise<string>;
  /** The same, called otherwise. */
  readonly called: (options: Options) => World["cli"];
  /** The text of a file of the store, changed. */
  readonly rewrite: (file: string, change: (text: string) => string) => void;
  /** A directory of the store, copied as a backup would be. */
  readonly copy: (source: string, target: string) => void;
  readonly disk: (name: string) => string;
}

export function world(): World {
  const { root, context } = scene();
  const clock = { sec: Date.UTC(2026, 7, 21, 21, 48, 55) / 1000, nsec: 123_000_000 };
  const { randomBytes } = context;
  const ours = vehicle === "process" ? { ...native, ...sharing, randomBytes } : {};
  const called = ({ core = {}, ...options }: Options) => {
    const cli = app({ ...ours, ...core, env: { CALQUE_HOME: root }, ...options });
    return async (...args: string[]) => (await cli(...args)).replaceAll(root, "STORE");
  };
  return {
    root,
    store: openStore({ ...context, now: () => clock }),
    clock,
    cli: called({}),
    called,
    rewrite(file, change) {
      const at = path.join(root, file);
      writeFileSync(at, change(readFileSync(at, "utf8")));
    },
    copy: (source, target) =>
      cpSync(path.join(root, source), path.join(root, target), { recursive: true }),
    disk: (name) => path.join(root, "instances", name, "disk.qcow2"),
  };
}

const shared = { strategy: "reflink", copiedBytes: 65_536 } as const;

/** What is said about how disks are copied does not depend on where the tests run. */
const sharing = { imageClone: cloning(shared), imageConvert: converting(shared) };

/** Everything that a user sees who types these lines, words or texts with spaces, one by one. */
export async function session(
  cli: World["cli"],
  lines: readonly (string | readonly string[])[],
): Promise<string> {
  const seen: string[] = [];
  for (const line of lines) {
    const words = typeof line === "string" ? line.split(" ") : line;
    seen.push(`$ ${words.join(" ")}\n${await cli(...words)}\n`);
  }
  return seen.join("").replaceAll("\u001b", "ESC");
}

/** Takes snapshots as another program does: there is nothing about them but in the image. */
export function takeForeign(file: string, names: readonly string[]): void {
  for (const name of names) execFileSync("qemu-img", ["snapshot", "-c", name, file]);
}

/** A text in which what tells trashed namesakes apart is the same each time. */
export function withoutIds(text: string): string {
  return text.replace(/@\d{8}-\d{6}-[0-9a-f]{4}/g, "@YYYYMMDD-hhmmss-xxxx");
}

/** A text in which it is the same each time which process it was. */
export function withoutProcess(text: string): string {
  return text.replace(/\(process \d+\)/g, "(process PID)");
}

/** The instance's record, as it is stored. */
export function recordOf({ root }: World, name: string): InstanceRecord {
  const file = path.join(root, "instances", name, "instance.json");
  return JSON.parse(readFileSync(file, "utf8")) as InstanceRecord;
}

/** What lies in a directory of the store. */
export function within({ root }: World, directory: string): string[] {
  return readdirSync(path.join(root, directory)).toSorted();
}

/** Takes a snapshot, to set the scene. */
export function take(
  { store }: World,
  instance: string,
  wanted: { name?: string; comment?: string } = {},
): void {
  using change = store.change(instance);
  change.takeSnapshot(wanted);
}
