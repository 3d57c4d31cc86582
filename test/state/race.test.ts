// Several processes that work on one store at random, some of which are killed: nothing is lost,
// nothing is seen twice or half, nobody waits for ever, and one change settles what is left.

import { type ChildProcess, spawn } from "node:child_process";
import path from "node:path";
import process from "node:process";
import { setTimeout } from "node:timers/promises";

import { expect, test } from "vitest";

import { remains } from "./observe.ts";
import { make, scene } from "./scene.ts";

/** `CALQUE_RACE_SECONDS=60` is the long form. */
const seconds = Number(process.env.CALQUE_RACE_SECONDS ?? 5);
const RACERS = 6;

const bases = Array.from({ length: 3 }, (_, index) => `base-${index}`);
function ended(racer: ChildProcess): Promise<void> {
  return new Promise((resolve) => void racer.once("close", () => resolve()));
}

const script = path.join(import.meta.dirname, "racer.ts");

test(
  `${RACERS} processes at work on one store lose nothing in ${seconds} seconds`,
  { timeout: (seconds + 60) * 1000 },
  async () => {
    const { open, root } = scene();
    make(open(), bases);
    const uuids = open()
      .list()
      .map(({ record }) => record?.uuid);
    const output: string[] = [];
    let started = 0;
    const work = { done: 0 };
    const untilDone = async (count: number): Promise<void> => {
      while (work.done < count) await setTimeout(50);
    };

    const start = (): ChildProcess => {
      started += 1;
      const args = ["--disable-warning=ExperimentalWarning", script, root, `${started * 1000}`];
      const racer = spawn(process.execPath, args, {
        stdio: ["pipe", "pipe", "pipe"],
      });
      racer.stdout.setEncoding("utf8").on("data", (text: string) => void output.push(text));
      racer.stderr.setEncoding("utf8").on("data", (text: string) => {
        work.done += text.match(/\./g)?.length ?? 0;
        if (/[^.]/.test(text)) output.push(text);
      });
      return racer;
    };
    const racers = Array.from({ length: RACERS }, start);
    const end = Date.now() + seconds * 1000;
    while (Date.now() < end) {
      await untilDone(work.done + RACERS * 5);
      const victim = racers.shift()!;
      const gone = ended(victim);
      victim.kill("SIGKILL");
      await gone;
      racers.push(start());
    }
    const all = Promise.all(racers.map(ended));
    for (const racer of racers) racer.stdin?.end();
    await all;

    expect(output.join("")).toBe("");
    expect(started).toBeGreaterThan(RACERS);
    const store = open();
    for (const { name, id } of store.list()) {
      if (id !== undefined) continue;
      using change = store.change(name);
      change.takeSnapshot({});
    }
    expect(remains(store)).toEqual([]);
    const left = store.list().map(({ record }) => record?.uuid);
    expect(uuids.map((uuid) => left.filter((one) => one === uuid).length)).toEqual([1, 1, 1]);
  },
);
