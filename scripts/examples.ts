// Builds the small Rust programs that the demo and the benchmark need beside the executable.

import path from "node:path";

import { cargoTarget, run } from "./tools.ts";

/** Builds an example of the core, optimized but without the minutes of link-time optimization. */
export function buildExample(name: string): string {
  run("cargo", [
    "build",
    "--quiet",
    "--locked",
    "--release",
    "--config=profile.release.lto=false",
    "--config=profile.release.codegen-units=16",
    "--package=qcow2",
    `--example=${name}`,
  ]);
  return path.join(cargoTarget, "release/examples", name);
}
