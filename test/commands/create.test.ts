// `image create`: what it announces and asks the core for, and every option and size that it
// refuses, in qemu-img's words.

import { describe, expect, test } from "vitest";

import type { Failure, Native } from "../../src/native.ts";
import { app, fails } from "./app.ts";

function creates(requests: unknown[] = []): Native["imageCreate"] {
  return (request) => {
    requests.push(request);
    return { report: { path: request.path, virtualSize: request.size, fileLength: 196616 } };
  };
}

test("create announces what it makes", async () => {
  const requests: unknown[] = [];
  const cli = app({ imageCreate: creates(requests) });
  expect(await cli("image", "create", "disk.qcow2", "1.5G")).toMatchInlineSnapshot(`
    "Formatting 'disk.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1610612736 lazy_refcounts=off refcount_bits=16
    = 0"
  `);
  expect(
    await cli(
      ..."image create -f qcow2 --no-wait -o compat=1.1,cluster_size=2M".split(" "),
      "-olazy_refcounts=on,refcount_bits=64,compression_type=zstd",
      "a'b\n.qcow2",
      "12345",
    ),
  ).toMatchInlineSnapshot(`
    "Formatting 'a'b
    .qcow2', fmt=qcow2 cluster_size=2097152 extended_l2=off compression_type=zstd size=12345 compat=1.1 lazy_refcounts=on refcount_bits=64
    = 0"
  `);
  expect(await cli("image", "create", "-q", "-o", "size=1M,compat=v2", "x")).toMatchInlineSnapshot(
    `"= 0"`,
  );
  expect(requests).toMatchInlineSnapshot(`
    [
      {
        "clusterSize": 65536,
        "compat": "1.1",
        "compressionType": "zlib",
        "extendedEntries": false,
        "lazyRefcounts": false,
        "noWait": false,
        "path": "disk.qcow2",
        "refcountBits": 16,
        "size": 1610612736,
      },
      {
        "clusterSize": 2097152,
        "compat": "1.1",
        "compressionType": "zstd",
        "extendedEntries": false,
        "lazyRefcounts": true,
        "noWait": true,
        "path": "a'b
    .qcow2",
        "refcountBits": 64,
        "size": 12345,
      },
      {
        "clusterSize": 65536,
        "compat": "0.10",
        "compressionType": "zlib",
        "extendedEntries": false,
        "lazyRefcounts": false,
        "noWait": false,
        "path": "x",
        "refcountBits": 16,
        "size": 1048576,
      },
    ]
  `);
});

test("create takes the last of repeated options, and an option without value as on", async () => {
  const cli = app({ imageCreate: creates() });
  const made = (...options: string[]) => cli("image", "create", ...options, "x", "1M");
  expect(await made("-o", "cluster_size=4k,cluster_size=8k")).toMatchInlineSnapshot(`
    "Formatting 'x', fmt=qcow2 cluster_size=8192 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16
    = 0"
  `);
  expect(await made("-o", "cluster_size=4k", "-o", "cluster_size=0x1000")).toMatchInlineSnapshot(`
    "Formatting 'x', fmt=qcow2 cluster_size=4096 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16
    = 0"
  `);
  expect(await made("-o", "lazy_refcounts")).toMatchInlineSnapshot(`
    "Formatting 'x', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=on refcount_bits=16
    = 0"
  `);
  expect(await made("-o", "nolazy_refcounts,refcount_bits=010")).toMatchInlineSnapshot(`
    "Formatting 'x', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=8
    = 0"
  `);
});

test("create lists its options", async () => {
  const cli = app();
  expect(await cli("image", "create", "-o", "help")).toMatchInlineSnapshot(`
    "Supported options:
      cluster_size=<size>    - qcow2 cluster size
      compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
      compression_type=<str> - Compression method used for image cluster compression
      extended_l2=<bool (on/off)> - Extended L2 tables
      lazy_refcounts=<bool (on/off)> - Postpone refcount updates
      refcount_bits=<num>    - Width of a reference count entry in bits
      size=<size>            - Virtual disk size
    = 0"
  `);
  expect(await cli("image", "create", "-o", "compat=v3,?")).toBe(
    await cli("image", "create", "-o", "help"),
  );
});

test("create escapes a name on a terminal", async () => {
  const cli = app({ imageCreate: creates(), terminal: true });
  expect(await cli("image", "create", "a\u001bb.qcow2", "1M")).toMatchInlineSnapshot(`
    "Formatting 'a\\u001bb.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16
    = 0"
  `);
});

/** The line, on a core that must not be asked for anything. */
function create(...args: string[]): Promise<string> {
  return app()("image", "create", ...args);
}

describe("create refuses", () => {
  test("a line that is not complete", async () => {
    expect(await create()).toMatchInlineSnapshot(`
      "! error: Expecting image file name
      ! Try 'calque image create --help' for more info
      = 1"
    `);
    expect(await create("disk.qcow2")).toMatchInlineSnapshot(`
      "! error: disk.qcow2: Image creation needs a size parameter
      = 1"
    `);
    expect(await create("disk.qcow2", "1M", "2M")).toMatchInlineSnapshot(`
      "! error: Unexpected argument: 2M
      ! Try 'calque image create --help' for more info
      = 1"
    `);
    expect(await create("-o", "size=1M", "disk.qcow2", "2M")).toMatchInlineSnapshot(`
      "! error: disk.qcow2: The image size must be specified only once
      = 1"
    `);
  });

  test("what is no size", async () => {
    expect(await create("disk.qcow2", "huge")).toMatchInlineSnapshot(`
      "! error: Invalid image size specified: 'huge'.
      = 1"
    `);
    expect(await create("disk.qcow2", "8E")).toMatchInlineSnapshot(`
      "! error: Invalid image size specified. Must be between 0 and 9223372036854775807.
      = 1"
    `);
    expect(await create("disk.qcow2", "--", "-1")).toMatchInlineSnapshot(`
      "! error: Invalid image size specified. Must be between 0 and 9223372036854775807.
      = 1"
    `);
    expect(await create("-o", "cluster_size=big", "disk.qcow2", "1M")).toMatchInlineSnapshot(`
      "! error: disk.qcow2: Parameter 'cluster_size' expects a non-negative number below 2^64
      ! Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-
      ! and exabytes, respectively.
      = 1"
    `);
    expect(await create("-o", "cluster_size=-1", "disk.qcow2", "1M")).toMatchInlineSnapshot(`
      "! error: disk.qcow2: Value '-1' is out of range for parameter 'cluster_size'
      = 1"
    `);
  });

  test("what is no list of options", async () => {
    for (const list of ["", ",compat=v3", "compat=v3,"]) {
      expect(await create("-o", list, "x", "1M")).toBe(
        `! error: Invalid option list: ${list}\n= 1`,
      );
    }
  });

  test.each([
    ["foo=bar", "Invalid parameter 'foo'"],
    ["foo", "Invalid parameter 'foo'"],
    ["=1", "Invalid parameter ''"],
    ["a,,=1", "Invalid parameter 'a'"],
    ["cluster_size=4k, compat=1.1", "Invalid parameter ' compat'"],
    ["refcount_bits=8k", "Parameter 'refcount_bits' expects a number"],
    [
      "refcount_bits=18446744073709551616",
      "Value '18446744073709551616' is too large for parameter 'refcount_bits'",
    ],
    ["lazy_refcounts=1", "Parameter 'lazy_refcounts' expects 'on' or 'off'"],
    ["extended_l2=", "Parameter 'extended_l2' expects 'on' or 'off'"],
    [
      "backing_file=x",
      "Cannot use 'backing_file': images with a backing file cannot be created yet",
    ],
    ["backing_fmt=x", "Cannot use 'backing_fmt': images with a backing file cannot be created yet"],
    ["data_file=x", "Cannot use 'data_file': external data files are not supported"],
    ["data_file_raw=on", "Cannot use 'data_file_raw': external data files are not supported"],
    ["encryption=on", "Cannot use 'encryption': encrypted images cannot be created"],
    ["encrypt.format=luks", "Cannot use 'encrypt.format': encrypted images cannot be created"],
    [
      "extent_size_hint=1M",
      "Cannot use 'extent_size_hint': the file system's own allocation is used",
    ],
    ["nocow=on", "Cannot use 'nocow': the attribute of the directory is used"],
    [
      "preallocation=full",
      "Cannot use 'preallocation': clusters are allocated when they are written",
    ],
  ])("the option `%s` before it announces anything", async (list, reason) => {
    expect(await create("-o", list, "x", "1M")).toBe(`! error: x: ${reason}\n= 1`);
  });

  test.each([
    ["compat=2", "Parameter 'version' does not accept value '2'"],
    ["compat=a,,b", "Parameter 'version' does not accept value 'a,b'"],
    ["compression_type=lz4", "Parameter 'compression-type' does not accept value 'lz4'"],
    ["cluster_size=4097", "Cluster size must be a power of two between 512 and 2048k"],
    ["cluster_size=256", "Cluster size must be a power of two between 512 and 2048k"],
    ["cluster_size=4M", "Cluster size must be a power of two between 512 and 2048k"],
    ["cluster_size=0", "Cluster size must be a power of two between 512 and 2048k"],
    ["refcount_bits=3", "Refcount width must be a power of two and may not exceed 64 bits"],
    ["refcount_bits=0", "Refcount width must be a power of two and may not exceed 64 bits"],
    ["refcount_bits=-1", "Refcount width must be a power of two and may not exceed 64 bits"],
    ["refcount_bits=128", "Refcount width must be a power of two and may not exceed 64 bits"],
    [
      "refcount_bits=8,compat=0.10",
      "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
    ],
    [
      "lazy_refcounts=on,compat=0.10",
      "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)",
    ],
    [
      "compression_type=zstd,compat=0.10",
      "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)",
    ],
    [
      "extended_l2=on,compat=0.10",
      "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
    ],
    [
      "extended_l2=on,cluster_size=4k",
      "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
    ],
  ])("the layout `%s` after it was announced", async (list, reason) => {
    const [announced, ...rest] = (await create("-o", list, "x", "1M")).split("\n");
    expect(announced).toMatch(/^Formatting 'x', fmt=qcow2 cluster_size=\d+ /);
    expect(rest).toEqual([`! error: x: ${reason}`, "= 1"]);
    expect(await create("-q", "-o", list, "x", "1M")).toBe(`! error: x: ${reason}\n= 1`);
  });

  test("a size that no image can have", async () => {
    expect(await create("-q", "disk.qcow2", "7E")).toMatchInlineSnapshot(`
      "! error: disk.qcow2: The image size is too large for file format 'qcow2' (try using a larger cluster size)
      = 1"
    `);
  });
});

function createFailing(failure: Partial<Failure>): Promise<string> {
  return app({ imageCreate: fails(failure) })("image", "create", "-q", "x", "1M");
}

describe("create says why the core could not", () => {
  test("when the system refuses", async () => {
    expect(
      await createFailing({
        code: "not-found",
        stage: "open",
        reason: "No such file or directory",
      }),
    ).toMatchInlineSnapshot(`
      "! error: x: Could not create 'x': No such file or directory
      = 1"
    `);
    expect(await createFailing({ code: "no-space", reason: "No space left on device" }))
      .toMatchInlineSnapshot(`
      "! error: x: No space left on device
      = 1"
    `);
  });

  test("when somebody uses the file", async () => {
    expect(
      await createFailing({ code: "in-use", stage: "open", reason: 'Failed to get "write" lock' }),
    ).toMatchInlineSnapshot(`
      "! error: x: Failed to get "write" lock
      ! Is another process using the image [x]?
      = 1"
    `);
  });
});

test("create says after a while what it waits for", async () => {
  const cli = app({
    imageCreate(request, waiting) {
      waiting?.({ waitingFor: "process 4711 (calque)" });
      return creates()(request);
    },
  });
  expect(await cli("image", "create", "-q", "x", "1M")).toMatchInlineSnapshot(`
    "! Waiting for process 4711 (calque) to finish with "x"
    = 0"
  `);
});
