// Processes that hold an image while a test looks at it.

import { type ChildProcess, spawn } from "node:child_process";

import { env } from "./programs.ts";
import { until } from "./waiting.ts";

/** A process that holds an image; ended, and waited for, at the end of the block. */
export class Holder implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#ended = new Promise((resolve) => child.once("exit", resolve));
  }

  /** qemu-io with the image open; it prompts when it has it. */
  static async io(file: string, ...flags: string[]): Promise<Holder> {
    const child = spawn("qemu-io", [...flags, file], { env, stdio: ["pipe", "pipe", "inherit"] });
    const holder = new Holder(child);
    await new Promise((resolve) => child.stdout.once("data", resolve));
    return holder;
  }

  /** Any program, from when `isReady` says so. */
  static async of(command: string[], isReady: () => boolean | Promise<boolean>): Promise<Holder> {
    const [program = "", ...args] = command;
    const holder = new Holder(spawn(program, args, { env, stdio: "ignore" }));
    await until(isReady);
    return holder;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill("SIGKILL");
    }
    await this.#ended;
  }
}
