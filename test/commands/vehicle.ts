// Which program the golden tests call: the one in process, or the built executable. vitest runs
// their files once with each; see `vitest.config.ts`.

import { inject, test } from "vitest";

declare module "vitest" {
  interface ProvidedContext {
    vehicle: "process" | "executable";
  }
}

export const vehicle = inject("vehicle");

/**
 * A test that plays the core or the world, and therefore is one in process only: the executable has
 * its own. Everything else belongs into `test`, and holds for both.
 */
export function played(sentence: string, run: () => void | Promise<void>): void {
  if (vehicle === "process") test(sentence, run);
}
