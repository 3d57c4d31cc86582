// The short form of `npm run locks`: the same counts, of a few rounds each.

import os from "node:os";

import { describe, expect, test } from "vitest";

import { countRaces, type Contestant } from "../../scripts/locks/races.ts";
import { countReaders } from "../../scripts/locks/readers.ts";
import { countStarts } from "../../scripts/locks/starts.ts";
import { executable, have, judged } from "./support.ts";

const place = os.tmpdir();
const none = { corrupt: 0, leaks: 0, nameless: 0, lost: 0, content: 0 };

describe.runIf(judged)("programs that meet on one image", () => {
  test("a QEMU that starts does not trip over those who only look", async () => {
    const { alone, beside, looks } = await countStarts(executable, place, 20);
    expect(alone).toEqual({ started: 20, failed: 0 });
    expect(beside).toEqual({ started: 20, failed: 0 });
    expect(looks).toBeGreaterThan(0);
  });

  test("two Calques both do what they were asked for", async () => {
    const report = await countRaces(executable, ["calque", "calque"], place, 12);
    expect(report).toMatchObject({ rounds: 12, both: 12, damaged: 0, damages: none });
  });

  const others: Contestant[] = ["qemu-img", "machine"];
  const slow: Contestant[] = have("strace") ? ["slow qemu-img", "slow machine"] : [];
  test.each([...others, ...slow])("a Calque and a %s leave a sound image", async (other) => {
    const report = await countRaces(executable, ["calque", other], place, 12);
    expect(report).toMatchObject({ rounds: 12, damaged: 0, damages: none });
  });

  test.each([
    { beside: "Calque", program: [executable, "image"] as const },
    { beside: "qemu-img", program: ["qemu-img"] as const },
  ])("those who look beside $beside are told clean or busy", async ({ program }) => {
    const report = await countReaders(executable, program, place, 15);
    expect(report).toMatchObject({ pairs: 15, other: 0 });
    expect(report.clean + report.busy).toBeGreaterThan(15);
  });
});
