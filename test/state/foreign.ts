// What other programs do to an image: snapshots taken and deleted behind the store's back, and
// entries that Calque would not make.

import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from "node:fs";

import { unwrap } from "../../src/native.ts";
import { native } from "./scene.ts";

/** `qemu-img snapshot -c`: the next id, no record. */
export function takeForeign(disk: string, name: string, dateSec = 1_700_000_000): string {
  const request = { path: disk, name, dateSec, dateNsec: 0 };
  return unwrap(native.snapshotCreate(request)).id;
}

/** `qemu-img snapshot -d`. */
export function deleteForeign(disk: string, name: string): void {
  unwrap(native.snapshotDelete({ path: disk, selector: name }));
}

/** A snapshot with an id and a name of any bytes, as only other programs write them. */
export function forge(disk: string, { id, name }: { id: string; name: string }): void {
  const [idBytes, nameBytes] = [Buffer.from(id, "latin1"), Buffer.from(name, "latin1")];
  // What is written over is as long, whatever its own id is.
  const total = idBytes.length + nameBytes.length;
  const next = `${unwrap(native.snapshotList({ path: disk })).snapshots.length}`.length;
  takeForeign(disk, "x".repeat(total - next));
  const image = readFileSync(disk);
  let at = Number(image.readBigUInt64BE(64));
  for (let left = image.readUInt32BE(60) - 1; left > 0; left -= 1) at += entryLength(image, at);
  const variable = image.readUInt16BE(at + 12) + image.readUInt16BE(at + 14);
  if (variable !== total) throw new Error(`${variable} bytes, not ${total}`);
  image.writeUInt16BE(idBytes.length, at + 12);
  image.writeUInt16BE(nameBytes.length, at + 14);
  Buffer.concat([idBytes, nameBytes]).copy(image, at + 40 + image.readUInt32BE(at + 36));
  overwrite(disk, image);
}

/** Writes bytes into the header, as a guest's start or another program may. */
export function setHeaderByte(disk: string, at: number, value: number): void {
  const image = readFileSync(disk);
  image[at] = value;
  overwrite(disk, image);
}

function entryLength(image: Buffer, at: number): number {
  const [id, name] = [image.readUInt16BE(at + 12), image.readUInt16BE(at + 14)];
  return Math.ceil((40 + image.readUInt32BE(at + 36) + id + name) / 8) * 8;
}

function overwrite(disk: string, image: Buffer): void {
  const file = openSync(disk, "r+");
  writeSync(file, image, 0, image.length, 0);
  fsyncSync(file);
  closeSync(file);
}
