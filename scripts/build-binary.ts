// Builds the executable: `dist/calque`, the TypeScript as bytecode in the Rust host, static; or
// with `--packager bun` the second form, `dist/calque-bun`, the Node-API addon inside Bun.
//
// What was built is checked before it takes its place: nothing that needs a library or exceeds its
// size, and nothing that does not start, is ever called finished.

import { mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { parseArgs } from "node:util";

import { packWithBun } from "./packagers/bun.ts";
import { packWithHost } from "./packagers/host.ts";
import { fail, capture } from "./tools.ts";

const { values } = parseArgs({
  options: { packager: { type: "string", default: "host" } },
});

const packagers = {
  host: { target: "dist/calque", pack: packWithHost, limitMegabytes: 8 },
  bun: { target: "dist/calque-bun", pack: packWithBun, limitMegabytes: 120 },
};

const packager =
  packagers[values.packager as keyof typeof packagers] ??
  fail(`no packager "${values.packager}": it is host or bun`);

// The staged file has the final name: Bun writes it into what it builds.
const stage = "target/stage";
rmSync(stage, { recursive: true, force: true });
mkdirSync(stage, { recursive: true });
mkdirSync("dist", { recursive: true });
const staged = `${stage}/${packager.target.slice("dist/".length)}`;
await packager.pack(staged);

const megabytes = statSync(staged).size / 1e6;
if (megabytes > packager.limitMegabytes) {
  fail(`${staged} has ${megabytes.toFixed(1)} MB, more than ${packager.limitMegabytes}`);
}
const version = capture(staged, ["--version"]).trim();
renameSync(staged, packager.target);
console.log(`${packager.target}: ${version}, ${megabytes.toFixed(1)} MB`);
