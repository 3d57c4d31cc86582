// `info` in its four formats.

import type { InstanceDetails, Show, SnapshotDetails } from "../entries.ts";
import type { Format } from "../format.ts";
import { sentence } from "../sentences.ts";
import { instancesCsv, snapshotsCsv } from "./csv.ts";
import { infoJson } from "./json.ts";
import { instanceTable, snapshotTable } from "./table.ts";
import { infoYaml } from "./yaml.ts";

/** What is shown, each in the order given, the snapshots of one instance together. */
export interface Info {
  readonly instances: readonly InstanceDetails[];
  readonly snapshots: readonly SnapshotDetails[];
  /** What was asked for, for the case that there is none. */
  readonly wanted: "instances" | "snapshots";
}

export const formatInfo: Readonly<Record<Format, (info: Info, show: Show) => string>> = {
  table({ instances, snapshots, wanted }, show) {
    const entries = [
      ...instances.map((instance) => instanceTable(instance, show)),
      ...snapshots.map((snapshot) => snapshotTable(snapshot, show)),
    ];
    if (entries.length > 0) return entries.join("\n");
    return `${sentence(wanted === "snapshots" ? "list.no-snapshots" : "list.no-instances")}\n`;
  },
  json: ({ instances, snapshots }) => infoJson(instances, snapshots),
  csv: ({ instances, snapshots }, show) =>
    instances.length > 0 ? instancesCsv(instances, show) : snapshotsCsv(snapshots, show),
  yaml: ({ instances, snapshots }) => infoYaml(instances, snapshots),
};
