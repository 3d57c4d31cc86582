// `image snapshot`: the list as qemu-img prints it, what each change asks the core for, and what is
// said when it refuses.

import { describe, expect, test } from "vitest";

import { app, changed, fails, listed, snapshot } from "./app.ts";

describe("snapshot -l", () => {
  test("prints nothing when there is none", async () => {
    const cli = app({ snapshotList: () => listed([]) });
    expect(await cli("image", "snapshot", "-l", "disk.qcow2")).toMatchInlineSnapshot(`"= 0"`);
  });

  const snapshots = [
    snapshot(),
    snapshot({ id: "4", name: "a long name with spaces and more than sixteen", icount: "12" }),
    snapshot({
      id: "12345678",
      name: "état",
      vmStateSize: 123_456_789_012,
      dateSec: 4_294_967_295,
      vmClockSec: 12345 * 3600 + 59,
      vmClockNsec: 999_999_999,
      icount: undefined as never,
    }),
    snapshot({ id: "5", name: "", dateSec: 0 }),
    snapshot({ id: "6", name: "\ufffd", nameJson: '"\\udcff"', vmStateSize: 1023 }),
    snapshot({ id: "7\ufffd", idJson: '"7\\udcc3"', name: "odd" }),
  ];

  test("lists in qemu-img's columns, whose widths count bytes", async () => {
    const cli = app({ snapshotList: () => listed(snapshots.slice(0, 4)) });
    expect(await cli("image", "snapshot", "-l", "disk.qcow2")).toMatchInlineSnapshot(`
      "Snapshot list:
      ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT
      1       foo                   0 B 2026-11-25 11:29:09  0000:00:00.000          0
      4       a long name with spaces and more than sixteen      0 B 2026-11-25 11:29:09  0000:00:00.000         12
      12345678 état             115 GiB 2106-02-07 06:28:15 12345:00:59.999         --
      5                             0 B 1970-01-01 00:00:00  0000:00:00.000          0
      = 0"
    `);
    expect(await cli("image", "snapshot", "disk.qcow2")).toBe(
      await cli("image", "snapshot", "-l", "disk.qcow2"),
    );
  });

  test("writes a list that comes in pieces as one", async () => {
    const cli = app({
      snapshotList(_, piece) {
        for (const one of snapshots.slice(0, 3)) piece!(listed([one]).report);
        return listed(snapshots.slice(3));
      },
    });
    const whole = app({ snapshotList: () => listed(snapshots) });
    expect(await cli("image", "snapshot", "-l", "disk.qcow2")).toBe(
      await whole("image", "snapshot", "-l", "disk.qcow2"),
    );
  });

  test("escapes names on a terminal", async () => {
    const cli = app({
      terminal: true,
      snapshotList: () => listed([...snapshots.slice(4), snapshot({ name: "x\r\u001b[A" })]),
    });
    expect(await cli("image", "snapshot", "-l", "disk.qcow2")).toMatchInlineSnapshot(`
      "Snapshot list:
      ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT
      6       \\xff             0.999 KiB 2026-11-25 11:29:09  0000:00:00.000          0
      7\\xc3   odd                   0 B 2026-11-25 11:29:09  0000:00:00.000          0
      1       x\\u000d\\u001b[A       0 B 2026-11-25 11:29:09  0000:00:00.000          0
      = 0"
    `);
  });

  test("says what went wrong", async () => {
    const cli = app({ snapshotList: fails({ reason: "Input/output error" }) });
    expect(await cli("image", "snapshot", "-l", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not list snapshots: Input/output error
      = 1"
    `);
  });

  test("reads an image in use only when it is asked to", async () => {
    const requests: unknown[] = [];
    const cli = app({
      snapshotList(request) {
        requests.push(request);
        return listed([]);
      },
    });
    await cli("image", "snapshot", "-U", "disk.qcow2");
    await cli("image", "snapshot", "disk.qcow2");
    expect(requests).toMatchObject([{ forceShare: true }, { forceShare: false }]);
  });
});

test("a change to snapshots is silent and asks for what the line says", async () => {
  const requests: unknown[] = [];
  const change = changed(requests);
  const cli = app({
    snapshotCreate: change,
    snapshotApply: change,
    snapshotDelete: change,
    snapshotRename: change,
  });
  expect(await cli("image", "snapshot", "-c", "foo", "disk.qcow2")).toBe("= 0");
  expect(await cli("image", "snapshot", "-q", "--create", "foo", "disk.qcow2")).toBe("= 0");
  expect(await cli("image", "snapshot", "-afoo", "--no-wait", "disk.qcow2")).toBe("= 0");
  expect(await cli("image", "snapshot", "disk.qcow2", "-d", "foo")).toBe("= 0");
  expect(await cli("image", "snapshot", "--rename", "foo", "bar", "disk.qcow2")).toBe("= 0");
  expect(requests).toMatchInlineSnapshot(`
    [
      {
        "dateNsec": 330473000,
        "dateSec": 1795606149,
        "name": "foo",
        "noWait": false,
        "path": "disk.qcow2",
      },
      {
        "dateNsec": 330473000,
        "dateSec": 1795606149,
        "name": "foo",
        "noWait": false,
        "path": "disk.qcow2",
      },
      {
        "dropBitmaps": false,
        "noWait": true,
        "path": "disk.qcow2",
        "selector": "foo",
      },
      {
        "noWait": false,
        "path": "disk.qcow2",
        "selector": "foo",
      },
      {
        "name": "bar",
        "noWait": false,
        "path": "disk.qcow2",
        "selector": "foo",
      },
    ]
  `);
});

test("snapshot says that a change left its space to the file", async () => {
  const cli = app({ snapshotDelete: changed([], { punchFailure: "Operation not supported" }) });
  expect(await cli("image", "snapshot", "-d", "foo", "disk.qcow2")).toMatchInlineSnapshot(`
    "! hint: the freed space still belongs to the file: Operation not supported
    = 0"
  `);
});

test("snapshot says that what it deleted leaks until the next change", async () => {
  const recountFailure = "No space left on device";
  const cli = app({ snapshotDelete: changed([], { recountFailure }) });
  expect(await cli("image", "snapshot", "-d", "foo", "disk.qcow2")).toMatchInlineSnapshot(`
    "! hint: the freed space comes back with the next change: No space left on device
    = 0"
  `);
});

test("snapshot does one thing at a time", async () => {
  const cli = app();
  expect(await cli("image", "snapshot", "-c", "x", "-d", "y", "disk")).toMatchInlineSnapshot(`
    "! error: Cannot mix '-l', '-a', '-c', '-d'
    ! Try 'calque image snapshot --help' for more info
    = 1"
  `);
  expect(await cli("image", "snapshot", "-l", "-l", "disk")).toBe(
    await cli("image", "snapshot", "-c", "x", "-c", "y"),
  );
  expect(await cli("image", "snapshot", "-c", "x", "--rename", "y", "z", "disk"))
    .toMatchInlineSnapshot(`
    "! error: Cannot mix '-l', '-a', '-c', '-d', '--rename'
    ! Try 'calque image snapshot --help' for more info
    = 1"
  `);
});

test("snapshot --rename wants a new name and a file", async () => {
  const cli = app();
  expect(await cli("image", "snapshot", "--rename", "x", "disk")).toMatchInlineSnapshot(`
    "! error: Expecting a new name and one image file name
    ! Try 'calque image snapshot --help' for more info
    = 1"
  `);
  expect(await cli("image", "snapshot", "--rename", "x", "y", "disk", "z")).toBe(
    await cli("image", "snapshot", "--rename", "x", "disk"),
  );
});

test("snapshot takes no option for a list that a list does not heed", async () => {
  const cli = app();
  expect(await cli("image", "snapshot", "--no-wait", "disk")).toMatchInlineSnapshot(`
    "! error: Cannot use '--no-wait' without '-c', '-a', '-d' or '--rename'
    ! Try 'calque image snapshot --help' for more info
    = 1"
  `);
  expect(await cli("image", "snapshot", "-l", "--no-wait", "disk")).toBe(
    await cli("image", "snapshot", "--no-wait", "disk"),
  );
});

test("snapshot changes nothing under -U", async () => {
  const cli = app();
  expect(await cli("image", "snapshot", "-U", "-c", "x", "disk")).toMatchInlineSnapshot(`
    "! error: Could not open 'disk': force-share=on can only be used with read-only images
    = 1"
  `);
});

describe("snapshot says why the core could not", () => {
  const refused = fails({ code: "snapshot-not-found", reason: "snapshot not found" });

  test("create", async () => {
    const cli = app({
      snapshotCreate: fails({
        code: "snapshot-exists",
        reason: "A snapshot of that name exists",
      }),
    });
    expect(await cli("image", "snapshot", "-c", "foo", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not create snapshot 'foo': A snapshot of that name exists
      ! hint: \`calque image snapshot --rename OLD NEW FILE\` gives it another name
      = 1"
    `);
  });

  test("apply", async () => {
    const cli = app({
      snapshotApply: fails({
        code: "corrupt",
        preface: "Snapshot L1 table offset invalid",
        reason: "Failed to load snapshot: Invalid argument",
      }),
    });
    expect(await cli("image", "snapshot", "-a", "foo", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: Snapshot L1 table offset invalid
      ! error: Could not apply snapshot 'foo': Failed to load snapshot: Invalid argument
      = 1"
    `);
  });

  test("tell several of one name apart", async () => {
    const ambiguous = fails({
      code: "snapshot-ambiguous",
      reason: "Several snapshots have that name",
      hint: "their IDs are 1, 2",
    });
    const operations = { snapshotApply: ambiguous, snapshotDelete: ambiguous };
    expect(await app(operations)("image", "snapshot", "-a", "twin", "disk")).toMatchInlineSnapshot(`
      "! error: Could not apply snapshot 'twin': Several snapshots have that name
      ! hint: their IDs are 1, 2
      ! hint: \`calque image snapshot --rename ID NEW FILE\` gives one of them a name of its own
      = 1"
    `);
    const multipass = app({ ...operations, argv0: "multipass" });
    expect(await multipass("image", "snapshot", "-d", "twin", "disk")).toMatchInlineSnapshot(`
      "! error: Could not delete snapshot 'twin': Several snapshots have that name
      ! hint: their IDs are 1, 2
      ! hint: \`multipass image snapshot --rename ID NEW FILE\` gives one of them a name of its own
      = 1"
    `);
  });

  test("delete", async () => {
    const cli = app({ snapshotDelete: refused });
    expect(await cli("image", "snapshot", "-d", "foo", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not delete snapshot 'foo': snapshot not found
      ! hint: \`calque image snapshot -l FILE\` lists what there is
      = 1"
    `);
  });

  test("rename", async () => {
    const cli = app({ snapshotRename: refused });
    expect(await cli("image", "snapshot", "--rename", "a", "b", "disk.qcow2"))
      .toMatchInlineSnapshot(`
        "! error: Could not rename snapshot 'a' to 'b': snapshot not found
        ! hint: \`calque image snapshot -l FILE\` lists what there is
        = 1"
      `);
  });

  test("open", async () => {
    const cli = app({
      snapshotApply: fails({
        code: "in-use",
        stage: "open",
        reason: 'Failed to get "write" lock',
        path: "disk.qcow2",
      }),
    });
    expect(await cli("image", "snapshot", "-a", "foo", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not open 'disk.qcow2': Failed to get "write" lock
      ! Is another process using the image [disk.qcow2]?
      = 1"
    `);
  });
});

test("snapshot says after a while what it waits for", async () => {
  const cli = app({
    snapshotCreate(request, waiting) {
      waiting?.({ waitingFor: "process 4711 (calque)" });
      return changed()(request);
    },
  });
  expect(await cli("image", "snapshot", "-c", "foo", "disk.qcow2")).toMatchInlineSnapshot(`
    "! Waiting for process 4711 (calque) to finish with "disk.qcow2"
    = 0"
  `);
});
