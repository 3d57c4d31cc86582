// Several targets at once, on file systems that share blocks with the source and on others: each is
// made as it can be made, and all of them are, or none.
//
// The story: only the first target was tried. With one on the source's XFS before one on ext4 the
// command failed; the other way round all were copies, for a reason that was untrue of the first.

import { readdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { blocksOf, cloned, systems } from "./clones.ts";
import {
  digest,
  digestOfFile,
  expectRefusal,
  guest,
  have,
  image,
  inTrouble,
  judged,
  must,
  qemuImg,
  Scene,
  view,
  type View,
} from "./support.ts";

interface Plan {
  target: string;
  strategy: string;
  reason: string | undefined;
}

const scene = new Scene();

afterAll(() => scene[Symbol.dispose]());

describe.runIf(judged && systems)("clones on several file systems", () => {
  let sharing: string;
  let another: string;
  let plain: string;
  let source: string;

  beforeAll(async () => {
    sharing = await scene.mount("xfs", "320M");
    another = await scene.mount("xfs", "320M");
    plain = await scene.mount("ext4", "96M");
    source = path.join(sharing, "source.qcow2");
    await qemuImg("create", "-q", "-f", "qcow2", source, "16M");
    await guest(source, "write -P 1 0 2M", "write -P 2 8M 100k", "write -z 12M 1M");
    await qemuImg("snapshot", "-c", "one", source);
    await guest(source, "write -P 3 1M 900k", "write -P 4 15M 64k", "discard 8M 64k");
    await must(["sync", "-f", sharing]);
  });

  const reasons = {
    reflink: undefined,
    ext4: "source and target are on different file systems (ext4)",
    xfs: "source and target are on different file systems (xfs)",
  };

  /** A target, and what is to be said of it. */
  function planned(kind: keyof typeof reasons, name: string): Plan {
    const place = { reflink: sharing, ext4: plain, xfs: another }[kind];
    const strategy = kind === "reflink" ? "reflink" : "copy";
    return { target: path.join(place, name), strategy, reason: reasons[kind] };
  }

  /** Clones to all of them, and looks at each with the eyes of qemu-img and of the file system. */
  async function expectMade(kind: string[], plans: Plan[], holds: View): Promise<void> {
    const targets = plans.map(({ target }) => target);
    try {
      const { clones } = await cloned([...kind, source, ...targets], sharing);
      expect(clones.map(({ target, strategy, reason }) => ({ target, strategy, reason }))).toEqual(
        plans,
      );
      for (const made of clones) {
        expect({ made, ...(await view(made.target)) }).toEqual({ made, ...holds });
        const { shared } = await blocksOf(made.target);
        expect(made["shared-bytes"]).toBe(shared);
        if (made.strategy === "reflink") expect(shared).toBeGreaterThan(1 << 20);
        else expect(shared).toBe(0);
      }
      for (const strategy of ["reflink", "copy"]) {
        const alike = clones.filter((made) => made.strategy === strategy);
        expect(new Set(alike.map(({ target }) => digestOfFile(target))).size).toBe(1);
      }
    } finally {
      for (const target of targets) rmSync(target, { force: true });
    }
  }

  test.each([
    { what: "the disk", kind: [] },
    { what: "the disk and its snapshots", kind: ["--keep-snapshots"] },
    { what: "a snapshot", kind: ["--from-snapshot", "one"] },
  ])(
    "are reflinks where they can be and copies elsewhere, in any order: $what",
    async ({ kind }) => {
      const whole = await view(source);
      const fromSnapshot = kind[0] === "--from-snapshot";
      const holds: View = {
        check: 0,
        active: await digest(source, fromSnapshot ? "1" : undefined),
        snapshots: kind[0] === "--keep-snapshots" ? whole.snapshots : [],
      };
      const one = planned("reflink", "one.qcow2");
      const two = planned("reflink", "two.qcow2");
      const copy = planned("ext4", "copy.qcow2");
      const second = planned("ext4", "second.qcow2");
      const other = planned("xfs", "other.qcow2");
      await expectMade(kind, [one, copy], holds);
      await expectMade(kind, [copy, one], holds);
      await expectMade(kind, [copy, one, other, two, second], holds);
      await expectMade(kind, [one, two, other, second, copy], holds);
    },
  );

  test("are all told in text, each with its own reason", async () => {
    const ending = await image(
      ["clone", source, path.join(plain, "a.qcow2"), path.join(sharing, "a.qcow2")],
      { cwd: sharing },
    );
    const size = String.raw`[\d.]+ [KM]iB`;
    expect(ending.stdout).toMatch(
      new RegExp(
        String.raw`^\S+/a.qcow2: copy \(${RegExp.escape(reasons.ext4)}\), ${size} copied\n` +
          String.raw`\S+/a.qcow2: reflink, ${size} shared, ${size} copied\n$`,
      ),
    );
    expect(ending.stderr).toBe(
      "hint: source and targets on one XFS or btrfs file system would share their blocks\n",
    );
    for (const place of [plain, sharing]) rmSync(path.join(place, "a.qcow2"));
  });

  test.each([
    ["the first", ["ext4", "reflink", "reflink"]],
    ["the last", ["reflink", "reflink", "xfs"]],
  ] as const)("are refused by --strategy reflink if %s cannot share", async (_, kinds) => {
    const targets = kinds.map((kind, at) => planned(kind, `${at}.qcow2`).target);
    const before = [sharing, another, plain].map((place) => readdirSync(place));
    const unable = kinds[0] === "ext4" ? 0 : 2;
    for (const kind of [[], ["--keep-snapshots"]]) {
      const args = ["clone", "--strategy", "reflink", ...kind, source, ...targets];
      expectRefusal(
        await image(args),
        `error: Cannot clone "${source}" to "${targets[unable]}": ` +
          `blocks cannot be shared: ${reasons[kinds[unable] as "ext4" | "xfs"]}\n`,
      );
      expect([sharing, another, plain].map((place) => readdirSync(place))).toEqual(before);
    }
  });

  test("are none if one of the file systems is full", async () => {
    using own = new Scene();
    const full = await own.mount("ext4", "16M");
    // What root may use beyond is taken as well.
    await must(["sh", "-c", "cat /dev/zero >filler 2>/dev/null || test -s filler"], { cwd: full });
    const before = readdirSync(sharing);
    const targets = [path.join(sharing, "a.qcow2"), path.join(full, "b.qcow2")];
    for (const order of [targets, targets.toReversed()]) {
      expectRefusal(
        await image(["clone", source, ...order]),
        `error: Cannot clone "${source}" to "${targets[1]}": No space left on device\n`,
      );
      expect(readdirSync(sharing)).toEqual(before);
      expect(readdirSync(full).toSorted()).toEqual(["filler", "lost+found"]);
    }
  });

  test
    .runIf(have("strace"))
    .each("ioctl pwrite64 ftruncate fallocate copy_file_range fdatasync fsync linkat".split(" "))(
    "are all or none when %s fails",
    async (call) => {
      const places = [sharing, plain];
      const [whole, content] = [await view(source), readdirSync(sharing)];
      for (let number = 1; ; number += 1) {
        const targets = places.map((place) => path.join(place, "a.qcow2"));
        const trouble = { call, what: "error=EIO", when: `${number}` };
        const [{ status }, met] = await inTrouble(
          ["clone", "-q", source, ...targets],
          trouble,
          sharing,
        );
        if (status === 0) {
          for (const target of targets) {
            expect({ trouble, ...(await view(target)) }).toEqual({
              trouble,
              ...whole,
              snapshots: [],
            });
            rmSync(target);
          }
        }
        expect({ trouble, status, left: readdirSync(sharing) }).toEqual({
          trouble,
          status: expect.toBeOneOf([0, 1]),
          left: content,
        });
        expect(readdirSync(plain)).toEqual(["lost+found"]);
        if (!met) return expect({ number, status }).toEqual({ number, status: 0 });
      }
    },
  );

  test("are none if a name on one of them is taken", async () => {
    const taken = path.join(plain, "taken.qcow2");
    writeFileSync(taken, "precious");
    const before = readdirSync(sharing);
    const targets = [path.join(sharing, "a.qcow2"), taken];
    expectRefusal(await image(["clone", source, ...targets]), /File exists/);
    expect(readdirSync(sharing)).toEqual(before);
    rmSync(taken);
  });
});
