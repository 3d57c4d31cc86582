// Clones on file systems that share blocks and on others: what they hold, that they share what they
// can, and that what they say of it is what the file system says.

import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { blocksOf, cloned, type Report, systems } from "./clones.ts";
import {
  digest,
  digestOfFile,
  executable,
  expectRefusal,
  guest,
  have,
  image,
  inTrouble,
  judged,
  must,
  mustImage,
  qemuImg,
  Scene,
  snapshotsOf,
  view,
} from "./support.ts";

const scene = new Scene();

afterAll(() => scene[Symbol.dispose]());

/** One file system to clone on, or between two. */
interface Ground {
  name: string;
  shares: boolean;
  /** Where sources are, and where clones are made. */
  places: () => Promise<{ from: string; to: string }>;
}

const grounds: Ground[] = [
  {
    name: "ext4",
    shares: false,
    places: async () => same(await scene.mount("ext4", "96M")),
  },
  {
    name: "XFS",
    shares: true,
    places: async () => same(await scene.mount("xfs", "320M")),
  },
  {
    name: "btrfs",
    shares: true,
    places: async () => same(await scene.mount("btrfs", "256M")),
  },
  {
    name: "btrfs without copy-on-write",
    shares: true,
    places: async () => {
      const place = path.join(await scene.mount("btrfs", "256M"), "plain");
      mkdirSync(place);
      await must(["chattr", "+C", place]);
      // The clones are made in a directory that has not the attribute.
      const to = path.join(place, "../clones");
      mkdirSync(to);
      return { from: place, to };
    },
  },
  {
    name: "XFS to ext4",
    shares: false,
    places: async () => ({
      from: await scene.mount("xfs", "320M"),
      to: await scene.mount("ext4", "96M"),
    }),
  },
  {
    name: "XFS to another XFS",
    shares: false,
    places: async () => ({
      from: await scene.mount("xfs", "320M"),
      to: await scene.mount("xfs", "320M"),
    }),
  },
];

function same(place: string): { from: string; to: string } {
  return { from: place, to: place };
}

describe.runIf(judged && systems)("a clone", () => {
  describe.each(grounds)("on $name", ({ shares, places }) => {
    let from: string;
    let to: string;
    let source: string;
    const target = (name: string): string => path.join(to, name);

    beforeAll(async () => {
      ({ from, to } = await places());
      source = path.join(from, "source.qcow2");
      await qemuImg("create", "-q", "-f", "qcow2", source, "16M");
      await guest(source, "write -P 1 0 2M", "write -P 2 8M 100k", "write -z 12M 1M");
      await qemuImg("snapshot", "-c", "one", source);
      await guest(source, "write -P 3 1M 900k", "write -P 4 15M 64k", "discard 8M 64k");
      await qemuImg("snapshot", "-c", "two", source);
      await guest(source, "write -P 5 512k 1M");
      await must(["sync", "-f", from]);
    });

    test("holds the disk, without snapshots, and is clean", async () => {
      const [report] = (await cloned([source, target("disk.qcow2")], from)).clones;
      expect(report?.strategy).toBe(shares ? "reflink" : "copy");
      expect(await view(target("disk.qcow2"))).toEqual({
        check: 0,
        active: await digest(source),
        snapshots: [],
      });
      expect(await qemuImg("compare", source, target("disk.qcow2"))).toContain("identical");
    });

    test("holds what a snapshot held, by name and by id", async () => {
      const listed = await snapshotsOf(source);
      for (const { id, name } of listed) {
        for (const selector of [id, name]) {
          const file = target(`from-${selector}.qcow2`);
          await cloned(["--from-snapshot", selector, source, file], from);
          expect(await view(file)).toEqual({
            check: 0,
            active: await digest(source, id),
            snapshots: [],
          });
        }
      }
    });

    test("holds every snapshot when they are kept", async () => {
      await cloned(["--keep-snapshots", source, target("kept.qcow2")], from);
      expect(await view(target("kept.qcow2"))).toEqual(await view(source));
      const lists = [source, target("kept.qcow2")].map((file) => qemuImg("snapshot", "-l", file));
      const [theirs, ours] = await Promise.all(lists);
      expect(ours).toBe(theirs);
    });

    test("is independent: neither notices what a guest does to the other", async () => {
      const copy = path.join(from, "independent.qcow2");
      copyFileSync(source, copy);
      const before = await digest(copy);
      await cloned([copy, target("apart.qcow2")], from);
      await guest(copy, "write -P 0x51 0 3M");
      expect(await view(target("apart.qcow2"))).toMatchObject({ check: 0, active: before });
      const after = await digest(copy);
      await guest(target("apart.qcow2"), "write -P 0x52 0 3M");
      await mustImage(["snapshot", "-c", "new", target("apart.qcow2")]);
      expect(await view(copy)).toMatchObject({ check: 0, active: after });
      expect(await view(target("apart.qcow2"))).toMatchObject({ check: 0 });
    });

    test("says what it copied and what it shares, as the file system sees it", async () => {
      for (const kind of [[], ["--keep-snapshots"], ["--from-snapshot", "one"]]) {
        const file = target(`figures-${kind.length}${kind[0] ?? ""}.qcow2`);
        const { clones, source: named } = await cloned([...kind, source, file], from);
        expect(named).toBe(source);
        const { strategy, reason, ...figures } = clones[0]!;
        const { "copied-bytes": copied, "shared-bytes": reported = Number.NaN } = figures;
        const { allocated, shared } = await blocksOf(file);
        expect({ kind, reported }).toEqual({ kind, reported: shared });
        // Tables that were written and then given back count as copied.
        expect(Math.abs(copied + reported - allocated)).toBeLessThanOrEqual(512 << 10);
        if (shares) {
          expect({ strategy, reason }).toEqual({ strategy: "reflink", reason: undefined });
          expect(copied).toBeLessThan(1 << 20);
        } else {
          expect(strategy).toBe("copy");
          expect(reason).toMatch(/cannot share blocks between files|different file systems/);
        }
      }
    });

    test("of which there are several is the same in each", async () => {
      const names = ["m1", "m2", "m3", "m4", "m5"].map((name) => target(`${name}.qcow2`));
      const report = await cloned([source, ...names], from);
      expect(report.clones.map((clone) => clone.target)).toEqual(names);
      const first = await view(names[0]!);
      expect(first).toEqual({ check: 0, active: await digest(source), snapshots: [] });
      for (const name of names.slice(1)) {
        expect(digestOfFile(name)).toBe(digestOfFile(names[0]!));
      }
    });

    test("by copy has blocks of its own", async () => {
      await cloned(["--strategy", "copy", source, target("own.qcow2")], from);
      expect((await blocksOf(target("own.qcow2"))).shared).toBe(0);
      expect(await qemuImg("compare", source, target("own.qcow2"))).toContain("identical");
    });

    if (shares) {
      test("by reflink shares blocks", async () => {
        await cloned(["--strategy", "reflink", source, target("shared.qcow2")], from);
        expect((await blocksOf(target("shared.qcow2"))).shared).toBeGreaterThan(2 << 20);
      });
    } else {
      test("by reflink is refused, and leaves nothing", async () => {
        const args = ["clone", "--strategy", "reflink", source, target("refused.qcow2")];
        expectRefusal(await image(args), /cannot be shared|cannot share/i);
        expect(existsSync(target("refused.qcow2"))).toBe(false);
      });
    }

    test("leaves no other file behind", () => {
      expect(readdirSync(to).filter((name) => name.startsWith("."))).toEqual([]);
    });
  });
});

// The story: where the kernel is left to copy, it may share all the same; the report said that
// nothing was shared, everything copied, and the file system unable to share.
describe.runIf(judged && systems && have("strace"))(
  "a copy that the kernel makes by sharing",
  () => {
    test("says what is shared, and gives no reason for what did not happen", async () => {
      const point = await scene.mount("xfs", "320M");
      const source = path.join(point, "source.qcow2");
      await qemuImg("create", "-q", "-f", "qcow2", source, "16M");
      await guest(source, "write -P 1 0 4M");
      const args = ["clone", "--output", "json", source];
      const number = await numberOfReflink([...args, `${source}.traced`], point);
      const trouble = { call: "ioctl", what: "error=EOPNOTSUPP", when: `${number}` };
      const [ending, met] = await inTrouble([...args, `${source}.copy`], trouble, point);
      expect(met).toBe(true);
      expect(ending).toMatchObject({ status: 0, stderr: "" });
      const [made] = (JSON.parse(ending.stdout) as Report).clones;
      const { allocated, shared } = await blocksOf(`${source}.copy`);
      expect(shared).toBeGreaterThan(4 << 20);
      expect(made).toEqual({
        target: `${source}.copy`,
        strategy: "copy",
        "copied-bytes": expect.toSatisfy((copied: number) => copied <= allocated - shared),
        "shared-bytes": shared,
      });
      expect(await qemuImg("compare", source, `${source}.copy`)).toContain("identical");
    });
  },
);

/** Which of the ioctl calls of a clone, from 1, is the one that shares the blocks. */
async function numberOfReflink(args: string[], cwd: string): Promise<number> {
  const trace = `${cwd}.trace`;
  await must(["strace", "-f", "-o", trace, "-e", "trace=ioctl", executable, "image", ...args]);
  const calls = readFileSync(trace, "utf8").split("\n");
  rmSync(trace);
  return calls.findIndex((call) => call.includes("FICLONE")) + 1;
}
