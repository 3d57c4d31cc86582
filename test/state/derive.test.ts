// What an instance is, from what three places say of it: tables of facts and what follows.

import { describe, expect, test } from "vitest";

import type { SnapshotInfo } from "../../src/native.ts";
import {
  asFacts,
  belongs,
  counter,
  deletion,
  type Facts,
  head,
  ownCount,
  parent,
  settle,
  snapshotId,
  unknownIds,
  upToDate,
} from "../../src/state/derive.ts";
import type { InstanceRecord, SnapshotRecord } from "../../src/state/schema.ts";

/** Snapshots in the image, by id: `[parent]` is one of ours, `foreign` has no record. */
type Entries = Record<string, [parent: number] | "foreign">;

interface Given {
  entries?: Entries;
  record?: Partial<InstanceRecord>;
  leftovers?: Record<number, number>;
}

function facts({ entries = {}, record = {}, leftovers = {} }: Given): Facts {
  const infos = Object.keys(entries).map((id) => entry(id));
  const records = infos.flatMap((info): [SnapshotInfo, SnapshotRecord][] => {
    const given = entries[info.id]!;
    return given === "foreign" ? [] : [[info, snapshotRecord(Number(info.id), given[0])]];
  });
  return asFacts({
    record: { ...instance, ...record },
    entries: infos,
    records: new Map(records),
    leftovers: new Map(Object.entries(leftovers).map(([id, above]) => [Number(id), above])),
  });
}

function entry(id: string): SnapshotInfo {
  const vm = { vmStateSize: 0, vmClockSec: 0, vmClockNsec: 0 };
  return { id, name: `snapshot${id}`, dateSec: 1000, dateNsec: 5, ...vm };
}

/** Each snapshot with its parent. */
function lineage(known: Facts): [string, number][] {
  return known.entries.map((one) => [one.id, parent(known, one)]);
}

const instance: InstanceRecord = {
  schema: 1,
  uuid: "00000000-0000-4000-8000-000000000000",
  createdAt: "2026-11-25T11:29:10.330Z",
  instanceId: "web",
  macAddress: "52:54:00:00:00:01",
  cpus: 1,
  memoryBytes: 1,
  interfaces: [],
  mounts: {},
  image: {},
  cloneCount: 0,
  snapshotCount: 0,
  head: 0,
  parents: {},
};

function snapshotRecord(id: number, above: number): SnapshotRecord {
  const { cpus, memoryBytes, interfaces, mounts } = instance;
  const date = { dateSec: 1000, dateNsec: 5 };
  const configuration = { cpus, memoryBytes, interfaces, mounts, diskBytes: 1 };
  return { schema: 1, id, name: "x", comment: "", parent: above, ...date, ...configuration };
}

describe("a snapshot's id", () => {
  test.each([
    ["1", 1],
    ["9007199254740991", 9007199254740991],
    ["9007199254740992", undefined],
    ["18446744073709551615", undefined],
    ["0", undefined],
    ["01", undefined],
    ["-1", undefined],
    ["1a", undefined],
    ["1.0", undefined],
    ["1e3", undefined],
    [" 1", undefined],
    ["", undefined],
    ["snapshot", undefined],
  ])("%j is the number %j", (text, number) => {
    expect(snapshotId(text)).toBe(number);
  });

  test.each([
    ["the same", {}, true],
    ["another id", { id: "2" }, false],
    ["other seconds", { dateSec: 1001 }, false],
    ["other nanoseconds", { dateNsec: 6 }, false],
  ])("belongs to a record of %s: %s", (_, difference, expected) => {
    expect(belongs(snapshotRecord(1, 0), { ...entry("1"), ...difference })).toBe(expected);
  });
});

describe("head and counters are", () => {
  test.each<[string, Given, { head: number; own: number; counter: number }]>([
    ["nothing of an instance without snapshots", {}, { head: 0, own: 0, counter: 0 }],
    [
      "those of the newest snapshot, which nobody has written down",
      { entries: { 1: [0], 2: [1] } },
      { head: 2, own: 2, counter: 2 },
    ],
    [
      "of an older one that was restored, as long as none was taken since",
      { entries: { 1: [0], 2: [1] }, record: { head: 1, snapshotCount: 2 } },
      { head: 1, own: 2, counter: 2 },
    ],
    [
      "those of one that was taken after a restore",
      { entries: { 1: [0], 2: [1], 3: [1] }, record: { head: 1, snapshotCount: 2 } },
      { head: 3, own: 3, counter: 3 },
    ],
    [
      "the parent of a head that was deleted, and the number as before",
      { entries: { 1: [0] }, record: { head: 2, snapshotCount: 2, parents: { 2: 1 } } },
      { head: 1, own: 2, counter: 2 },
    ],
    [
      "the next that is there, over several that were deleted",
      {
        entries: { 1: [0] },
        record: { head: 4, snapshotCount: 4, parents: { 2: 1, 3: 2, 4: 3 } },
      },
      { head: 1, own: 4, counter: 4 },
    ],
    [
      "of a head that is still there, whatever stands in for it",
      { entries: { 1: [0], 2: [1] }, record: { head: 2, snapshotCount: 2, parents: { 2: 1 } } },
      { head: 2, own: 2, counter: 2 },
    ],
    [
      "the parent of a head that another program deleted: its record says so",
      { entries: { 1: [0] }, record: { head: 2, snapshotCount: 2 }, leftovers: { 2: 1 } },
      { head: 1, own: 2, counter: 2 },
    ],
    [
      "none where nothing is known of the head",
      { entries: { 1: [0] }, record: { head: 2, snapshotCount: 2 } },
      { head: 0, own: 2, counter: 2 },
    ],
    [
      "no business of other programs' snapshots, but for the numbers that they use up",
      { entries: { 1: [0], 2: "foreign", 7: "foreign" } },
      { head: 1, own: 1, counter: 7 },
    ],
    [
      "of another program's snapshot that was restored",
      { entries: { 1: [0], 2: "foreign" }, record: { head: 2, snapshotCount: 1 } },
      { head: 2, own: 1, counter: 2 },
    ],
    [
      "not led astray by ids beyond 2^53 and by ids that are no numbers",
      { entries: { 1: [0], "9007199254740993": "foreign", "@s1": "foreign", "12abc": "foreign" } },
      { head: 1, own: 1, counter: 12 },
    ],
    [
      "none where a damaged record leads in a circle",
      { record: { head: 2, snapshotCount: 3, parents: { 2: 3, 3: 2 } } },
      { head: 0, own: 3, counter: 3 },
    ],
  ])("%s", (_, given, expected) => {
    const known = facts(given);
    expect({ head: head(known), own: ownCount(known), counter: counter(known) }).toEqual(expected);
  });
});

describe("a snapshot's parent is", () => {
  test.each<[string, Given, string, number]>([
    ["what its record says", { entries: { 1: [0], 2: [1] } }, "2", 1],
    ["nobody, for the first", { entries: { 1: [0] } }, "1", 0],
    ["nobody, for another program's", { entries: { 1: [0], 2: "foreign" } }, "2", 0],
    [
      "the parent of a deleted one",
      { entries: { 1: [0], 3: [2] }, record: { parents: { 2: 1 } } },
      "3",
      1,
    ],
    [
      "what the record of one says that another program deleted",
      { entries: { 1: [0], 3: [2] }, leftovers: { 2: 1 } },
      "3",
      1,
    ],
    ["nobody, where nothing is known of it", { entries: { 3: [2] } }, "3", 0],
  ])("%s", (_, given, id, expected) => {
    const known = facts(given);
    expect(
      parent(
        known,
        known.entries.find((one) => one.id === id)!,
      ),
    ).toBe(expected);
  });

  test("asked for where something refers to a snapshot that nobody knows", () => {
    const record = { head: 9, snapshotCount: 9, parents: { 9: 8 } };
    expect(unknownIds(facts({ entries: { 3: [2], 4: [3] }, record }))).toEqual([8, 2]);
    expect(unknownIds(facts({ entries: { 1: [0], 2: [1] } }))).toEqual([]);
  });
});

describe("what stands in for deleted snapshots", () => {
  test("is kept as long as something leads over it", () => {
    const entries: Entries = { 1: [0], 5: [4] };
    const parents = { 2: 1, 3: 2, 4: 3, 7: 1 };
    const record = { head: 1, snapshotCount: 7, parents };
    expect(upToDate(facts({ entries, record })).parents).toEqual({ 2: 1, 3: 2, 4: 3 });
  });

  test("is taken over from records that are about to go", () => {
    const given: Given = { entries: { 1: [0], 3: [2] }, leftovers: { 2: 1 } };
    expect(upToDate(facts(given)).parents).toEqual({ 2: 1 });
  });

  test("may be nobody", () => {
    expect(upToDate(facts({ entries: { 3: [2] }, leftovers: { 2: 0 } })).parents).toEqual({ 2: 0 });
  });
});

describe("the record that is written before a deletion", () => {
  const cases: [string, Given, string, Partial<InstanceRecord>][] = [
    [
      "of a snapshot between two others",
      { entries: { 1: [0], 2: [1], 3: [2] } },
      "2",
      { head: 3, snapshotCount: 3, parents: { 2: 1 } },
    ],
    [
      "of the head",
      { entries: { 1: [0], 2: [1] } },
      "2",
      { head: 2, snapshotCount: 2, parents: { 2: 1 } },
    ],
    [
      "of one that nothing refers to",
      { entries: { 1: [0], 2: [1], 3: [1] } },
      "2",
      { head: 3, snapshotCount: 3, parents: {} },
    ],
    [
      "of the last in a row of deleted ones",
      { entries: { 1: [0], 3: [2] }, record: { parents: { 2: 1 } } },
      "1",
      { head: 3, snapshotCount: 3, parents: { 1: 0, 2: 1 } },
    ],
    [
      "of another program's, without a number",
      { entries: { 1: [0], "@s1": "foreign" } },
      "@s1",
      { head: 1, snapshotCount: 1, parents: {} },
    ],
    [
      "of another program's that was restored",
      { entries: { 1: [0], 2: "foreign" }, record: { head: 2, snapshotCount: 1 } },
      "2",
      { head: 2, snapshotCount: 1, parents: { 2: 0 } },
    ],
  ];

  test.each(cases)("%s", (_, given, id, expected) => {
    const known = facts(given);
    const written = deletion(
      known,
      known.entries.find((one) => one.id === id)!,
    );
    expect(written).toEqual({ ...known.record, ...expected });
  });

  test.each(cases)("reads right before and after the image's commit: %s", (_, given, id) => {
    const before = facts(given);
    const doomed = before.entries.find((one) => one.id === id)!;
    const written = { ...before, record: deletion(before, doomed) };
    expect([head(written), lineage(written), ownCount(written)]).toEqual([
      head(before),
      lineage(before),
      ownCount(before),
    ]);

    const entries = before.entries.filter((one) => one !== doomed);
    const after = asFacts({ ...written, entries });
    const above = parent(before, doomed);
    const instead = (number: number): number => (`${number}` === id ? above : number);
    expect(head(after)).toBe(instead(head(before)));
    expect(lineage(after)).toEqual(
      lineage(before).flatMap(([one, up]) => (one === id ? [] : [[one, instead(up)]])),
    );
    expect(unknownIds(after)).toEqual([]);
    expect(ownCount(after)).toBe(ownCount(before));
    expect(upToDate(after)).toEqual(upToDate(asFacts({ ...after, record: upToDate(after) })));
  });
});

describe("a note about a restore", () => {
  const before = "00".repeat(48);
  const after = "11".repeat(48);
  const result = { cpus: 4, head: 1, snapshotCount: 2 };
  const at = "2026-11-25T11:29:10.330Z";
  const noted = {
    ...instance,
    cpus: 2,
    pending: { operation: "restore", before, after, result, at },
  };

  test.each([
    ["is worked in when the header is as planned", after, "finished", { ...result }],
    ["is dropped when the header is as before", before, "dropped", { cpus: 2 }],
    ["is dropped when somebody has changed it since", "22".repeat(48), "overtaken", { cpus: 2 }],
  ])("%s", (_, fields, outcome, values) => {
    expect(settle(noted as InstanceRecord, fields)).toEqual({
      outcome,
      record: { ...instance, ...values },
    });
  });

  test("changes nothing of the record that a restore does not, and keeps what is not known", () => {
    const strange = { ...result, uuid: 5, schema: 2, cloneCount: -1, pending: 5, future: true };
    const { pending } = noted;
    const record = { ...noted, pending: { ...pending, result: strange } };
    expect(settle(record as unknown as InstanceRecord, after).record).toEqual({
      ...instance,
      ...result,
      future: true,
    });
  });

  test("that is not there changes nothing", () => {
    expect(settle(instance, before)).toEqual({ outcome: "none", record: instance });
  });
});
