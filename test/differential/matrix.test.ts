// The table in docs/qcow2.md, cell by cell: what it says is done on an image with a feature is done,
// and QEMU's tools find the result sound and its content right; what it says is refused leaves
// every byte as it was.

import { beforeAll, describe, expect, test } from "vitest";

import { docsTable, reasonsOf } from "../docs-table.ts";
import { native } from "../state/scene.ts";
import { Scene } from "./images.ts";
import { rows } from "./matrix.ts";
import type { Ending } from "./programs.ts";
import { Subject } from "./subject.ts";

const { operations, lines } = docsTable(
  "docs/qcow2.md",
  (line) => line.startsWith("|") && !line.startsWith("|-"),
);

test("the table has each image once", () => {
  expect(lines.map(([name]) => name)).toEqual(Object.keys(rows));
});

describe.each(lines)("%s", (name, ...cells) => {
  const row = rows[name]!;
  const reasons = reasonsOf(cells);
  const scene = new Scene();
  const image = new Subject(scene, row);
  beforeAll(() => row.make(scene));

  test.each(operations.map((operation, at) => ({ operation, cell: cells[at]! })))(
    "$operation: $cell",
    ({ operation, cell }) => {
      const act = actions[operation]!;
      image.reset();
      if (cell === "\u2013") {
        expect(image.hasSnapshot, "there is a snapshot that this could be done to").toBe(false);
        return;
      }
      if (cell === "refused") {
        const ending = act.run(image);
        expect(ending.status).not.toBe(0);
        expect(
          reasons.some((reason) => ending.stderr.includes(reason)),
          ending.stderr,
        ).toBe(true);
        expect(image.isAsBefore()).toBe(true);
        return;
      }
      expect(cell).toBe("yes");
      expect(act.run(image)).toMatchObject({ status: 0 });
      act.judge(image);
    },
  );
});

/** What is done to an image, and what must be so afterwards. */
interface Action {
  run: (image: Subject) => Ending;
  judge: (image: Subject) => void;
}

const actions: Record<string, Action> = {
  check: {
    run: (image) => image.calque("check", "disk.qcow2"),
    judge: (image) => expect(image.isAsBefore()).toBe(true),
  },
  "check -r": {
    run: (image) => image.repair(),
    judge(image) {
      image.expectSound();
      expect(image.content()).toBe(image.before.active);
      image.expectSnapshot();
    },
  },
  "snapshot -c": {
    run: (image) => image.calque("snapshot", "-c", "new", "disk.qcow2"),
    judge(image) {
      image.expectSound();
      expect(image.content()).toBe(image.before.active);
      expect(image.content("snapshot.name=new")).toBe(image.before.active);
      image.expectSnapshot();
    },
  },
  "snapshot -a": {
    run: (image) => image.calque("snapshot", "-a", image.selector, "disk.qcow2"),
    judge(image) {
      image.expectSound();
      expect(image.content()).toBe(image.before.snapshot);
      expect(image.size).toBe(image.snapshotSize);
      image.expectSnapshot();
    },
  },
  "snapshot -a --drop-bitmaps": {
    run: (image) => image.calque("snapshot", "-a", image.selector, "--drop-bitmaps", "disk.qcow2"),
    judge(image) {
      image.expectSound();
      expect(image.content()).toBe(image.before.snapshot);
    },
  },
  "snapshot -d": {
    // Found by its name only.
    run: (image) =>
      image.selector === "one"
        ? image.calque("snapshot", "-d", "one", "disk.qcow2")
        : image.reply(native.snapshotDelete({ path: image.file, id: image.selector })),
    judge(image) {
      image.expectSound();
      expect(image.content()).toBe(image.before.active);
      expect(image.hasSnapshot).toBe(false);
    },
  },
  "snapshot --rename": {
    run: (image) => image.calque("snapshot", "--rename", image.selector, "eins", "disk.qcow2"),
    judge(image) {
      image.expectSound();
      expect(image.content()).toBe(image.before.active);
      expect(image.content("snapshot.name=eins")).toBe(image.before.snapshot);
    },
  },
  clone: {
    run: (image) => image.calque("clone", "--strategy=copy", "disk.qcow2", "copy.qcow2"),
    judge(image) {
      expect(image.isAsBefore()).toBe(true);
      image.expectSound("copy.qcow2");
      expect(image.content(undefined, "copy.qcow2")).toBe(image.before.active);
      expect(image.list("copy.qcow2")).toBe("");
    },
  },
  "clone --keep-snapshots": {
    run: (image) =>
      image.calque("clone", "--strategy=copy", "--keep-snapshots", "disk.qcow2", "copy.qcow2"),
    judge(image) {
      expect(image.isAsBefore()).toBe(true);
      image.expectSound("copy.qcow2");
      expect(image.content(undefined, "copy.qcow2")).toBe(image.before.active);
      image.expectSnapshot("copy.qcow2");
    },
  },
  grow: {
    run: (image) =>
      image.reply(native.imageGrow({ path: image.file, size: image.before.size + 3 * 2 ** 20 })),
    judge(image) {
      image.expectSound();
      expect(image.size).toBe(image.before.size + 3 * 2 ** 20);
      expect(image.content()).toBe(image.before.active);
      image.expectSnapshot();
    },
  },
};
