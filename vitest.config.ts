// Which tests vitest runs, and how long one may take. The Rust crates have their own.

import { defineConfig } from "vitest/config";

/** The golden tests: what the program says. They run once in process and once on the executable. */
const golden = ["test/commands/{app,usage}.test.ts", "test/commands/instances/*.test.ts"];

/** Those of them that call functions, and never the program. */
const functions = ["test/commands/instances/{formats,store}.test.ts"];

/**
 * Tests in which processes have to meet within moments, or to get their turn within seconds. They
 * run when all others are done, one file after the other.
 */
const alone = [
  "test/e2e/{concurrency,locks,locks-figures,store-races}.test.ts",
  "test/state/race.test.ts",
];

export default defineConfig({
  test: {
    // Whole processes, file systems and power cuts, on machines with two cores.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Also on two cores: most tests wait for disks. Every file has directories, mounts and processes
    // of its own, and who uses an image is asked by the image; names of temporary files have the
    // number of the process in them, so that workers have to be processes.
    maxWorkers: 2,
    pool: "forks",
    projects: [
      {
        extends: true,
        test: {
          name: "source",
          include: ["test/**/*.test.ts"],
          exclude: alone,
          provide: { vehicle: "process" },
        },
      },
      {
        extends: true,
        test: {
          name: "alone",
          include: alone,
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
          provide: { vehicle: "process" },
        },
      },
      {
        extends: true,
        test: {
          name: "executable",
          include: golden,
          exclude: functions,
          provide: { vehicle: "executable" },
        },
      },
    ],
  },
});
