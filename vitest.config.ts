// Which tests vitest runs, and how long one may take. The Rust crates have their own.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Whole processes, file systems and power cuts, on machines with two cores.
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
