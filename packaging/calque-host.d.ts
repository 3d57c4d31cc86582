// What native/host gives to the JavaScript of the executable; the bundler leaves it alone.

declare module "calque:host" {
  import type { Host } from "../src/host.ts";
  import type { Native } from "../src/native.ts";

  export const host: Host;
  export const native: Native;
  /** The status that the process ends with, once nothing is left to do. */
  export function setExitCode(code: number): void;
}
