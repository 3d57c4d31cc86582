// One core, two doors: the Node-API addon and the host of the executable. Every operation goes
// through both, in processes and directories of their own, and the answers must be the same.

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
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
const scene = stripTypeScriptTypes(readFileSync(path.join(root, "test/doors/scene.ts"), "utf8"));

const directory = mkdtempSync(path.join(os.tmpdir(), "calque-doors-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** What one door showed: the value of the expression, and the files in its directory. */
interface Sight {
  // oxlint-disable-next-line typescript/no-explicit-any -- it comes out of JSON
  answers: any;
  files: string[];
}

/** Evaluates `expression`, in which `native` is the core, behind each door. */
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
    writeFileSync(script, [prologue, scene, epilogue].join("\n"));
    const result = spawnSync(program, [script], { cwd, encoding: "utf8", maxBuffer: 1 << 28 });
    expect({ door, status: result.status, stderr: result.stderr }).toEqual({
      door,
      status: 0,
      stderr: "",
    });
    return { answers: JSON.parse(result.stdout), files: readdirSync(cwd).toSorted() };
  }
}

describe("both doors", () => {
  const { addon: left, host: right } = throughBothDoors("scene", "playScene(native)");

  test("have the same operations", () => {
    const { addon: one, host: other } = throughBothDoors("names", "operations(native)");
    expect(one.answers).toEqual(other.answers);
    expect(one.answers).toHaveLength(11);
  });

  test("answer the same to every operation", () => {
    expect(left.answers).toEqual(right.answers);
    expect(left.files).toEqual(right.files);
  });

  test("answer with a report where there is something to report", () => {
    const titles = [
      ..."imageCreate imageInfo imageCheck imageGrow imageClone".split(" "),
      ..."snapshotList snapshotCreate snapshotApply snapshotRename snapshotDelete".split(" "),
    ];
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

  test("have the types that TypeScript sees", () => {
    // Checked by the compiler: what the addon declares of itself is what `Native` says.
    const native = undefined as unknown as typeof addon;
    const asNative = (): Native => native;
    expect(asNative).toBeTypeOf("function");
  });
});

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
