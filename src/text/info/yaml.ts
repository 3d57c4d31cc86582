// `info` in YAML. What Multipass calls `used` in JSON is `usage` here, for memory only.

import type { InstanceDetails, SnapshotDetails } from "../entries.ts";
import { humanSize } from "../human-size.ts";
import { localTimestamp } from "../timestamp.ts";
import { formatYaml, type Yaml } from "../yaml.ts";

export function infoYaml(
  instances: readonly InstanceDetails[],
  snapshots: readonly SnapshotDetails[],
): string {
  // Each name has a list of one mapping; `errors` is the name of a list, too, also of an instance.
  const names = new Map<string, Yaml[]>([["errors", [null]]]);
  const add = (name: string, keys: Map<string, Yaml>): Map<string, Yaml> => {
    const list = names.get(name) ?? [];
    list.push(keys);
    names.set(name, list);
    return keys;
  };
  const shown = new Map(
    instances.map((instance) => [instance.name, add(instance.name, instanceKeys(instance))]),
  );
  const lists = new Map<string, Yaml[]>();
  for (const snapshot of snapshots) {
    const { instance, name } = snapshot;
    let list = lists.get(instance);
    if (list === undefined) {
      list = [];
      lists.set(instance, list);
      const keys = shown.get(instance) ?? add(instance, new Map());
      keys.set("snapshots", list);
    }
    list.push(new Map([[name, snapshotKeys(snapshot)]]));
  }
  return formatYaml(names);
}

function instanceKeys(instance: InstanceDetails): Map<string, Yaml> {
  const { runtime, mounts } = instance;
  const load: [string, Yaml][] = runtime === undefined ? [] : [["load", runtime.load.split(" ")]];
  return new Map<string, Yaml>([
    ["state", instance.state],
    ["snapshot_count", instance.snapshotCount ?? null],
    ["image_hash", instance.imageHash || null],
    ["image_release", instance.imageRelease || null],
    ["release", runtime?.release ?? null],
    ["cpu_count", runtime?.cpuCount ?? null],
    ...load,
    [
      "disks",
      [
        new Map([
          [
            "sda1",
            new Map([
              ["used", runtime?.diskUsed ?? null],
              ["total", runtime?.diskTotal ?? null],
            ]),
          ],
        ]),
      ],
    ],
    [
      "memory",
      new Map([
        ["usage", runtime?.memoryUsed ?? null],
        ["total", runtime?.memoryTotal ?? null],
      ]),
    ],
    ["ipv4", instance.ipv4],
    [
      "mounts",
      orNull(
        mounts.map(({ target, source, uidMappings, gidMappings }) => [
          target,
          new Map<string, Yaml>([
            ["uid_mappings", uidMappings],
            ["gid_mappings", gidMappings],
            ["source_path", source],
          ]),
        ]),
      ),
    ],
    ...instance.additions,
  ]);
}

function snapshotKeys(snapshot: SnapshotDetails): Map<string, Yaml> {
  const { memoryBytes, mounts } = snapshot;
  return new Map<string, Yaml>([
    ["size", null],
    ["cpu_count", snapshot.cpus ?? null],
    ["disk_space", humanSize(snapshot.diskBytes)],
    ["memory_size", memoryBytes === undefined ? null : humanSize(memoryBytes)],
    [
      "mounts",
      orNull(mounts.map(({ target, source }) => [target, new Map([["source_path", source]])])),
    ],
    ["created", localTimestamp(snapshot.createdSec)],
    ["parent", snapshot.parent || null],
    ["children", snapshot.children],
    ["comment", snapshot.comment || null],
    ...snapshot.additions,
  ]);
}

function orNull(entries: [string, Yaml][]): Yaml {
  return entries.length === 0 ? null : new Map(entries);
}
