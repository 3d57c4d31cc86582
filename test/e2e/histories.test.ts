// Histories: a guest's writes, snapshots taken, applied and deleted, and a disk that grows, by
// Calque and by qemu-img in turn, on one image. A second image has the same history by qemu-img alone. After each step
// both hold the same, now and at every snapshot, and qemu-img finds ours clean.

import { copyFileSync, rmSync } from "node:fs";
import path from "node:path";

import { afterAll, describe, expect, test } from "vitest";

import { unwrap } from "../../src/native.ts";
import { native } from "../state/scene.ts";
import {
  digest,
  guest,
  image,
  judged,
  qemuImg,
  random,
  run,
  Scene,
  snapshotsOf,
} from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

interface Format {
  options: string;
  /** Of the disk at first, in KiB. */
  size: number;
  /** How often a cluster can be referenced. */
  most: number;
}

const formats: Format[] = [
  { options: "cluster_size=512,refcount_bits=16", size: 300, most: 65535 },
  { options: "cluster_size=512,compat=0.10", size: 300, most: 65535 },
  { options: "cluster_size=512,refcount_bits=1", size: 200, most: 1 },
  { options: "cluster_size=4k,refcount_bits=2", size: 5000, most: 3 },
  { options: "cluster_size=4k,refcount_bits=4", size: 5000, most: 15 },
  { options: "cluster_size=4k,refcount_bits=8", size: 5000, most: 255 },
  { options: "cluster_size=4k,refcount_bits=64", size: 5000, most: 65535 },
  { options: "cluster_size=16k,extended_l2=on", size: 9000, most: 65535 },
  { options: "cluster_size=64k,extended_l2=on,refcount_bits=2", size: 9000, most: 3 },
  { options: "cluster_size=64k", size: 9000, most: 65535 },
  { options: "cluster_size=64k,compat=0.10", size: 9000, most: 65535 },
  { options: "cluster_size=64k,refcount_bits=32,lazy_refcounts=on", size: 9000, most: 65535 },
  { options: "cluster_size=2M,refcount_bits=1", size: 12000, most: 1 },
  { options: "cluster_size=2M,refcount_bits=64,compression_type=zstd", size: 12000, most: 65535 },
];

/** The cluster size in KiB. */
function clusterOf(options: string): number {
  const [, number, unit] = /cluster_size=(\d+)(k|M|)/.exec(options)!;
  return (Number(number) * { "": 1, k: 1024, M: 1 << 20 }[unit as "" | "k" | "M"]) / 1024;
}

const STEPS = Number(process.env.STEPS ?? 9);

/** The seeds; others, and longer histories, by SEEDS=1,2,3 and STEPS=30. */
const seeds = (process.env.SEEDS ?? "1").split(",").map(Number);

describe.runIf(judged).each(seeds)("with seed %d, both hold the same after each step", (seed) => {
  test.concurrent.each(formats)("$options", async ({ options, size: firstSize, most }) => {
    let size = firstSize;
    const cluster = clusterOf(options);
    const below = random(seed * 1000 + size + options.length);
    const place = scene.place();
    const [ours, theirs] = [path.join(place, "ours.qcow2"), path.join(place, "theirs.qcow2")];
    const isOld = options.includes("compat=0.10");
    for (const file of [ours, theirs]) {
      await qemuImg("create", "-q", "-f", "qcow2", "-o", options, file, `${size}k`);
    }
    const story: string[] = [options];
    let names: string[] = [];
    let next = 0;
    for (let step = 0; step < STEPS; step += 1) {
      // Writes, in the same places of both.
      const writes = Array.from({ length: 1 + below(3) }).flatMap(() => {
        const at = below(size);
        const length = 1 + below(Math.min(size - at, below(4) === 0 ? 2000 : 40));
        // Many compressed clusters share one of the file, which narrow counts cannot count.
        if (below(5) === 0 && cluster >= 4 && most === 65535) {
          // Whole clusters only can be compressed.
          const first = Math.floor(at / cluster) * cluster;
          const end = Math.min(first + Math.ceil(length / cluster) * cluster, size);
          const where = `${first}k ${end - first}k`;
          // Nothing can be compressed over what is there.
          return [`discard ${where}`, `write -c -P ${1 + below(255)} ${where}`];
        }
        const kinds = [
          `write -P ${1 + below(255)}`,
          `write -P ${1 + below(255)}`,
          "write -z",
          "discard",
        ];
        return `${kinds[below(isOld ? 2 : 4)]} ${at}k ${length}k`;
      });
      story.push(...writes);
      await Promise.all([ours, theirs].map((file) => guest(file, ...writes)));

      // One step of snapshots, by us or by qemu-img on our image.
      const isOurs = below(3) > 0;
      if (below(6) === 0 && (!isOld || names.length === 0)) {
        size += (1 + below(6)) * 100;
        story.push(`${isOurs ? "calque" : "qemu-img"} grows it to ${size}k`);
        await qemuImg("resize", "-q", "-f", "qcow2", theirs, `${size}k`);
        if (isOurs) unwrap(native.imageGrow({ path: ours, size: size * 1024 }));
        else await qemuImg("resize", "-q", "-f", "qcow2", ours, `${size}k`);
      }
      const kind = names.length === 0 ? 0 : below(4);
      const chosen = names[below(Math.max(names.length, 1))] ?? "";
      let args: string[];
      if (kind <= 1) args = ["-c", `s${(next += 1)}`];
      else args = [kind === 2 ? "-a" : "-d", chosen];
      story.push(`${isOurs ? "calque image" : "qemu-img"} snapshot ${args.join(" ")}`);
      const ending = isOurs
        ? await image(["snapshot", ...args, ours])
        : await run(["qemu-img", "snapshot", ...args, ours]);
      const expected = await run(["qemu-img", "snapshot", ...args, theirs]);
      if (isOurs && ending.status === 0 && expected.status !== 0) {
        // qemu-img raises all counts before it lowers any, and so fails where they are full. Ours
        // has to be right by itself, and the two go on from there.
        expect({ story, kind: args[0], full: names.length >= most - 1 }).toEqual({
          story,
          kind: "-a",
          full: true,
        });
        const listed = await snapshotsOf(ours);
        const { id } = listed.find(({ name }) => name === chosen)!;
        expect({ story, content: await digest(ours) }).toEqual({
          story,
          content: await digest(ours, id),
        });
        copyFileSync(ours, theirs);
        continue;
      }
      expect({ story, status: ending.status }).toEqual({ story, status: expected.status });
      if (ending.status !== 0) {
        // The counts are full: that is the only reason there is, and only qemu-img leaves leaks.
        expect(args[0]).not.toBe("-d");
        expect(names.length).toBeGreaterThanOrEqual(most - 1);
        if (!isOurs) await run(["qemu-img", "check", "-q", "-r", "all", ours]);
        await run(["qemu-img", "check", "-q", "-r", "all", theirs]);
      } else if (args[0] === "-c") {
        names.push(args[1]!);
      } else if (args[0] === "-d") {
        names = names.filter((name) => name !== chosen);
      }

      // What both hold now.
      const check = await run(["qemu-img", "check", "-f", "qcow2", ours]);
      expect({ story, check: check.status, said: check.stderr }).toEqual({
        story,
        check: 0,
        said: "",
      });
      const mine = await image(["check", ours]);
      expect({ story, ...mine }).toEqual({ story, ...check });
      const [listed, reference] = await Promise.all([ours, theirs].map(snapshotsOf));
      expect({ story, listed }).toEqual({ story, listed: reference });
      const [content, wanted] = await Promise.all([ours, theirs].map((file) => digest(file)));
      expect({ story, content }).toEqual({ story, content: wanted });
      if (step % 3 === 2 || step === STEPS - 1) {
        for (const { id } of listed!) {
          const [held, held2] = await Promise.all([ours, theirs].map((file) => digest(file, id)));
          expect({ story, id, held }).toEqual({ story, id, held: held2 });
        }
      }
    }
    rmSync(place, { recursive: true });
  });
});
