// More clones than files may be open: they are made one batch after the other, and are all or none
// nevertheless.
//
// The story: a thousand clones under a hard limit of 1024 open files ended in "Too many open files".

import { readdirSync, writeFileSync } from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, expect, test } from "vitest";

import { systems } from "./clones.ts";
import { mustCalque } from "./instances.ts";
import {
  digestOfFile,
  type Ending,
  executable,
  expectRefusal,
  guest,
  isRoot,
  judged,
  must,
  qemuImg,
  run,
  Scene,
  view,
} from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

let source: string;
let content: string;
beforeAll(async () => {
  if (!judged) return;
  source = scene.path("source.qcow2");
  await qemuImg("create", "-q", "-f", "qcow2", source, "1M");
  await guest(source, "write -P 1 0 100k");
  await qemuImg("snapshot", "-c", "one", source);
  ({ active: content } = await view(source));
});

/** Runs Calque with so many open files and no way to more. */
function limited(files: number, args: readonly string[], home = ""): Promise<Ending> {
  const script = `ulimit -n ${files} && exec "$@"`;
  return run(["env", `CALQUE_HOME=${home}`, "sh", "-c", script, "sh", executable, ...args]);
}

function targets(place: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => path.join(place, `${index}.qcow2`));
}

test.runIf(judged)("a clone to more targets than files may be open makes all of them", async () => {
  const place = scene.place();
  const wanted = targets(place, 150);
  const ending = await limited(128, ["image", "clone", "--output", "json", source, ...wanted]);
  expect(ending).toMatchObject({ status: 0, stderr: expect.not.stringMatching(/error/) });
  const { clones } = JSON.parse(ending.stdout) as { clones: { target: string }[] };
  expect(clones.map(({ target }) => target)).toEqual(wanted);
  expect(readdirSync(place)).toHaveLength(150);
  expect(new Set(wanted.map(digestOfFile)).size).toBe(1);
  expect(await view(wanted[149]!)).toEqual({ check: 0, active: content, snapshots: [] });
});

test.runIf(judged && systems)("clones in batches share blocks like others", async () => {
  using own = new Scene();
  const point = await own.mount("xfs", "320M");
  await must(["cp", source, path.join(point, "source.qcow2")]);
  const wanted = targets(point, 40);
  const args = ["image", "clone", "--strategy", "reflink", path.join(point, "source.qcow2")];
  expect(await limited(100, [...args, ...wanted])).toMatchObject({ status: 0 });
  for (const target of [wanted[0]!, wanted[39]!]) {
    expect(await view(target)).toEqual({ check: 0, active: content, snapshots: [] });
  }
});

test.runIf(judged && isRoot)("clones in batches are none if the last cannot be made", async () => {
  using own = new Scene();
  const full = await own.mount("ext4", "16M");
  await must(["sh", "-c", "cat /dev/zero >filler 2>/dev/null || test -s filler"], { cwd: full });
  const place = own.place();
  const last = path.join(full, "last.qcow2");
  const ending = await limited(128, ["image", "clone", source, ...targets(place, 150), last]);
  expectRefusal(ending, `error: Cannot clone "${source}" to "${last}": No space left on device\n`);
  expect(readdirSync(place)).toEqual([]);
});

test.runIf(judged)(
  "clones in batches are refused before the first if a name is taken",
  async () => {
    const place = scene.place();
    const wanted = targets(place, 150);
    writeFileSync(wanted[149]!, "precious");
    expectRefusal(await limited(128, ["image", "clone", source, ...wanted]), /File exists/);
    expect(readdirSync(place)).toEqual(["149.qcow2"]);
    const twice = targets(scene.place(), 150);
    const ending = await limited(128, ["image", "clone", source, ...twice, twice[0]!]);
    expectRefusal(ending, /the target is named twice/);
  },
);

test.runIf(judged)("a thousand instances come from one that may open 256 files", async () => {
  const home = scene.path("home");
  await mustCalque(home, ["create", "web", "--disk", "1M"]);
  const args = ["clone", "web", "--name", "many", "--count", "1000"];
  expect(await limited(256, args, home)).toMatchObject({ status: 0, signal: null });
  expect(readdirSync(path.join(home, "instances"))).toHaveLength(1001);
  expect(readdirSync(path.join(home, "stage"))).toEqual([]);
  const listed = await limited(256, ["list", "--format", "json"], home);
  expect(listed).toMatchObject({ status: 0, stderr: "" });
  expect((JSON.parse(listed.stdout) as { list: unknown[] }).list).toHaveLength(1001);
});
