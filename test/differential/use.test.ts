// An image that a QEMU process has open, or that nobody can write to, against what qemu-img does about
// it.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";

import { describe, test } from "vitest";

import { Scene } from "./images.ts";
import { env, expectSame } from "./programs.ts";

const { place } = new Scene("ordinary.qcow2");

/** Works while qemu-io has `ordinary.qcow2` open. */
async function using(flags: string[], work: () => void): Promise<void> {
  const holder: ChildProcess = spawn("qemu-io", [...flags, "ordinary.qcow2"], {
    cwd: place,
    env,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) => holder.once("exit", resolve));
  // It prompts when the image is open.
  await new Promise((resolve) => holder.stdout?.once("data", resolve));
  try {
    work();
  } finally {
    holder.stdin?.end("quit\n");
    await ended;
  }
}

describe("an image in use", () => {
  test("by a writer is neither read nor changed", async () => {
    await using([], () => {
      for (const verb of ["info", "check", "snapshot"]) expectSame([verb, "ordinary.qcow2"], place);
      expectSame(["snapshot", "-c", "x", "ordinary.qcow2"], place);
      expectSame(["snapshot", "-a", "one", "ordinary.qcow2"], place);
      expectSame(["create", "-f", "qcow2", "ordinary.qcow2", "1M"], place);
      expectSame(["info", "-U", "ordinary.qcow2"], place);
      expectSame(["snapshot", "-U", "-l", "ordinary.qcow2"], place);
    });
  });

  test("by a reader is read, but not changed", async () => {
    await using(["-r"], () => {
      expectSame(["info", "ordinary.qcow2"], place);
      expectSame(["snapshot", "-c", "x", "ordinary.qcow2"], place);
    });
  });
});

describe("a device that nobody can write to", () => {
  test("is read, but not changed", () => {
    const device = execFileSync("losetup", ["-r", "--show", "--find", "ordinary.qcow2"], {
      cwd: place,
      encoding: "utf8",
    }).trim();
    try {
      expectSame(["check", device], place);
      expectSame(["check", "-r", "all", device], place);
      expectSame(["snapshot", "-l", device], place);
      expectSame(["snapshot", "-c", "x", device], place);
    } finally {
      execFileSync("losetup", ["--detach", device]);
    }
  });
});
