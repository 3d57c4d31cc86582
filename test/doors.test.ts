// One core, two doors: the Node-API addon and the host of the executable. Every operation goes
// through both, in processes and directories of their own, and the answers must be the same.

import { spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import os from "node:os";
import path from "node:path";
import process from "node:process";

import { afterAll, describe, expect, test } from "vitest";

import type * as addon from "../native/binding/calque.d.ts";
import type { Native } from "../src/native.ts";

const root = path.resolve(import.meta.dirname, "..");
const target = process.env.CARGO_TARGET_DIR ?? path.join(root, "target");
const binding = path.join(root, "native/binding/calque.node");
const evaluate = path.join(target, "debug/examples/evaluate");
/** What the doors are shown, as one module. */
const scenes = ["scene", "store", "plans"]
  .map((name) => readFileSync(path.join(root, `test/doors/${name}.ts`), "utf8"))
  .map((text) => stripTypeScriptTypes(text).replace(/^import .* from "\.\/scene.ts";$/m, ""))
  .join("\n");

const directory = mkdtempSync(path.join(realpathSync(os.tmpdir()), "calque-doors-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** What one door showed: the value of the expression, and the files in its directory. */
interface Sight {
  // oxlint-disable-next-line typescript/no-explicit-any -- it comes out of JSON
  answers: any;
  files: string[];
}

/**
 * Evaluates `expression`, in which `native` is the core and `directory` the current one, behind
 * each door. In what comes back, that directory is called `~`.
 */
function throughBothDoors(name: string, expression: string): Record<"addon" | "host", Sight> {
  const doors = {
    addon: {
      program: process.execPath,
      prologue: `import { createRequire } from "node:module";
        const native = createRequire(import.meta.url)(${JSON.stringify(binding)});`,
      epilogue: `process.stdout.write(JSON.stringify(${expression}));`,
    },
    host: {
      program: evaluate,
      prologue: 'import { host, native } from "calque:host";',
      epilogue: `host.stdout.write(JSON.stringify(${expression}));`,
    },
  };
  return { addon: look("addon"), host: look("host") };

  function look(door: keyof typeof doors): Sight {
    const { program, prologue, epilogue } = doors[door];
    const cwd = path.join(directory, name, door);
    const script = path.join(directory, `${name}-${door}.mjs`);
    mkdirSync(cwd, { recursive: true });
    const place = `const directory = ${JSON.stringify(cwd)};`;
    writeFileSync(script, [prologue, place, scenes, epilogue].join("\n"));
    const result = spawnSync(program, [script], { cwd, encoding: "utf8", maxBuffer: 1 << 28 });
    expect({ door, status: result.status, stderr: result.stderr }).toEqual({
      door,
      status: 0,
      stderr: "",
    });
    const answers = JSON.parse(result.stdout.replaceAll(cwd, "~"));
    return { answers, files: readdirSync(cwd).toSorted() };
  }
}

describe("both doors", () => {
  const { addon: left, host: right } = throughBothDoors(
    "scene",
    "{ ...playScene(native), ...playStore(native, directory) }",
  );

  test("have the same operations", () => {
    const { addon: one, host: other } = throughBothDoors("names", "operations(native)");
    expect(one.answers).toEqual(other.answers);
    expect(one.answers).toHaveLength(31);
  });

  test("answer the same to every operation", () => {
    expect(left.answers).toEqual(right.answers);
    expect(left.files).toEqual(right.files);
  });

  test("answer with a report where there is something to report", () => {
    const { addon } = throughBothDoors("titles", "operations(native)");
    const titles = (addon.answers as string[]).filter((name) => name !== "coreVersion");
    for (const title of titles) {
      expect(left.answers[title], title).toEqual({ returned: { report: expect.anything() } });
    }
  });

  test("answer with a failure where there is nothing", () => {
    expect(left.answers["imageInfo of nothing"].returned).toEqual({
      failure: {
        code: "not-found",
        stage: "open",
        reason: "No such file or directory",
        path: "missing.qcow2",
      },
    });
    expect(left.answers["snapshotApply of nothing"].returned.failure.code).toBe(
      "snapshot-not-found",
    );
    expect(left.answers["imageClone onto what exists"].returned.failure.code).toBe("target-exists");
    expect(left.answers["storeRead of nothing"].returned).toEqual({
      failure: {
        code: "not-found",
        stage: "operation",
        reason: "No such file or directory",
        path: "~/missing",
      },
    });
    const file = { text: "Grüße – ②\n" };
    const codes = ["not-found", "not-a-file", "invalid-argument"];
    const failures = codes.map((code) => ({ failure: expect.objectContaining({ code }) }));
    expect(left.answers["storeRead"].returned.report.files).toEqual([
      file,
      { text: "bc" },
      ...failures,
    ]);
    expect(left.answers["storeList at the end"].returned.report.entries).toEqual([
      { name: "linked", kind: "file", inode: true },
      { name: "store.lock", kind: "file", inode: true },
    ]);
  });

  test("throw on requests of the wrong type, and do nothing", () => {
    const wrong = Object.entries(left.answers).filter(([title]) =>
      /\(| to | at \d| by |no function/.test(title),
    );
    expect(wrong.length).toBeGreaterThan(50);
    expect(wrong.filter(([, answer]) => !("threw" in (answer as object)))).toEqual([]);
    expect(left.answers["nothing happened"]).toEqual({ returned: ["not-found", 0] });
  });

  test("let an exception of a callback end the operation, and pass it on", () => {
    const source = path.join(directory, "source.qcow2");
    writeFileSync(source, filledImage(64));
    const { addon: one, host: other } = throughBothDoors(
      "interruption",
      `playInterruption(native, ${JSON.stringify(source)})`,
    );
    const expected = { calls: 1, isInside: true, thrown: { copied: 1 }, left: "not-found" };
    expect(one).toEqual({ answers: expected, files: [] });
    expect(other).toEqual({ answers: expected, files: [] });
  });

  test("repair in one commit, which is told before, and do nothing where that throws", () => {
    for (const door of ["addon", "host"]) {
      mkdirSync(path.join(directory, "repair", door), { recursive: true });
      writeFileSync(path.join(directory, "repair", door, "leaking.qcow2"), leakingImage());
    }
    const { addon: one, host: other } = throughBothDoors("repair", "playRepair(native)");
    expect(other).toEqual(one);
    expect(one.answers).toEqual({
      thrown: "imageRepair",
      isUntouched: true,
      isAfter: true,
      lines: [
        "Leaked cluster 0 refcount=3 reference=1",
        "Repairing cluster 0 refcount=3 reference=1",
      ],
      leaksFixed: 1,
      leaks: 0,
    });
  });

  test("tell what a commit will do before it does it, and do nothing where that throws", () => {
    const { addon: one, host: other } = throughBothDoors("plans", "playPlans(native)");
    expect(other).toEqual(one);
    const snapshot = { id: "7", name: "one", dateSec: 1_700_000_000, dateNsec: 5 };
    const renamed = { ...snapshot, name: "eins" };
    const small = { virtualSize: 64 << 20 };
    expect(one.answers).toEqual({
      snapshotCreate: plan("snapshotCreate", { snapshot, report: of(snapshot), ...small }),
      imageGrow: plan("imageGrow", { report: expect.anything(), virtualSize: 128 << 20 }),
      snapshotApply: plan("snapshotApply", { snapshot, report: of(snapshot), ...small }),
      snapshotRename: plan("snapshotRename", {
        snapshot: renamed,
        report: of(renamed),
        ...small,
      }),
      snapshotDelete: plan("snapshotDelete", {
        snapshot: renamed,
        report: of(renamed),
        ...small,
      }),
    });
  });

  test("have the types that TypeScript sees", () => {
    // Checked by the compiler: what the addon declares of itself is what `Native` says.
    const native = undefined as unknown as typeof addon;
    const asNative = (): Native => native;
    expect(asNative).toBeTypeOf("function");
  });
});

test("the executable's host gives random bytes, each time others", () => {
  const script = path.join(directory, "random.mjs");
  writeFileSync(
    script,
    `import { host } from "calque:host";
    const refused = (count) => { try { host.randomBytes(count) } catch { return true } };
    const [some, others] = [host.randomBytes(4000), host.randomBytes(4000)];
    const answers = [
      some instanceof Uint8Array, some.length, new Set(some).size > 200,
      some.some((byte, at) => byte !== others[at]), host.randomBytes(0).length,
      host.randomBytes(65536).length, [65537, -1, 1.5, NaN].every(refused), host.stdin.isTerminal,
    ];
    host.stdout.write(JSON.stringify(answers));`,
  );
  const { stdout, stderr } = spawnSync(evaluate, [script], { encoding: "utf8", input: "" });
  expect(stderr).toBe("");
  expect(JSON.parse(stdout)).toEqual([true, 4000, true, true, 0, 65536, true, false]);
});

/** What a change shows that told its plan, and was stopped by it when it was told to. */
function plan(name: string, more: object): object {
  const answer = { thrown: name, isUntouched: true, events: 1, isBefore: true, isAfter: true };
  return { ...answer, changes: true, ...more };
}

/** A snapshot as a report names it. */
function of({ id, name }: { id: string; name: string }): object {
  return { id, name };
}

/** A version 3 image whose first `megabytes` are all allocated, from the format's description. */
function filledImage(megabytes: number): Buffer {
  const cluster = 65536;
  const data = (megabytes << 20) / cluster;
  // Header, L1, L2, refcount table, refcount block, then the data.
  const first = 5;
  const image = Buffer.alloc((first + data) * cluster);
  image.write("QFI\xfb", 0, "latin1");
  const fields: [number, number, 4 | 8][] = [
    [4, 3, 4],
    [20, 16, 4],
    [24, megabytes << 20, 8],
    [36, 1, 4],
    [40, 1 * cluster, 8],
    [48, 3 * cluster, 8],
    [56, 1, 4],
    [96, 4, 4],
    [100, 104, 4],
  ];
  for (const [at, value, size] of fields) {
    if (size === 4) image.writeUInt32BE(value, at);
    else image.writeBigUInt64BE(BigInt(value), at);
  }
  const copied = 1n << 63n;
  image.writeBigUInt64BE(BigInt(2 * cluster) | copied, cluster);
  image.writeBigUInt64BE(BigInt(4 * cluster), 3 * cluster);
  for (let i = 0; i < data; i++) {
    image.writeBigUInt64BE(BigInt((first + i) * cluster) | copied, 2 * cluster + 8 * i);
    image.fill((i % 251) | 1, (first + i) * cluster, (first + i + 1) * cluster);
  }
  for (let i = 0; i < first + data; i++) image.writeUInt16BE(1, 4 * cluster + 2 * i);
  return image;
}

/** An image whose header is counted three times. */
function leakingImage(): Buffer {
  const image = filledImage(1);
  image.writeUInt16BE(3, 4 * 65_536);
  return image;
}
