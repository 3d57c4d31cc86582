// The programs that judge what the tests leave behind: qemu-img above all, real file systems, and
// strace. They come with the system, not with npm; where the tests run as root on Debian they are
// installed, elsewhere they are named.

import { existsSync } from "node:fs";
import process from "node:process";

import { fail, tryRun } from "./tools.ts";

const judges = [
  { program: "qemu-img", package: "qemu-utils" },
  { program: "mkfs.ext4", package: "e2fsprogs" },
  { program: "debugfs", package: "e2fsprogs" },
  { program: "mkfs.xfs", package: "xfsprogs" },
  { program: "mkfs.btrfs", package: "btrfs-progs" },
  { program: "strace", package: "strace" },
  // Gives the executable a terminal.
  { program: "script", package: "bsdutils" },
];

/** System programs live in directories that a user's PATH may leave out. */
const directories = [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/sbin"];

function missing(): typeof judges {
  return judges.filter(
    ({ program }) => !directories.some((dir) => existsSync(`${dir}/${program}`)),
  );
}

/** Sees to it that all judges are there, or says which tests cannot judge. */
export function installJudges(): void {
  process.env.PATH = directories.join(":");
  if (missing().length > 0 && process.getuid?.() === 0) {
    const packages = new Set(missing().map((judge) => judge.package));
    const quiet = { DEBIAN_FRONTEND: "noninteractive" };
    tryRun("apt-get", ["update", "-q"], quiet);
    tryRun("apt-get", ["install", "-yq", "--no-install-recommends", ...packages], quiet);
  }
  const rest = missing();
  if (rest.length === 0) return;
  const names = rest.map(({ program, package: name }) => `${program} (package ${name})`).join(", ");
  const sentence = `these programs judge the tests and are not installed: ${names}`;
  if (process.env.CI) fail(sentence);
  console.error(`warning: ${sentence}; tests that need them are skipped`);
}
