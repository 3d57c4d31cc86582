// The scene of the end-to-end tests on instances: a store, what the program says about it, and what
// qemu-img says about its disks.

import { existsSync, readdirSync } from "node:fs";
import path from "node:path";

import { digestOfFile, type Ending, executable, must, run, view, type View } from "./support.ts";

/** `calque …` on the store at `home`. */
export function calque(home: string, args: readonly string[]): Promise<Ending> {
  return run(["env", `CALQUE_HOME=${home}`, executable, ...args]);
}

/** `calque …` that has to succeed; what it printed. */
export function mustCalque(home: string, args: readonly string[]): Promise<string> {
  return must(["env", `CALQUE_HOME=${home}`, executable, ...args]);
}

/** Everything that a user can see of a store, and what the disks hold. */
export interface Sight {
  [instance: string]: {
    state: string;
    cpus: unknown;
    memory: unknown;
    disk: View;
    /** By name: what Calque says of them. */
    snapshots: Record<string, { comment: string; parent: string; cpu_count: string }>;
  };
}

interface Info {
  info: Record<
    string,
    {
      state: string;
      configuration?: { cpus: number; memory: number };
      disk_path?: string;
      snapshots?: Record<string, { comment: string; parent: string; cpu_count: string }>;
    }
  >;
}

/** Looks at a store through its own commands, which have to succeed, and through qemu-img. */
export async function look(home: string): Promise<Sight> {
  const listed = JSON.parse(await mustCalque(home, ["list", "--format", "json"])) as {
    list: { name: string; state: string }[];
  };
  const { info } = JSON.parse(await mustCalque(home, ["info", "--format", "json"])) as Info;
  const { info: snapshots } = JSON.parse(
    await mustCalque(home, ["info", "--snapshots", "--format", "json"]),
  ) as Info;
  const sight: Sight = {};
  for (const { name, state } of listed.list) {
    const { configuration, disk_path: disk } = info[name] ?? {};
    if (disk === undefined) throw new Error(`${name} is listed as ${state} and has no disk`);
    sight[name] = {
      state,
      cpus: configuration?.cpus,
      memory: configuration?.memory,
      disk: await viewOnce(disk),
      snapshots: Object.fromEntries(
        Object.entries(snapshots[name]?.snapshots ?? {}).map(([snapshot, known]) => {
          const { comment, parent, cpu_count } = known;
          return [snapshot, { comment, parent, cpu_count }];
        }),
      ),
    };
  }
  return sight;
}

const seen = new Map<string, Promise<View>>();

/** What a disk holds; bytes that were seen before are not asked again. */
function viewOnce(file: string): Promise<View> {
  const key = digestOfFile(file);
  const known = seen.get(key) ?? view(file);
  seen.set(key, known);
  return known;
}

/** What interrupted commands have left in a store, by path. */
export function leftovers(home: string): string[] {
  const stage = path.join(home, "stage");
  const staged = existsSync(stage) ? readdirSync(stage).map((name) => `stage/${name}`) : [];
  const temporary = readdirSync(home, { recursive: true, encoding: "utf8" }).filter((name) =>
    /(?:^|\/)\.[^/]*\.new$/.test(name),
  );
  return [...staged, ...temporary];
}
