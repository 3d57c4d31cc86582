// The disk of the demo: an ext4 file system with real files, made, changed and read without root
// and without mounting it, by the programs of e2fsprogs.

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { capture, fail, root } from "../tools.ts";

/** What the demo changes, and what it expects to read. */
export const motd = {
  file: "/etc/motd",
  before: "Welcome.\n",
  after: "Welcome to the new release.\n",
};
export const added = { file: "/srv/added.txt", content: "This file came with the upgrade.\n" };
export const deleted = { file: "/var/log/old.log", content: "Nothing to see here.\n" };

/** The files of a disk that the demo touches; undefined where there is no such file. */
export interface Seen {
  motd: string | undefined;
  added: string | undefined;
  deleted: string | undefined;
}

export const original: Seen = {
  motd: motd.before,
  added: undefined,
  deleted: deleted.content,
};

export const upgraded: Seen = { motd: motd.after, added: added.content, deleted: undefined };

/** Ends the demo unless e2fsprogs is there. */
export function requirePrograms(): void {
  process.env.PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
  for (const program of ["mke2fs", "debugfs"]) {
    const { error } = spawnSync(program, ["-V"], { stdio: "ignore" });
    if (error) {
      fail(
        `${program} is not installed: the demo needs e2fsprogs to make a disk with files ` +
          "(`apt install e2fsprogs`, `dnf install e2fsprogs`)",
      );
    }
  }
}

/** Makes a raw disk: this repository, the executable, the Node that runs this, a few more. */
export function makeDisk(raw: string, size: string, stage: string): { files: number } {
  const put = (file: string, content: string) => {
    mkdirSync(path.dirname(stage + file), { recursive: true });
    writeFileSync(stage + file, content);
  };
  put(motd.file, motd.before);
  put(deleted.file, deleted.content);
  mkdirSync(path.join(stage, "srv"));
  const bin = path.join(stage, "usr/bin");
  mkdirSync(bin, { recursive: true });
  cpSync(process.execPath, path.join(bin, "node"), { dereference: true });
  cpSync(path.join(root, "dist/calque"), path.join(bin, "calque"));
  for (const directory of ["docs", "native", "scripts", "src", "test"]) {
    const from = path.join(root, directory);
    if (!existsSync(from)) continue;
    cpSync(from, path.join(stage, "usr/src/calque", directory), {
      recursive: true,
      filter: (file) => !/\/(target|node_modules)$|\.node$/.test(file),
    });
  }
  capture("mke2fs", ["-q", "-t", "ext4", "-L", "calque-demo", "-d", stage, raw, size]);
  const entries = readdirSync(stage, { recursive: true, withFileTypes: true });
  return { files: entries.filter((entry) => entry.isFile()).length };
}

/** Changes a file, adds one and deletes one, as an upgrade inside the virtual machine would. */
export function upgrade(raw: string, scratch: string): void {
  writeFileSync(path.join(scratch, "motd"), motd.after);
  writeFileSync(path.join(scratch, "added"), added.content);
  const commands = [
    `rm ${motd.file}`,
    `write ${scratch}/motd ${motd.file}`,
    `write ${scratch}/added ${added.file}`,
    `rm ${deleted.file}`,
  ];
  const script = path.join(scratch, "upgrade.debugfs");
  writeFileSync(script, `${commands.join("\n")}\n`);
  capture("debugfs", ["-w", "-f", script, raw]);
}

/** Replaces the greeting only. */
export function greet(raw: string, scratch: string, greeting: string): void {
  writeFileSync(path.join(scratch, "motd"), greeting);
  const script = path.join(scratch, "greet.debugfs");
  writeFileSync(script, `rm ${motd.file}\nwrite ${scratch}/motd ${motd.file}\n`);
  capture("debugfs", ["-w", "-f", script, raw]);
}

/** Reads the files that the demo touches. */
export function look(raw: string): Seen {
  return {
    motd: readFile(raw, motd.file),
    added: readFile(raw, added.file),
    deleted: readFile(raw, deleted.file),
  };
}

function readFile(raw: string, file: string): string | undefined {
  const { stdout, stderr, status } = spawnSync("debugfs", ["-R", `cat ${file}`, raw], {
    encoding: "utf8",
  });
  if (status !== 0) fail(`debugfs cannot read ${raw}: ${stderr}`);
  return stderr.includes("File not found") ? undefined : stdout;
}
