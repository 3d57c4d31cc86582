// Runs all tests: those of the Rust crates, then those of the TypeScript against everything that
// is built here first. Ends with one line that counts them together; `npm test -- FILTER` runs the
// TypeScript tests of the files that match.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { installJudges } from "./judges.ts";
import { cargoTarget, root, run, tryRun } from "./tools.ts";

interface Count {
  passed: number;
  failed: number;
  skipped: number;
}

const filters = process.argv.slice(2);

installJudges();
// The second form brings the addon, which the tests load as well.
for (const packager of ["host", "bun"]) {
  run(process.execPath, ["scripts/build-binary.ts", `--packager=${packager}`]);
}
// What the tests call besides: the host's door, and the maker of images. `cargo test` would build
// them as well.
for (const [crate, example] of [
  ["calque-host", "evaluate"],
  ["qcow2-fuzz", "images"],
] as const) {
  run("cargo", ["build", "--locked", "-p", crate, "--example", example]);
}
const counts = [...(filters.length === 0 ? [await cargoTest()] : []), vitest()];

const sum = (key: keyof Count) => counts.reduce((total, count) => total + count[key], 0);
if (sum("skipped") > 0) console.log(`${sum("skipped")} skipped: what this machine lacks is above`);
// CI has everything, so that a test that finds something missing there has failed.
const failures = sum("failed") + (process.env.CI ? sum("skipped") : 0);
console.log(`${sum("passed")} passed, ${failures} failed`);
process.exitCode = failures > 0 || sum("passed") === 0 ? 1 : 0;

/** The tests of the workspace, counted by the closing line of each test program. */
async function cargoTest(): Promise<Count> {
  const count = { passed: 0, failed: 0, skipped: 0 };
  const child = spawn("cargo", ["test", "--workspace", "--locked", "--no-fail-fast"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const status = new Promise<number | null>((resolve) => child.on("close", resolve));
  let output = "";
  for await (const chunk of child.stdout.setEncoding("utf8")) {
    process.stdout.write(chunk as string);
    output += chunk as string;
  }
  // What is ignored are the long forms, which have commands of their own.
  const closing = /^test result: .* (\d+) passed; (\d+) failed;/gm;
  for (const [, passed, failed] of output.matchAll(closing)) {
    count.passed += Number(passed);
    count.failed += Number(failed);
  }
  // A program that does not build or that dies has no closing line.
  if ((await status) !== 0 && count.failed === 0) count.failed = 1;
  return count;
}

/** The tests of `test/`, counted by vitest's own report. */
function vitest(): Count {
  const report = path.join(root, "target/vitest.json");
  mkdirSync(path.dirname(report), { recursive: true });
  rmSync(report, { force: true });
  const status = tryRun(
    "vitest",
    ["run", "--reporter=default", "--reporter=json", `--outputFile.json=${report}`, ...filters],
    { CARGO_TARGET_DIR: cargoTarget },
  );
  const count = { passed: 0, failed: status === 0 ? 0 : 1, skipped: 0 };
  try {
    const result = JSON.parse(readFileSync(report, "utf8")) as Record<string, number>;
    count.passed = result.numPassedTests ?? 0;
    count.failed = Math.max(result.numFailedTests ?? 0, count.failed);
    count.skipped = (result.numPendingTests ?? 0) + (result.numTodoTests ?? 0);
  } catch {
    // It did not come so far; the status already says that this is a failure.
  }
  return count;
}
