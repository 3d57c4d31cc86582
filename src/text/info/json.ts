// `info` in JSON. The types are Multipass's: counts are strings, and so are sizes of disks, but not
// those of memory.

import type { InstanceDetails, SnapshotDetails } from "../entries.ts";
import { humanSize } from "../human-size.ts";
import type { Json } from "../json.ts";
import { formatMultipassJson } from "../multipass-json.ts";
import { localTimestamp } from "../timestamp.ts";

export function infoJson(
  instances: readonly InstanceDetails[],
  snapshots: readonly SnapshotDetails[],
): string {
  const info = new Map(instances.map((instance) => [instance.name, instanceKeys(instance)]));
  const lists = new Map<string, Map<string, Json>>();
  for (const snapshot of snapshots) {
    let list = lists.get(snapshot.instance);
    if (list === undefined) {
      list = new Map();
      lists.set(snapshot.instance, list);
      const keys = info.get(snapshot.instance) ?? new Map<string, Json>();
      info.set(snapshot.instance, keys.set("snapshots", list));
    }
    list.set(snapshot.name, snapshotKeys(snapshot));
  }
  return formatMultipassJson({ errors: [], info });
}

function instanceKeys(instance: InstanceDetails): Map<string, Json> {
  const { runtime } = instance;
  const disk =
    runtime === undefined
      ? {}
      : { total: String(runtime.diskTotal), used: String(runtime.diskUsed) };
  const memory =
    runtime === undefined ? {} : { total: runtime.memoryTotal, used: runtime.memoryUsed };
  return new Map<string, Json>([
    ["cpu_count", runtime === undefined ? "" : String(runtime.cpuCount)],
    ["disks", { sda1: disk }],
    ["image_hash", instance.imageHash],
    ["image_release", instance.imageRelease],
    ["ipv4", instance.ipv4],
    ["load", runtime?.load.split(" ").map(Number) ?? []],
    ["memory", memory],
    [
      "mounts",
      new Map(
        instance.mounts.map(({ target, source, uidMappings, gidMappings }) => [
          target,
          { gid_mappings: gidMappings, source_path: source, uid_mappings: uidMappings },
        ]),
      ),
    ],
    ["release", runtime?.release ?? ""],
    ["snapshot_count", String(instance.snapshotCount ?? "")],
    ["state", instance.state],
    ...instance.additions,
  ]);
}

function snapshotKeys(snapshot: SnapshotDetails): Map<string, Json> {
  const { cpus, memoryBytes } = snapshot;
  return new Map<string, Json>([
    ["children", snapshot.children],
    ["comment", snapshot.comment],
    ["cpu_count", cpus === undefined ? "" : String(cpus)],
    ["created", localTimestamp(snapshot.createdSec)],
    ["disk_space", humanSize(snapshot.diskBytes)],
    ["memory_size", memoryBytes === undefined ? "" : humanSize(memoryBytes)],
    [
      "mounts",
      new Map(snapshot.mounts.map(({ target, source }) => [target, { source_path: source }])),
    ],
    ["parent", snapshot.parent],
    ["size", ""],
    ...snapshot.additions,
  ]);
}
