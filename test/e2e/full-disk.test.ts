// A file system without a single free block.
//
// The story: a guest fills the disk of its host, and the only thing that can help is to delete a
// snapshot. That works, whichever it is; everything else says what is missing and changes nothing.

import { copyFileSync, readdirSync, rmSync, statSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import {
  digestOfFile,
  expectRefusal,
  fill,
  guest,
  have,
  image,
  isRoot,
  judged,
  must,
  mustImage,
  qemuImg,
  Scene,
  view,
} from "./support.ts";

async function freeBytes(point: string): Promise<number> {
  await must(["sync", "-f", point]);
  const [blocks = 0, size = 0] = (await must(["stat", "-f", "-c", "%a %S", point]))
    .split(" ")
    .map(Number);
  return blocks * size;
}

const grounds = [
  { type: "ext4", size: "24M", options: ["-m", "0", "-O", "^has_journal"] },
  { type: "ext4", size: "32M", options: ["-m", "0"] },
  { type: "xfs", size: "300M", options: [] },
] as const;

const layouts = ["cluster_size=4k", "cluster_size=64k", "compat=0.10"] as const;

describe.runIf(judged && isRoot && have("mkfs.ext4", "mkfs.xfs")).each(grounds)(
  "on a full $type of $size",
  ({ type, size, options }) => {
    /** A full file system with an image of three snapshots, and what was in it. */
    async function full(own: Scene, layout: string): Promise<[point: string, file: string]> {
      const point = await own.mount(type, size, [...options]);
      const file = path.join(point, "disk.qcow2");
      // qemu-img asks XFS for blocks beyond the end of the file, which would be space.
      await mustImage(["create", "-q", "-o", layout, file, "16M"]);
      for (const [at, name] of ["one", "two", "three"].entries()) {
        await guest(file, `write -P ${at + 1} ${at}M 3M`);
        await qemuImg("snapshot", "-c", name, file);
      }
      await guest(file, "write -P 9 2M 1M");
      await fill(point);
      return [point, file];
    }

    test.concurrent.each(layouts)("everything that needs space is refused (%s)", async (layout) => {
      using own = new Scene();
      const [point, file] = await full(own, layout);
      const before = digestOfFile(file);
      const names = readdirSync(point).toSorted();
      const refused = [
        ["snapshot", "-c", "four", file],
        ["snapshot", "-a", "one", file],
        ["snapshot", "--rename", "one", "eins", file],
        ["clone", "--strategy", "copy", file, path.join(point, "a.qcow2")],
        ["clone", "--strategy", "copy", "--keep-snapshots", file, path.join(point, "a.qcow2")],
        ["clone", "--strategy", "copy", file, own.path("fits.qcow2"), path.join(point, "a.qcow2")],
        ["create", path.join(point, "new.qcow2"), "1G"],
      ];
      for (const args of refused) {
        const ending = await image(args);
        expect({ args, ...ending }).toMatchObject({ args, status: 1 });
        expectRefusal(ending, /No space left on device/);
        expect({ args, digest: digestOfFile(file) }).toEqual({ args, digest: before });
        expect(readdirSync(point).toSorted()).toEqual(names);
      }
      expect(readdirSync(own.directory).some((name) => name === "fits.qcow2")).toBe(false);
      expect((await image(["check", file])).status).toBe(0);
      await qemuImg("check", "-q", file);
      // None of them has eaten space, or given any back that was not there.
      expect(await freeBytes(point)).toBeLessThan(256 << 10);
    });

    test.concurrent.each(layouts)(
      "a snapshot can be deleted: any, and all (%s)",
      async (layout) => {
        const orders = [
          ["one", "two", "three"],
          ["two", "one"],
          ["three", "two", "one"],
        ];
        for (const order of orders) {
          using own = new Scene();
          const [point, file] = await full(own, layout);
          let before = await view(file);
          for (const name of order) {
            const ending = await image(["snapshot", "-d", name, file]);
            expect({ name, ...ending }).toMatchObject({ name, status: 0, stderr: "" });
            const after = await view(file);
            expect({ name, ...after }).toEqual({
              name,
              check: 0,
              active: before.active,
              snapshots: before.snapshots.filter((line) => !line.includes(` ${name}: `)),
            });
            before = after;
          }
          // 1 MiB is what each of the first two holds alone; the third shares all but that, too.
          expect(await freeBytes(point)).toBeGreaterThan(900 << 10);
          await guest(file, "write -P 0x77 3M 512k");
          expect(await view(file)).toMatchObject({ check: 0, snapshots: before.snapshots });
          await mustImage(["snapshot", "-c", "again", file]);
        }
      },
    );

    test.concurrent("the only snapshot can be deleted, and gives its space back", async () => {
      using own = new Scene();
      const point = await own.mount(type, size, [...options]);
      const file = path.join(point, "disk.qcow2");
      await mustImage(["create", "-q", file, "16M"]);
      await guest(file, "write -P 1 0 4M");
      await qemuImg("snapshot", "-c", "one", file);
      await guest(file, "write -P 2 0 4M");
      await fill(point);
      const { active } = await view(file);
      const allocated = statSync(file).blocks;
      expect(await image(["snapshot", "-d", "one", file])).toMatchObject({ status: 0, stderr: "" });
      expect(await view(file)).toEqual({ check: 0, active, snapshots: [] });
      expect(allocated - statSync(file).blocks).toBeGreaterThan((3 << 20) / 512);
      expect(await freeBytes(point)).toBeGreaterThan(3 << 20);
    });

    test.concurrent("with a little more space each command works or changes nothing", async () => {
      using own = new Scene();
      const [point, file] = await full(own, "cluster_size=4k");
      const pristine = own.path("pristine.qcow2");
      copyFileSync(file, pristine);
      const before = await view(file);
      let done = 0;
      for (let blocks = 1; blocks <= 25; blocks += 6) {
        for (const args of [
          ["-c", "four"],
          ["-a", "one"],
          ["-d", "two"],
          ["--rename", "one", "eins"],
        ]) {
          // The same image again, and exactly this many blocks free.
          rmSync(path.join(point, "ballast"));
          rmSync(file);
          await must(["cp", "--sparse=always", pristine, file]);
          await must(["sync", "-f", point]);
          await fill(point);
          await must([
            "fallocate",
            "-p",
            "-o",
            "0",
            "-l",
            `${blocks * 4096}`,
            path.join(point, "ballast"),
          ]);
          await must(["sync", "-f", point]);
          const ending = await image(["snapshot", ...args, file]);
          const after = await view(file);
          const story = { blocks, args, ...ending };
          if (ending.status === 0) {
            done += 1;
            expect({ story, check: after.check }).toEqual({ story, check: 0 });
            if (args[0] !== "-a") expect(after.active).toBe(before.active);
          } else {
            expectRefusal(ending, /No space left on device/);
            expect({ story, after }).toEqual({ story, after: before });
          }
        }
      }
      expect(done).toBeGreaterThan(4);
    });
  },
);
