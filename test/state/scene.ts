// The scene of a test of the store, which cleans up behind itself.

import { afterAll } from "vitest";

import { tidy } from "./core.ts";

export * from "./core.ts";

afterAll(tidy);
