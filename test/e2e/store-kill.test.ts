// A restore that is killed, and a user who works on.
//
// The story: a tool that notes "I am restoring" and finishes the restore after a crash destroys
// what the user wrote to the disk in between. Here, nothing that is done later touches a disk
// again.

import { rmSync } from "node:fs";

import { afterAll, describe, expect, test } from "vitest";

import { calque, mustCalque } from "./instances.ts";
import { executable, guest, have, judged, run, Scene } from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

/** What the command does to the disk and to its record. */
const CALLS = ["pwrite64", "fdatasync", "fsync", "renameat"];

describe.runIf(judged && have("strace"))("a restore that was killed", () => {
  test.concurrent.each(CALLS)(
    "before any of its %s leaves the guest's writes alone",
    async (call) => {
      const home = scene.path(`home-${call}`);
      await mustCalque(home, ["create", "web", "--disk", "2M"]);
      const disk = (await mustCalque(home, ["path", "web"])).trim();
      await guest(disk, "write -P 1 0 512k");
      await mustCalque(home, ["snapshot", "web", "--name", "one"]);
      await guest(disk, "write -P 2 256k 512k");
      await mustCalque(home, ["set", "local.web.cpus=2"]);

      let kills = 0;
      const seen = new Set<boolean | undefined>();
      for (let number = 1; ; number += 1) {
        const trial = scene.path(`trial-${call}-${number}`);
        await run(["cp", "-a", home, trial]);
        const inject = [
          "-e",
          `trace=${call}`,
          "-e",
          `inject=${call}:signal=SIGKILL:when=${number}`,
        ];
        const restore = [executable, "restore", "--destructive", "web.one"];
        const { status } = await run([
          "env",
          `CALQUE_HOME=${trial}`,
          "strace",
          "-f",
          "-o",
          "/dev/null",
          ...inject,
          ...restore,
        ]);
        // The guest boots, and writes where both states have data, and where neither has.
        const file = disk.replace(home, trial);
        await guest(file, "write -P 7 300k 100k", "write -P 8 1536k 64k");
        const story = `killed before ${call} ${number}`;
        // Whatever comes next settles what the killed command has left.
        expect(await calque(trial, ["list"]), story).toMatchObject({ status: 0 });
        expect(await calque(trial, ["set", "local.web.memory=2G"]), story).toMatchObject({
          status: 0,
        });
        expect(await calque(trial, ["snapshot", "web"]), story).toMatchObject({ status: 0 });
        await guest(file, "read -P 7 300k 100k", "read -P 8 1536k 64k");
        expect(await run(["qemu-img", "check", "-q", file]), story).toMatchObject({ status: 0 });
        // One state or the other: of the disk, and of the configuration with it.
        const cpus = (await mustCalque(trial, ["get", "local.web.cpus"])).trim();
        const isRestored = await holds(file, "read -P 0 600k 64k", "read -P 2 600k 64k");
        expect({ isRestored, cpus }, story).toEqual({ isRestored, cpus: isRestored ? "1" : "2" });
        expect(isRestored, story).toBeDefined();
        seen.add(isRestored);
        rmSync(trial, { recursive: true });
        if (status === 0) break;
        kills += 1;
      }
      expect(kills).toBeGreaterThan(0);
      expect(seen).toContain(true);
    },
  );
});

/** Whether a guest reads the first of the two patterns; undefined if it reads neither. */
async function holds(file: string, one: string, other: string): Promise<boolean | undefined> {
  for (const [pattern, answer] of [
    [one, true],
    [other, false],
  ] as const) {
    const { stdout } = await run(["qemu-io", "-f", "qcow2", "-r", "-c", pattern, file]);
    if (!/failed|error/i.test(stdout)) return answer;
  }
  return undefined;
}
