// The image that the tests of a file start from, made before the first and gone after the last.

import { beforeAll, expect } from "vitest";

import { copyInto, eventful } from "./images.ts";
import { image, judged } from "./programs.ts";
import { Scene } from "./scene.ts";
import { type Attempt, type Sweep, sweep } from "./trouble.ts";
import { look, type View } from "./views.ts";

/** What the files of a directory hold, by name. */
export type Views = Record<string, View>;

/** An image with a past, copies of it, and what becomes of it in commands that nothing disturbs. */
export class Original {
  readonly scene = new Scene();
  readonly file = this.scene.path("original.qcow2");
  #untouched: Promise<Views> | undefined;
  readonly #endings = new Map<readonly string[], Promise<Views>>();

  /** A new directory with a copy of it, as `disk.qcow2`. */
  copy(): string {
    const place = this.scene.place();
    copyInto(place, this.file);
    return place;
  }

  /** What it holds. */
  async untouched(): Promise<View> {
    this.#untouched ??= look(this.copy());
    return (await this.#untouched)["disk.qcow2"]!;
  }

  /** What there is after `calque image …` on a copy, untroubled. */
  after(args: readonly string[]): Promise<Views> {
    const known = this.#endings.get(args) ?? this.#run(args);
    this.#endings.set(args, known);
    return known;
  }

  /** One attempt after the other of `calque image …` on copies of it. */
  sweep(args: readonly string[], trouble: Sweep): AsyncGenerator<Attempt> {
    return sweep(args, trouble, () => this.copy());
  }

  async #run(args: readonly string[]): Promise<Views> {
    const place = this.copy();
    expect(await image([...args], { cwd: place })).toMatchObject({ status: 0 });
    return look(place);
  }
}

/** The image of this test file. */
export function makeOriginal(): Original {
  const original = new Original();
  beforeAll(async () => {
    if (judged) await eventful(original.file);
    return () => original.scene[Symbol.dispose]();
  });
  return original;
}
