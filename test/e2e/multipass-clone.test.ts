// What the page on `clone` in Multipass's documentation says, claim by claim, on the built
// executable, by both names by which it is called. What a disk holds is qemu-img's and qemu-io's to
// say.

import { symlinkSync } from "node:fs";

import { afterAll, describe, expect, test } from "vitest";

import { BRIDGE, Home, isClean, MOUNT, NAMES, reads, virtualSize } from "./home.ts";
import {
  digest,
  executable,
  guest,
  Holder,
  judged,
  qemuImg,
  Scene,
  snapshotsOf,
} from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

describe.runIf(judged).each(NAMES)("clone, called $name", ({ name: program, Program }) => {
  const file = scene.path(program);
  symlinkSync(executable, file);
  const home = (): Home => new Home(file, scene.place());

  test("says what it made of what, and ends with 0", async () => {
    const at = home();
    await at.has("foo");
    expect(await at.tries("clone", "foo")).toEqual({
      status: 0,
      signal: null,
      stdout: "Cloned from foo to foo-clone1.\n",
      stderr: expect.stringMatching(/^(hint: \S+ copied, not shared: .*\n)?$/) as string,
    });
  });

  test("makes an instance with the software and the data of its source", async () => {
    const at = home();
    await at.has("foo");
    await guest(at.disk("foo"), "write -P 2 1M 300k", "write -P 3 1990k 50k");
    const before = await digest(at.disk("foo"));
    await at.does("clone", "foo");
    expect(await digest(at.disk("foo-clone1"))).toBe(before);
    expect(await digest(at.disk("foo"))).toBe(before);
    expect(await isClean(at.disk("foo-clone1"))).toBe(true);
  });

  test("makes one with the configuration of its source: cpus, memory and disk", async () => {
    const at = home();
    await at.has("foo", "--cpus", "3", "--memory", "384M");
    await at.does("set", "local.foo.disk=5M");
    await at.does("clone", "foo", "--name", "bar");
    expect(await at.get("local.bar.cpus")).toBe("3");
    expect(await at.get("local.bar.memory")).toBe("384.0MiB");
    expect(await at.get("local.bar.disk")).toBe("5.0MiB");
    expect(await virtualSize(at.disk("bar"))).toBe(5 << 20);
  });

  test("makes one with the interfaces and the mounts of its source", async () => {
    const at = home();
    await at.has("foo");
    at.record("foo", { interfaces: [BRIDGE], mounts: { "/srv": MOUNT } });
    await at.does("clone", "foo", "--name", "bar");
    const { interfaces, mounts } = at.record("bar");
    expect(interfaces).toMatchObject([{ id: "br0", autoMode: true }]);
    expect(mounts).toEqual({ "/srv": MOUNT });
  });

  test("gives it network addresses and an instance id that nobody else has", async () => {
    const at = home();
    await at.has("foo");
    at.record("foo", { interfaces: [BRIDGE] });
    await at.does("clone", "foo");
    await at.does("clone", "foo-clone1");
    const all = ["foo", "foo-clone1", "foo-clone1-clone1"].map((name) => at.record(name));
    const addresses = all.flatMap((one) => [
      one.macAddress,
      ...one.interfaces.map((its) => its.macAddress),
    ]);
    expect(new Set(addresses).size).toBe(6);
    for (const address of addresses) expect(address).toMatch(/^52:54:00(:[0-9a-f]{2}){3}$/);
    expect(new Set(all.map(({ instanceId }) => instanceId)).size).toBe(3);
    expect(new Set(all.map(({ uuid }) => uuid)).size).toBe(3);
  });

  test("makes a replica that stands alone: what one writes, the other never reads", async () => {
    const at = home();
    await at.has("foo");
    await at.does("clone", "foo");
    await guest(at.disk("foo"), "write -P 7 0 64k");
    expect(await reads(at.disk("foo-clone1"), 1)).toBe(true);
    await guest(at.disk("foo-clone1"), "write -P 8 0 64k");
    expect(await reads(at.disk("foo"), 7)).toBe(true);
  });

  test("makes a replica that stands alone: it outlives its source", async () => {
    const at = home();
    await at.has("foo");
    await at.does("clone", "foo");
    const info = await qemuImg("info", "-f", "qcow2", "--output=json", at.disk("foo-clone1"));
    expect(JSON.parse(info)).not.toHaveProperty("backing-filename");
    const before = await digest(at.disk("foo-clone1"));
    await at.does("delete", "--purge", "foo");
    expect(await digest(at.disk("foo-clone1"))).toBe(before);
    expect(await at.lists()).toEqual([expect.arrayContaining(["foo-clone1", "Stopped"])]);
  });

  test("takes no snapshots along, and leaves those of the source as they are", async () => {
    const at = home();
    await at.has("foo");
    await at.does("snapshot", "foo");
    await guest(at.disk("foo"), "write -P 2 0 64k");
    await at.does("snapshot", "foo");
    const before = await Promise.all(["1", "2"].map((id) => digest(at.disk("foo"), id)));
    await at.does("clone", "foo", "--name", "bar");
    expect(await snapshotsOf(at.disk("bar"))).toEqual([]);
    expect(await at.snapshots("bar")).toEqual([]);
    expect(await at.snapshots("foo")).toEqual(["snapshot1 < ", "snapshot2 < snapshot1"]);
    expect(await Promise.all(["1", "2"].map((id) => digest(at.disk("foo"), id)))).toEqual(before);
    // The clone counts its own from the beginning.
    expect(await at.does("snapshot", "bar")).toBe("Snapshot taken: bar.snapshot1\n");
  });

  test("calls them SOURCE-clone1, SOURCE-clone2 and so on", async () => {
    const at = home();
    await at.has("foo");
    for (const number of [1, 2, 3]) {
      expect(await at.does("clone", "foo")).toBe(`Cloned from foo to foo-clone${number}.\n`);
    }
  });

  test("counts those that have a name of their own, and those that are gone", async () => {
    const at = home();
    await at.has("foo");
    await at.does("clone", "foo", "--name", "bar");
    await at.does("clone", "foo");
    await at.does("delete", "--purge", "foo-clone2");
    await at.does("clone", "foo");
    expect(await at.instances()).toEqual(["bar", "foo", "foo-clone3"]);
  });

  test("steps over a name that somebody has", async () => {
    const at = home();
    await at.has("foo");
    await at.has("foo-clone1");
    expect(await at.does("clone", "foo")).toBe("Cloned from foo to foo-clone2.\n");
    expect(await at.does("clone", "foo")).toBe("Cloned from foo to foo-clone3.\n");
  });

  test("lets a clone be cloned, which counts its own from 1", async () => {
    const at = home();
    await at.has("foo");
    await at.does("clone", "foo");
    await at.does("clone", "foo-clone1");
    expect(await at.instances()).toEqual(["foo", "foo-clone1", "foo-clone1-clone1"]);
    expect(await digest(at.disk("foo-clone1-clone1"))).toBe(await digest(at.disk("foo")));
  });

  test.each([["--name", "bar"], ["--name=bar"], ["-n", "bar"], ["-nbar"], ["-n=bar"]])(
    "calls it as it is told: %s %s",
    async (...option) => {
      const at = home();
      await at.has("foo");
      const words = option.filter(Boolean);
      expect(await at.does("clone", ...words, "foo")).toBe("Cloned from foo to bar.\n");
    },
  );

  test("is of stopped instances only", async () => {
    const at = home();
    await at.has("foo");
    await using holder = await Holder.io(at.disk("foo"));
    expect(await at.tries("clone", "foo")).toEqual({
      status: 2,
      signal: null,
      stdout: "",
      stderr:
        `clone failed: ${Program} can only clone stopped instances.\n` +
        `"foo" is used by qemu-io (process ${holder.pid})\n`,
    });
    expect(await at.instances()).toEqual(["foo"]);
  });

  test("makes one that is stopped, and can be started at once", async () => {
    const at = home();
    await at.has("foo");
    await at.does("clone", "foo");
    await using _ = await Holder.io(at.disk("foo-clone1"));
    const states = (await at.lists()).map(([name, state]) => [name, state]);
    expect(states).toEqual([
      ["foo", "Stopped"],
      ["foo-clone1", "Running"],
    ]);
  });

  test.each([
    [["clone", "none"], 'instance "none" does not exist'],
    [["clone", "gone"], 'instance "gone" is deleted'],
    [["clone", "foo", "--name", "a_b"], "Invalid destination instance name: a_b"],
    [["clone", "foo", "--name", "foo"], 'instance "foo" already exists'],
  ])("ends with 2 and makes nothing in `%s`", async (line, reason) => {
    const at = home();
    await at.has("foo");
    await at.has("gone");
    await at.does("delete", "gone");
    const { status, stdout, stderr } = await at.tries(...line);
    expect([status, stdout, stderr.split("\n")[0]]).toEqual([2, "", `clone failed: ${reason}`]);
    expect(await at.instances()).toHaveLength(2);
  });

  test.each([
    [["clone"], "Please provide the name of the source instance."],
    [["clone", "foo", "bar"], "Too many arguments."],
    [["clone", "foo", "--name"], "Missing value after '--name'."],
    [["clone", "foo", "--nome", "bar"], "Unknown option 'nome'."],
  ])("ends with 1 in `%s`", async (line, sentence) => {
    const ending = await home().tries(...line);
    expect(ending).toEqual({ status: 1, signal: null, stdout: "", stderr: `${sentence}\n` });
  });

  test("explains itself", async () => {
    const at = home();
    const help = await at.does("help", "clone");
    expect(help).toContain(
      `Usage: ${program} clone [options] <source_name>\n` +
        "Create an independent copy of an existing (stopped) instance.\n",
    );
    expect(help).toContain("-n, --name <destination-name>  An optional custom name");
    expect(await at.does("clone", "--help")).toBe(help);
  });
});
