// The second form: the same source and the Node-API addon in one file, run by Bun.
//
// What Bun would read of a working directory or an environment that belong to somebody else is
// switched off, by its flags and, where it has none, by making the names unsayable in a copy of it.

import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { addon, buildAddon } from "../addon.ts";
import { fail, root, run } from "../tools.ts";

const bun = path.join(root, "node_modules/@oven/bun-linux-x64/bin/bun");
const work = path.join(root, "target/bun");

/** Variables by which an environment makes a packed program run something else, and their count. */
const hijacks = [
  { name: "BUN_OPTIONS", occurrences: 2 },
  { name: "BUN_BE_BUN", occurrences: 1 },
];

/** Builds the second form as `file`. */
export function packWithBun(file: string): void {
  buildAddon();
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  copyFileSync(addon, path.join(work, "calque.bin"));
  writeFileSync(path.join(work, "base"), harden(readFileSync(bun)), { mode: 0o755 });
  run(bun, [
    "build",
    "--compile",
    "--minify",
    "--keep-names",
    "--sourcemap=inline",
    "--bytecode",
    "--format=esm",
    `--compile-executable-path=${path.join(work, "base")}`,
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    "--no-compile-autoload-tsconfig",
    "--no-compile-autoload-package-json",
    "packaging/bun.ts",
    `--outfile=${file}`,
  ]);
}

/** Overwrites each name with one that no environment can hold. */
function harden(base: Buffer): Buffer {
  for (const { name, occurrences } of hijacks) {
    let found = 0;
    for (let at = base.indexOf(name); at >= 0; at = base.indexOf(name, at)) {
      base.fill("=", at, at + name.length);
      found += 1;
    }
    if (found !== occurrences) fail(`Bun says ${name} ${found} times, not ${occurrences}`);
  }
  return base;
}
