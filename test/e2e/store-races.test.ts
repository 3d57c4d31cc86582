// Sixteen processes that clone, snapshot, restore, delete, recover, purge and list the same few
// instances at random, while some of them are killed. Whatever happens, nothing is lost or half
// there, nobody gets stuck, and `list` always answers.
//
// CALQUE_RACE_SECONDS makes it last longer: a minute, `npm test -- test/e2e/store-races`.

import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { afterAll, describe, expect, test } from "vitest";

import { calque, leftovers, look, mustCalque } from "./instances.ts";
import { type Ending, executable, guest, judged, qemuImg, random, Scene } from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

const SECONDS = Number(process.env.CALQUE_RACE_SECONDS ?? 8);
const PROCESSES = 16;
/** One command in so many is killed on its way. */
const KILLED = 12;
const NAMES = ["a", "b", "c"];

/** What somebody may do, and what may keep them from doing it. */
const DEEDS: readonly { args: (pick: (below: number) => number) => string[]; refusals: RegExp }[] =
  [
    {
      args: (pick) => ["clone", name(pick), "--name", name(pick)],
      refusals: /does not exist|is deleted|already exists|is being prepared/,
    },
    {
      args: (pick) => ["clone", name(pick), "--name", `many${pick(3)}`, "--count", "2"],
      refusals: /does not exist|is deleted|already exists|is being prepared/,
    },
    {
      args: (pick) => ["snapshot", name(pick), ...(pick(2) === 0 ? ["--name", `s${pick(4)}`] : [])],
      refusals: /does not exist|is deleted|Snapshot already exists/,
    },
    {
      args: (pick) => ["restore", "--destructive", `${name(pick)}.s${pick(4)}`],
      refusals: /does not exist|is deleted|No such snapshot/,
    },
    {
      args: (pick) => ["delete", "--purge", `${name(pick)}.s${pick(4)}`],
      refusals: /does not exist|is deleted|No such snapshot|Cannot delete snapshots of deleted/,
    },
    { args: (pick) => ["delete", name(pick)], refusals: /does not exist|is deleted/ },
    { args: (pick) => ["recover", name(pick)], refusals: /does not exist|already exists|prepared/ },
    { args: () => ["purge"], refusals: /^$/ },
    { args: (pick) => ["create", name(pick), "--disk", "2M"], refusals: /already exists|prepared/ },
    { args: () => ["list"], refusals: /^$/ },
    { args: () => ["list", "--snapshots"], refusals: /^$/ },
    { args: () => ["info", "--format", "json"], refusals: /^$/ },
  ];

function name(pick: (below: number) => number): string {
  return NAMES[pick(NAMES.length)]!;
}

/** Runs a command and kills it after a moment. */
async function killSoon(home: string, args: string[], afterMs: number): Promise<void> {
  const child = spawn(executable, args, {
    env: { CALQUE_HOME: home },
    stdio: "ignore",
  });
  const ended = new Promise((resolve) => child.once("close", resolve));
  const timer = setTimeout(() => child.kill("SIGKILL"), afterMs);
  await ended;
  clearTimeout(timer);
}

describe.runIf(judged)("sixteen at once", () => {
  test("lose nothing, and leave nothing that the next change does not clean up", async () => {
    const home = scene.path("home");
    await mustCalque(home, ["create", "a", "--disk", "2M"]);
    await mustCalque(home, ["create", "keeper", "--disk", "2M"]);
    const kept = (await mustCalque(home, ["path", "keeper"])).trim();
    await guest(kept, "write -P 5 0 200k");
    await mustCalque(home, ["snapshot", "keeper", "--name", "one"]);
    const { keeper } = await look(home);

    const end = Date.now() + SECONDS * 1000;
    const unexpected: (Ending & { args: string[] })[] = [];
    let done = 0;
    const worker = async (seed: number): Promise<void> => {
      const pick = random(seed);
      while (Date.now() < end) {
        const { args: make, refusals } = DEEDS[pick(DEEDS.length)]!;
        const args = make(pick);
        if (pick(KILLED) === 0) {
          await killSoon(home, args, pick(40));
          continue;
        }
        const ending = await calque(home, args);
        done += 1;
        const isFine = ending.status === 0 || refusals.test(ending.stderr.trim());
        if (!isFine) unexpected.push({ args, ...ending });
      }
    };
    await Promise.all(Array.from({ length: PROCESSES }, (_, index) => worker(index + 1)));
    expect(unexpected).toEqual([]);
    expect(done).toBeGreaterThan(PROCESSES);

    // One change settles everything.
    await mustCalque(home, ["create", "last", "--disk", "1M"]);
    expect(leftovers(home).filter((file) => file.startsWith("stage/"))).toEqual([]);
    const sight = await look(home);
    expect(sight.keeper).toEqual(keeper);
    for (const { disk } of Object.values(sight)) expect(disk).toMatchObject({ check: 0 });
    // What is there is what is listed.
    const listed = Object.values(sight).length;
    expect(directories(home, "instances").length + directories(home, "trash").length).toBe(listed);
    for (const file of disks(home)) await qemuImg("check", "-q", file);
    // Every one of them can be worked with.
    for (const [instance, { state }] of Object.entries(sight)) {
      if (state === "Stopped") await mustCalque(home, ["snapshot", instance, "--name", "after"]);
    }
  });
});

function directories(home: string, place: string): string[] {
  const directory = path.join(home, place);
  return existsSync(directory) ? readdirSync(directory) : [];
}

function disks(home: string): string[] {
  return ["instances", "trash"].flatMap((place) =>
    directories(home, place).map((one) => path.join(home, place, one, "disk.qcow2")),
  );
}
