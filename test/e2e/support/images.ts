// An image with a past, and everything that changes one.

import { copyFileSync } from "node:fs";
import path from "node:path";

import { guest, qemuImg } from "./programs.ts";

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
