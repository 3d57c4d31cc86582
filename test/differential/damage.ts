// Images with a damaged header: what both programs say of them, and where they may say different
// things. The differences that are meant are listed here, each with its row in docs/qemu-img.md and
// an example, which is looked at: a difference that is none any more is a mistake in the list.

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { endings, type Pair } from "./batch.ts";
import { change, type Field } from "./fields.ts";
import { Scene } from "./images.ts";
import type { Ending } from "./programs.ts";

/** An image with a damaged header, and what was done to it. */
export interface Case {
  story: string;
  content: Buffer;
}

const commands = ["info", "info --output=json", "check", "snapshot -l"] as const;
type Line = (typeof commands)[number];

interface Allowed {
  /** The row of docs/qemu-img.md, by its first column. */
  row: string;
  /** An example: the image, the field, its value, the command. */
  example: [file: string, field: string, value: bigint, line: Line];
  /** What qemu-img has on standard error; where this is missing, it goes on. */
  theirs?: RegExp;
  /** What we have there; where this is missing, we go on. */
  ours?: RegExp;
}

export const allowed: readonly Allowed[] = [
  {
    row: "encrypted images",
    example: ["new.qcow2", "encryption", 1n, "snapshot -l"],
    theirs: /Parameter 'encrypt.key-secret' is required for cipher/,
  },
  {
    row: "the backing file, an external data file",
    example: ["new.qcow2", "incompatible features", 4n, "snapshot -l"],
    theirs: /'data-file' is required for this image|Could not open backing file: /,
  },
  {
    row: "the bit that an external data file is raw, without such a file",
    example: ["snapshots.qcow2", "autoclear features", 2n, "check"],
    theirs: /data-file-raw requires a data file/,
  },
  {
    row: "more than 65536 problems",
    example: ["full.qcow2", "L1 entries", 0x1_0000n, "check"],
    ours: /^\.\.\. and \d+ more problems$/m,
  },
];

/** What qemu-img says of stale bitmaps, and we do not; its last line has no end. */
const STALE_BITMAPS =
  "error: warning: a program lacking bitmap support modified this file, so all bitmaps are now " +
  "considered inconsistent\nSome clusters may be leaked, run 'qemu-img check -r' on the image file " +
  "to fix.";

/** Whether a difference of the two is this one. */
export function isMeant(it: Allowed, { theirs, ours }: Pair): boolean {
  return ends(theirs, it.theirs) && ends(ours, it.ours);
}

function ends({ stderr }: Ending, so: RegExp | undefined): boolean {
  return so === undefined ? !stderr.includes("error: ") : so.test(stderr);
}

/** Whether qemu-img refused an image that we do not, so that it has no verdict. */
export function isUnjudged({ stderr }: Ending): boolean {
  return allowed.some(({ theirs }) => theirs?.test(stderr) === true);
}

/** The images that are damaged, and the comparison. */
export class Damages {
  readonly scene = new Scene();

  constructor() {
    const { scene } = this;
    scene.create("old.qcow2", "compat=0.10,size=1M");
    scene.create("new.qcow2", "size=1M");
    scene.create("snapshots.qcow2", "size=1M");
    // Data are zeros: tables that lie among them are empty, not full of mistakes.
    for (const file of ["old.qcow2", "new.qcow2", "snapshots.qcow2"]) {
      scene.write(file, "write -P 0 0 128k");
    }
    for (const name of ["one", "two"]) scene.make("snapshot", "-c", name, "snapshots.qcow2");
    scene.write("snapshots.qcow2", "write -P 0 0 64k");
    scene.create("base.qcow2", "size=1M");
    scene.create("overlay.qcow2", "", "-b", "base.qcow2", "-F", "qcow2");
    scene.create("full.qcow2", "size=1M");
    scene.write("full.qcow2", "write -P 1 0 1M");
  }

  original(file: string): Buffer {
    return readFileSync(this.scene.path(file));
  }

  /** An image with another value in one field. */
  changed(file: string, field: Field, value: bigint): Case {
    const story = `${file}, ${field.name} ${value.toString(16)}`;
    return { story, content: change(this.original(file), field, value) };
  }

  /** Writes the images into a new directory, as `0.qcow2` and so on. */
  write(cases: readonly Case[]): string {
    const place = this.scene.emptyPlace();
    writeFileSync(path.join(place, "base.qcow2"), this.original("base.qcow2"));
    for (const [at, { content }] of cases.entries()) {
      writeFileSync(path.join(place, `${at}.qcow2`), content);
    }
    return place;
  }

  /** Runs all commands on each image, and tells the differences that are not meant. */
  async differences(cases: readonly Case[], lines: readonly Line[] = commands) {
    const place = this.write(cases);
    const asked = cases.flatMap(({ story }, at) =>
      lines.map((line) => ({ what: `${story}: ${line}`, line: `${line} -f qcow2 ${at}.qcow2` })),
    );
    const pairs = await endings(
      asked.map(({ line }) => line),
      place,
    );
    rmSync(place, { recursive: true });
    return asked.flatMap(({ what }, at) => {
      const { theirs, ours } = pairs[at]!;
      const stderr = theirs.stderr.replace(STALE_BITMAPS, "");
      const pair = { theirs: { ...theirs, stderr }, ours };
      const same = JSON.stringify(pair.theirs) === JSON.stringify(pair.ours);
      const meant = allowed.some((it) => isMeant(it, pair));
      return same || meant ? [] : [{ what, ...pair }];
    });
  }
}
