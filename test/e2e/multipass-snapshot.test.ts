// What the page on `snapshot` in Multipass's documentation says, claim by claim, on the built
// executable, by both names by which it is called. What a disk holds is qemu-img's and qemu-io's to
// say.

import { symlinkSync } from "node:fs";

import { afterAll, describe, expect, test } from "vitest";

import { BRIDGE, Home, isClean, MOUNT, NAMES, virtualSize } from "./home.ts";
import { digest, executable, guest, Holder, judged, Scene, snapshotsOf } from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

describe.runIf(judged).each(NAMES)("snapshot, called $name", ({ name: program, Program }) => {
  const file = scene.path(program);
  symlinkSync(executable, file);
  const home = (): Home => new Home(file, scene.place());

  test("says what it took, and ends with 0", async () => {
    const at = home();
    await at.has("foo");
    expect(await at.tries("snapshot", "foo")).toEqual({
      status: 0,
      signal: null,
      stdout: "Snapshot taken: foo.snapshot1\n",
      stderr: "",
    });
  });

  test("keeps what the disk holds, and leaves the disk as it is", async () => {
    const at = home();
    await at.has("foo");
    const before = await digest(at.disk("foo"));
    await at.does("snapshot", "foo");
    expect(await digest(at.disk("foo"))).toBe(before);
    await guest(at.disk("foo"), "write -P 2 0 2M");
    expect(await digest(at.disk("foo"), "1")).toBe(before);
    expect(await snapshotsOf(at.disk("foo"))).toEqual([{ id: "1", name: "snapshot1" }]);
    expect(await isClean(at.disk("foo"))).toBe(true);
  });

  test("can be restored: the disk holds what it held", async () => {
    const at = home();
    await at.has("foo");
    const before = await digest(at.disk("foo"));
    await at.does("snapshot", "foo");
    await guest(at.disk("foo"), "write -P 2 0 2M");
    expect(await at.does("restore", "--destructive", "foo.snapshot1")).toBe(
      "Snapshot restored: foo.snapshot1\n",
    );
    expect(await digest(at.disk("foo"))).toBe(before);
    expect(await isClean(at.disk("foo"))).toBe(true);
  });

  test("can be restored as often as one likes", async () => {
    const at = home();
    await at.has("foo");
    const before = await digest(at.disk("foo"));
    await at.does("snapshot", "foo");
    for (const byte of [2, 3]) {
      await guest(at.disk("foo"), `write -P ${byte} 32k 1M`);
      await at.does("restore", "--destructive", "foo.snapshot1");
      expect(await digest(at.disk("foo"))).toBe(before);
    }
  });

  test("records cpus, memory and the size of the disk, which a restore brings back", async () => {
    const at = home();
    await at.has("foo", "--cpus", "2", "--memory", "256M");
    await at.does("snapshot", "foo");
    await at.does("set", "local.foo.cpus=4");
    await at.does("set", "local.foo.memory=1G");
    await at.does("set", "local.foo.disk=8M");
    expect(await at.about("foo", "snapshot1")).toMatchObject({
      cpu_count: "2",
      memory_size: "256.0MiB",
      disk_space: "2.0MiB",
    });
    await at.does("restore", "--destructive", "foo.snapshot1");
    expect(await at.get("local.foo.cpus")).toBe("2");
    expect(await at.get("local.foo.memory")).toBe("256.0MiB");
    expect(await at.get("local.foo.disk")).toBe("2.0MiB");
    expect(await virtualSize(at.disk("foo"))).toBe(2 << 20);
  });

  test("records interfaces and mounts, which a restore brings back", async () => {
    const at = home();
    await at.has("foo");
    at.record("foo", { interfaces: [BRIDGE], mounts: { "/srv": MOUNT } });
    const { macAddress } = at.record("foo");
    await at.does("snapshot", "foo");
    at.record("foo", { interfaces: [], mounts: {} });
    expect(await at.about("foo", "snapshot1")).toMatchObject({
      mounts: { "/srv": { source_path: "/home/me/src" } },
    });
    await at.does("restore", "--destructive", "foo.snapshot1");
    const restored = at.record("foo");
    expect(restored.interfaces).toEqual([BRIDGE]);
    expect(restored.mounts).toEqual({ "/srv": MOUNT });
    // The address of the instance itself stays.
    expect(restored.macAddress).toBe(macAddress);
  });

  test("is called snapshot1, snapshot2 and so on, by all that were ever taken", async () => {
    const at = home();
    await at.has("foo");
    await at.does("snapshot", "foo");
    await at.does("snapshot", "foo", "--name", "clean");
    expect(await at.does("snapshot", "foo")).toBe("Snapshot taken: foo.snapshot3\n");
    await at.does("delete", "--purge", "foo.snapshot3", "foo.snapshot1");
    expect(await at.does("snapshot", "foo")).toBe("Snapshot taken: foo.snapshot4\n");
  });

  test("steps over a name that another one has", async () => {
    const at = home();
    await at.has("foo");
    await at.does("snapshot", "foo", "--name", "snapshot2");
    expect(await at.does("snapshot", "foo")).toBe("Snapshot taken: foo.snapshot3\n");
    expect(await at.snapshots("foo")).toEqual(["snapshot2 < ", "snapshot3 < snapshot2"]);
  });

  test.each([["--name", "clean"], ["--name=clean"], ["-n", "clean"], ["-nclean"]])(
    "is called as it is told: %s %s",
    async (...option) => {
      const at = home();
      await at.has("foo");
      const words = option.filter(Boolean);
      expect(await at.does("snapshot", "foo", ...words)).toBe("Snapshot taken: foo.clean\n");
      expect(await snapshotsOf(at.disk("foo"))).toEqual([{ id: "1", name: "clean" }]);
    },
  );

  test.each(["--comment", "-c", "-m"])("keeps a comment of %s, of several lines", async (flag) => {
    const at = home();
    await at.has("foo");
    await at.does("snapshot", "foo", flag, "before upgrade\nkernel 6.8, ext4");
    const { comment } = await at.about("foo", "snapshot1");
    expect(comment).toBe("before upgrade\nkernel 6.8, ext4");
    expect(await at.does("list", "--snapshots")).toMatch(/^foo +snapshot1 +-- +before upgrade…$/m);
  });

  test("has a name that no other of its instance has", async () => {
    const at = home();
    await at.has("foo");
    await at.has("bar");
    await at.does("snapshot", "foo", "--name", "clean");
    expect(await at.tries("snapshot", "foo", "--name", "clean")).toMatchObject({
      status: 2,
      stdout: "",
      stderr: "snapshot failed: Snapshot already exists: foo.clean\n",
    });
    await at.does("snapshot", "foo", "--name", "Clean");
    await at.does("snapshot", "bar", "--name", "clean");
    expect(await at.snapshots("foo")).toEqual(["clean < ", "Clean < clean"]);
  });

  test("descends from the one that was taken or restored last", async () => {
    const at = home();
    await at.has("foo");
    await at.does("snapshot", "foo");
    await at.does("snapshot", "foo");
    await at.does("restore", "--destructive", "foo.snapshot1");
    await at.does("snapshot", "foo");
    expect(await at.snapshots("foo")).toEqual([
      "snapshot1 < ",
      "snapshot2 < snapshot1",
      "snapshot3 < snapshot1",
    ]);
    const { children } = await at.about("foo", "snapshot1");
    expect(children).toEqual(["snapshot2", "snapshot3"]);
  });

  test("stays what it is when others are taken, restored and deleted", async () => {
    const at = home();
    await at.has("foo");
    const held: string[] = [];
    for (const byte of [1, 2, 3]) {
      await guest(at.disk("foo"), `write -P ${byte} ${byte * 100}k 300k`);
      held.push(await digest(at.disk("foo")));
      await at.does("snapshot", "foo");
    }
    await at.does("restore", "--destructive", "foo.snapshot1");
    await at.does("delete", "--purge", "foo.snapshot2");
    expect(await at.snapshots("foo")).toEqual(["snapshot1 < ", "snapshot3 < snapshot1"]);
    expect(await digest(at.disk("foo"), "1")).toBe(held[0]);
    expect(await digest(at.disk("foo"), "3")).toBe(held[2]);
    expect(await digest(at.disk("foo"))).toBe(held[0]);
    await at.does("restore", "--destructive", "foo.snapshot3");
    expect(await digest(at.disk("foo"))).toBe(held[2]);
    expect(await isClean(at.disk("foo"))).toBe(true);
  });

  test("is of stopped instances only", async () => {
    const at = home();
    await at.has("foo");
    await using holder = await Holder.io(at.disk("foo"));
    expect(await at.tries("snapshot", "foo")).toEqual({
      status: 2,
      signal: null,
      stdout: "",
      stderr:
        `snapshot failed: ${Program} can only take snapshots of stopped instances.\n` +
        `"foo" is used by qemu-io (process ${holder.pid})\n`,
    });
    expect(await at.snapshots("foo")).toEqual([]);
  });

  test("goes to the trash with its instance, and comes back with it", async () => {
    const at = home();
    await at.has("foo");
    const before = await digest(at.disk("foo"));
    await at.does("snapshot", "foo", "--comment", "clean");
    await guest(at.disk("foo"), "write -P 2 0 1M");
    await at.does("delete", "foo");
    expect(await at.tries("snapshot", "foo")).toMatchObject({
      status: 2,
      stderr: 'snapshot failed: instance "foo" is deleted\n',
    });
    await at.does("recover", "foo");
    expect(await at.about("foo", "snapshot1")).toMatchObject({ comment: "clean" });
    await at.does("restore", "--destructive", "foo.snapshot1");
    expect(await digest(at.disk("foo"))).toBe(before);
  });

  test.each([
    [["snapshot", "none"], 'instance "none" does not exist'],
    [["snapshot", "foo", "--name", "a b"], 'Invalid snapshot name: "a b".'],
    [["snapshot", "foo", "--name", "1st"], 'Invalid snapshot name: "1st".'],
  ])("ends with 2 and takes nothing in `%s`", async (line, reason) => {
    const at = home();
    await at.has("foo");
    const { status, stdout, stderr } = await at.tries(...line);
    expect([status, stdout, stderr.split("\n")[0]]).toEqual([2, "", `snapshot failed: ${reason}`]);
    expect(await snapshotsOf(at.disk("foo"))).toEqual([]);
  });

  test.each([
    [["snapshot"], "Need the name of an instance to snapshot."],
    [["snapshot", "-n", "foo"], "Need the name of an instance to snapshot."],
    [["snapshot", "foo", "bar"], "Too many arguments supplied"],
    [["snapshot", "foo", "--comment"], "Missing value after '--comment'."],
  ])("ends with 1 in `%s`", async (line, sentence) => {
    const ending = await home().tries(...line);
    expect(ending).toEqual({ status: 1, signal: null, stdout: "", stderr: `${sentence}\n` });
  });

  test("explains itself", async () => {
    const at = home();
    const help = await at.does("help", "snapshot");
    expect(help).toContain(
      `Usage: ${program} snapshot [options] instance\n` +
        "Take a snapshot of an instance that can later be restored to recover the current state.\n",
    );
    expect(help).toContain("--comment, -c, -m <comment>");
    expect(await at.does("snapshot", "--help")).toBe(help);
  });
});
