// Command lines, right and wrong, against qemu-img.

import { test } from "vitest";

import { Scene } from "./images.ts";
import { expectSame } from "./programs.ts";

const { place } = new Scene("ordinary.qcow2", "raw.img");

test.each([
  "",
  "frobnicate",
  "--frobnicate",
  "-q info",
  "info",
  "info a b",
  "info -x ordinary.qcow2",
  "info --frobnicate ordinary.qcow2",
  "info --output",
  "info --output xml ordinary.qcow2",
  "info --out json ordinary.qcow2",
  "info -f",
  "info -f frobnicate ordinary.qcow2",
  "info --force-share=1 ordinary.qcow2",
  "info --fo ordinary.qcow2",
  "info -q ordinary.qcow2",
  "info -- ordinary.qcow2",
  "info ordinary.qcow2 -U",
  "check",
  "check a b",
  "check -qU ordinary.qcow2",
  "check -qz ordinary.qcow2",
  "check -r foo ordinary.qcow2",
  "check --repair= ordinary.qcow2",
  "check -r",
  "check --output xml -r foo ordinary.qcow2",
  "check -f raw raw.img",
  "check -f raw --output json raw.img",
  "check -fqcow2 ordinary.qcow2",
  "snapshot",
  "snapshot ordinary.qcow2",
  "snapshot -l ordinary.qcow2 b",
  "snapshot -qUf qcow2 ordinary.qcow2",
  "snapshot --list ordinary.qcow2",
  "snapshot --list=3 ordinary.qcow2",
  "snapshot -c",
  "snapshot -c x",
  "snapshot -c x -d y ordinary.qcow2",
  "snapshot -l -l ordinary.qcow2",
  "snapshot -U -c x ordinary.qcow2",
  "snapshot - ordinary.qcow2",
  "snapshot -l -- -disk.qcow2",
  "create",
  "create -f qcow2 c.qcow2",
  "create -f qcow2 c.qcow2 1M 2M",
  "create -f qcow2 c.qcow2 -1",
  "create -f frobnicate c.qcow2 1M",
])("usage: %j", (line) => {
  expectSame(
    line.split(" ").filter((word) => word !== ""),
    place,
  );
});
