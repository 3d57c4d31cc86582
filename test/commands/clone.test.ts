// `image clone`: what it asks the core for, and what it says of clones, waiting and failures.

import { describe, expect, test } from "vitest";

import type { CloneInfo, Failure, ImageCloneRequest, Native } from "../../src/native.ts";
import { app, fails } from "./app.ts";

function clones(made: Partial<CloneInfo> = {}, requests: ImageCloneRequest[] = []) {
  const imageClone: Native["imageClone"] = (request) => {
    requests.push(request);
    const info = { strategy: "reflink" as const, copiedBytes: 65536, sharedBytes: 1.25 * 2 ** 30 };
    const list = request.targets.map((target) => ({ target, ...info, ...made }));
    return { report: { source: request.source, clones: list } };
  };
  return { imageClone };
}

const copied = clones({
  strategy: "copy",
  reason: "ext4 cannot share blocks",
  copiedBytes: 5 * 2 ** 20,
  sharedBytes: 0,
});

test("clone says how each clone was made", async () => {
  const cli = app(clones());
  expect(await cli("image", "clone", "a.qcow2", "b.qcow2", "c.qcow2")).toMatchInlineSnapshot(`
    "b.qcow2: reflink, 1.25 GiB shared, 64 KiB copied
    c.qcow2: reflink, 1.25 GiB shared, 64 KiB copied
    = 0"
  `);
});

test("clone says why it had to copy and what would share", async () => {
  const cli = app(copied);
  expect(await cli("image", "clone", "a.qcow2", "b.qcow2")).toMatchInlineSnapshot(`
    "b.qcow2: copy (ext4 cannot share blocks), 5 MiB copied
    ! hint: source and targets on one XFS or btrfs file system would share their blocks
    = 0"
  `);
});

test("clone that was told to copy has nothing to explain", async () => {
  const cli = app(clones({ strategy: "copy", copiedBytes: 65536, sharedBytes: 0 }));
  expect(await cli("image", "clone", "--strategy", "copy", "a.qcow2", "b.qcow2"))
    .toMatchInlineSnapshot(`
    "b.qcow2: copy, 64 KiB copied
    = 0"
  `);
});

test("clone tells a program the same", async () => {
  expect(await app(clones())("image", "clone", "--output=json", "a", "b")).toMatchInlineSnapshot(`
    "{
        "source": "a",
        "clones": [
            {
                "target": "b",
                "strategy": "reflink",
                "copied-bytes": 65536,
                "shared-bytes": 1342177280
            }
        ]
    }
    = 0"
  `);
  expect(await app(copied)("image", "clone", "--output=json", "a", "b")).toMatchInlineSnapshot(`
    "{
        "source": "a",
        "clones": [
            {
                "target": "b",
                "strategy": "copy",
                "reason": "ext4 cannot share blocks",
                "copied-bytes": 5242880,
                "shared-bytes": 0
            }
        ]
    }
    ! hint: source and targets on one XFS or btrfs file system would share their blocks
    = 0"
  `);
});

const untold: Pick<Native, "imageClone"> = {
  imageClone: ({ source, targets: [target = ""] }) => ({
    report: { source, clones: [{ target, strategy: "reflink", copiedBytes: 65536 }] },
  }),
};

test("clone says nothing of sharing where the file system cannot tell", async () => {
  expect(await app(untold)("image", "clone", "a", "b")).toMatchInlineSnapshot(`
    "b: reflink, 64 KiB copied
    = 0"
  `);
  expect(await app(untold)("image", "clone", "--output=json", "a", "b")).toMatchInlineSnapshot(`
    "{
        "source": "a",
        "clones": [
            {
                "target": "b",
                "strategy": "reflink",
                "copied-bytes": 65536
            }
        ]
    }
    = 0"
  `);
});

test("clone says what a copy shares that the kernel made by sharing", async () => {
  const cli = app(clones({ strategy: "copy", copiedBytes: 0, sharedBytes: 65536 }));
  expect(await cli("image", "clone", "a", "b")).toMatchInlineSnapshot(`
    "b: copy, 64 KiB shared, 0 B copied
    = 0"
  `);
});

test("clone says where a backing file is whose name was relative", async () => {
  const moved = clones({ backingFile: "/images/\u001b[2Jbase.qcow2" });
  expect(await app({ ...moved, terminal: true })("image", "clone", "a", "b"))
    .toMatchInlineSnapshot(`
    "b: reflink, 1.25 GiB shared, 64 KiB copied, backing file: /images/\\u001b[2Jbase.qcow2
    = 0"
  `);
  expect(await app(moved)("image", "clone", "--output=json", "a", "b")).toMatchInlineSnapshot(`
    "{
        "source": "a",
        "clones": [
            {
                "target": "b",
                "strategy": "reflink",
                "copied-bytes": 65536,
                "shared-bytes": 1342177280,
                "backing-filename": "/images/\\u001B[2Jbase.qcow2"
            }
        ]
    }
    = 0"
  `);
});

test("clone -q says nothing", async () => {
  const cli = app(copied);
  expect(await cli("image", "clone", "-q", "a.qcow2", "b.qcow2")).toBe("= 0");
});

test("clone escapes names on a terminal", async () => {
  const cli = app({ ...clones(), terminal: true });
  expect(await cli("image", "clone", "a", "b\u001b[2J")).toMatchInlineSnapshot(`
    "b\\u001b[2J: reflink, 1.25 GiB shared, 64 KiB copied
    = 0"
  `);
});

test("clone asks for what the line says", async () => {
  const requests: ImageCloneRequest[] = [];
  const cli = app(clones({}, requests));
  await cli("image", "clone", "a", "b", "c");
  await cli("image", "clone", "--from-snapshot=1", "--strategy=reflink", "a", "b");
  await cli("image", "clone", "--keep-snapshots", "--no-wait", "a", "b");
  expect(requests).toMatchInlineSnapshot(`
    [
      {
        "keepSnapshots": false,
        "noWait": false,
        "source": "a",
        "strategy": "auto",
        "targets": [
          "b",
          "c",
        ],
      },
      {
        "fromSnapshot": "1",
        "keepSnapshots": false,
        "noWait": false,
        "source": "a",
        "strategy": "reflink",
        "targets": [
          "b",
        ],
      },
      {
        "keepSnapshots": true,
        "noWait": true,
        "source": "a",
        "strategy": "auto",
        "targets": [
          "b",
        ],
      },
    ]
  `);
});

describe("clone refuses", () => {
  const cli = app();

  test("a line that is not complete", async () => {
    expect(await cli("image", "clone")).toMatchInlineSnapshot(`
      "! error: Expecting an image file name and at least one target
      ! Try 'calque image clone --help' for more info
      = 1"
    `);
    expect(await cli("image", "clone", "a")).toBe(await cli("image", "clone"));
    expect(await cli("image", "clone", "--strategy", "fast", "a", "b")).toMatchInlineSnapshot(`
      "! error: --strategy expects 'auto', 'reflink' or 'copy' not 'fast'
      ! Try 'calque image clone --help' for more info
      = 1"
    `);
  });

  test("one snapshot together with all of them", async () => {
    const line = ["--from-snapshot", "v1", "--keep-snapshots", "a", "b"];
    expect(await cli("image", "clone", ...line)).toMatchInlineSnapshot(`
      "! error: Cannot mix '--from-snapshot' and '--keep-snapshots'
      ! Try 'calque image clone --help' for more info
      = 1"
    `);
  });

  test("to read what somebody writes, and what names no file", async () => {
    expect(await cli("image", "clone", "-U", "a", "b")).toMatchInlineSnapshot(`
      "! error: Cannot use '--force-share': a clone of a disk that somebody writes to would be torn
      = 1"
    `);
    expect(await cli("image", "clone", "--image-opts", "driver=qcow2", "b")).toMatchInlineSnapshot(`
      "! error: Cannot use '--image-opts': an image is named by its file
      = 1"
    `);
    expect(await cli("image", "clone", "--object", "secret,id=s", "a", "b")).toMatchInlineSnapshot(`
      "! error: Cannot use '--object': there is nothing that takes QEMU objects
      = 1"
    `);
  });
});

function cloneFailing(failure: Partial<Failure>): Promise<string> {
  return app({ imageClone: fails(failure) })("image", "clone", "--output=json", "a", "b", "c");
}

function cloneAt(failure: Partial<Failure>): Promise<string> {
  const cli = app({ imageClone: fails({ path: "a", ...failure }) });
  return cli("image", "clone", "--from-snapshot", "nope", "a", "b");
}

describe("clone says why the core could not", () => {
  test("open the source", async () => {
    expect(
      await cloneFailing({
        code: "not-found",
        stage: "open",
        reason: "No such file or directory",
        path: "a",
      }),
    ).toMatchInlineSnapshot(`
      "! error: Could not open 'a': Could not open 'a': No such file or directory
      = 1"
    `);
  });

  test("make a target", async () => {
    const exists = { code: "target-exists", reason: "File exists" } as const;
    expect(await cloneFailing({ ...exists, path: "c" })).toMatchInlineSnapshot(`
      "! error: Cannot clone "a" to "c": File exists
      = 1"
    `);
    // The source under its own name.
    expect(await cloneFailing({ ...exists, path: "a" })).toMatchInlineSnapshot(`
      "! error: Cannot clone "a" to "a": File exists
      = 1"
    `);
    expect(
      await cloneFailing({
        code: "target-exists",
        reason: "the target is named twice",
        path: "c",
      }),
    ).toMatchInlineSnapshot(`
      "! error: Cannot clone "a" to "c": the target is named twice
      = 1"
    `);
    expect(
      await cloneFailing({
        code: "permission-denied",
        reason: "Permission denied",
        stage: "open",
        path: "c",
      }),
    ).toMatchInlineSnapshot(`
      "! error: Cannot clone "a" to "c": Permission denied
      = 1"
    `);
  });

  test("find the snapshot", async () => {
    expect(await cloneAt({ code: "snapshot-not-found", reason: "snapshot not found" }))
      .toMatchInlineSnapshot(`
      "! error: Cannot clone snapshot "nope" of "a": snapshot not found
      ! hint: \`calque image snapshot -l FILE\` lists what there is
      = 1"
    `);
    expect(
      await cloneAt({
        code: "snapshot-ambiguous",
        reason: "Several snapshots have that name",
        hint: "their IDs are 1, 2",
      }),
    ).toMatchInlineSnapshot(`
      "! error: Cannot clone snapshot "nope" of "a": Several snapshots have that name
      ! hint: their IDs are 1, 2
      ! hint: \`calque image snapshot --rename ID NEW FILE\` gives one of them a name of its own
      = 1"
    `);
    expect(await cloneAt({ code: "no-space", reason: "No space left on device", path: "b" }))
      .toMatchInlineSnapshot(`
      "! error: Cannot clone snapshot "nope" of "a" to "b": No space left on device
      = 1"
    `);
  });

  test("wait", async () => {
    expect(
      await cloneFailing({
        code: "in-use",
        stage: "open",
        reason: 'Failed to get shared "write" lock',
        hint: "It is locked by calque (process 7)",
        path: "a",
      }),
    ).toMatchInlineSnapshot(`
      "! error: Could not open 'a': Failed to get shared "write" lock
      ! Is another process using the image [a]?
      ! hint: It is locked by calque (process 7)
      = 1"
    `);
  });

  test("share", async () => {
    expect(
      await cloneFailing({
        code: "cannot-share",
        reason: "blocks cannot be shared: ext4 cannot share blocks between files",
        path: "b",
      }),
    ).toMatchInlineSnapshot(`
      "! error: Cannot clone "a" to "b": blocks cannot be shared: ext4 cannot share blocks between files
      ! hint: \`--strategy auto\` copies where blocks cannot be shared
      = 1"
    `);
  });
});

describe("progress of a long copy", () => {
  const copies: Pick<Native, "imageClone"> = {
    imageClone(request, progress) {
      progress?.({ copiedBytes: 0, totalBytes: 0 });
      progress?.({ copiedBytes: 1.25 * 2 ** 30, totalBytes: 4 * 2 ** 30 });
      progress?.({ copiedBytes: 4 * 2 ** 30, totalBytes: 4 * 2 ** 30 });
      return clones({ strategy: "copy", sharedBytes: 0 }).imageClone(request);
    },
  };

  test("is shown on a terminal and gone afterwards", async () => {
    const cli = app({ ...copies, terminal: true });
    const seen = await cli("image", "clone", "--strategy=copy", "a", "b");
    expect(JSON.stringify(seen)).toMatchInlineSnapshot(
      `""b: copy, 64 KiB copied\\n! \\r! \\u001b[KCopying: 1.25 GiB of 4 GiB, 31 %\\r! \\u001b[KCopying: 4 GiB of 4 GiB, 100 %\\r! \\u001b[K= 0""`,
    );
  });

  test("is gone, too, when the copy fails", async () => {
    const cli = app({
      terminal: true,
      imageClone(_, progress) {
        progress?.({ copiedBytes: 1, totalBytes: 3 });
        return fails({ code: "no-space", reason: "No space left on device", path: "b" })();
      },
    });
    expect(JSON.stringify(await cli("image", "clone", "a", "b"))).toMatchInlineSnapshot(
      `""! \\r! \\u001b[KCopying: 1 B of 3 B, 33 %\\r! \\u001b[Kerror: Cannot clone \\"a\\" to \\"b\\": No space left on device\\n= 1""`,
    );
  });

  test("names the Calque that it waits for", async () => {
    const cli = app({
      imageClone(request, progress) {
        progress?.({ copiedBytes: 0, totalBytes: 0, waitingFor: "calque (process 7)" });
        return clones({ strategy: "reflink", sharedBytes: 4096 }).imageClone(request);
      },
    });
    expect(await cli("image", "clone", "a", "b")).toContain(
      '! Waiting for calque (process 7) to finish with "a"\n',
    );
  });

  test("is not written where nobody looks", async () => {
    const cli = app(copies);
    expect(await cli("image", "clone", "--strategy=copy", "a", "b")).not.toContain("Copying");
  });
});
