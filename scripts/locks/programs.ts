// Programs that run beside each other, and the image that they meet on.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import process from "node:process";

/** A program with its arguments. */
export type Command = readonly [program: string, ...args: string[]];

/** How a run of a program ends. */
export interface Ending {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, however it ends. */
export function start([program, ...args]: Command, home = ""): Promise<Ending> {
  const env = { PATH: process.env.PATH, LC_ALL: "C", TZ: "UTC", CALQUE_HOME: home };
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, { env, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      if (error !== null && typeof error.code === "string") reject(error);
      else resolve({ status: child.exitCode, stdout, stderr });
    });
    child.stdin?.end();
  });
}

/** Runs a program that has to succeed; what it wrote to stdout. */
export async function must(command: Command, home = ""): Promise<string> {
  const { status, stdout, stderr } = await start(command, home);
  if (status !== 0) throw new Error(`\`${command.join(" ")}\` ended with ${status}: ${stderr}`);
  return stdout;
}

/** A directory with an image of a few MiB, which has data and the snapshot `one`. */
export class Place implements Disposable {
  readonly directory: string;
  /** The image that nothing is done to. */
  readonly master: string;
  /** The copy of it that programs meet on. */
  readonly file: string;

  private constructor(parent: string) {
    this.directory = mkdtempSync(path.join(parent, "locks-"));
    this.master = path.join(this.directory, "master.qcow2");
    this.file = path.join(this.directory, "disk.qcow2");
  }

  static async make(parent: string): Promise<Place> {
    const place = new Place(parent);
    const { master } = place;
    await must(["qemu-img", "create", "-q", "-f", "qcow2", master, "4M"]);
    await must(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", master]);
    await must(["qemu-img", "snapshot", "-c", "one", master]);
    await must(["qemu-io", "-f", "qcow2", "-c", "write -P 2 512k 1M", master]);
    place.renew();
    return place;
  }

  /** Makes the copy anew. */
  renew(): void {
    copyFileSync(this.master, this.file);
  }

  /** A digest of what a guest would read of an image, as it is or at a snapshot. */
  async digest(file: string, snapshotId?: string): Promise<string> {
    const raw = path.join(this.directory, "content.raw");
    const from = snapshotId === undefined ? [] : ["-l", `snapshot.id=${snapshotId}`];
    const { status } = await start([
      "qemu-img",
      "convert",
      "-f",
      "qcow2",
      "-O",
      "raw",
      ...from,
      file,
      raw,
    ]);
    if (status !== 0) return "unreadable";
    return createHash("sha256").update(readFileSync(raw)).digest("hex");
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}
