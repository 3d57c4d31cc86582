// `info` as comma-separated values: instances or snapshots, never both; nothing at all when there
// is nothing to show.

import { csvField, csvQuoted, formatCsv } from "../csv.ts";
import {
  type InstanceDetails,
  type Mount,
  type Show,
  showText,
  type SnapshotDetails,
} from "../entries.ts";
import { humanSize } from "../human-size.ts";
import { localTimestamp } from "../timestamp.ts";

const INSTANCE_HEADER =
  "Name,State,Ipv4,Ipv6,Release,Image hash,Image release,Load,Disk usage,Disk total,Memory usage," +
  "Memory total,Mounts,AllIPv4,CPU(s),Snapshots";

const SNAPSHOT_HEADER =
  "Snapshot,Instance,CPU(s),Disk space,Memory size,Mounts,Created,Parent,Children,Comment";

export function instancesCsv(instances: readonly InstanceDetails[], show: Show): string {
  if (instances.length === 0) return "";
  const rows = instances.map((instance) => {
    const { runtime, ipv4 } = instance;
    const cells = [
      instance.name,
      instance.state,
      ipv4[0],
      "",
      runtime?.release,
      instance.imageHash,
      instance.imageRelease,
      runtime?.load,
      runtime?.diskUsed,
      runtime?.diskTotal,
      runtime?.memoryUsed,
      runtime?.memoryTotal,
      mountsText(instance.mounts),
      ipv4.join(";"),
      runtime?.cpuCount,
      instance.snapshotCount,
    ];
    return cells.map((cell) => csvField(show(String(cell ?? ""))));
  });
  return formatCsv([[INSTANCE_HEADER], ...rows]);
}

export function snapshotsCsv(snapshots: readonly SnapshotDetails[], show: Show): string {
  if (snapshots.length === 0) return "";
  const rows = snapshots.map((snapshot) => {
    const { cpus, memoryBytes } = snapshot;
    const cells = [
      snapshot.name,
      snapshot.instance,
      cpus ?? "",
      humanSize(snapshot.diskBytes),
      memoryBytes === undefined ? "" : humanSize(memoryBytes),
      mountsText(snapshot.mounts),
      localTimestamp(snapshot.createdSec),
      snapshot.parent,
      snapshot.children.join(";"),
    ];
    return [
      ...cells.map((cell) => csvField(show(String(cell)))),
      csvQuoted(showText(snapshot.comment, show)),
    ];
  });
  return formatCsv([[SNAPSHOT_HEADER], ...rows]);
}

function mountsText(mounts: readonly Pick<Mount, "source" | "target">[]): string {
  return mounts.map(({ source, target }) => `${source} => ${target}`).join(";");
}
