// `snapshot -c`, `-a` and `-d` against qemu-img: the endings, and what the images are afterwards.
// What changes an image gets one of its own for each of the two programs.

import { copyFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { Scene } from "./images.ts";
import { calque, run, translated, withoutHints } from "./programs.ts";

const changed =
  "ordinary old sector-clusters wide-refcounts lazy-zstd extended fragmented machine-state".split(
    " ",
  );
const refused =
  "data-file bitmaps marked-corrupt snapshot-table snapshot-table-long too-many-snapshots".split(
    " ",
  );
const scene = new Scene(
  ...[...changed, ...refused, "names", "header-version", "full-refcounts"].map(
    (name) => `${name}.qcow2`,
  ),
);

/** Runs lines one after the other with each program, in a copy of the files. */
function expectSameChanges(files: string[], lines: string[][]): void {
  const [theirs, ours] = [scene.emptyPlace(), scene.emptyPlace()];
  for (const place of [theirs, ours]) {
    for (const file of files) copyFileSync(scene.path(file), path.join(place, file));
  }
  for (const line of lines) {
    const expected = translated(run("qemu-img", line, theirs));
    const ending = withoutHints(run(calque, ["image", ...line], ours));
    expect({ line, ...ending }).toEqual({ line, ...expected });
  }
  for (const file of files) {
    const [expected, listed] = [theirs, ours].map((place) =>
      withoutDates(run("qemu-img", ["snapshot", "-l", file], place).stdout),
    );
    expect(listed).toBe(expected);
    expect(run("qemu-img", ["check", "-q", file], ours)).toEqual({
      stdout: "",
      stderr: "",
      status: 0,
    });
    const compared = run("qemu-img", ["compare", path.join(theirs, file), file], ours);
    expect(compared).toMatchObject({ stdout: "Images are identical.\n", status: 0 });
  }
  for (const place of [theirs, ours]) rmSync(place, { recursive: true });
}

function withoutDates(list: string): string {
  return list.replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, "-");
}

describe("snapshot", () => {
  test.each(changed)("takes, applies and deletes in %s", (name) => {
    const file = `${name}.qcow2`;
    expectSameChanges(
      [file],
      [
        ["snapshot", "-c", "two", file],
        ["snapshot", "-c", "three", file],
        ["snapshot", "-d", "two", file],
        ["snapshot", "-a", "three", file],
        ["snapshot", "-c", "four", file],
        ["snapshot", "-f", "qcow2", "-q", "-a", "4", file],
        ["snapshot", "-d", "three", file],
        ["snapshot", "-d", "four", file],
        ["snapshot", "-c", "\u00e9 \u001b[2J", file],
      ],
    );
  });

  test("looks up ids before names to apply, and names only to delete", () => {
    const file = "names.qcow2";
    expectSameChanges(
      [file],
      [
        ["snapshot", "-d", "4", file],
        ["snapshot", "-a", "1", file],
        ["snapshot", "-d", "1", file],
        ["snapshot", "-d", "1", file],
        ["snapshot", "-a", "nope", file],
        ["snapshot", "-d", "nope", file],
        ["snapshot", "-d", "", file],
      ],
    );
  });

  test.each([
    ["-c", "data-file.qcow2"],
    ["-a", "bitmaps.qcow2"],
    ["-c", "marked-corrupt.qcow2"],
    ["-a", "marked-corrupt.qcow2"],
    ["-d", "marked-corrupt.qcow2"],
    ["-a", "snapshot-table.qcow2"],
    ["-d", "snapshot-table.qcow2"],
    ["-a", "snapshot-table-long.qcow2"],
    ["-d", "snapshot-table-long.qcow2"],
    ["-c", "too-many-snapshots.qcow2"],
    ["-c", "header-version.qcow2"],
    ["-c", "full-refcounts.qcow2"],
  ])("%s is refused on %s, which stays as it is", (operation, file) => {
    const before = readFileSync(scene.path(file));
    const line = ["snapshot", operation, "one", file];
    const ours = withoutHints(run(calque, ["image", ...line], scene.place));
    expect(readFileSync(scene.path(file)).equals(before)).toBe(true);
    // qemu-img, however, writes to some of them.
    const theirs = run("qemu-img", line, scene.place);
    writeFileSync(scene.path(file), before);
    expect(ours).toEqual(translated(theirs));
  });
});
