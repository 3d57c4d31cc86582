// Settings keys: `local.<instance>.<property>` and `local.<instance>.<snapshot>.<property>`.

import { failed, UsageError } from "../failure.ts";
import { sentence } from "../text/sentences.ts";

export interface InstanceKey {
  readonly of: "instance";
  readonly instance: string;
  readonly property: "cpus" | "disk" | "memory";
}

export interface SnapshotKey {
  readonly of: "snapshot";
  readonly instance: string;
  readonly snapshot: string;
  readonly property: "comment" | "name";
}

/** The key, or undefined where there is no such setting. The last dots separate. */
export function parseKey(text: string): InstanceKey | SnapshotKey | undefined {
  const ofSnapshot = /^local\.(.+)\.([^.]+)\.(comment|name)$/.exec(text);
  if (ofSnapshot !== null) {
    const [, instance = "", snapshot = "", property] = ofSnapshot;
    const { property: known } = { property } as Pick<SnapshotKey, "property">;
    return { of: "snapshot", instance, snapshot, property: known };
  }
  const ofInstance = /^local\.(.+)\.(cpus|disk|memory)$/.exec(text);
  if (ofInstance === null) return undefined;
  const [, instance = "", property] = ofInstance;
  const { property: known } = { property } as Pick<InstanceKey, "property">;
  return { of: "instance", instance, property: known };
}

/** Multipass leaves `local.` keys to its daemon, and ends otherwise for all others. */
export function unknownKey(command: "get" | "set", key: string): Error {
  const message = sentence("settings.unknown", { key });
  return key.startsWith("local.") ? failed(command, message) : new UsageError(message);
}

/** What stands under the description of `get` and `set`. */
export const SETTINGS_HELP = `Some common settings keys are:
  - local.<instance>.cpus
  - local.<instance>.memory
  - local.<instance>.disk
  - local.<instance>.<snapshot>.name
  - local.<instance>.<snapshot>.comment

Use \`{program} get --keys\` to obtain the full list of available settings at any given time.`;
