// The executable: src/embedded.ts bundled, compiled to bytecode by the build script of
// native/host, and linked with the core and the engine into one static file.

import { copyFileSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { rolldown } from "rolldown";

import { cargoTarget, fail, root, run, triple } from "../tools.ts";

const bundle = path.join(root, "target/bundle");
const shims = path.join(root, "packaging/node-shims.ts");
const shapes = path.join(root, "src/state/shapes.ts");

/** Messages of a panic name sources as they are called here, not where this machine keeps them. */
const cargoHome = process.env.CARGO_HOME ?? path.join(os.homedir(), ".cargo");
const namelessPaths = [`${root}/=`, `${cargoHome}/registry/src/=`]
  .map((prefix) => `--remap-path-prefix=${prefix}`)
  .join(" ");

/** Builds the executable as `file`. */
export async function packWithHost(file: string): Promise<void> {
  await bundleSource();
  // Flags for the target only: build scripts and macros of the compiler cannot be static.
  const flags = `CARGO_TARGET_${triple.toUpperCase().replaceAll("-", "_")}_RUSTFLAGS`;
  run(
    "cargo",
    ["build", "--release", "--locked", "-p", "calque-host", "--bin", "calque"].concat(
      ["--features", "bundle"],
      ["--target", triple],
    ),
    {
      [flags]: `-C target-feature=+crt-static ${namelessPaths}`,
      CARGO_TARGET_DIR: cargoTarget,
      CALQUE_BUNDLE: bundle,
    },
  );
  copyFileSync(path.join(cargoTarget, triple, "release/calque"), file);
  if (needsInterpreter(readFileSync(file))) fail(`${file} is not static`);
}

/** Writes the modules of `src/`, one file per entry and lazy import, to `bundle`. */
async function bundleSource(): Promise<void> {
  rmSync(bundle, { recursive: true, force: true });
  const build = await rolldown({
    cwd: root,
    input: { embedded: "src/embedded.ts" },
    external: ["calque:host"],
    platform: "neutral",
    // `using` is lowered; everything else that the source uses is in the engine.
    transform: { target: "es2022" },
    resolve: {
      mainFields: ["module", "main"],
      conditionNames: ["import"],
      alias: Object.fromEntries(
        ["events", "child_process", "path", "fs", "process", "util"].map((name) => [
          `node:${name}`,
          shims,
        ]),
      ),
    },
    plugins: [{ name: "ahead", load: evaluateAhead }],
    onLog(level, log) {
      // An unresolved import would end the executable at run time, on a path that few take.
      if (level === "warn") fail(log.message);
    },
  });
  const { output } = await build.write({
    dir: bundle,
    format: "esm",
    entryFileNames: "[name].js",
    chunkFileNames: "[name].js",
    // Names cost nothing in bytecode and make stack traces readable.
    minify: false,
  });
  await build.close();
  const modules = output.flatMap((chunk) => (chunk.type === "chunk" ? chunk.moduleIds : []));
  if (modules.some((id) => id.includes("/zod/"))) fail("zod is bundled, though only types need it");
}

/** A module that is evaluated now: the bundle has what it exports, as data. */
async function evaluateAhead(id: string): Promise<string | undefined> {
  if (id !== shapes) return undefined;
  const exported = Object.entries((await import(shapes)) as Record<string, unknown>);
  return exported
    .map(([name, value]) => `export const ${name} = ${JSON.stringify(value)};`)
    .join("");
}

/** Whether an ELF file names a dynamic linker. */
function needsInterpreter(elf: Buffer): boolean {
  const interpreter = 3;
  const headers = Number(elf.readBigUInt64LE(32));
  const size = elf.readUInt16LE(54);
  const count = elf.readUInt16LE(56);
  return Array.from({ length: count }, (_, i) => elf.readUInt32LE(headers + i * size)).includes(
    interpreter,
  );
}
