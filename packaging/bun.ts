// The entry of the form that Bun packs: the addon is inside the executable and never becomes a file
// of the system, so it works where nothing can be written or executed from.

import { FFIType, dlopen, ptr } from "bun:ffi";
import fs from "node:fs";
import process from "node:process";

// @ts-expect-error -- not a module: Bun embeds the file and this is its name inside
import embedded from "../target/bun/calque.bin" with { type: "file" };
import { start } from "../src/cli.ts";
import type { Native } from "../src/native.ts";

/** Close on exec. Executable memory files need no flag. */
const MFD_CLOEXEC = 1;

/** Loads the addon from memory. Its descriptor stays open: libraries are known by their names. */
function loadNative(): Native {
  const { symbols } = dlopen("libc.so.6", {
    memfd_create: { args: [FFIType.cstring, FFIType.u32], returns: FFIType.i32 },
  });
  const fd = symbols.memfd_create(ptr(Buffer.from("calque.node\0")), MFD_CLOEXEC);
  if (fd < 0) throw new Error("the system gives no memory file to load the core from");
  const bytes = fs.readFileSync(embedded as string);
  for (let at = 0; at < bytes.length;) at += fs.writeSync(fd, bytes, at);
  const module = { exports: {} };
  process.dlopen(module, `/proc/self/fd/${fd}`);
  return module.exports as Native;
}

await start(loadNative);
