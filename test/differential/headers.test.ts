// Every field of the header with every interesting value, against qemu-img: `info`, `check` and
// `snapshot -l` say the same of a damaged header. And what is only shown, not sound, is not
// changed. CALQUE_SEED chooses the cases of those that are too many.

import { copyFileSync, readFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";

import { describe, expect, test } from "vitest";

import { random } from "../e2e/support.ts";
import { endings, inShells, type Pair } from "./batch.ts";
import { allowed, Damages, isMeant, isUnjudged } from "./damage.ts";
import { change, field, fields } from "./fields.ts";
import { calque, type Ending } from "./programs.ts";

const damages = new Damages();
const seed = Number(process.env.CALQUE_SEED ?? 20_240);

test("every byte of the header belongs to a field", () => {
  let at = 0;
  for (const it of fields) {
    expect(it.at).toBe(at);
    at += it.bytes;
  }
  expect(at).toBe(112);
});

describe.each([
  { file: "old.qcow2", every: 1 },
  { file: "new.qcow2", every: 2 },
  { file: "snapshots.qcow2", every: 1 },
])("both say the same of $file with another", ({ file, every }) => {
  test.each(fields.filter(({ name }) => !name.startsWith("padding at")))("$name", async (it) => {
    const values = it.values.filter((_, at) => (at + seed) % every === 0);
    const cases = values.map((value) => damages.changed(file, it, value));
    expect(await damages.differences(cases)).toEqual([]);
  });
});

test("both say the same of any two fields that are wrong", async () => {
  const below = random(seed);
  const pick = <Item>(items: readonly Item[]): Item => items[below(items.length)]!;
  const cases = Array.from({ length: 60 }, () => {
    const file = pick(["old.qcow2", "new.qcow2", "snapshots.qcow2"]);
    const [first, second] = [pick(fields), pick(fields)];
    const { story, content } = damages.changed(file, first, pick(first.values));
    const value = pick(second.values);
    return {
      story: `${story}, ${second.name} ${value.toString(16)}`,
      content: change(content, second, value),
    };
  });
  expect(await damages.differences(cases)).toEqual([]);
});

test("both say the same of a header that ends early, and of tables beyond the end", async () => {
  const cases = ["old.qcow2", "snapshots.qcow2"].flatMap((file) => {
    const content = damages.original(file);
    const table = Number(content.readBigUInt64BE(64));
    const tables = table === 0 ? [] : [0, 1, 40, 66, 72, 100].map((more) => table + more);
    const ends = [0, 3, 4, 8, 24, 40, 60, 71, 72, 104, 105, 112, 120, 511, 512, 65_537, 200_000];
    return [...ends, ...tables, content.length - 65_536].map((length) => ({
      story: `${file}, the first ${length} bytes`,
      content: content.subarray(0, length),
    }));
  });
  expect(await damages.differences(cases)).toEqual([]);
});

describe("what differs on purpose", () => {
  const page = readFileSync("docs/qemu-img.md", "utf8");

  test.each(allowed)("$row", async (it) => {
    expect(page).toContain(`\n| ${it.row} | `);
    const [file, name, value, line] = it.example;
    const place = damages.write([damages.changed(file, field(name), value)]);
    const [pair] = await endings([`${line} -f qcow2 0.qcow2`], place);
    expect(pair).toSatisfy((found: Pair) => isMeant(it, found));
    expect(pair!.ours).not.toEqual(pair!.theirs);
  });
});

/** How bad a check's verdict is. */
function badness({ status }: Ending): number {
  return [0, 3, 2, 1].indexOf(status ?? 1);
}

function check(file: string): string {
  return `qemu-img check -q -f qcow2 ${file}`;
}

test("what is only shown is not changed, and what is changed is not worse afterwards", async () => {
  const cases = fields.flatMap((it) =>
    it.values.map((value) => damages.changed("snapshots.qcow2", it, value)),
  );
  const place = damages.write(cases);
  const files = cases.map((_, at) => `${at}.qcow2`);
  const before = await inShells(files.map(check), place);
  for (const file of files) copyFileSync(path.join(place, file), path.join(place, `old-${file}`));
  const changes = await inShells(
    files.map((file) => `'${calque}' image snapshot -c three ${file}`),
    place,
  );
  const after = await inShells(files.map(check), place);
  const same = await inShells(
    files.map((file, at) =>
      changes[at]!.status === 0 ? `qemu-img compare -f qcow2 -F qcow2 old-${file} ${file}` : "true",
    ),
    place,
  );
  const wrong = cases.flatMap(({ story, content }, at) => {
    const refused = changes[at]!.status === 1;
    const isRight = refused
      ? readFileSync(path.join(place, files[at]!)).equals(content)
      : isUnjudged(before[at]!) ||
        (same[at]!.status === 0 && badness(after[at]!) <= badness(before[at]!));
    return isRight ? [] : [{ story, change: changes[at], after: after[at], same: same[at] }];
  });
  expect(wrong).toEqual([]);
  expect(changes.some(({ status }) => status === 0)).toBe(true);
});
