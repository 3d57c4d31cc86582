// Which tests vitest runs, and how long one may take. The Rust crates have their own.

import { defineConfig } from "vitest/config";

/** The golden tests: what the program says. They run once in process and once on the executable. */
const golden = ["test/commands/{app,usage}.test.ts", "test/commands/instances/*.test.ts"];

/** Those of them that call functions, and never the program. */
const functions = ["test/commands/instances/{formats,store}.test.ts"];

export default defineConfig({
  test: {
    // Whole processes, file systems and power cuts, on machines with two cores.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    projects: [
      {
        extends: true,
        test: { name: "source", include: ["test/**/*.test.ts"], provide: { vehicle: "process" } },
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
