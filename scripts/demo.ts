// `npm run demo`: the main job, from an empty directory to ten clones and a restore, with
// `dist/calque` on a disk with real files. Builds what it needs first.
//
//   npm run demo -- [--in DIRECTORY] [--keep] [--no-build]
//
// `--in` says where the disks go: on XFS and btrfs clones share their blocks, elsewhere they are
// copies. They lie in a directory of their own, which is removed at the end; `--keep` keeps it.
// `--no-build` takes `dist/calque` as it is.
// Every figure is measured in this run; a proof that fails ends the demo with status 1.

import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, rmSync, statfsSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { isDeepStrictEqual, parseArgs } from "node:util";

import { formatSize } from "../src/text/size.ts";
import {
  greet,
  look,
  makeDisk,
  original,
  requirePrograms,
  type Seen,
  upgrade,
  upgraded,
} from "./demo/guest.ts";
import { buildExample } from "./examples.ts";
import { capture, fail, root, run, temporaryDirectory } from "./tools.ts";

const DISK_SIZE = "1G";
const CLONES = 10;
/** Twenty copies of the content, should the file system not share, and as much as that again. */
const NEEDED_BYTES = 8 * 2 ** 30;

const { values: options } = parseArgs({
  options: {
    in: { type: "string", default: os.tmpdir() },
    keep: { type: "boolean" },
    "no-build": { type: "boolean" },
  },
});

requirePrograms();
if (!options["no-build"]) run(process.execPath, ["scripts/build-binary.ts"]);
const calque = path.join(root, "dist/calque");
const diskTool = buildExample("disk");

const directory = temporaryDirectory(options.in, "calque-demo-");
process.on("exit", () => {
  if (!options.keep) rmSync(directory, { recursive: true, force: true });
});
// Ctrl-C ends the program that runs now; its failure ends this one, which then cleans up.
process.on("SIGINT", () => process.exit(130));
const { bavail, bsize } = statfsSync(directory);
if (bavail * bsize < NEEDED_BYTES) {
  fail(`${options.in} has less than ${formatSize(NEEDED_BYTES)} free; \`--in DIR\` uses another`);
}
process.chdir(directory);
mkdirSync("scratch");

let proofs = 0;

console.log(`
Calque demo: one executable, no root, no qemu-img. Times are those of whole processes.
`);

// A disk with real files, as a virtual machine would have it.
const { files } = makeDisk("original.raw", DISK_SIZE, path.join(directory, "tree"));
rmSync("tree", { recursive: true });
prove("the new disk", look("original.raw"), original);
say(
  "A disk",
  `ext4, ${DISK_SIZE.replace("G", " GiB")}, ${files} files (made with mke2fs, without root)`,
);

step(
  "Create",
  "image create disk.qcow2 1G",
  calqueRun("image", "create", "-q", "disk.qcow2", DISK_SIZE),
);
const filled = tool("write", "disk.qcow2", "original.raw");
say(
  "",
  `its content goes in with one commit: ${formatSize(filled.writtenBytes)} written, ${ms(filled)}`,
);
proveSame("the content that went in", "original.raw", "disk.qcow2");

const before = occupied("disk.qcow2");
step(
  "Snapshot",
  "image snapshot -c clean disk.qcow2",
  calqueRun("image", "snapshot", "-c", "clean", "disk.qcow2"),
);
const taken = sharing("disk.qcow2", "clean");
say("", `${shared(taken)}; tables: ${difference(occupied("disk.qcow2") - before)}`);
proveSame("the snapshot", "original.raw", "disk.qcow2", "clean");

copyFileSync("original.raw", "upgraded.raw");
upgrade("upgraded.raw", path.join(directory, "scratch"));
const changed = tool("write", "disk.qcow2", "upgraded.raw");
say("Change", "one file changed, one added, one deleted (with debugfs, as a guest would)");
say(
  "",
  `${formatSize(changed.writtenBytes)} written, ${ms(changed)}; ${shared(sharing("disk.qcow2", "clean"))}`,
);
prove("the changed disk", look(readBack("disk.qcow2")), upgraded);
prove("the snapshot after the change", look(readBack("disk.qcow2", "clean")), original);

const targets = Array.from({ length: CLONES }, (_, index) => `clone-${index + 1}.qcow2`);
const cloned = calqueRun("image", "clone", "--output", "json", "disk.qcow2", ...targets);
step("Clone", `image clone disk.qcow2 ${targets[0]} … ${targets.at(-1)}`, cloned);
sayClones(cloned.stdout);
for (const target of targets) proveSame(target, "upgraded.raw", target);
const greeting = "I am the first clone.\n";
copyFileSync("upgraded.raw", "greeted.raw");
greet("greeted.raw", path.join(directory, "scratch"), greeting);
tool("write", targets[0]!, "greeted.raw");
prove("the first clone, changed", look(readBack(targets[0]!)), { ...upgraded, motd: greeting });
proveSame("the source of the changed clone", "upgraded.raw", "disk.qcow2");
proveSame("the second clone", "upgraded.raw", targets[1]!);
say("", "all ten read back the same; changing the first changes no other");

const changedSpace = occupied("disk.qcow2");
step(
  "Restore",
  "image snapshot -a clean disk.qcow2",
  calqueRun("image", "snapshot", "-a", "clean", "disk.qcow2"),
);
say(
  "",
  `${shared(sharing("disk.qcow2", "clean"))}; file: ${difference(occupied("disk.qcow2") - changedSpace)}`,
);
prove("the restored disk", look(readBack("disk.qcow2")), original);
proveSame("the restored disk, every byte", "original.raw", "disk.qcow2");
proveSame("a clone after the restore", "upgraded.raw", targets[1]!);
say("", "the old files are back, to the byte; the clones keep the new ones");

// The same as instances, in Multipass's words.
process.env.CALQUE_HOME = path.join(directory, "store");
console.log("");
step("Import", "import disk.qcow2 --name web", calqueRun("import", "disk.qcow2", "--name", "web"));
const disk = calqueRun("path", "web").stdout.trim();
proveSame("the imported disk", "original.raw", disk);
step(
  "Snapshot",
  'snapshot web --comment "before upgrade"',
  calqueRun("snapshot", "web", "--name", "before", "--comment", "before upgrade"),
);
tool("write", disk, "upgraded.raw");
say("Change", "the guest upgrades itself, and gets more processors: set local.web.cpus=4");
calqueRun("set", "local.web.cpus=4");
const fleet = calqueRun("clone", "web", "--name", "worker", "--count", `${CLONES}`);
step("Clone", `clone web --name worker --count ${CLONES}`, fleet);
const workers = Array.from({ length: CLONES }, (_, index) =>
  calqueRun("path", `worker-${index + 1}`).stdout.trim(),
);
for (const worker of workers) proveSame("an instance that was cloned", "upgraded.raw", worker);
step(
  "Restore",
  "restore --destructive web.before",
  calqueRun("restore", "--destructive", "web.before"),
);
proveSame("the restored instance", "original.raw", disk);
proveSame("a clone after the restore", "upgraded.raw", workers[0]!);
const cpus = calqueRun("get", "local.web.cpus").stdout.trim();
if (cpus !== "1") fail(`proof failed: the restored instance should have 1 cpu and has ${cpus}`);
proofs += 1;
say("", "the old files are back, and one processor as before; the clones keep what they were");
const list = calqueRun("list");
step("List", "list", list);
for (const line of list.stdout.trimEnd().split("\n").slice(0, 4)) say("", line);
say("", "…");
console.log("");

const images = ["disk.qcow2", ...targets, disk, ...workers];
const checks = images.map((image) => calqueRun("image", "check", "-q", image));
const checkMs = checks.reduce((sum, check) => sum + check.ms, 0);
step("Check", `image check, ${images.length} images: clean`, { ms: checkMs });
sayJudge(images);

console.log(
  `\n${proofs} proofs held. ${options.keep ? `Kept: ${directory}` : "The disks are removed again."}`,
);
console.log(`
Next, on a qcow2 disk of your own (shut its virtual machine down first):

  ${path.relative(root, calque)} image snapshot -c before-upgrade DISK.qcow2
  ${path.relative(root, calque)} image snapshot -a before-upgrade DISK.qcow2
  ${path.relative(root, calque)} image clone DISK.qcow2 COPY-1.qcow2 COPY-2.qcow2

or as an instance:

  ${path.relative(root, calque)} import DISK.qcow2 --name web
  ${path.relative(root, calque)} snapshot web --comment "before upgrade"
  ${path.relative(root, calque)} help
`);

interface Timed {
  ms: number;
}

/** Runs the executable in the demo's directory; the time is that of the process, as seen here. */
function calqueRun(...args: string[]): Timed & { stdout: string } {
  return timed(calque, args);
}

function timed(program: string, args: string[]): Timed & { stdout: string } {
  const start = performance.now();
  const result = spawnSync(program, args, { encoding: "utf8" });
  const elapsed = performance.now() - start;
  if (result.status === 0) return { stdout: result.stdout, ms: elapsed };
  const call = [path.basename(program), ...args].join(" ");
  return fail(`\`${call}\` ended with ${result.status ?? result.signal}: ${result.stderr}`);
}

function tool(...args: string[]): Timed & { writtenBytes: number } {
  const { stdout, ms: elapsed } = timed(diskTool, args);
  return { ...(JSON.parse(stdout) as { writtenBytes: number }), ms: elapsed };
}

/** The content of an image, or of a snapshot in it, as a raw file that the next call replaces. */
function readBack(image: string, ...snapshot: string[]): string {
  timed(diskTool, ["read", image, "back.raw", ...snapshot]);
  return "back.raw";
}

interface Sharing {
  dataBytes: number;
  sharedBytes: number;
}

/** How much of the disk's data is stored once for the disk and the snapshot. */
function sharing(image: string, snapshot: string): Sharing {
  const { dataBytes, snapshots } = JSON.parse(timed(diskTool, ["sharing", image]).stdout) as {
    dataBytes: number;
    snapshots: { name: string; sharedBytes: number }[];
  };
  const entry = snapshots.find(({ name }) => name === snapshot);
  return entry ? { dataBytes, sharedBytes: entry.sharedBytes } : fail(`no snapshot ${snapshot}`);
}

function shared({ dataBytes, sharedBytes }: Sharing): string {
  const own = formatSize(dataBytes - sharedBytes);
  return `${formatSize(sharedBytes)} of data shared with the snapshot, ${own} not`;
}

/** What the file takes up in its file system. */
function occupied(image: string): number {
  return statSync(image).blocks * 512;
}

function difference(bytes: number): string {
  return bytes < 0 ? `${formatSize(-bytes)} given back` : `${formatSize(bytes)} more`;
}

function sayClones(json: string): void {
  interface Clone {
    strategy: string;
    reason?: string;
    "copied-bytes": number;
    "shared-bytes"?: number;
  }
  const { clones } = JSON.parse(json) as { clones: Clone[] };
  const sum = (key: "copied-bytes" | "shared-bytes") =>
    formatSize(clones.reduce((total, clone) => total + (clone[key] ?? 0), 0));
  const strategies = [...new Set(clones.map(({ strategy }) => strategy))].join(", ");
  say("", `${strategies}: ${sum("shared-bytes")} shared, ${sum("copied-bytes")} copied, together`);
  const reason = clones.find((clone) => clone.reason !== undefined)?.reason;
  if (reason === undefined) return;
  say("", `why a copy: ${reason}`);
  say("", "(on XFS or btrfs they share: `npm run demo -- --in DIRECTORY`)");
}

function sayJudge(judged: string[]): void {
  if (spawnSync("qemu-img", ["--version"], { stdio: "ignore" }).error) {
    say("", "qemu-img is not installed: nobody else was asked");
    return;
  }
  for (const image of judged) capture("qemu-img", ["check", "-q", "-f", "qcow2", image]);
  proofs += judged.length;
  say("", "qemu-img check says so, too");
}

function prove(what: string, seen: Seen, expected: Seen): void {
  if (!isDeepStrictEqual(seen, expected)) {
    fail(
      `proof failed: ${what} should hold ${JSON.stringify(expected)} and holds ` +
        JSON.stringify(seen),
    );
  }
  proofs += 1;
}

/** Every byte of a disk, or of a snapshot in it, is that of a raw file. */
function proveSame(what: string, raw: string, image: string, ...snapshot: string[]): void {
  const { status, stderr } = spawnSync(diskTool, ["compare", image, raw, ...snapshot], {
    encoding: "utf8",
  });
  if (status !== 0) fail(`proof failed: ${what} should hold ${raw}: ${stderr.trim()}`);
  proofs += 1;
}

function ms(it: Timed): string {
  return it.ms < 1000
    ? `${it.ms.toFixed(it.ms < 10 ? 1 : 0)} ms`
    : `${(it.ms / 1000).toFixed(1)} s`;
}

/** A command of ours and its time. */
function step(title: string, command: string, it: Timed): void {
  console.log(`${title.padEnd(10)}calque ${command.padEnd(58)}${ms(it).padStart(8)}`);
}

function say(title: string, text: string): void {
  console.log(`${title.padEnd(10)}${text}`);
}
