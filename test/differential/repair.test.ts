// `check -r` on damaged images, against qemu-img: the same lines, numbers and statuses; and after
// us an image of which qemu-img says at least as much good. Where the image ends depends on where
// new tables lie, and is not compared.

import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { inShells } from "./batch.ts";
import { type Patch, Scene } from "./images.ts";
import { calque, type Ending, run, translated, withoutHints } from "./programs.ts";

const scene = new Scene();
const KINDS: Record<string, string> = {
  ordinary: "size=1M",
  old: "size=1M,compat=0.10",
  extended: "size=1M,extended_l2=on",
};
for (const [kind, options] of Object.entries(KINDS)) {
  const file = `${kind}.qcow2`;
  scene.create(file, options);
  scene.write(file, "write -P 1 0 256k");
  for (const name of ["one", "two"]) scene.make("snapshot", "-c", name, file);
  scene.write(file, "write -P 2 64k 64k", "write -P 3 256k 64k");
}

const COPIED = 1n << 63n;
/** Where the entry of a guest cluster stands in the active L2 table. */
const entryAt = (image: Patch, guest: number, stride = 8): number => image.l2 + guest * stride;
/** The host cluster of a guest cluster. */
const cluster = (image: Patch, guest: number, stride?: number): number =>
  Math.floor((image.read(entryAt(image, guest, stride), 8) % 2 ** 56) / 65_536);

/** Where the first entry of the L2 table of the first snapshot stands. */
const ofSnapshot = (image: Patch): number =>
  image.read(image.read(image.snapshots, 8), 8) % 2 ** 56;

/** Mistakes that a repair puts right, or leaves. */
const DAMAGES: Record<string, (image: Patch) => void> = {
  "nothing at all": () => {},
  "a count too high": (image) => image.setRefcount(cluster(image, 1), 3),
  "a count too low": (image) => image.setRefcount(cluster(image, 0), 1),
  "a count of nothing": (image) => image.setRefcount(cluster(image, 0), 0),
  "counts of all kinds": (image) => {
    image.setRefcount(cluster(image, 0), 0);
    image.setRefcount(cluster(image, 1), 3);
    image.setRefcount(cluster(image, 2), 1);
  },
  "a leak and a flag": (image) => {
    image.setRefcount(cluster(image, 0), 9);
    image.set(entryAt(image, 1), 8, BigInt(cluster(image, 1)) << 16n);
  },
  "a flag on shared data": (image) => {
    image.set(entryAt(image, 0), 8, COPIED | (BigInt(cluster(image, 0)) << 16n));
  },
  "a flag in the L1 table": (image) => image.set(image.l1, 8, image.l2),
  "data twice": (image) => {
    image.set(entryAt(image, 5), 8, COPIED | (BigInt(cluster(image, 1)) << 16n));
  },
  "unaligned data and a leak": (image) => {
    image.setRefcount(cluster(image, 1), 3);
    image.set(entryAt(image, 2), 8, (BigInt(cluster(image, 2)) << 16n) | 0x200n);
  },
  "a zero cluster with an unaligned place": (image) => {
    image.set(entryAt(image, 0), 8, (BigInt(cluster(image, 0)) << 16n) | 0x201n);
  },
  "zero clusters with unaligned places, their own, a snapshot's and nowhere": (image) => {
    image.set(entryAt(image, 1), 8, COPIED | (BigInt(cluster(image, 1)) << 16n) | 0x401n);
    image.set(entryAt(image, 6), 8, 0x900_0201);
    image.set(ofSnapshot(image), 8, (BigInt(cluster(image, 0)) << 16n) | 0x201n);
    image.setRefcount(cluster(image, 2), 1);
  },
  "data that are nowhere": (image) => image.set(entryAt(image, 5), 8, COPIED | 0x900_0000n),
  "no refcount block": (image) => image.set(image.refcountTable, 8, 0),
  "an unaligned block that no cluster needs": (image) => {
    image.set(image.refcountTable + 8, 8, 0x2_0200);
  },
  "one refcount block twice": (image) => {
    image.set(image.refcountTable + 8, 8, image.read(image.refcountTable, 8));
  },
  "the refcount table nowhere": (image) => image.set(48, 8, 0x90_0000),
  "no refcount table": (image) => image.set(56, 4, 0),
  "no snapshots although there are": (image) => image.set(60, 4, 0),
  "a snapshot without an L1 table": (image) => image.set(image.snapshots + 8, 4, 0),
  "a snapshot's L1 table nowhere": (image) => image.set(image.snapshots, 8, 0x90_0000),
  "a snapshot's L1 table unaligned": (image) => {
    image.set(image.snapshots, 8, image.read(image.snapshots, 8) + 512);
  },
  "a row without sizes, a leak and a flag": (image) => {
    image.set(image.snapshots + 72 + 36, 4, 0);
    image.setRefcount(cluster(image, 0), 9);
    image.set(entryAt(image, 1), 8, BigInt(cluster(image, 1)) << 16n);
  },
  "a misplaced snapshot table": (image) => image.set(64, 8, image.snapshots + 512),
};

/** Of images with features, too. */
const MARKS: Record<string, (image: Patch) => void> = {
  "the dirty bit": (image) => image.set(79, 1, 1),
  "the corrupt bit": (image) => image.set(79, 1, 2),
  "the dirty bit and a leak": (image) => {
    image.set(79, 1, 1);
    image.setRefcount(cluster(image, 1), 3);
  },
  "the corrupt bit and a count too low": (image) => {
    image.set(79, 1, 2);
    image.setRefcount(cluster(image, 0), 1);
  },
};

const EXTENDED: Record<string, (image: Patch) => void> = {
  "a leak": (image) => image.setRefcount(cluster(image, 1, 16), 3),
  "a flag": (image) => image.set(entryAt(image, 1, 16), 8, cluster(image, 1, 16) * 65_536),
  "a count of nothing": (image) => image.setRefcount(cluster(image, 0, 16), 0),
  "an unaligned place of zero subclusters": (image) => {
    image.set(entryAt(image, 1, 16), 8, COPIED | (BigInt(cluster(image, 1, 16)) << 16n) | 0x200n);
    image.set(entryAt(image, 1, 16) + 8, 8, 0xf0_0000_0000n);
  },
  "unaligned data": (image) => {
    image.set(entryAt(image, 2, 16), 8, (BigInt(cluster(image, 2, 16)) << 16n) | 0x200n);
  },
};

interface Case {
  file: string;
  story: string;
  damage: (image: Patch) => void;
}

function cases(file: string, damages: Record<string, (image: Patch) => void>): Case[] {
  return Object.entries(damages).map(([story, damage]) => ({ file, story, damage }));
}

const WAYS = ["-r leaks", "-r all", "-r all --output=json", "-q -r leaks"];

/** What both end with, and then qemu-img of what each of them has left. */
interface Result {
  theirs: Ending;
  ours: Ending;
  after: { theirs: Ending; ours: Ending };
}

/** Repairs copies of a damaged image in each way. */
async function repaired({ file, damage }: Case): Promise<Result[]> {
  const place = scene.emptyPlace();
  copyFileSync(scene.path(file), scene.path("damaged.qcow2"));
  scene.patch("damaged.qcow2", damage);
  const lines = WAYS.flatMap((way, n) =>
    (["theirs", "ours"] as const).flatMap((who) => {
      const directory = path.join(place, `${n}-${who}`);
      mkdirSync(directory);
      copyFileSync(scene.path("damaged.qcow2"), path.join(directory, "disk.qcow2"));
      const program = who === "ours" ? `'${calque}' image` : "qemu-img";
      return [
        `(cd ${n}-${who} && ${program} check ${way} -f qcow2 disk.qcow2)`,
        `(cd ${n}-${who} && qemu-img check -q -f qcow2 disk.qcow2)`,
      ];
    }),
  );
  const all = await inShells(lines, place);
  rmSync(place, { recursive: true });
  return WAYS.map((_, n) => ({
    theirs: withoutEnd(translated(all[n * 4]!)),
    ours: withoutEnd(withoutHints(all[n * 4 + 2]!)),
    after: { theirs: all[n * 4 + 1]!, ours: all[n * 4 + 3]! },
  }));
}

function withoutEnd(ending: Ending): Ending {
  const stdout = ending.stdout
    .replace(/^Image end offset: .*\n/m, "")
    .replace(/^ *"image-end-offset": .*\n/m, "");
  return { ...ending, stdout };
}

describe.each([
  ...cases("ordinary.qcow2", { ...DAMAGES, ...MARKS }),
  ...cases("old.qcow2", DAMAGES),
  ...cases("extended.qcow2", EXTENDED),
])("$file with $story", (one) => {
  test("is repaired as by qemu-img", async () => {
    for (const { theirs, ours, after } of await repaired(one)) {
      expect(ours).toEqual(theirs);
      expect(after.ours.status).toBe(after.theirs.status);
    }
  });
});

const takeHeaderForTable = (image: Patch): void => image.set(image.l1, 8, COPIED);

/** Both repair everything of an image; qemu-img's word on what is left. */
async function repairAll(damage: (image: Patch) => void): Promise<Result> {
  return (await repaired({ file: "ordinary.qcow2", story: "", damage }))[1]!;
}

function listed(file: string): string {
  return run("qemu-img", ["snapshot", "-l", file], scene.place).stdout;
}

describe("differences that are meant", () => {
  test("refcount structures that qemu-img gives up on are made anew", async () => {
    const giveUp: ((image: Patch) => void)[] = [
      (image) => image.set(image.refcountTable + 7, 1, 1),
      (image) => image.set(image.refcountTable, 8, 0x2_0200),
    ];
    for (const damage of giveUp) {
      const { theirs, ours, after } = await repairAll(damage);
      expect(theirs.stderr).toContain("qcow2: Marking image as corrupt: ");
      expect(theirs.status).toBe(1);
      expect(ours.status).toBe(0);
      expect(after.theirs.status).not.toBe(0);
      expect(after.ours.status).toBe(0);
    }
  });

  test("a refcount block outside the file does not make the file longer", async () => {
    const { theirs, ours, after } = await repairAll((image) => {
      image.set(image.refcountTable + 8, 8, 0x90_0000);
    });
    expect(theirs.stderr).toContain("ERROR cluster 144 refcount=0 reference=1\n");
    expect(ours.stderr).toBe(theirs.stderr.replace(/^.* cluster 144 .*\n/gm, ""));
    expect(ours.stdout).toContain("\n    1 corruptions\n");
    expect(theirs.stdout).toContain("\n    2 corruptions\n");
    expect(after.ours.status).toBe(0);
  });

  test("data that a cut-off file has lost are told, and not hidden by a file that grew", async () => {
    scene.create("cut.qcow2", "size=16M");
    scene.write("cut.qcow2", "write -P 7 0 1M");
    const story = {
      file: "cut.qcow2",
      story: "",
      damage: (image: Patch) => {
        image.setRefcount(5, 2);
        image.cut(1_000_000);
      },
    };
    const results = await repaired(story);
    expect(results[0]!.ours.stdout).toContain("\n5 errors were found on the image.\n");
    expect(results[2]!.ours.stdout).toContain('"corruptions": 5,\n');
    for (const { theirs, ours, after } of results) {
      expect([theirs.status, ours.status]).toEqual([2, 2]);
      expect(ours.stderr).toContain(
        "ERROR 5 clusters in use lay past the end of the file, which has grown: " +
          "what was in them is lost, and they read as zeros\n",
      );
      // They are said once.
      expect([after.theirs.status, after.ours.status]).toEqual([2, 0]);
    }
  });

  test("leaks are put right though the file lost the blocks that count its end", async () => {
    scene.create("long.qcow2", "size=16M,cluster_size=4k,preallocation=metadata");
    const [leaks] = await repaired({
      file: "long.qcow2",
      story: "",
      damage: (image) => {
        image.setRefcount(9, 3);
        image.cut(8 * 1024 * 1024);
      },
    });
    for (const { stdout, status } of [leaks!.theirs, leaks!.ours]) {
      expect(stdout).toContain("\n    1 leaked clusters\n    0 corruptions\n");
      expect(status).toBe(2);
    }
  });

  test("there is room past the end of the file, however many entries point there", async () => {
    const tables = 9;
    const perTable = 8192;
    scene.create("far.qcow2", "size=5G");
    scene.write("far.qcow2", "write 0 64k");
    const { size } = statSync(scene.path("far.qcow2"));
    const first = Math.ceil(size / 65_536);
    const results = await repaired({
      file: "far.qcow2",
      story: "",
      damage: (image) => {
        for (let table = 0; table < tables; table += 1) {
          const at = (first + table) * 65_536;
          for (let index = 0; index < perTable; index += 1) {
            const place = 2 ** 40 + (table * perTable + index) * 65_536;
            image.set(at + index * 8, 8, (1n << 63n) | BigInt(place));
          }
          image.set(image.l1 + 8 * (1 + table), 8, (1n << 63n) | BigInt(at));
          image.setRefcount(first + table, 1);
        }
        image.setRefcount(4, 2);
      },
    });
    for (const { theirs, ours } of results) {
      expect([theirs.status, ours.status]).toEqual([2, 2]);
    }
    expect(results[0]!.ours.stdout).toContain("\n    1 leaked clusters\n");
  });

  test("an L1 entry that takes the header for a table is left, and the file as long as it is", async () => {
    const { theirs, ours } = await repairAll(takeHeaderForTable);
    expect(theirs.stderr).toContain("qcow2: Marking image as corrupt: ");
    expect([theirs.status, ours.status]).toEqual([1, 2]);
    copyFileSync(scene.path("ordinary.qcow2"), scene.path("header.qcow2"));
    scene.patch("header.qcow2", takeHeaderForTable);
    const again = () => {
      run(calque, ["image", "check", "-r", "all", "header.qcow2"], scene.place);
      return readFileSync(scene.path("header.qcow2"));
    };
    expect(again().equals(again())).toBe(true);
  });

  test("an unknown autoclear feature does not cost the snapshots", () => {
    for (const [file, program] of [
      ["theirs.qcow2", "qemu-img"],
      ["ours.qcow2", calque],
    ] as const) {
      copyFileSync(scene.path("ordinary.qcow2"), scene.path(file));
      scene.patch(file, (image) => image.set(95, 1, 4));
      const verb = program === calque ? ["image", "check"] : ["check"];
      run(program, [...verb, "-r", "leaks", file], scene.place);
    }
    expect(listed("theirs.qcow2")).toBe("");
    expect(listed("ours.qcow2")).toBe(listed("ordinary.qcow2"));
  });

  test("a dirty bitmap does not cost the snapshots", () => {
    scene.create("bitmap.qcow2", "size=1M");
    scene.make("snapshot", "-c", "one", "bitmap.qcow2");
    scene.make("bitmap", "--add", "bitmap.qcow2", "dirty");
    const before = listed("bitmap.qcow2");
    for (const [file, program, verb] of [
      ["theirs.qcow2", "qemu-img", ["check"]],
      ["ours.qcow2", calque, ["image", "check"]],
    ] as const) {
      copyFileSync(scene.path("bitmap.qcow2"), scene.path(file));
      run(program, [...verb, "-r", "leaks", file], scene.place);
    }
    expect(listed("theirs.qcow2")).toBe("");
    expect(listed("ours.qcow2")).toBe(before);
  });

  test("an image whose data are elsewhere is not repaired", () => {
    scene.create("elsewhere.qcow2", "size=1M,data_file=data.raw");
    const { stderr, status } = run(
      calque,
      ["image", "check", "-r", "all", "elsewhere.qcow2"],
      scene.place,
    );
    expect(stderr).toBe(
      "error: Check failed: Operation not supported\n" +
        "hint: the image keeps its data in an external data file\n",
    );
    expect(status).toBe(63);
  });
});
