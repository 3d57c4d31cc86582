// `image check`: the report as qemu-img prints it, and the exit status for each kind of finding.

import { expect, test } from "vitest";

import { app, checked, fails, repaired } from "./app.ts";

test("check says that nothing is wrong", async () => {
  const cli = app({ imageCheck: checked() });
  expect(await cli("image", "check", "disk.qcow2")).toMatchInlineSnapshot(`
    "No errors were found on the image.
    2/16 = 12.50% allocated, 0.00% fragmented, 0.00% compressed clusters
    Image end offset: 458752
    = 0"
  `);
  expect(await cli("image", "check", "--output", "json", "disk.qcow2")).toMatchInlineSnapshot(`
    "{
        "image-end-offset": 458752,
        "total-clusters": 16,
        "check-errors": 0,
        "allocated-clusters": 2,
        "filename": "disk.qcow2",
        "format": "qcow2"
    }
    = 0"
  `);
  expect(await cli("image", "check", "-q", "disk.qcow2")).toMatchInlineSnapshot(`"= 0"`);
});

test("check is silent about allocation when nothing is allocated", async () => {
  const cli = app({ imageCheck: checked({ allocatedClusters: 0 }) });
  expect(await cli("image", "check", "disk.qcow2")).toMatchInlineSnapshot(`
    "No errors were found on the image.
    Image end offset: 458752
    = 0"
  `);
});

test("check rounds halves to even, as C does", async () => {
  const cli = app({
    imageCheck: checked({
      allocatedClusters: 10,
      totalClusters: 64,
      fragmentedClusters: 3,
      compressedClusters: 10,
    }),
  });
  expect(await cli("image", "check", "disk.qcow2")).toContain(
    "10/64 = 15.62% allocated, 30.00% fragmented, 100.00% compressed clusters",
  );
});

const corrupt = checked({
  corruptions: 1,
  leaks: 2,
  problems: ["ERROR cluster 5 refcount=0 reference=2", "Leaked cluster 6 refcount=7 reference=2"],
  fragmentedClusters: 1,
  compressedClusters: 1,
});

test("check reports corruptions before leaks and ends with 2", async () => {
  const cli = app({ imageCheck: corrupt });
  expect(await cli("image", "check", "disk.qcow2")).toMatchInlineSnapshot(`
    "
    1 errors were found on the image.
    Data may be corrupted, or further writes to the image may corrupt it.

    2 leaked clusters were found on the image.
    This means waste of disk space, but no harm to data.
    2/16 = 12.50% allocated, 50.00% fragmented, 50.00% compressed clusters
    Image end offset: 458752
    ! ERROR cluster 5 refcount=0 reference=2
    ! Leaked cluster 6 refcount=7 reference=2
    = 2"
  `);
  expect(await cli("image", "check", "--output=json", "disk.qcow2")).toMatchInlineSnapshot(`
    "{
        "image-end-offset": 458752,
        "compressed-clusters": 1,
        "total-clusters": 16,
        "corruptions": 1,
        "check-errors": 0,
        "leaks": 2,
        "allocated-clusters": 2,
        "filename": "disk.qcow2",
        "format": "qcow2",
        "fragmented-clusters": 1
    }
    ! ERROR cluster 5 refcount=0 reference=2
    ! Leaked cluster 6 refcount=7 reference=2
    = 2"
  `);
  expect(await cli("image", "check", "-q", "disk.qcow2")).toMatchInlineSnapshot(`
    "! ERROR cluster 5 refcount=0 reference=2
    ! Leaked cluster 6 refcount=7 reference=2
    = 2"
  `);
});

test("check ends with 3 when there are leaks only", async () => {
  const cli = app({
    imageCheck: checked({ leaks: 1, problems: ["Leaked cluster 7 refcount=1 reference=0"] }),
  });
  expect(await cli("image", "check", "disk.qcow2")).toMatchInlineSnapshot(`
    "
    1 leaked clusters were found on the image.
    This means waste of disk space, but no harm to data.
    2/16 = 12.50% allocated, 0.00% fragmented, 0.00% compressed clusters
    Image end offset: 458752
    ! Leaked cluster 7 refcount=1 reference=0
    = 3"
  `);
});

test("check ends with 1 when parts could not be checked", async () => {
  const cli = app({
    imageCheck: checked({
      corruptions: 1,
      checkErrors: 7,
      problems: ["Can't get refcount for cluster 0: Input/output error"],
    }),
  });
  expect(await cli("image", "check", "disk.qcow2")).toMatchInlineSnapshot(`
    "
    1 errors were found on the image.
    Data may be corrupted, or further writes to the image may corrupt it.

    7 internal errors have occurred during the check.
    2/16 = 12.50% allocated, 0.00% fragmented, 0.00% compressed clusters
    Image end offset: 458752
    ! Can't get refcount for cluster 0: Input/output error
    ! error: Check failed
    = 1"
  `);
});

test("check says how many problems it did not list", async () => {
  const cli = app({
    imageCheck: checked({ leaks: 70000, problems: ["Leaked …"], problemsOmitted: 4464 }),
  });
  expect(await cli("image", "check", "-q", "disk.qcow2")).toMatchInlineSnapshot(`
    "! Leaked …
    ! ... and 4464 more problems
    = 3"
  `);
});

test("check tells problems that come in pieces, and then the rest", async () => {
  const cli = app({
    imageCheck(_, piece) {
      piece!(["Leaked one", "Leaked two"]);
      piece!(["Leaked three"]);
      return checked({ leaks: 4, problems: ["Leaked four"] })();
    },
  });
  expect(await cli("image", "check", "-q", "disk.qcow2")).toMatchInlineSnapshot(`
    "! Leaked one
    ! Leaked two
    ! Leaked three
    ! Leaked four
    = 3"
  `);
});

test("check that cannot go on prints no summary", async () => {
  const cli = app({ imageCheck: fails({ reason: "Input/output error" }) });
  expect(await cli("image", "check", "--output=json", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: Check failed: Input/output error
    = 1"
  `);
});

test("check says first what is wrong with a snapshot table", async () => {
  const cli = app({
    imageCheck: fails({
      code: "invalid-snapshot-table",
      preface: "ERROR snapshot table too large",
      reason: "File too large",
      hint: "You can force-remove all 1 overhanging snapshots with qemu-img check -r all",
    }),
  });
  expect(await cli("image", "check", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: ERROR snapshot table too large
    ! error: Check failed: File too large
    ! You can force-remove all 1 overhanging snapshots with qemu-img check -r all
    = 1"
  `);
});

test("check of an image that it does not understand ends with 63", async () => {
  const cli = app({
    imageCheck: fails({
      code: "unsupported-feature",
      reason: "Unsupported qcow2 feature(s): Unknown incompatible feature: 20",
    }),
  });
  expect(await cli("image", "check", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: Check failed: Unsupported qcow2 feature(s): Unknown incompatible feature: 20
    = 63"
  `);
});

const cost = { writtenBytes: 131072, flushes: 3, punchedBytes: 0 };

const mended = {
  found: checked({
    problems: [
      "Leaked cluster 7 refcount=1 reference=0",
      "Repairing cluster 7 refcount=1 reference=0",
    ],
  })().report,
  leaksFixed: 1,
  checked: checked()().report,
  commit: cost,
};

test("check -r says what it repaired, then what is left", async () => {
  const requests: unknown[] = [];
  const cli = app({ imageRepair: repaired(mended, requests) });
  expect(await cli("image", "check", "-r", "leaks", "disk.qcow2")).toMatchInlineSnapshot(`
    "The following inconsistencies were found and repaired:

        1 leaked clusters
        0 corruptions

    Double checking the fixed image now...
    No errors were found on the image.
    2/16 = 12.50% allocated, 0.00% fragmented, 0.00% compressed clusters
    Image end offset: 458752
    ! Leaked cluster 7 refcount=1 reference=0
    ! Repairing cluster 7 refcount=1 reference=0
    = 0"
  `);
  expect(await cli("image", "check", "-r", "all", "--no-wait", "--output=json", "disk.qcow2"))
    .toMatchInlineSnapshot(`
    "{
        "image-end-offset": 458752,
        "total-clusters": 16,
        "check-errors": 0,
        "leaks-fixed": 1,
        "allocated-clusters": 2,
        "filename": "disk.qcow2",
        "format": "qcow2"
    }
    ! Leaked cluster 7 refcount=1 reference=0
    ! Repairing cluster 7 refcount=1 reference=0
    = 0"
  `);
  expect(await cli("image", "check", "-q", "--repair=all", "disk.qcow2")).toMatchInlineSnapshot(`
    "! Leaked cluster 7 refcount=1 reference=0
    ! Repairing cluster 7 refcount=1 reference=0
    = 0"
  `);
  expect(requests).toEqual([
    { path: "disk.qcow2", repair: "leaks", noWait: false },
    { path: "disk.qcow2", repair: "all", noWait: true },
    { path: "disk.qcow2", repair: "all", noWait: false },
  ]);
});

test("check -r ends with what the second check finds", async () => {
  const cli = app({
    imageRepair: repaired({
      ...mended,
      corruptionsFixed: 2,
      checked: checked({ corruptions: 1, problems: ["ERROR offset=50200: …"] })().report,
    }),
  });
  expect(await cli("image", "check", "-r", "all", "disk.qcow2")).toMatchInlineSnapshot(`
    "The following inconsistencies were found and repaired:

        1 leaked clusters
        2 corruptions

    Double checking the fixed image now...

    1 errors were found on the image.
    Data may be corrupted, or further writes to the image may corrupt it.
    2/16 = 12.50% allocated, 0.00% fragmented, 0.00% compressed clusters
    Image end offset: 458752
    ! Leaked cluster 7 refcount=1 reference=0
    ! Repairing cluster 7 refcount=1 reference=0
    ! ERROR offset=50200: …
    = 2"
  `);
  expect(await cli("image", "check", "-r", "all", "--output=json", "disk.qcow2"))
    .toMatchInlineSnapshot(`
    "{
        "image-end-offset": 458752,
        "total-clusters": 16,
        "corruptions": 1,
        "corruptions-fixed": 2,
        "check-errors": 0,
        "leaks-fixed": 1,
        "allocated-clusters": 2,
        "filename": "disk.qcow2",
        "format": "qcow2"
    }
    ! Leaked cluster 7 refcount=1 reference=0
    ! Repairing cluster 7 refcount=1 reference=0
    ! ERROR offset=50200: …
    = 2"
  `);
});

test("check -r of a sound image is a check", async () => {
  const cli = app({ imageRepair: repaired() });
  expect(await cli("image", "check", "-r", "all", "disk.qcow2")).toMatchInlineSnapshot(`
    "No errors were found on the image.
    2/16 = 12.50% allocated, 0.00% fragmented, 0.00% compressed clusters
    Image end offset: 458752
    = 0"
  `);
});

test("check -r that can repair nothing says what is wrong", async () => {
  const cli = app({
    imageRepair: repaired({
      found: checked({ corruptions: 1, problems: ["ERROR offset=50200: …"] })().report,
    }),
  });
  expect(await cli("image", "check", "-r", "all", "disk.qcow2")).toMatchInlineSnapshot(`
    "
    1 errors were found on the image.
    Data may be corrupted, or further writes to the image may corrupt it.
    2/16 = 12.50% allocated, 0.00% fragmented, 0.00% compressed clusters
    Image end offset: 458752
    ! ERROR offset=50200: …
    = 2"
  `);
});

test("check -r leaks names the way out where it is not enough", async () => {
  const cli = app({
    imageRepair: repaired({
      found: checked({
        problems: [
          "ERROR cluster 5 refcount=0 reference=3",
          "ERROR need to rebuild refcount structures",
        ],
      })().report,
      mustRebuild: true,
    }),
  });
  expect(await cli("image", "check", "-r", "leaks", "disk.qcow2")).toMatchInlineSnapshot(`
    "! ERROR cluster 5 refcount=0 reference=3
    ! ERROR need to rebuild refcount structures
    ! error: Check failed: Input/output error
    ! hint: \`calque image check -r all\` makes the reference counts anew
    = 1"
  `);
});

test("check -r says where freed space was not given back", async () => {
  const commit = { ...cost, punchFailure: "Operation not permitted" };
  const cli = app({ imageRepair: repaired({ ...mended, commit }) });
  expect(await cli("image", "check", "-q", "-r", "leaks", "disk.qcow2")).toMatchInlineSnapshot(`
    "! Leaked cluster 7 refcount=1 reference=0
    ! Repairing cluster 7 refcount=1 reference=0
    ! hint: the freed space still belongs to the file: Operation not permitted
    = 0"
  `);
});

test("check -r fails in qemu-img's words, and waits as the other changes do", async () => {
  const full = app({ imageRepair: fails({ code: "no-space", reason: "No space left on device" }) });
  expect(await full("image", "check", "-r", "all", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: Check failed: No space left on device
    = 1"
  `);
  const readOnly = fails({ code: "permission-denied", stage: "open", reason: "Permission denied" });
  const locked = app({ imageRepair: readOnly });
  expect(await locked("image", "check", "-r", "all", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: Could not open 'disk.qcow2': Could not open 'disk.qcow2': Permission denied
    = 1"
  `);
  const waiting = app({
    imageRepair(_, event) {
      event?.({ waitingFor: "another Calque" });
      return repaired()({});
    },
  });
  expect(await waiting("image", "check", "-q", "-r", "all", "disk.qcow2")).toMatchInlineSnapshot(`
    "! Waiting for another Calque to finish with "disk.qcow2"
    = 0"
  `);
});

test("check -r does not go with what only reads, nor --no-wait with what never waits", async () => {
  const cli = app();
  expect(await cli("image", "check", "-r", "all", "-U", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: Could not open 'disk.qcow2': force-share=on can only be used with read-only images
    = 1"
  `);
  expect(await cli("image", "check", "--no-wait", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: Cannot use '--no-wait' without '-r'
    ! Try 'calque image check --help' for more info
    = 1"
  `);
  expect(await cli("image", "check", "-r", "foo", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: --repair (-r) expects 'leaks' or 'all' not 'foo'
    ! Try 'calque image check --help' for more info
    = 1"
  `);
});

test("check of a missing image ends with 1", async () => {
  const cli = app({
    imageCheck: fails({ code: "not-found", stage: "open", reason: "No such file or directory" }),
  });
  expect(await cli("image", "check", "disk.qcow2")).toMatchInlineSnapshot(`
    "! error: Could not open 'disk.qcow2': Could not open 'disk.qcow2': No such file or directory
    = 1"
  `);
});

test("check reads an image in use only when it is asked to", async () => {
  const requests: unknown[] = [];
  const cli = app({
    imageCheck(request) {
      requests.push(request);
      return checked()();
    },
  });
  await cli("image", "check", "-q", "disk.qcow2");
  await cli("image", "check", "-q", "-U", "disk.qcow2");
  expect(requests).toEqual([
    { path: "disk.qcow2", forceShare: false },
    { path: "disk.qcow2", forceShare: true },
  ]);
});

test("check cannot be made to move a terminal's cursor by an image", async () => {
  const cli = app({
    terminal: true,
    imageCheck: checked({ leaks: 1, problems: ["ERROR snapshot 1 (a\u001b[2J)"] }),
  });
  expect(await cli("image", "check", "-q", "disk.qcow2")).toMatchInlineSnapshot(`
    "! ERROR snapshot 1 (a\\u001b[2J)
    = 3"
  `);
});
