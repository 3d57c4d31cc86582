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
  await cli("image", "clone", "--keep-snapshots", "a", "b");
  expect(requests).toMatchInlineSnapshot(`
    [
      {
        "keepSnapshots": false,
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
        "source": "a",
        "strategy": "reflink",
        "targets": [
          "b",
        ],
      },
      {
        "keepSnapshots": true,
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

  test("a target that is named twice, before anything", async () => {
    expect(await cli("image", "clone", "a", "b", "c", "b")).toMatchInlineSnapshot(`
      "! error: Cannot clone "a" to "b": the target is named twice
      = 1"
    `);
  });
});

function cloneFailing(failure: Partial<Failure>): Promise<string> {
  return app({ imageClone: fails(failure) })("image", "clone", "--output=json", "a", "b", "c");
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
    expect(await cloneFailing({ code: "target-exists", reason: "the target exists", path: "c" }))
      .toMatchInlineSnapshot(`
      "! error: Cannot clone "a" to "c": the target exists
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

  test("share", async () => {
    expect(
      await cloneFailing({
        code: "cannot-share",
        reason: "ext4 cannot share blocks",
        hint: "hint: `--strategy copy` copies them",
      }),
    ).toMatchInlineSnapshot(`
      "! error: Cannot clone "a": ext4 cannot share blocks
      ! hint: \`--strategy copy\` copies them
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
