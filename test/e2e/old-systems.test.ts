// Kernels, and sandboxes, that refuse a system call which does in one step what others do in
// several.

import { afterAll, describe, expect, test } from "vitest";

import { mustCalque } from "./instances.ts";
import { executable, have, judged, run, Scene } from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

describe.runIf(judged && have("strace"))("where openat2 is", () => {
  test.concurrent.each(["ENOSYS", "EPERM"])("refused with %s, a store works", async (error) => {
    const home = scene.path(`home-${error}`);
    const strace = ["strace", "-f", "-o", "/dev/null", "-e", "trace=openat2"];
    const inject = ["-e", `inject=openat2:error=${error}`];
    const under = (...args: string[]) =>
      run(["env", `CALQUE_HOME=${home}`, ...strace, ...inject, executable, ...args]);
    await mustCalque(home, ["create", "web", "--disk", "2M"]);
    expect(await under("snapshot", "web")).toMatchObject({ status: 0, stderr: "" });
    expect(await under("clone", "web", "--count", "3")).toMatchObject({ status: 0 });
    expect(await under("delete", "--purge", "web-clone1")).toMatchObject({ status: 0 });
    const list = await under("list", "--format", "csv");
    expect(list.stdout.match(/^web[^,]*/gm)).toEqual(["web", "web-clone2", "web-clone3"]);
  });
});
