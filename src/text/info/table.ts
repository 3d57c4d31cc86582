// `info` for people: labels, and an empty line between two entries.

import {
  type InstanceDetails,
  type Mount,
  type Show,
  showLines,
  type SnapshotDetails,
} from "../entries.ts";
import { humanSize } from "../human-size.ts";
import { labelled, pad } from "../table.ts";
import { byteLength } from "../name.ts";
import { localTimestamp } from "../timestamp.ts";

const NOTHING = "--";
const SHOWN_HASH_LENGTH = 12;

export function instanceTable(instance: InstanceDetails, show: Show): string {
  const { runtime } = instance;
  return [
    labelled("Name", [show(instance.name)]),
    labelled("State", [instance.state]),
    labelled("Snapshots", [String(instance.snapshotCount ?? NOTHING)]),
    labelled("IPv4", orNothing(instance.ipv4)),
    labelled("Release", [runtime?.release ?? NOTHING]),
    labelled("Image hash", [show(imageText(instance))]),
    labelled("CPU(s)", [runtime === undefined ? NOTHING : String(runtime.cpuCount)]),
    labelled("Load", [runtime?.load ?? NOTHING]),
    labelled("Disk usage", [
      runtime === undefined ? NOTHING : usage(runtime.diskUsed, runtime.diskTotal),
    ]),
    labelled("Memory usage", [
      runtime === undefined ? NOTHING : usage(runtime.memoryUsed, runtime.memoryTotal),
    ]),
    labelled("Mounts", orNothing(instanceMounts(instance.mounts, show))),
  ].join("");
}

export function snapshotTable(snapshot: SnapshotDetails, show: Show): string {
  const { cpus, memoryBytes, comment } = snapshot;
  return [
    labelled("Snapshot", [show(snapshot.name)]),
    labelled("Instance", [show(snapshot.instance)]),
    labelled("CPU(s)", [cpus === undefined ? NOTHING : String(cpus)]),
    labelled("Disk space", [humanSize(snapshot.diskBytes)]),
    labelled("Memory size", [memoryBytes === undefined ? NOTHING : humanSize(memoryBytes)]),
    labelled("Mounts", orNothing(mountLines(snapshot.mounts, show))),
    labelled("Created", [localTimestamp(snapshot.createdSec)]),
    labelled("Parent", [show(snapshot.parent) || NOTHING]),
    labelled("Children", orNothing(snapshot.children.map(show))),
    labelled("Comment", comment === "" ? [NOTHING] : showLines(comment, show)),
  ].join("");
}

function usage(used: number, total: number): string {
  return `${humanSize(used)} out of ${humanSize(total)}`;
}

function imageText({ imageHash, imageRelease }: InstanceDetails): string {
  if (imageHash === "") return "Not Available";
  const hash = imageHash.slice(0, SHOWN_HASH_LENGTH);
  return imageRelease === "" ? hash : `${hash} (Ubuntu ${imageRelease})`;
}

/** Each mount, and below it how users and groups are mapped. */
function instanceMounts(mounts: readonly Mount[], show: Show): string[] {
  const lines = mountLines(mounts, show);
  return mounts.flatMap(({ uidMappings, gidMappings }, at) => [
    lines[at]!,
    `    UID map: ${uidMappings.map(show).join(", ")}`,
    `    GID map: ${gidMappings.map(show).join(", ")}`,
  ]);
}

/** `source => target`, the arrows below each other. */
function mountLines(mounts: readonly Pick<Mount, "source" | "target">[], show: Show): string[] {
  const sources = mounts.map(({ source }) => show(source));
  const width = Math.max(...sources.map(byteLength));
  return mounts.map(({ target }, at) => `${pad(sources[at]!, width)} => ${show(target)}`);
}

function orNothing(lines: readonly string[]): readonly string[] {
  return lines.length === 0 ? [NOTHING] : lines;
}
