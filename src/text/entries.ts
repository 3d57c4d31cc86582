// Instances and snapshots as `list` and `info` show them. What is here says nothing of how it is
// found out; the formats beside it say nothing of where it comes from.

/** Multipass's states as far as they occur, and `Broken` for what cannot be read. */
export type State = "Stopped" | "Running" | "Deleted" | "Unknown" | "Broken";

/** Keys that Multipass does not have; they appear in JSON and YAML only. */
export type Additions = ReadonlyMap<string, Addition>;
export type Addition = string | number | ReadonlyMap<string, number>;

export interface InstanceEntry {
  /** As it can be addressed: `foo`, or `foo@<id>` where another one has the name. */
  readonly name: string;
  readonly state: State;
  readonly ipv4: readonly string[];
  /** The release of its image, `24.04 LTS`; empty when it is not known. */
  readonly imageRelease: string;
  readonly additions: Additions;
}

export interface InstanceDetails extends InstanceEntry {
  /** Empty when it is not known. */
  readonly imageHash: string;
  /** Undefined where it is not known. */
  readonly snapshotCount: number | undefined;
  readonly mounts: readonly Mount[];
  readonly runtime?: Runtime;
}

export interface Mount {
  readonly target: string;
  readonly source: string;
  /** `1000:default`. */
  readonly uidMappings: readonly string[];
  readonly gidMappings: readonly string[];
}

/** What only a running instance can tell. */
export interface Runtime {
  readonly release: string;
  readonly cpuCount: number;
  /** Three averages, with a space between. */
  readonly load: string;
  readonly diskUsed: number;
  readonly diskTotal: number;
  readonly memoryUsed: number;
  readonly memoryTotal: number;
}

export interface SnapshotEntry {
  /** The name under which the instance is shown. */
  readonly instance: string;
  readonly name: string;
  /** Empty when there is none. */
  readonly parent: string;
  readonly comment: string;
}

export interface SnapshotDetails extends SnapshotEntry {
  /** Undefined where nobody recorded it, as in a snapshot that was not taken by us. */
  readonly cpus: number | undefined;
  readonly memoryBytes: number | undefined;
  readonly diskBytes: number;
  readonly mounts: readonly Pick<Mount, "target" | "source">[];
  /** Seconds since 1970. */
  readonly createdSec: number;
  readonly children: readonly string[];
  readonly additions: Additions;
}

/** Makes a name printable, see `Output.name`. */
export type Show = (name: string) => string;

/** What an image's release is called; the word before it is Multipass's. */
export function imageTitle(release: string): string {
  return release === "" ? "Not Available" : `Ubuntu ${release}`;
}

/** The lines of a text, each printable. */
export function showLines(text: string, show: Show): string[] {
  return text.split(/\r?\n/).map(show);
}

/** A text of several lines, printable, its line breaks as they are. */
export function showText(text: string, show: Show): string {
  const parts = text.split(/(\r?\n)/);
  return parts.map((part, at) => (at % 2 === 0 ? show(part) : part)).join("");
}
