// What native/host gives to the JavaScript of the executable; the bundler leaves it alone.

declare module "calque:host" {
  export const host: import("../src/host.ts").Host;
  export const native: import("../src/native.ts").Native;
  /** The status that the process ends with, once nothing is left to do. */
  export function setExitCode(code: number): void;
}
