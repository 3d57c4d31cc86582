// The executable in places where programs break: an empty chroot, a deleted directory, a hostile
// environment. Both forms of it run the same scene where they can; the second one needs a C
// library, /proc and a directory to stand in. The source itself does the same under Node, Deno and
// Bun.

import { spawnSync } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { converse } from "./commands/executable.ts";

const root = path.resolve(import.meta.dirname, "..");
const isRoot = process.getuid?.() === 0;
const nobody = 65534;

const executable = path.join(root, "dist/calque");
const packedByBun = path.join(root, "dist/calque-bun");

const forms = [
  { name: "the executable", file: executable },
  { name: "the form packed by Bun", file: packedByBun },
];

/** What runs the source as it is, on the addon. */
const source = path.join(root, "src/cli.ts");
const runtimes = [
  { name: "Node", command: [process.execPath, source] },
  { name: "Deno", command: [path.join(root, "node_modules/.bin/deno"), "run", "-A", source] },
  { name: "Bun", command: [path.join(root, "node_modules/@oven/bun-linux-x64/bin/bun"), source] },
  { name: "the form packed by Bun", command: [packedByBun] },
];

interface Ending {
  stdout: string;
  stderr: string;
  status: number | null;
}

interface Surroundings {
  cwd?: string;
  env?: Record<string, string>;
  uid?: number;
  stdout?: number;
  stderr?: number;
}

function run(command: string[], { cwd, env, uid, stdout, stderr }: Surroundings = {}): Ending {
  const [program = "", ...args] = command;
  const result = spawnSync(program, args, {
    cwd,
    env: env ?? {},
    stdio: ["ignore", stdout ?? "pipe", stderr ?? "pipe"],
    encoding: "utf8",
    ...(uid === undefined ? {} : { uid, gid: uid }),
  });
  if (result.error) throw result.error;
  return {
    stdout: result.stdout ?? "",
    stderr: result.stderr ?? "",
    status: result.status,
  };
}

/** In `directory`, with a stream that takes nothing. */
function runOnFull(stream: "stdout" | "stderr", command: string[]): Ending {
  const full = openSync("/dev/full", "w");
  try {
    return run(command, { cwd: directory, [stream]: full });
  } finally {
    closeSync(full);
  }
}

/** For what needs a namespace of its own; the shell sees the program as $0 and the rest as $@. */
function runInNamespace(script: string, command: string[], where: Surroundings = {}): Ending {
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
  return run(["unshare", "--mount", "sh", "-euc", script, ...command], { env, ...where });
}

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(path.join(os.tmpdir(), "calque-executable-"));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** Makes an image, snapshots and clones it; every step must succeed and say nothing amiss. */
function mainJob(calque: (...args: string[]) => Ending, at = ""): void {
  const steps = [
    ["image", "create", "-q", "-f", "qcow2", `${at}disk.qcow2`, "64M"],
    ["image", "snapshot", "-c", "before", `${at}disk.qcow2`],
    // By copy: whether the file system of the temporary directory shares blocks is not the point.
    ["image", "clone", "--strategy", "copy", `${at}disk.qcow2`, `${at}copy.qcow2`],
    ["image", "snapshot", "-a", "before", `${at}disk.qcow2`],
    ["image", "check", "-q", `${at}copy.qcow2`],
  ];
  for (const step of steps) {
    const ending = calque(...step);
    expect({ step, status: ending.status, stderr: ending.stderr }).toEqual({
      step,
      status: 0,
      stderr: "",
    });
  }
  expect(calque("image", "snapshot", "-l", `${at}disk.qcow2`).stdout).toContain("before");
}

describe.each(forms)("$name", ({ file }) => {
  const version = /^calque +\d+\.\d+\.\d+\n$/;
  const written = (...args: string[]): Ending => runOnFull("stdout", [file, "image", ...args]);
  const untold = (...args: string[]): Ending => runOnFull("stderr", [file, "image", ...args]);

  test("does its main job with an empty environment", () => {
    mainJob((...args) => run([file, ...args], { cwd: directory }));
  });

  test.runIf(isRoot)("does its main job as an ordinary user", () => {
    const home = path.join(directory, "home");
    mkdirSync(home, { mode: 0o777 });
    const program = path.join(directory, "calque");
    copyFileSync(file, program);
    run(["/bin/chmod", "755", directory, program]);
    run(["/bin/chmod", "777", home]);
    mainJob((...args) => run([program, ...args], { cwd: home, uid: nobody }));
    expect(statSync(path.join(home, "copy.qcow2")).uid).toBe(nobody);
  });

  test.runIf(isRoot)("reads on a read-only system", () => {
    mainJob((...args) => run([file, ...args], { cwd: directory }));
    const script = `mount --bind ${directory} ${directory}
      for point in ${directory} /; do mount -o remount,bind,ro "$point"; done
      exec "$0" "$@"`;
    const listed = runInNamespace(
      script,
      [file, "image", "snapshot", "-l", `${directory}/disk.qcow2`],
      { cwd: "/" },
    );
    expect(listed).toMatchObject({ status: 0, stderr: "" });
    expect(listed.stdout).toContain("before");
    const refused = runInNamespace(
      script,
      [file, "image", "snapshot", "-c", "after", `${directory}/disk.qcow2`],
      { cwd: "/" },
    );
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain("Read-only file system");
  });

  test("executes and reads no file of the working directory", () => {
    plantTraps(directory);
    const ending = run([file, "--version"], { cwd: directory });
    expect(ending).toEqual({ stdout: expect.stringMatching(version), stderr: "", status: 0 });
    mainJob((...args) => run([file, ...args], { cwd: directory }));
    expect(existsSync(path.join(directory, "trapped"))).toBe(false);
  });

  test("lets no environment variable make it run anything else", () => {
    plantTraps(directory);
    const trap = path.join(directory, "trap.cjs");
    const env = {
      NODE_OPTIONS: `--require ${trap}`,
      NODE_V8_COVERAGE: path.join(directory, "coverage"),
      NODE_COMPILE_CACHE: path.join(directory, "cache"),
      BUN_OPTIONS: `--preload ${trap}`,
      BUN_BE_BUN: "1",
      BUN_INSPECT: "1",
      DENO_V8_FLAGS: "--help",
      OPENSSL_CONF: path.join(directory, "openssl.cnf"),
      NAPI_RS_NATIVE_LIBRARY_PATH: path.join(directory, "trap.node"),
      CALQUE_BUNDLE: directory,
      RUST_BACKTRACE: "full",
      HOME: directory,
      TMPDIR: "/nowhere",
      LC_ALL: "xx_XX",
      TZ: "Nowhere/Never",
    };
    const before = readdirSync(directory).toSorted();
    const ending = run([file, "--version"], { cwd: directory, env });
    expect(ending).toEqual({ stdout: expect.stringMatching(version), stderr: "", status: 0 });
    expect(readdirSync(directory).toSorted()).toEqual(before);
    mainJob((...args) => run([file, ...args], { cwd: directory, env }));
    expect(existsSync(path.join(directory, "trapped"))).toBe(false);
  });

  test("opens no connection and leaves no file behind", () => {
    const trace = path.join(directory, "trace");
    const calls = "trace=openat,open,creat,mkdirat,connect,socket,execve,unlinkat,renameat2";
    const ending = run(["/usr/bin/strace", "-f", "-o", trace, "-e", calls, file, "--version"], {
      cwd: directory,
    });
    expect(ending.status).toBe(0);
    const lines = readFileSync(trace, "utf8").split("\n");
    expect(
      lines.filter((line) => /connect\(|AF_INET|O_CREAT|unlinkat|renameat2/.test(line)),
    ).toEqual([]);
    expect(lines.filter((line) => line.includes("execve("))).toHaveLength(1);
  });

  test("is called by any name, through a link and from another directory", () => {
    const link = path.join(directory, "multipass");
    symlinkSync(file, link);
    expect(run([link, "--version"], { cwd: "/" })).toMatchObject({ status: 0, stderr: "" });
  });

  test("passes options that other programs would take for themselves", () => {
    for (const option of ["--inspect", "-e", "--eval", "--require", "--preload", "--bun"]) {
      const ending = run([file, option, "1"], { cwd: directory });
      expect({ option, status: ending.status }).toEqual({ option, status: expect.any(Number) });
      expect(ending.status).not.toBe(0);
      expect(ending.stdout + ending.stderr).toMatch(/^Unknown options? '/);
    }
  });

  test("refuses an argument that is not UTF-8, rather than touch another file", () => {
    const script = 'exec "$0" image info "$(printf "\\377.qcow2")"';
    const ending = run(["/bin/sh", "-c", script, file], { cwd: directory });
    expect(ending.status).toBe(1);
    expect(ending.stdout).toBe("");
    expect(readdirSync(directory)).toEqual([]);
  });

  test("says that a result could not be written, and that the clones were made all the same", () => {
    mainJob((...args) => run([file, ...args], { cwd: directory }));
    const reason = /^error: Cannot write to standard output: .*no space left on device.*\n/i;
    const refusal = { status: 1, stderr: expect.stringMatching(reason) };
    expect(written("--version")).toMatchObject(refusal);

    const one = written("clone", "disk.qcow2", "one.qcow2");
    expect(one).toMatchObject(refusal);
    expect(one.stderr.split("\n").slice(1)).toEqual(["hint: the clone was made", ""]);
    const two = written("clone", "--output=json", "disk.qcow2", "two.qcow2", "2.qcow2");
    expect(two).toMatchObject(refusal);
    expect(two.stderr.split("\n").slice(1)).toEqual(["hint: the clones were made", ""]);
    for (const name of ["one.qcow2", "two.qcow2", "2.qcow2"]) {
      expect(run([file, "image", "check", "-q", name], { cwd: directory }).status).toBe(0);
    }

    // What `create` says comes before what it does: nothing was made, so there is no hint.
    const before = readFileSync(path.join(directory, "disk.qcow2"));
    const created = written("create", "disk.qcow2", "1M");
    expect(created).toMatchObject(refusal);
    expect(created.stderr.split("\n").slice(1)).toEqual([""]);
    expect(readFileSync(path.join(directory, "disk.qcow2")).equals(before)).toBe(true);
  });

  test("does its work also where nobody can be told anything", () => {
    mainJob((...args) => run([file, ...args], { cwd: directory }));
    // Where blocks can be shared there is no hint to lose, but elsewhere there is.
    expect(untold("clone", "disk.qcow2", "clone.qcow2").status).toBe(0);
    expect(untold("check", "-f", "raw", "clone.qcow2").status).toBe(63);
    expect(run([file, "image", "check", "-q", "clone.qcow2"], { cwd: directory }).status).toBe(0);
  });

  test("ends quietly when nobody reads on", () => {
    const script = '{ "$0" help; echo $? > status; } | true; cat status';
    writeFileSync(path.join(directory, "status"), "");
    // The reader is gone before the first byte when the writer is held back until then.
    const held = script.replace('{ "$0"', '{ sleep 0.3; "$0"');
    const env = { PATH: "/usr/bin:/bin" };
    const ending = run(["/bin/sh", "-c", held, file], { cwd: directory, env });
    expect(ending).toEqual({ stdout: "141\n", stderr: "", status: 0 });
  });
});

describe.each(runtimes)("$name", ({ command }) => {
  // Deno wants a place for its cache, and its launcher a Node.
  const env = { PATH: process.env.PATH ?? "", DENO_DIR: path.join(os.tmpdir(), "calque-deno") };

  test("does the main job from the same source", () => {
    mainJob((...args) => run([...command, ...args], { cwd: directory, env }));
  });

  test("says what the executable says", () => {
    mainJob((...args) => run([executable, ...args], { cwd: directory }));
    writeFileSync(path.join(directory, "raw"), Buffer.alloc(4096, 7));
    const lines = [
      ["--version"],
      ["help"],
      ["help", "image"],
      ["image", "clone", "--help"],
      ["image", "info", "disk.qcow2"],
      ["image", "info", "--output", "json", "disk.qcow2"],
      ["image", "check", "--output", "json", "disk.qcow2"],
      ["image", "snapshot", "-l", "disk.qcow2"],
      ["image", "snapshot", "-c", "before", "disk.qcow2"],
      ["image", "clone", "disk.qcow2", "copy.qcow2"],
      ["image", "info", "missing.qcow2"],
      ["image", "info", "raw"],
      ["image", "convert"],
      ["imagine"],
      [],
    ];
    for (const line of lines) {
      const expected = run([executable, ...line], { cwd: directory });
      const actual = run([...command, ...line], { cwd: directory, env });
      expect({ line, ...actual }).toEqual({ line, ...expected });
    }
  });

  test("asks on a terminal what the executable asks, and nothing more", async () => {
    const home = path.join(directory, "home");
    for (const line of [
      ["create", "foo", "--disk", "1M"],
      ["snapshot", "foo"],
    ]) {
      expect(run([executable, ...line], { env: { CALQUE_HOME: home } }).status).toBe(0);
    }
    const answer = (program: string[], ...answers: string[]) =>
      converse([...program, "restore", "foo.snapshot1"], {
        terminal: true,
        typed: true,
        answers,
        env: { ...env, CALQUE_HOME: home },
      });
    for (const answers of [["maybe", "n"], []]) {
      expect(await answer(command, ...answers)).toBe(await answer([executable], ...answers));
    }
  });
});

describe("the executable alone", () => {
  const file = executable;

  test.runIf(isRoot)("does its main job in an empty chroot", () => {
    copyFileSync(file, path.join(directory, "calque"));
    mainJob((...args) => run(["/usr/sbin/chroot", directory, "/calque", ...args]), "/");
    expect(readdirSync(directory).toSorted()).toEqual(["calque", "copy.qcow2", "disk.qcow2"]);
  });

  test.runIf(isRoot)("does its main job without /proc", () => {
    mainJob((...args) =>
      runInNamespace('umount -l /proc && exec "$0" "$@"', [file, ...args], { cwd: directory }),
    );
  });

  test("works in a directory that was deleted", () => {
    const gone = path.join(directory, "gone");
    mkdirSync(gone);
    const script = 'cd "$1" && rmdir "$1" && shift && exec "$@"';
    const at = `${directory}/`;
    mainJob((...args) => {
      mkdirSync(gone, { recursive: true });
      return run(["/bin/sh", "-euc", script, "sh", gone, file, ...args]);
    }, at);
  });

  test("is static and at most 8 MB", () => {
    expect(statSync(file).size).toBeLessThanOrEqual(8e6);
    expect(run(["/usr/bin/env", "ldd", file], { env: { PATH: "/usr/bin:/bin" } })).toMatchObject({
      stdout: expect.stringContaining("statically linked"),
    });
  });
});

/** Everything that a runtime might execute or read where it stands. */
function plantTraps(where: string): void {
  const trapped = JSON.stringify(path.join(where, "trapped"));
  const code = `require("node:fs").writeFileSync(${trapped}, "");`;
  const files = {
    "trap.cjs": code,
    "trap.node": "not a library",
    "bunfig.toml": 'preload = ["./trap.cjs"]\n[run]\nbun = true\n',
    ".env": "BUN_OPTIONS=--preload ./trap.cjs\nNODE_OPTIONS=--require ./trap.cjs\nNO_COLOR=1\n",
    "node.config.json": '{ "nodeOptions": { "require": ["./trap.cjs"] } }',
    "package.json": '{ "type": "module", "main": "./trap.cjs", "imports": { "#x": "./trap.cjs" } }',
    "tsconfig.json": '{ "compilerOptions": { "paths": { "*": ["./trap.cjs"] } } }',
    "deno.json": '{ "imports": { "node:process": "./trap.cjs" } }',
    "embedded.js": code,
    "openssl.cnf":
      "openssl_conf = init\n[init]\nproviders = p\n[p]\nx = y\n[y]\nmodule = ./trap.node\n",
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(path.join(where, name), text);
}
