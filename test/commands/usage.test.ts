// Lines of `image` are read as qemu-img reads its own, by the rules of getopt_long.

import { describe, expect, test } from "vitest";

import { app, changed, checked, image } from "./app.ts";
import { played } from "./vehicle.ts";

describe("image", () => {
  test("wants a command that it has", async () => {
    const cli = app();
    expect(await cli("image")).toMatchInlineSnapshot(`
      "! error: Not enough arguments
      ! Try 'calque image --help' for more info
      = 1"
    `);
    expect(await cli("image", "frobnicate", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: Command not found: frobnicate
      ! Try 'calque image --help' for more info
      = 1"
    `);
    expect(await cli("image", "-q", "info", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: invalid option -- 'q'
      ! Try 'calque image --help' for more info
      = 1"
    `);
    expect(await cli("image", "--quiet")).toMatchInlineSnapshot(`
      "! error: unrecognized option '--quiet'
      ! Try 'calque image --help' for more info
      = 1"
    `);
  });

  test("refuses the other commands of qemu-img by name", async () => {
    const cli = app();
    expect(await cli("image", "convert", "a", "b")).toMatchInlineSnapshot(`
      "! error: Cannot run "convert": it is a command of qemu-img that Calque does not have
      ! hint: use \`qemu-img convert\`; \`calque image\` has check, clone, create, info and snapshot
      = 1"
    `);
    for (const verb of "amend bench bitmap commit compare dd map measure rebase resize".split(
      " ",
    )) {
      expect(await cli("image", verb)).toContain(
        `Cannot run "${verb}": it is a command of qemu-img`,
      );
    }
  });
});

describe("options", () => {
  const core = { imageInfo: image(), imageCheck: checked() };

  const understood = [
    ["check", "-q", "disk.qcow2"],
    ["check", "disk.qcow2", "-q"],
    ["check", "--quiet", "--", "disk.qcow2"],
    ["check", "-qU", "disk.qcow2"],
    ["check", "-Uqf", "qcow2", "disk.qcow2"],
    ["check", "-qfqcow2", "disk.qcow2"],
    ["check", "-q", "--format=qcow2", "disk.qcow2"],
    ["check", "-q", "--format", "qcow2", "disk.qcow2"],
    ["check", "--qu", "--forc", "disk.qcow2"],
    ["check", "-f", "raw", "-qf", "qcow2", "disk.qcow2"],
    ["check", "-q", "--", "-disk.qcow2"],
    ["check", "-q", "-"],
  ];
  for (const line of understood) {
    played(`are understood in \`${line.join(" ")}\``, async () => {
      expect(await app(core)("image", ...line)).toBe("= 0");
    });
  }

  played("take whatever follows as their value, as getopt does", async () => {
    const requests: unknown[] = [];
    const cli = app({ snapshotCreate: changed(requests) });
    await cli("image", "snapshot", "-c", "-l", "disk.qcow2");
    await cli("image", "snapshot", "-c", "--", "disk.qcow2");
    await cli("image", "snapshot", "-c=x", "disk.qcow2");
    await cli("image", "snapshot", "--create=", "disk.qcow2");
    expect(requests).toMatchObject([{ name: "-l" }, { name: "--" }, { name: "=x" }, { name: "" }]);
  });

  test("are refused in getopt's words", async () => {
    const cli = app();
    expect(await cli("image", "info", "-x", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: invalid option -- 'x'
      ! Try 'calque image info --help' for more info
      = 1"
    `);
    expect(await cli("image", "info", "-\u{1f480}U", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: invalid option -- '💀'
      ! Try 'calque image info --help' for more info
      = 1"
    `);
    expect(await cli("image", "check", "-qz", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: invalid option -- 'z'
      ! Try 'calque image check --help' for more info
      = 1"
    `);
    expect(await cli("image", "info", "--foo", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: unrecognized option '--foo'
      ! Try 'calque image info --help' for more info
      = 1"
    `);
    expect(await cli("image", "info", "disk.qcow2", "--output")).toMatchInlineSnapshot(`
      "! error: option '--output' requires an argument
      ! Try 'calque image info --help' for more info
      = 1"
    `);
    expect(await cli("image", "info", "disk.qcow2", "-f")).toMatchInlineSnapshot(`
      "! error: option requires an argument -- 'f'
      ! Try 'calque image info --help' for more info
      = 1"
    `);
    expect(await cli("image", "info", "-U", "--force-share=1")).toMatchInlineSnapshot(`
      "! error: option '--force-share' doesn't allow an argument
      ! Try 'calque image info --help' for more info
      = 1"
    `);
    expect(await cli("image", "info", "--fo", "qcow2")).toMatchInlineSnapshot(`
      "! error: option '--fo' is ambiguous; possibilities: '--format' '--force-share'
      ! Try 'calque image info --help' for more info
      = 1"
    `);
    expect(await cli("image", "info", "--output", "xml", "disk.qcow2")).toMatchInlineSnapshot(`
      "! error: --output expects 'human' or 'json' not 'xml'
      ! Try 'calque image info --help' for more info
      = 1"
    `);
  });

  test("that would mean something else here are refused by name", async () => {
    const cli = app();
    expect(await cli("image", "info", "--object", "secret,id=a", "x")).toMatchInlineSnapshot(`
      "! error: Cannot use '--object': there is nothing that takes QEMU objects
      = 1"
    `);
    expect(await cli("image", "info", "--image-opts", "driver=qcow2")).toMatchInlineSnapshot(`
      "! error: Cannot use '--image-opts': an image is named by its file
      = 1"
    `);
    expect(await cli("image", "info", "--backing-chain", "x")).toMatchInlineSnapshot(`
      "! error: Cannot use '--backing-chain': no file that an image names is opened
      = 1"
    `);
    expect(await cli("image", "check", "-T", "none", "x")).toMatchInlineSnapshot(`
      "! error: Cannot use '--cache': a check has no cache modes
      = 1"
    `);
    expect(await cli("image", "create", "-b", "base.qcow2", "x")).toMatchInlineSnapshot(`
      "! error: Cannot use '--backing': images with a backing file cannot be created yet
      = 1"
    `);
    expect(await cli("image", "create", "-F", "qcow2", "x", "1M")).toMatchInlineSnapshot(`
      "! error: Cannot use '--backing': images with a backing file cannot be created yet
      = 1"
    `);
    expect(await cli("image", "create", "-u", "x", "1M")).toMatchInlineSnapshot(`
      "! error: Cannot use '--backing': images with a backing file cannot be created yet
      = 1"
    `);
  });

  test("do not make other formats acceptable", async () => {
    const cli = app();
    expect(await cli("image", "info", "-f", "raw", "disk.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'disk.img': Only qcow2 images are supported, not raw
      = 1"
    `);
    expect(await cli("image", "snapshot", "-f", "vmdk", "disk.vmdk")).toMatchInlineSnapshot(`
      "! error: Could not open 'disk.vmdk': Only qcow2 images are supported, not vmdk
      = 1"
    `);
    expect(await cli("image", "info", "-f", "foo", "disk.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'disk.img': Unknown driver 'foo'
      = 1"
    `);
    expect(await cli("image", "check", "-f", "raw", "disk.img")).toMatchInlineSnapshot(`
      "! error: This image format does not support checks
      = 63"
    `);
    expect(await cli("image", "check", "-f", "vmdk", "disk.vmdk")).toMatchInlineSnapshot(`
      "! error: Could not open 'disk.vmdk': Only qcow2 images are supported, not vmdk
      = 63"
    `);
    expect(await cli("image", "check", "-f", "foo", "disk.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'disk.img': Unknown driver 'foo'
      = 1"
    `);
    expect(await cli("image", "clone", "-f", "raw", "a", "b")).toMatchInlineSnapshot(`
      "! error: Could not open 'a': Only qcow2 images are supported, not raw
      = 1"
    `);
    expect(await cli("image", "create", "-f", "raw", "disk.img", "1M")).toMatchInlineSnapshot(`
      "! error: disk.img: Only qcow2 images can be created, not raw
      = 1"
    `);
    expect(await cli("image", "create", "-f", "foo", "disk.img", "1M")).toMatchInlineSnapshot(`
      "! error: disk.img: Unknown file format 'foo'
      = 1"
    `);
  });
});

test.each(["info", "check", "snapshot"])("image %s wants one file", async (verb) => {
  const cli = app();
  const expected = [
    "! error: Expecting one image file name",
    `! Try 'calque image ${verb} --help' for more info`,
    "= 1",
  ];
  expect(await cli("image", verb)).toBe(expected.join("\n"));
  expect(await cli("image", verb, "a", "b")).toBe(expected.join("\n"));
});
