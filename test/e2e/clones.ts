// What the tests of clones have in common: the report, and the file system's own opinion.

import { have, isRoot, must, mustImage } from "./support.ts";

/** Whether file systems can be made and asked here. */
export const systems = isRoot && have("mkfs.xfs", "mkfs.btrfs", "mkfs.ext4", "filefrag");

/** A clone, as its report has it. */
export interface Made {
  target: string;
  strategy: string;
  reason?: string;
  "copied-bytes": number;
  "shared-bytes"?: number;
  "backing-filename"?: string;
}

export interface Report {
  source: string;
  clones: Made[];
}

export async function cloned(args: string[], cwd: string): Promise<Report> {
  return JSON.parse(await mustImage(["clone", "--output", "json", ...args], { cwd })) as Report;
}

/** Bytes of a file that own blocks, and those of them that the file system says are shared. */
export async function blocksOf(file: string): Promise<{ allocated: number; shared: number }> {
  await must(["sync", file]);
  const map = await must(["filefrag", "-v", "-b512", file]);
  let [allocated, shared] = [0, 0];
  for (const line of map.split("\n")) {
    const extent = /^ *\d+: +\d+\.\. +\d+: +\d+\.\. +\d+: +(\d+):(.*)$/.exec(line);
    if (extent === null) continue;
    allocated += Number(extent[1]) * 512;
    if (/shared/.test(extent[2]!)) shared += Number(extent[1]) * 512;
  }
  return { allocated, shared };
}
