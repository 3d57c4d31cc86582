// `list` in its four formats.

import { csvField, csvQuoted, formatCsv } from "./csv.ts";
import {
  imageTitle,
  type InstanceEntry,
  type Show,
  showText,
  type SnapshotEntry,
} from "./entries.ts";
import type { Format } from "./format.ts";
import type { Json } from "./json.ts";
import { formatMultipassJson } from "./multipass-json.ts";
import { byteLength } from "./name.ts";
import { sentence } from "./sentences.ts";
import { formatTable } from "./table.ts";
import { formatYaml, type Yaml } from "./yaml.ts";

/** Instances, in the order given. */
export const formatInstances: Readonly<
  Record<Format, (entries: readonly InstanceEntry[], show: Show) => string>
> = {
  table(entries, show) {
    if (entries.length === 0) return `${sentence("list.no-instances")}\n`;
    const columns = [
      { title: "Name", minimum: 24 },
      { title: "State", minimum: 18 },
      { title: "IPv4", minimum: 17 },
      { title: "Image" },
    ];
    const rows = entries.flatMap(
      ({ name, state, ipv4: [first = "--", ...others], imageRelease }) => [
        [show(name), state, first, show(imageTitle(imageRelease))],
        ...others.map((address) => ["", "", address]),
      ],
    );
    return formatTable(columns, rows);
  },
  json(entries) {
    const list = entries.map(
      ({ name, state, ipv4, imageRelease, additions }) =>
        new Map<string, Json>([
          ["ipv4", ipv4],
          ["name", name],
          ["release", imageTitle(imageRelease)],
          ["state", state],
          ...additions,
        ]),
    );
    return formatMultipassJson({ list });
  },
  csv(entries, show) {
    const rows = entries.map(({ name, state, ipv4, imageRelease }) => [
      csvField(show(name)),
      state,
      ipv4[0] ?? "",
      "",
      csvField(show(imageTitle(imageRelease))),
      csvQuoted(ipv4.join(",")),
    ]);
    return formatCsv([["Name", "State", "IPv4", "IPv6", "Release", "AllIPv4"], ...rows]);
  },
  yaml(entries) {
    return formatYaml(
      new Map(
        entries.map(({ name, state, ipv4, imageRelease, additions }) => [
          name,
          [
            new Map<string, Yaml>([
              ["state", state],
              ["ipv4", ipv4],
              ["release", imageTitle(imageRelease)],
              ...additions,
            ]),
          ],
        ]),
      ),
    );
  },
};

/** Snapshots, in the order given, those of one instance together. */
export const formatSnapshots: Readonly<
  Record<Format, (entries: readonly SnapshotEntry[], show: Show) => string>
> = {
  table(entries, show) {
    if (entries.length === 0) return `${sentence("list.no-snapshots")}\n`;
    const columns = ["Instance", "Snapshot", "Parent", "Comment"].map((title) => ({ title }));
    const rows = entries.map(({ instance, name, parent, comment }) => [
      show(instance),
      show(name),
      show(parent) || "--",
      show(shorten(comment)) || "--",
    ]);
    return formatTable(columns, rows);
  },
  json(entries) {
    const info = new Map<string, Map<string, Json>>();
    for (const { instance, name, parent, comment } of entries) {
      inMap(info, instance).set(name, { comment, parent });
    }
    return formatMultipassJson({ errors: [], info });
  },
  csv(entries, show) {
    const rows = entries.map(({ instance, name, parent, comment }) => [
      csvField(show(instance)),
      csvField(show(name)),
      csvField(show(parent)),
      csvQuoted(showText(comment, show)),
    ]);
    return formatCsv([["Instance", "Snapshot", "Parent", "Comment"], ...rows]);
  },
  yaml(entries) {
    const instances = new Map<string, Yaml[]>();
    for (const { instance, name, parent, comment } of entries) {
      const snapshot = new Map([
        ["parent", parent || null],
        ["comment", comment || null],
      ]);
      const snapshots = instances.get(instance) ?? [];
      snapshots.push(new Map([[name, [snapshot]]]));
      instances.set(instance, snapshots);
    }
    return formatYaml(instances);
  },
};

/** The first line of a comment, as far as it fits; never a part of a character. */
export function shorten(comment: string): string {
  const line = comment.split(/\r?\n/, 1)[0]!;
  if (line === comment && byteLength(comment) <= MAX_COMMENT) return comment;
  let kept = "";
  let length = 0;
  for (const character of line) {
    length += byteLength(character);
    if (length > MAX_COMMENT - 1) break;
    kept += character;
  }
  return `${kept}…`;
}

const MAX_COMMENT = 50;

function inMap(info: Map<string, Map<string, Json>>, instance: string): Map<string, Json> {
  const snapshots = info.get(instance) ?? new Map<string, Json>();
  info.set(instance, snapshots);
  return snapshots;
}
