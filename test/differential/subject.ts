// The image that a row of the table is about, as it is and as it was before something was done.

import { createHash } from "node:crypto";
import { readFileSync, rmSync, writeFileSync } from "node:fs";

import { expect } from "vitest";

import type { Reply } from "../../src/native.ts";
import type { Scene } from "./images.ts";
import type { Row } from "./matrix.ts";
import { calque, type Ending, run } from "./programs.ts";

export const FILE = "disk.qcow2";
const COPY = "copy.qcow2";

interface Before {
  bytes: Buffer;
  /** Of the disk, in bytes. */
  size: number;
  /** What the disk and the snapshot contain, as digests. */
  active: string;
  snapshot: string;
}

export class Subject {
  readonly #scene: Scene;
  readonly #row: Row;
  #before: Before | undefined;

  constructor(scene: Scene, row: Row) {
    this.#scene = scene;
    this.#row = row;
  }

  get file(): string {
    return this.#scene.path(FILE);
  }

  get selector(): string {
    return this.#row.selector ?? "one";
  }

  /** Of the snapshot's disk, in bytes. */
  get snapshotSize(): number {
    return this.#row.snapshotSize ?? this.before.size;
  }

  get before(): Before {
    return this.#before!;
  }

  get hasSnapshot(): boolean {
    return this.list() !== "";
  }

  /** By what qemu-img finds the snapshot. */
  get #snapshot(): string {
    return this.selector === "one" ? "snapshot.name=one" : `snapshot.id=${this.selector}`;
  }

  /** The disk's size in bytes. */
  get size(): number {
    return Number(readFileSync(this.file).readBigUInt64BE(24));
  }

  /** Back to the beginning. */
  reset(): void {
    if (this.#before === undefined) {
      const bytes = readFileSync(this.file);
      this.#before = { bytes, size: this.size, active: "", snapshot: "" };
      this.#before.active = this.content();
      if (this.hasSnapshot) this.#before.snapshot = this.content(this.#snapshot);
    } else {
      writeFileSync(this.file, this.#before.bytes);
      rmSync(this.#scene.path(COPY), { force: true });
    }
  }

  isAsBefore(): boolean {
    return readFileSync(this.file).equals(this.before.bytes);
  }

  /** Repairs a COPIED flag of an L1 entry that is made wrong for that. */
  repair(): Ending {
    this.#flipFlag();
    const ending = this.calque("check", "-r", "all", FILE);
    if (ending.status !== 0) this.#flipFlag();
    return ending;
  }

  #flipFlag(): void {
    const bytes = readFileSync(this.file);
    let at = Number(bytes.readBigUInt64BE(40));
    while (bytes.readBigUInt64BE(at) === 0n) at += 8;
    bytes[at]! ^= 0x80;
    writeFileSync(this.file, bytes);
  }

  calque(...args: string[]): Ending {
    return run(calque, ["image", ...args], this.#scene.place);
  }

  /** What the core answers, as a program would end. */
  reply({ failure }: Reply<unknown>): Ending {
    return failure === undefined
      ? { stdout: "", stderr: "", status: 0 }
      : { stdout: "", stderr: `error: ${failure.reason}`, status: 1 };
  }

  /** The snapshots, as qemu-img lists them; nothing where it cannot. */
  list(file = FILE): string {
    return this.#qemu("snapshot", file, ["-l"]).stdout.split("\n").slice(2).join("\n");
  }

  /**
   * A digest of what a disk contains, but for zeros at its end. qemu-img shows a snapshot as large
   * as the disk is now; what it shows beyond the snapshot's own end is not the guest's.
   */
  content(snapshot?: string, file = FILE): string {
    const raw = this.#scene.path("content.raw");
    const which = snapshot === undefined ? [] : ["-l", snapshot];
    const { status } = this.#qemu("convert", file, ["-O", "raw", ...which], raw);
    if (status !== 0) return "unreadable";
    const whole = readFileSync(raw);
    rmSync(raw);
    const bytes = snapshot === undefined ? whole : whole.subarray(0, this.snapshotSize);
    const end = bytes.findLastIndex((byte) => byte !== 0) + 1;
    return createHash("sha256").update(bytes.subarray(0, end)).digest("hex");
  }

  /** QEMU finds nothing wrong, and what nobody may touch is untouched. */
  expectSound(file = FILE): void {
    const { stdout, stderr, status } = this.#qemu("check", file, []);
    expect({ text: status === 0 ? "" : stdout + stderr, status }).toEqual({ text: "", status: 0 });
    const { kept, cleared } = this.#row;
    const head = readFileSync(this.#scene.path(file)).subarray(0, 1024);
    if (kept !== undefined) {
      const [from, bytes] = kept;
      const was = this.before.bytes.subarray(from, from + bytes);
      expect(head.subarray(from, from + bytes)).toEqual(was);
    }
    if (cleared !== undefined && file === FILE) expect(head[cleared]).toBe(0);
  }

  /** The snapshot is there, and what it was. */
  expectSnapshot(file = FILE): void {
    if (this.before.snapshot === "") return;
    expect(this.content(this.#snapshot, file)).toBe(this.before.snapshot);
  }

  #qemu(verb: string, file: string, args: string[], ...more: string[]): Ending {
    const path = this.#scene.path(file);
    const image = this.#row.secret
      ? ["--object", "secret,id=s,data=abc", "--image-opts"]
      : ["-f", "qcow2"];
    const name = `driver=qcow2,file.filename=${path},encrypt.key-secret=s`;
    const line = [verb, ...image, ...args, this.#row.secret ? name : path, ...more];
    return run("qemu-img", line, this.#scene.place);
  }
}
