// A store that is worked on by the built executable, by one of its names, and what qemu-img and
// qemu-io see of its disks.

import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import type { InstanceRecord } from "../../src/state/schema.ts";
import { type Ending, guest, must, qemuImg, run } from "./support.ts";

/** The names by which the executable is called, and by which it calls itself. */
export const NAMES = [
  { name: "calque", Program: "Calque" },
  { name: "multipass", Program: "Multipass" },
] as const;

/** A store, and the program by one of its names. */
export class Home {
  readonly directory: string;
  readonly #command: readonly string[];

  constructor(program: string, place: string) {
    this.directory = place;
    this.#command = ["env", `CALQUE_HOME=${this.directory}`, program];
  }

  /** A command that has to succeed; what it printed. */
  does(...args: string[]): Promise<string> {
    return must([...this.#command, ...args]);
  }

  tries(...args: string[]): Promise<Ending> {
    return run([...this.#command, ...args]);
  }

  /** An instance whose disk of two megabytes begins with a block of ones. */
  async has(name: string, ...options: string[]): Promise<void> {
    await this.does("create", name, "--disk", "2M", ...options);
    await guest(this.disk(name), "write -P 1 0 64k");
  }

  disk(name: string): string {
    return path.join(this.directory, "instances", name, "disk.qcow2");
  }

  /** What is in its record, or is written into it. */
  record(name: string, changes: Partial<InstanceRecord> = {}): InstanceRecord {
    const file = path.join(this.directory, "instances", name, "instance.json");
    const record = {
      ...(JSON.parse(readFileSync(file, "utf8")) as InstanceRecord),
      ...changes,
    };
    if (Object.keys(changes).length > 0) writeFileSync(file, JSON.stringify(record));
    return record;
  }

  /** The value of a setting. */
  async get(key: string): Promise<string> {
    return (await this.does("get", key)).trimEnd();
  }

  /** `list` or `list --snapshots` as the fields of its lines, without the header. */
  async lists(...options: string[]): Promise<string[][]> {
    const lines = (await this.does("list", "--format", "csv", ...options)).trimEnd().split("\n");
    return lines.slice(1).map((line) => line.split(","));
  }

  /** The names of the instances. */
  async instances(): Promise<string[]> {
    return (await this.lists()).map(([name]) => name!);
  }

  /** `SNAPSHOT < PARENT` of every snapshot of an instance. */
  async snapshots(instance: string): Promise<string[]> {
    const all = await this.lists("--snapshots");
    return all
      .filter(([name]) => name === instance)
      .map(([, snapshot, parent]) => `${snapshot} < ${parent}`);
  }

  /** What `info` knows of a snapshot. */
  async about(instance: string, snapshot: string): Promise<Record<string, unknown>> {
    const text = await this.does("info", `${instance}.${snapshot}`, "--format", "json");
    const { info } = JSON.parse(text) as {
      info: Record<string, { snapshots: Record<string, Record<string, unknown>> }>;
    };
    return info[instance]!.snapshots[snapshot]!;
  }
}

/** Whether the guest of this disk would read a block of that byte there. */
export async function reads(file: string, byte: number, offset = "0"): Promise<boolean> {
  const command = `read -P ${byte} ${offset} 64k`;
  const said = await must(["qemu-io", "-r", "-f", "qcow2", "-c", command, file]);
  return !said.includes("verification failed");
}

export async function isClean(file: string): Promise<boolean> {
  return (await run(["qemu-img", "check", "-q", "-f", "qcow2", file])).status === 0;
}

export async function virtualSize(file: string): Promise<number> {
  const info = await qemuImg("info", "-f", "qcow2", "--output=json", file);
  return (JSON.parse(info) as { "virtual-size": number })["virtual-size"];
}

/** What an instance may have besides its disk. */
export const BRIDGE = { id: "br0", macAddress: "52:54:00:00:00:01", autoMode: true };
export const MOUNT = {
  sourcePath: "/home/me/src",
  uidMappings: ["1000:-1"],
  gidMappings: ["1000:-1"],
};
