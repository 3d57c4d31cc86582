// `info`, `check` and `snapshot -l` against qemu-img, on images as they occur and on broken ones.

import { describe, test } from "vitest";

import { readable, Scene } from "./images.ts";
import { expectSame } from "./programs.ts";

const headOnly = ["aes.qcow2", "orphan.qcow2", "remote.qcow2"];
const { place } = new Scene(...readable, ...headOnly, "nothing.img", "raw.img", "directory");

describe.each(readable)("%s", (file) => {
  test.each([
    "info",
    "info -U --output json",
    "check",
    "check --output=json",
    "check -q -f qcow2",
    "snapshot -l",
  ])("%s", (line) => {
    expectSame([...line.split(" "), file], place);
  });
});

describe("an image of which only the header can be read", () => {
  test.each(headOnly)("%s", (file) => {
    expectSame(["info", file], place);
    expectSame(["info", "--output=json", file], place);
  });
});

describe("what is no image", () => {
  test.each(["nothing.img", "raw.img", "directory", "missing.qcow2", "missing/disk.qcow2", ""])(
    "%j",
    (file) => {
      for (const verb of ["info", "check", "snapshot"])
        expectSame([verb, "-f", "qcow2", file], place);
      for (const operation of file === "directory" ? [] : ["-c", "-a", "-d"]) {
        expectSame(["snapshot", "-f", "qcow2", operation, "x", file], place);
      }
    },
  );

  test("a name below a file", () => {
    expectSame(["info", "-f", "qcow2", "ordinary.qcow2/x"], place);
  });
});
