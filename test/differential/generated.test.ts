// Images nobody thought of, sound and damaged in single fields, as `info` and `snapshot -l` show them
// and as qemu-img does; they are made by the crate `native/fuzz`, whose own tests compare the
// verdicts of `check`. CALQUE_FUZZ_IMAGES is how many there are, CALQUE_SEED chooses others.
//
// The story: qemu-img writes the format of the backing file before the snapshots, and ids byte for
// byte; no image that anybody had thought of had both, or an id that was no UTF-8.

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { expect, test } from "vitest";

import type { Pair } from "./batch.ts";
import { Damages } from "./damage.ts";
import type { Ending } from "./programs.ts";

const seed = process.env.CALQUE_SEED ?? "20240";
const count = Number(process.env.CALQUE_FUZZ_IMAGES ?? 200);
/** So many are compared at once, and lie on the disk. */
const BATCH = 100;

const target = process.env.CARGO_TARGET_DIR ?? path.resolve("target");
const damages = new Damages();

test("both show the same of generated images", { timeout: 60_000 + count * 3000 }, async () => {
  const place = damages.scene.emptyPlace();
  const program = path.join(target, "debug/examples/images");
  const made = spawnSync(program, [place, seed, `${count}`], { encoding: "utf8" });
  expect(made.stderr).toBe("");
  const cases = Array.from({ length: count }, (_, number) => ({
    story: `image ${number} of seed ${seed}`,
    content: readFileSync(path.join(place, `${number}.qcow2`)),
  }));
  const differences = [];
  for (let at = 0; at < count; at += BATCH) {
    const lines = ["info", "info --output=json", "snapshot -l"] as const;
    differences.push(...(await damages.differences(cases.slice(at, at + BATCH), lines)));
  }
  expect(differences.filter((pair) => !isRounded(pair))).toEqual([]);
});

/** Whether all that differs is a size that no machine's state has; see docs/qemu-img.md. */
function isRounded({ theirs, ours }: Pair): boolean {
  const isHuge = /"vm-state-size": (?:-|\d{16})/.test(theirs.stdout);
  return isHuge && withoutSizes(theirs) === withoutSizes(ours);
}

function withoutSizes({ stdout, ...rest }: Ending): string {
  return JSON.stringify({ ...rest, stdout: stdout.replace(/("vm-state-size": )-?\d+/g, "$1") });
}
