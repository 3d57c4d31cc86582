// Clones of images with a backing file, which must find it from where they are.

import { mkdirSync, readdirSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import path from "node:path";

import { afterAll, describe, expect, test } from "vitest";

import { cloned } from "./clones.ts";
import { digest, guest, image, judged, must, mustImage, qemuImg, Scene, view } from "./support.ts";

const scene = new Scene();

afterAll(() => scene[Symbol.dispose]());

/** The name of the backing file as it stands in the image. */
async function backingOf(file: string): Promise<unknown> {
  const info = await mustImage(["info", "--output", "json", file]);
  return (JSON.parse(info) as Record<string, unknown>)["backing-filename"];
}

describe.runIf(judged)("a clone of an image", () => {
  test.concurrent("with a relative backing file finds it from another directory", async () => {
    const place = scene.place();
    for (const name of ["images", "elsewhere/deep", "beside"]) {
      mkdirSync(path.join(place, name), { recursive: true });
    }
    const at = (...names: string[]): string => path.join(place, ...names);
    await qemuImg("create", "-q", "-f", "qcow2", at("images/base.qcow2"), "1M");
    await guest(at("images/base.qcow2"), "write -P 21 0 512k");
    const overlay = at("images/disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", overlay);
    await guest(overlay, "write -P 22 256k 128k");
    await qemuImg("snapshot", "-c", "one", overlay);
    const content = await digest(overlay);
    const targets = ["elsewhere/deep/a.qcow2", "beside/b.qcow2", "images/c.qcow2"].map((to) =>
      at(to),
    );
    symlinkSync("images", at("link"));
    for (const strategy of ["auto", "copy"]) {
      for (const source of [overlay, at("link/disk.qcow2")]) {
        await mustImage(["clone", "-q", "--strategy", strategy, source, ...targets]);
        for (const clone of targets) {
          expect(await view(clone)).toEqual({ check: 0, active: content, snapshots: [] });
          rmSync(clone);
        }
      }
    }
  });

  // The story: from `images/../images` and `../base` came `…/images/../images/../base`.
  test.concurrent("with a relative backing file is told where that is, without detours", async () => {
    const place = realpathSync(scene.place());
    const at = (...names: string[]): string => path.join(place, ...names);
    for (const name of ["real/images", "real/base", "elsewhere"]) {
      mkdirSync(at(name), { recursive: true });
    }
    // Through the link, `..` is `real`, and not the place.
    symlinkSync("real/images", at("link"));
    symlinkSync("base", at("real/alias"));
    await qemuImg("create", "-q", "-f", "qcow2", at("real/base/base.qcow2"), "1M");
    const overlay = at("real/images/disk.qcow2");
    for (const [name, absolute] of [
      [".././base/base.qcow2", at("real/base/base.qcow2")],
      // What the image itself names is not resolved: that would be a look at it.
      ["../alias/base.qcow2", at("real/alias/base.qcow2")],
    ] as const) {
      await qemuImg("create", "-q", "-f", "qcow2", "-b", name, "-F", "qcow2", overlay);
      for (const source of ["link/disk.qcow2", "link/../images/./disk.qcow2"]) {
        const targets = ["elsewhere/a.qcow2", "link/b.qcow2"];
        const { clones } = await cloned([source, ...targets], place);
        expect(clones.map((made) => made["backing-filename"])).toEqual([absolute, undefined]);
        expect(await backingOf(at("elsewhere/a.qcow2"))).toBe(absolute);
        expect(await backingOf(at("link/b.qcow2"))).toBe(name);
        for (const target of targets) {
          expect(await qemuImg("compare", overlay, at(target))).toContain("identical");
          rmSync(at(target));
        }
        const said = await mustImage(["clone", source, ...targets], { cwd: place });
        const [moved, kept] = said.split("\n");
        expect(moved).toMatch(/ copied, backing file: \//);
        expect(moved?.endsWith(` copied, backing file: ${absolute}`)).toBe(true);
        expect(kept?.endsWith(" copied")).toBe(true);
        for (const target of targets) rmSync(at(target));
      }
    }
  });

  test.concurrent("whose relative backing file cannot be named from there is refused", async () => {
    const place = scene.place();
    const deep = path.join(place, "d".repeat(200), "e".repeat(200));
    mkdirSync(deep, { recursive: true });
    const file = path.join(deep, "disk.qcow2");
    const options = "cluster_size=512";
    const backing = ["-u", "-b", "base.qcow2", "-F", "qcow2"];
    await qemuImg("create", "-q", "-f", "qcow2", "-o", options, ...backing, file, "1M");
    expect(await image(["clone", file, "a.qcow2"], { cwd: place })).toMatchObject({
      status: 1,
      stderr:
        `error: Cannot clone "${file}": the backing file's name is relative, and its absolute ` +
        "form does not fit the header\nhint: clone into the directory of the source\n",
    });
    expect(readdirSync(place)).toEqual(["d".repeat(200)]);
    await mustImage(["clone", file, path.join(deep, "a.qcow2")]);
  });

  test.concurrent("with an absolute backing file keeps its name, and nobody opens it", async () => {
    const place = scene.place();
    const fifo = path.join(place, "trap");
    await must(["mkfifo", fifo]);
    const file = path.join(place, "disk.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", fifo, "-F", "raw", file, "1M");
    const ending = await image(["clone", "disk.qcow2", "a.qcow2"], { cwd: place, timeout: 5000 });
    expect(ending).toMatchObject({ status: 0, signal: null });
    expect(ending.stdout).toMatch(/ copied\n$/);
    expect(await backingOf(path.join(place, "a.qcow2"))).toBe(fifo);
  });
});
