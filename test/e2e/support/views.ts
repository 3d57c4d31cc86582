// What is in an image, through qemu-img's eyes: content as digests, the snapshots, the verdict.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { qemuImg, run } from "./programs.ts";

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

/**
 * Every file of a directory: name → what it holds. Bytes that were seen before are not asked again.
 */
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
