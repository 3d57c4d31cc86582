// `create` against qemu-img: the endings, and what both make of the image.

import { copyFileSync, rmSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { Scene } from "./images.ts";
import { calque, run, translated, withoutHints } from "./programs.ts";

const scene = new Scene("ordinary.qcow2");

/** The line, then what the image says of itself, should there be one. */
function expectSameCreation(args: string[]): void {
  const [theirs, ours] = ["qemu-img", calque].map((program) => {
    const place = scene.emptyPlace();
    copyFileSync(scene.path("ordinary.qcow2"), path.join(place, "ordinary.qcow2"));
    const image = program === calque ? ["image"] : [];
    const ending = run(program, [...image, "create", ...args], place);
    const file = args.find((word) => word.endsWith(".qcow2"));
    const made = ending.status === 0 && file !== undefined;
    const info = made ? run("qemu-img", ["info", file], place).stdout : "";
    const check = made ? run("qemu-img", ["check", file], place) : undefined;
    rmSync(place, { recursive: true });
    // How the file is laid out is each program's own business.
    return {
      ending,
      info: info.replace(/(disk size|file length): .*/g, "$1"),
      status: check?.status,
    };
  });
  expect({ ...ours!, ending: withoutHints(ours!.ending) }).toEqual({
    ...theirs!,
    ending: translated(theirs!.ending),
  });
}

describe("create", () => {
  const sizes =
    "0 1 511 512 1b 3k 1.5G 0.1k 1.0001k .5G 0x10 1T 64T 1P 010 +1M huge 1.5 1e3 1MB 8E 7E 9E 16E";

  test.each([...sizes.split(" "), "", " 1M", "1M "])("of size %j", (size) => {
    expectSameCreation(["-f", "qcow2", "c.qcow2", size]);
  });

  test("of a negative size", () => {
    expectSameCreation(["-f", "qcow2", "c.qcow2", "--", "-1"]);
  });

  test.each([
    ..."cluster_size=4096 cluster_size=4k cluster_size=0x1000 cluster_size=2M cluster_size=512".split(
      " ",
    ),
    ..."cluster_size=4097 cluster_size=256 cluster_size=4M cluster_size=0 cluster_size=foo".split(
      " ",
    ),
    ..."cluster_size= cluster_size cluster_size=-1 cluster_size=1.5 cluster_size=16E".split(" "),
    ..."compat=0.10 compat=1.1 compat=v2 compat=v3 compat=2 compat= compat nocompat".split(" "),
    ..."refcount_bits=1 refcount_bits=64 refcount_bits=3 refcount_bits=0 refcount_bits=128".split(
      " ",
    ),
    ..."refcount_bits=foo refcount_bits=-1 refcount_bits=8k refcount_bits=0x10".split(" "),
    ..."refcount_bits=010 refcount_bits=18446744073709551616 refcount_bits=4294967312".split(" "),
    ..."lazy_refcounts=on lazy_refcounts=true lazy_refcounts=y lazy_refcounts=1".split(" "),
    ..."lazy_refcounts nolazy_refcounts lazy_refcounts= LAZY_refcounts=on".split(" "),
    ..."compression_type=zstd compression_type=zlib compression_type=lz4".split(" "),
    ..."extended_l2=off extended_l2=maybe extended_l2=on,compat=0.10".split(" "),
    "extended_l2=on,cluster_size=4k",
    "extended_l2=on,cluster_size=8k",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k,refcount_bits=1",
    "extended_l2=on,cluster_size=2M,compression_type=zstd,lazy_refcounts=on",
    "refcount_bits=8,compat=0.10",
    "lazy_refcounts=on,compat=0.10",
    "compression_type=zstd,compat=0.10",
    "refcount_bits=3,compat=0.10,lazy_refcounts=on",
    "compat=2,compression_type=lz4",
    "compression_type=lz4,cluster_size=3",
    "cluster_size=3,refcount_bits=3",
    "foo=1,cluster_size=x",
    "cluster_size=x,foo=1",
    "cluster_size=4k,cluster_size=8k",
    "cluster_size=4k, compat=1.1",
    "compat=a,,b",
    ..."foo=bar foo =1 a,,=1 ,compat=v3 compat=v3, compat=v3,,".split(" "),
    "",
    "size=2M",
  ])("with -o %j", (options) => {
    expectSameCreation(["-f", "qcow2", "-o", options, "c.qcow2", "1M"]);
    expectSameCreation(["-f", "qcow2", "-q", "-o", options, "c.qcow2", "1M"]);
  });

  test("with the size as an option, and options twice", () => {
    expectSameCreation(["-f", "qcow2", "-o", "size=1M", "c.qcow2"]);
    expectSameCreation(["-f", "qcow2", "-o", "size=big", "c.qcow2"]);
    expectSameCreation([
      "-f",
      "qcow2",
      "-o",
      "compat=v2",
      "-o",
      "cluster_size=4k",
      "c.qcow2",
      "1M",
    ]);
  });

  test("of sizes that need larger clusters", () => {
    expectSameCreation(["-f", "qcow2", "-o", "cluster_size=512", "c.qcow2", "1P"]);
    expectSameCreation(["-f", "qcow2", "-o", "cluster_size=64k", "c.qcow2", "3P"]);
    expectSameCreation(["-f", "qcow2", "-o", "cluster_size=2M", "c.qcow2", "1P"]);
    expectSameCreation(["-f", "qcow2", "-o", "extended_l2=on", "c.qcow2", "1P"]);
    expectSameCreation(["-f", "qcow2", "-o", "extended_l2=on", "c.qcow2", "512T"]);
  });

  test("where no file can be", () => {
    expectSameCreation(["-f", "qcow2", "missing/c.qcow2", "1M"]);
    expectSameCreation(["-f", "qcow2", "", "1M"]);
  });

  test("over an image that exists, and names with anything in them", () => {
    expectSameCreation(["-f", "qcow2", "ordinary.qcow2", "2M"]);
    expectSameCreation(["-f", "qcow2", "a 'b'\n,c.qcow2", "2M"]);
  });
});
