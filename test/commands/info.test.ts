// `image info`: an image as qemu-img describes it to people and to programs, with whatever names
// are in it, and why it could not be opened.

import { expect, test } from "vitest";

import type { BitmapInfo, Failure, Native, SnapshotInfo } from "../../src/native.ts";
import { app, fails, image, snapshot } from "./app.ts";

test("info says what qemu-img says of an image", async () => {
  const cli = app({ imageInfo: image() });
  expect(await cli("image", "info", "disk.qcow2")).toMatchInlineSnapshot(`
    "image: disk.qcow2
    file format: qcow2
    virtual size: 1 MiB (1048576 bytes)
    disk size: 196 KiB
    cluster_size: 65536
    Format specific information:
        compat: 1.1
        compression type: zlib
        lazy refcounts: false
        refcount bits: 16
        corrupt: false
        extended l2: false
    Child node '/file':
        filename: disk.qcow2
        protocol type: file
        file length: 192 KiB (197120 bytes)
        disk size: 196 KiB
    = 0"
  `);
});

test("info says no more of a version 2 image than it can be", async () => {
  const cli = app({ imageInfo: image({ compat: "0.10" }) });
  expect(await cli("image", "info", "disk.qcow2")).toMatchInlineSnapshot(`
    "image: disk.qcow2
    file format: qcow2
    virtual size: 1 MiB (1048576 bytes)
    disk size: 196 KiB
    cluster_size: 65536
    Format specific information:
        compat: 0.10
        compression type: zlib
        refcount bits: 16
    Child node '/file':
        filename: disk.qcow2
        protocol type: file
        file length: 192 KiB (197120 bytes)
        disk size: 196 KiB
    = 0"
  `);
  expect(await cli("image", "info", "--output=json", "disk.qcow2")).toMatchInlineSnapshot(`
    "{
        "children": [
            {
                "name": "file",
                "info": {
                    "children": [
                    ],
                    "virtual-size": 197120,
                    "filename": "disk.qcow2",
                    "format": "file",
                    "actual-size": 200704,
                    "format-specific": {
                        "type": "file",
                        "data": {
                        }
                    },
                    "dirty-flag": false
                }
            }
        ],
        "virtual-size": 1048576,
        "filename": "disk.qcow2",
        "cluster-size": 65536,
        "format": "qcow2",
        "actual-size": 200704,
        "format-specific": {
            "type": "qcow2",
            "data": {
                "compat": "0.10",
                "compression-type": "zlib",
                "refcount-bits": 16
            }
        },
        "dirty-flag": false
    }
    = 0"
  `);
});

const rich = image({
  snapshots: [snapshot(), snapshot({ id: "2", name: "bar", icount: "9223372036854775807" })],
  bitmaps: [
    { name: "b0", granularity: 65536, flags: ["in-use", "auto"] },
    { name: "b1", granularity: 4096, flags: [] },
  ],
  backingFile: "base.qcow2",
  backingFormat: "qcow2",
  dataFile: "ext.raw",
  dataFileRaw: false,
  encryption: "luks",
  lazyRefcounts: true,
  corrupt: true,
  dirty: true,
  extendedEntries: true,
  compressionType: "zstd",
});

test("info shows everything that an image can have", async () => {
  const cli = app({ imageInfo: rich });
  expect(await cli("image", "info", "sub/disk.qcow2")).toMatchInlineSnapshot(`
    "image: sub/disk.qcow2
    file format: qcow2
    virtual size: 1 MiB (1048576 bytes)
    disk size: 196 KiB
    encrypted: yes
    cluster_size: 65536
    cleanly shut down: no
    backing file: base.qcow2 (actual path: sub/base.qcow2)
    backing file format: qcow2
    Snapshot list:
    ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT
    1       foo                   0 B 2026-11-25 11:29:09  0000:00:00.000          0
    2       bar                   0 B 2026-11-25 11:29:09  0000:00:00.000 9223372036854775807
    Format specific information:
        compat: 1.1
        compression type: zstd
        lazy refcounts: true
        bitmaps:
            [0]:
                flags:
                    [0]: in-use
                    [1]: auto
                name: b0
                granularity: 65536
            [1]:
                flags:
                name: b1
                granularity: 4096
        refcount bits: 16
        data file: ext.raw
        encrypt:
            format: luks
        data file raw: false
        corrupt: true
        extended l2: true
    Child node '/file':
        filename: sub/disk.qcow2
        protocol type: file
        file length: 192 KiB (197120 bytes)
        disk size: 196 KiB
    = 0"
  `);
});

test("info gives a program the keys in qemu-img's order", async () => {
  const cli = app({ imageInfo: rich });
  expect(await cli("image", "info", "--output", "json", "sub/disk.qcow2")).toMatchInlineSnapshot(`
    "{
        "children": [
            {
                "name": "file",
                "info": {
                    "children": [
                    ],
                    "virtual-size": 197120,
                    "filename": "sub/disk.qcow2",
                    "format": "file",
                    "actual-size": 200704,
                    "format-specific": {
                        "type": "file",
                        "data": {
                        }
                    },
                    "dirty-flag": false
                }
            }
        ],
        "backing-filename-format": "qcow2",
        "snapshots": [
            {
                "icount": 0,
                "vm-clock-nsec": 0,
                "name": "foo",
                "date-sec": 1795606149,
                "date-nsec": 330473000,
                "vm-clock-sec": 0,
                "id": "1",
                "vm-state-size": 0
            },
            {
                "icount": 9223372036854775807,
                "vm-clock-nsec": 0,
                "name": "bar",
                "date-sec": 1795606149,
                "date-nsec": 330473000,
                "vm-clock-sec": 0,
                "id": "2",
                "vm-state-size": 0
            }
        ],
        "virtual-size": 1048576,
        "filename": "sub/disk.qcow2",
        "cluster-size": 65536,
        "format": "qcow2",
        "actual-size": 200704,
        "format-specific": {
            "type": "qcow2",
            "data": {
                "compat": "1.1",
                "compression-type": "zstd",
                "lazy-refcounts": true,
                "bitmaps": [
                    {
                        "flags": [
                            "in-use",
                            "auto"
                        ],
                        "name": "b0",
                        "granularity": 65536
                    },
                    {
                        "flags": [
                        ],
                        "name": "b1",
                        "granularity": 4096
                    }
                ],
                "refcount-bits": 16,
                "data-file": "ext.raw",
                "encrypt": {
                    "format": "luks"
                },
                "data-file-raw": false,
                "corrupt": true,
                "extended-l2": true
            }
        },
        "full-backing-filename": "sub/base.qcow2",
        "encrypted": true,
        "backing-filename": "base.qcow2",
        "dirty-flag": true
    }
    = 0"
  `);
});

test.each(["human", "json"])(
  "info writes lists that come in pieces as one (%s)",
  async (output) => {
    const { snapshots, bitmaps } = rich({ path: "disk.qcow2" }).report;
    const cases = [
      { snapshots, bitmaps: [] },
      { snapshots: [], bitmaps },
      { snapshots, bitmaps },
    ];
    for (const lists of cases) {
      const { report } = image(lists)({ path: "disk.qcow2" });
      const inPieces: Native["imageInfo"] = (_, piece) => {
        const rows = [...lists.snapshots, ...lists.bitmaps];
        for (const [at, one] of rows.entries()) {
          const isSnapshot = at < lists.snapshots.length;
          const part = {
            ...report,
            snapshots: isSnapshot ? [one as SnapshotInfo] : [],
            bitmaps: isSnapshot ? [] : [one as BitmapInfo],
          };
          if (at === rows.length - 1) return { report: part };
          piece!(part);
        }
        throw new Error("there are rows");
      };
      const show = (imageInfo: Native["imageInfo"]): Promise<string> =>
        app({ imageInfo })("image", "info", "--output", output, "disk.qcow2");
      expect(await show(inPieces)).toBe(await show(() => ({ report })));
    }
  },
);

test.each([
  ["disk.qcow2", "base.qcow2", "base.qcow2"],
  ["./disk.qcow2", "base.qcow2", "base.qcow2 (actual path: ./base.qcow2)"],
  ["a/b/disk.qcow2", "../base.qcow2", "../base.qcow2 (actual path: a/b/../base.qcow2)"],
  ["a/disk.qcow2", "/abs/base.qcow2", "/abs/base.qcow2"],
  ["a/disk.qcow2", "nbd://host/x", "nbd://host/x"],
  ["a/disk.qcow2", "./b:c", "./b:c (actual path: a/./b:c)"],
])("info of %s finds the backing file %s as QEMU would", async (path, backingFile, shown) => {
  const cli = app({ imageInfo: image({ backingFile }) });
  expect(await cli("image", "info", path)).toContain(`\nbacking file: ${shown}\n`);
});

const hostile = image({
  snapshots: [
    snapshot({ name: "\u001b]0;x\u0007\u202e", id: "1" }),
    snapshot({ name: "b\ufffdd", nameJson: '"b\\udcffd"', id: "2" }),
    snapshot({ name: 'q"\\u00ab\u00e9\u{1f600}\t', id: "3" }),
  ],
});

test("info writes names as they are when nobody looks", async () => {
  const cli = app({ imageInfo: hostile });
  const listing = await cli("image", "info", "disk.qcow2");
  expect(listing).toContain("\u001b]0;x\u0007");
  // The one byte that is not UTF-8, shown here as Latin-1.
  expect(listing).toContain("2       b\u00ffd             ");
});

test("info escapes on a terminal what would act on it", async () => {
  const cli = app({ imageInfo: hostile, terminal: true });
  const lines = (await cli("image", "info", "di\u001bsk.qcow2")).split("\n");
  expect(lines.slice(0, 1).concat(lines.slice(5, 10)).join("\n")).toMatchInlineSnapshot(`
    "image: di\\u001bsk.qcow2
    Snapshot list:
    ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT
    1       \\u001b]0;x\\u0007\\u202e      0 B 2026-11-25 11:29:09  0000:00:00.000          0
    2       b\\xffd                0 B 2026-11-25 11:29:09  0000:00:00.000          0
    3       q"\\u00abé😀\\u0009      0 B 2026-11-25 11:29:09  0000:00:00.000          0"
  `);
});

test("info writes JSON in ASCII, with what is not UTF-8 replaced", async () => {
  const cli = app({ imageInfo: hostile });
  const { snapshots } = JSON.parse((await cli("image", "info", "--output=json", "x")).slice(0, -3));
  expect(snapshots.map(({ name }: { name: string }) => name)).toEqual([
    "\u001b]0;x\u0007\u202e",
    "b\ufffdd",
    'q"\\u00ab\u00e9\u{1f600}\t',
  ]);
  const names = (await cli("image", "info", "--output=json", "x")).match(/"name": .*/g);
  expect(names?.slice(1).join("\n")).toMatchInlineSnapshot(`
    ""name": "\\u001B]0;x\\u0007\\u202E",
    "name": "b\\uFFFDd",
    "name": "q\\"\\\\u00ab\\u00E9\\uD83D\\uDE00\\t","
  `);
});

function open(failure: Partial<Failure>): Promise<string> {
  const cli = app({ imageInfo: fails({ stage: "open", path: "x", ...failure }) });
  return cli("image", "info", "x");
}

test("info says why an image could not be opened", async () => {
  expect(await open({ code: "not-found", reason: "No such file or directory" }))
    .toMatchInlineSnapshot(`
    "! error: Could not open 'x': Could not open 'x': No such file or directory
    = 1"
  `);
  expect(await open({ code: "permission-denied", reason: "Could not open 'x': Permission denied" }))
    .toMatchInlineSnapshot(`
    "! error: Could not open 'x': Could not open 'x': Permission denied
    = 1"
  `);
  expect(await open({ code: "wrong-format", reason: "Image is not in qcow2 format" }))
    .toMatchInlineSnapshot(`
    "! error: Could not open 'x': Image is not in qcow2 format
    = 1"
  `);
  expect(
    await open({
      code: "in-use",
      reason: 'Failed to get shared "write" lock',
      hint: "it is used by process 4711 (qemu-system-x86)",
    }),
  ).toMatchInlineSnapshot(`
    "! error: Could not open 'x': Failed to get shared "write" lock
    ! Is another process using the image [x]?
    ! hint: it is used by process 4711 (qemu-system-x86)
    = 1"
  `);
  expect(
    await open({
      code: "in-use",
      reason: 'Failed to get shared "write" lock',
      hint: "Is another process using the image [x]?\nhint: `-U` reads it all the same",
    }),
  ).toMatchInlineSnapshot(`
    "! error: Could not open 'x': Failed to get shared "write" lock
    ! Is another process using the image [x]?
    ! hint: \`-U\` reads it all the same
    = 1"
  `);
  expect(
    await open({
      code: "invalid-snapshot-table",
      reason: "Too much extra metadata in snapshot table entry 0",
      hint: "You can force-remove this extra metadata with qemu-img check -r all",
    }),
  ).toMatchInlineSnapshot(`
    "! error: Could not open 'x': Too much extra metadata in snapshot table entry 0
    ! You can force-remove this extra metadata with qemu-img check -r all
    = 1"
  `);
});

test("info says what broke after an image was opened", async () => {
  const cli = app({ imageInfo: fails({ reason: "Input/output error" }) });
  expect(await cli("image", "info", "x")).toMatchInlineSnapshot(`
    "! error: Could not open 'x': Input/output error
    = 1"
  `);
});
