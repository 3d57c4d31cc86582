// A copy that takes its time: what it leaves out, and what is left of it when it is killed.

import { readdirSync, statSync } from "node:fs";
import path from "node:path";

import { afterAll, describe, expect, test } from "vitest";

import {
  executable,
  guest,
  have,
  image,
  isRoot,
  judged,
  must,
  qemuImg,
  run,
  Scene,
} from "./support.ts";

const scene = new Scene();

afterAll(() => scene[Symbol.dispose]());

describe.runIf(judged && isRoot && have("mkfs.ext4"))("a clone that takes its time", () => {
  test("holes of the source stay holes in the copy", async () => {
    const place = scene.place();
    const file = path.join(place, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "1T");
    await guest(file, "write -P 1 0 1M", "write -P 2 900G 1M");
    const ending = await image(["clone", "--strategy", "copy", file, `${file}.copy`], {
      timeout: 20_000,
    });
    expect(ending).toMatchObject({ status: 0 });
    const [theirs, ours] = [statSync(file), statSync(`${file}.copy`)];
    expect(ours.size).toBe(theirs.size);
    expect(ours.blocks).toBeLessThanOrEqual(theirs.blocks + 64);
  });

  test("is gone without a trace when it is killed in the middle", async () => {
    using own = new Scene();
    const point = await own.mount("ext4", "512M");
    const file = path.join(point, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", file, "200M");
    await guest(file, "write -P 1 0 100M", "write -P 2 100M 90M");
    const free = async (): Promise<number> => {
      await must(["sync", "-f", point]);
      return Number((await must(["stat", "-f", "-c", "%f", point])).trim());
    };
    const before = await free();
    const command = [executable, "image", "clone", "--strategy", "copy", file, `${file}.copy`];
    // 190 MiB from one file to another take longer than that.
    expect(await run(["timeout", "-s", "KILL", "0.05", ...command])).not.toMatchObject({
      status: 0,
    });
    expect(readdirSync(point).toSorted()).toEqual(["disk.qcow2", "lost+found"]);
    expect(Math.abs((await free()) - before)).toBeLessThan(64);
    expect(await image(["clone", "-q", "--strategy", "copy", file, `${file}.copy`])).toMatchObject({
      status: 0,
      stderr: "",
    });
  });
});
