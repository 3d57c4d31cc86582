// `set` and `get`: Multipass's keys as far as there are any here, its sentences, and what changes.

import { execFileSync } from "node:child_process";

import { describe, expect, test } from "vitest";

import { parseMemorySize } from "../../../src/text/memory-size.ts";
import { Holder } from "../../e2e/support.ts";
import { make } from "../../state/scene.ts";
import {
  recordOf,
  session,
  take,
  takeForeign,
  withoutIds,
  withoutProcess,
  type World,
  world,
} from "./world.ts";

/** An instance `foo` with the snapshot `clean`, and `gone`, with one as well, in the trash. */
function furnished(): World & { id: string } {
  const here = world();
  make(here.store, ["foo", "gone"]);
  take(here, "foo", { name: "clean", comment: "as new" });
  take(here, "gone", { name: "clean" });
  return { ...here, id: here.store.trash("gone") };
}

describe("the help", () => {
  test("of set and get is Multipass's, but for the keys", async () => {
    const multipass = world().called({ argv0: "multipass" });
    expect(await session(multipass, ["help set", "help get"])).toMatchInlineSnapshot(`
      "$ help set
      Usage: multipass set [options] <key>[=<value>]
      Set, to the given value, the configuration setting corresponding to the given key.

      Some common settings keys are:
        - local.<instance>.cpus
        - local.<instance>.memory
        - local.<instance>.disk
        - local.<instance>.<snapshot>.name
        - local.<instance>.<snapshot>.comment

      Use \`multipass get --keys\` to obtain the full list of available settings at any given time.

      Options:
        -h, --help     Displays help on commandline options
        -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                       for more detail. Maximum verbosity is obtained with 4 (or more)
                       v's, i.e. -vvvv.

      Arguments:
        keyval         A key, or a key-value pair. The key specifies a path to the
                       setting to configure. The value is its intended value. If only
                       the key is given, the value will be prompted for.
      = 0
      $ help get
      Usage: multipass get [options] [<arg>]
      Get the configuration setting corresponding to the given key, or all settings if no key is specified.
      (Support for multiple keys and wildcards coming...)

      Some common settings keys are:
        - local.<instance>.cpus
        - local.<instance>.memory
        - local.<instance>.disk
        - local.<instance>.<snapshot>.name
        - local.<instance>.<snapshot>.comment

      Use \`multipass get --keys\` to obtain the full list of available settings at any given time.

      Options:
        -h, --help     Displays help on commandline options
        -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                       for more detail. Maximum verbosity is obtained with 4 (or more)
                       v's, i.e. -vvvv.
        --raw          Output in raw format. For now, this affects only the
                       representation of empty values (i.e. "" instead of "<empty>").
        --keys         List available settings keys. This outputs the whole list of
                       currently available settings keys, or just <arg>, if provided
                       and a valid key.

      Arguments:
        arg            Setting key, i.e. path to the intended setting.
      = 0
      "
    `);
  });

  test("of get has what Multipass has not in a part of its own", async () => {
    const help = await world().cli("get", "--help");
    expect(help.slice(help.indexOf("Arguments:"))).toMatchInlineSnapshot(`
      "Arguments:
        arg            Setting key, i.e. path to the intended setting.

      Options that Multipass does not have:
        --bytes  Output sizes in bytes

      Examples:
        calque get local.web-1.memory
            How much memory has it?
        calque get local.web-1.clean.comment
            What is this snapshot for?
      = 0"
    `);
  });
});

describe("set", () => {
  test("changes what an instance is to run on, without a word", async () => {
    const here = furnished();
    expect(
      await session(here.cli, [
        "set local.foo.cpus=4",
        "set local.foo.memory=2.5G",
        "set local.foo.disk=3M",
        "get local.foo.cpus",
        "get local.foo.memory",
        "get local.foo.disk",
        "history foo",
      ]),
    ).toMatchInlineSnapshot(`
      "$ set local.foo.cpus=4
      = 0
      $ set local.foo.memory=2.5G
      = 0
      $ set local.foo.disk=3M
      = 0
      $ get local.foo.cpus
      4
      = 0
      $ get local.foo.memory
      2.5GiB
      = 0
      $ get local.foo.disk
      3.0MiB
      = 0
      $ history foo
      Time                           Version   Operation   Details
      Fri Aug 21 21:48:55 2026 UTC   0.1.0     create
      Fri Aug 21 21:48:55 2026 UTC   0.1.0     snapshot    snapshot: clean, id: 1
      Wed Nov 25 11:29:09 2026 UTC   0.1.0     set         cpus: 4
      Wed Nov 25 11:29:09 2026 UTC   0.1.0     set         memoryBytes: 2684354560
      Wed Nov 25 11:29:09 2026 UTC   0.1.0     grow        bytes: 3145728
      = 0
      "
    `);
    expect(recordOf(here, "foo")).toMatchObject({ cpus: 4, memoryBytes: 2.5 * 2 ** 30 });
    const info = execFileSync("qemu-img", ["info", "--output=json", here.disk("foo")]);
    expect(JSON.parse(info.toString())).toMatchObject({ "virtual-size": 3 << 20 });
  });

  test("does nothing where the value is what it was", async () => {
    const here = furnished();
    const before = JSON.stringify(recordOf(here, "foo"));
    const line = await here.cli("history", "foo");
    expect(
      await session(here.cli, [
        "set local.foo.cpus=1",
        "set local.foo.memory=1024M",
        "set local.foo.disk=1MiB",
        "set local.foo.clean.name=clean",
        ["set", "local.foo.clean.comment=as new"],
      ]),
    ).toMatchInlineSnapshot(`
      "$ set local.foo.cpus=1
      = 0
      $ set local.foo.memory=1024M
      = 0
      $ set local.foo.disk=1MiB
      = 0
      $ set local.foo.clean.name=clean
      = 0
      $ set local.foo.clean.comment=as new
      = 0
      "
    `);
    expect(JSON.stringify(recordOf(here, "foo"))).toBe(before);
    expect(await here.cli("history", "foo")).toBe(line);
  });

  test("names and comments snapshots, with any text in a comment", async () => {
    const { cli } = furnished();
    expect(
      await session(cli, [
        "set local.foo.clean.name=fresh",
        ["set", "local.foo.fresh.comment=kernel=6.8 a=b=c"],
        "get local.foo.fresh.comment",
        ["set", "local.foo.@1.comment=two\nlines 🙂"],
        "get local.foo.@1.comment",
        "set local.foo.fresh.comment=",
        "get local.foo.fresh.comment",
        "get --raw local.foo.fresh.comment",
        "set local.foo.@1.name=Fresh",
        "list --snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ set local.foo.clean.name=fresh
      = 0
      $ set local.foo.fresh.comment=kernel=6.8 a=b=c
      = 0
      $ get local.foo.fresh.comment
      kernel=6.8 a=b=c
      = 0
      $ set local.foo.@1.comment=two
      lines 🙂
      = 0
      $ get local.foo.@1.comment
      two
      lines 🙂
      = 0
      $ set local.foo.fresh.comment=
      = 0
      $ get local.foo.fresh.comment
      <empty>
      = 0
      $ get --raw local.foo.fresh.comment

      = 0
      $ set local.foo.@1.name=Fresh
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        Fresh      --       --
      gone       clean      --       --
      = 0
      "
    `);
  });

  test("asks for the value where there is none", async () => {
    const { called } = furnished();
    const answer = (...answers: string[]) => called({ answers });
    expect(await answer("4")("set", "local.foo.cpus")).toMatchInlineSnapshot(`
      "local.foo.cpus: 4
      = 0"
    `);
    expect(await answer("")("set", "local.foo.clean.comment")).toMatchInlineSnapshot(`
      "local.foo.clean.comment: 
      = 0"
    `);
    expect(await answer("0")("set", "local.foo.cpus")).toMatchInlineSnapshot(`
      "local.foo.cpus: 0
      ! set failed: Invalid setting 'local.foo.cpus=0': Need a positive integer (in decimal format) of minimum 1
      = 2"
    `);
    expect(await answer()("set", "local.foo.cpus")).toMatchInlineSnapshot(`
      "local.foo.cpus: ^D
      ! Failed to read value
      = 1"
    `);
    expect(await answer("x")("set", "local.driver")).toMatchInlineSnapshot(`
      "local.driver: x
      ! set failed: Unrecognized settings key: 'local.driver'
      = 2"
    `);
  });

  test("words what is wrong with a line, or a key", async () => {
    const { cli } = furnished();
    expect(
      await session(cli, [
        "set",
        "set a=b c=d",
        "set =",
        "set =4",
        "set local.foo.cpus 4",
        "set client.primary-name=foo",
        "set local.driver=qemu",
        "set local.passphrase=x",
        "set local.foo.cpu=4",
        "set local.foo.bridged=true",
        "set local.foo.name=bar",
        "set local.cpus=4",
        "set local..cpus=4",
        "set foo.cpus=4",
        "set local.foo.cpus=4 --raw",
      ]),
    ).toMatchInlineSnapshot(`
      "$ set
      ! Need exactly one key-value pair (in <key>=<value> form).
      = 1
      $ set a=b c=d
      ! Need exactly one key-value pair (in <key>=<value> form).
      = 1
      $ set =
      ! Bad key-value format.
      = 1
      $ set =4
      ! Bad key-value format.
      = 1
      $ set local.foo.cpus 4
      ! Need exactly one key-value pair (in <key>=<value> form).
      = 1
      $ set client.primary-name=foo
      ! Unrecognized settings key: 'client.primary-name'
      = 1
      $ set local.driver=qemu
      ! set failed: Unrecognized settings key: 'local.driver'
      = 2
      $ set local.passphrase=x
      ! set failed: Unrecognized settings key: 'local.passphrase'
      = 2
      $ set local.foo.cpu=4
      ! set failed: Unrecognized settings key: 'local.foo.cpu'
      = 2
      $ set local.foo.bridged=true
      ! set failed: Unrecognized settings key: 'local.foo.bridged'
      = 2
      $ set local.foo.name=bar
      ! set failed: Unrecognized settings key: 'local.foo.name'
      = 2
      $ set local.cpus=4
      ! set failed: Unrecognized settings key: 'local.cpus'
      = 2
      $ set local..cpus=4
      ! set failed: Unrecognized settings key: 'local..cpus'
      = 2
      $ set foo.cpus=4
      ! Unrecognized settings key: 'foo.cpus'
      = 1
      $ set local.foo.cpus=4 --raw
      ! Unknown option 'raw'.
      = 1
      "
    `);
  });

  test("refuses in Multipass's order: the instance, its state, the value", async () => {
    const here = furnished();
    const { cli, store, disk, id } = here;
    using stage = store.reserve(["busy"]);
    await using _ = await Holder.io(disk("foo"));
    const lines = [
      "set local.none.cpus=0",
      "set local.gone.cpus=0",
      `set local.gone@${id}.cpus=0`,
      `set local.${stage.names[0]}.cpus=0`,
      "set local.foo.cpus=0",
      "set local.foo.memory=x",
      "set local.foo.disk=0",
      "set local.foo.cpus=1",
      "set local.none.clean.name=_",
      "set local.gone.clean.comment=x",
      "set local.busy.clean.comment=x",
      "set local.foo.none.comment=x",
      "set local.foo.none.name=_",
      "set local.foo.clean.name=_",
    ];
    expect(withoutIds(withoutProcess(await session(cli, lines)))).toMatchInlineSnapshot(`
      "$ set local.none.cpus=0
      ! set failed: Cannot update instance settings; instance: none; reason: No such instance
      = 2
      $ set local.gone.cpus=0
      ! set failed: Cannot update instance settings; instance: gone; reason: Instance is deleted
      = 2
      $ set local.gone@YYYYMMDD-hhmmss-xxxx.cpus=0
      ! set failed: Cannot update instance settings; instance: gone@YYYYMMDD-hhmmss-xxxx; reason: Instance is deleted
      = 2
      $ set local.busy.cpus=0
      ! set failed: Cannot update instance settings; instance: busy; reason: instance is being prepared
      = 2
      $ set local.foo.cpus=0
      ! set failed: Cannot update instance settings; instance: foo; reason: Instance must be stopped for modification
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ set local.foo.memory=x
      ! set failed: Cannot update instance settings; instance: foo; reason: Instance must be stopped for modification
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ set local.foo.disk=0
      ! set failed: Cannot update instance settings; instance: foo; reason: Instance must be stopped for modification
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ set local.foo.cpus=1
      ! set failed: Cannot update instance settings; instance: foo; reason: Instance must be stopped for modification
      ! "foo" is used by qemu-io (process PID)
      = 2
      $ set local.none.clean.name=_
      ! set failed: Cannot access snapshot settings; instance: none; reason: No such instance
      = 2
      $ set local.gone.clean.comment=x
      ! set failed: Cannot access snapshot settings; instance: gone; reason: Instance is deleted
      = 2
      $ set local.busy.clean.comment=x
      ! set failed: Cannot access snapshot settings; instance: busy; reason: instance is being prepared
      = 2
      $ set local.foo.none.comment=x
      ! set failed: Cannot access snapshot settings; reason: No such snapshot: foo.none
      = 2
      $ set local.foo.none.name=_
      ! set failed: No such snapshot: foo.none
      = 2
      $ set local.foo.clean.name=_
      ! set failed: Invalid setting 'local.foo.clean.name=_': Invalid snapshot name.
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      "
    `);
    // The comment is in a record of ours, the name is in the image.
    const others = [
      "set local.foo.clean.comment=running",
      "get local.foo.clean.comment",
      "set local.foo.clean.name=clean",
      "set local.foo.clean.name=fresh",
    ];
    expect(withoutProcess(await session(cli, others))).toMatchInlineSnapshot(`
      "$ set local.foo.clean.comment=running
      = 0
      $ get local.foo.clean.comment
      running
      = 0
      $ set local.foo.clean.name=clean
      = 0
      $ set local.foo.clean.name=fresh
      ! set failed: Cannot access snapshot settings; instance: foo; reason: Instance must be stopped for modification
      ! "foo" is used by qemu-io (process PID)
      = 2
      "
    `);
  });

  test.each(["", "0", "-1", "x", "1.5", "1e3", "0x4", "4 cpus", "٤", "4,5"])(
    "refuses %j as a number of cpus",
    async (value) => {
      const { cli } = furnished();
      expect(await cli("set", `local.foo.cpus=${value}`)).toBe(
        `! set failed: Invalid setting 'local.foo.cpus=${value}': Need a positive integer (in decimal format) of minimum 1
= 2`,
      );
    },
  );

  test.each([
    "",
    "x",
    "-1",
    "1.5",
    "1.5B",
    ".5G",
    "1.G",
    "G",
    "1T",
    "1 G B",
    "1GG",
    "0x10M",
    "1e3M",
  ])("refuses %j as a size", async (value) => {
    const { cli } = furnished();
    const problem =
      `${value} is not a valid memory size - need a non-negative integer (in base 10) or a ` +
      "decimal followed by K, M, or G (e.g. 1234B, 42MiB, 0.5G)";
    for (const key of ["local.foo.memory", "local.foo.disk"]) {
      expect(await cli("set", `${key}=${value}`)).toBe(
        `! set failed: Invalid setting '${key}=${value}': ${problem}\n= 2`,
      );
    }
  });

  test("refuses sizes that are too small or too large", async () => {
    const { cli } = furnished();
    expect(
      await session(cli, [
        "set local.foo.memory=0",
        "set local.foo.memory=0.0001K",
        "set local.foo.memory=127.9M",
        "set local.foo.memory=1",
        "set local.foo.memory=lots",
        "set local.foo.disk=0G",
        "set local.foo.disk=0.9M",
        "set local.foo.disk=8000000G",
      ]),
    ).toMatchInlineSnapshot(`
      "$ set local.foo.memory=0
      ! set failed: Invalid setting 'local.foo.memory=0': Need a positive size.
      = 2
      $ set local.foo.memory=0.0001K
      ! set failed: Invalid setting 'local.foo.memory=0.0001K': Need a positive size.
      = 2
      $ set local.foo.memory=127.9M
      ! set failed: Invalid setting 'local.foo.memory=127.9M': Memory less than 128M minimum not allowed
      = 2
      $ set local.foo.memory=1
      ! set failed: Invalid setting 'local.foo.memory=1': Memory less than 128M minimum not allowed
      = 2
      $ set local.foo.memory=lots
      ! set failed: Invalid setting 'local.foo.memory=lots': lots is not a valid memory size - need a non-negative integer (in base 10) or a decimal followed by K, M, or G (e.g. 1234B, 42MiB, 0.5G)
      = 2
      $ set local.foo.disk=0G
      ! set failed: Invalid setting 'local.foo.disk=0G': Need a positive size.
      = 2
      $ set local.foo.disk=0.9M
      ! set failed: Invalid setting 'local.foo.disk=0.9M': Disk can only be expanded
      = 2
      $ set local.foo.disk=8000000G
      ! set failed: Invalid setting 'local.foo.disk=8000000G': Image is too big
      = 2
      "
    `);
  });

  test("takes sizes and numbers as Multipass reads them", async () => {
    const here = furnished();
    for (const [text, bytes] of [
      ["134217728", 2 ** 27],
      ["134217728B", 2 ** 27],
      [" 128 m ", 2 ** 27],
      ["0.5g", 2 ** 29],
      ["1.5GiB", 1.5 * 2 ** 30],
      ["262144KB", 2 ** 28],
    ] as const) {
      expect(await here.cli("set", `local.foo.memory=${text}`)).toBe("= 0");
      expect(recordOf(here, "foo").memoryBytes).toBe(bytes);
    }
    for (const [text, cpus] of [
      [" 2 ", 2],
      ["+3", 3],
      ["007", 7],
    ] as const) {
      expect(await here.cli("set", `local.foo.cpus=${text}`)).toBe("= 0");
      expect(recordOf(here, "foo").cpus).toBe(cpus);
    }
    // To whole sectors: no disk ends in one.
    await here.cli("set", `local.foo.disk=${(1 << 20) + 1}`);
    expect(await here.cli("get", "--bytes", "local.foo.disk")).toBe(`${(1 << 20) + 512}\n= 0`);
    expect(parseMemorySize("9007199254740992")).toBeUndefined();
  });

  test("refuses names that a snapshot cannot have, or that another one has", async () => {
    const here = furnished();
    take(here, "foo", { name: "second" });
    takeForeign(here.disk("foo"), ["theirs", "twin", "twin"]);
    expect(
      await session(here.cli, [
        "set local.foo.clean.name=",
        "set local.foo.clean.name=@2",
        "set local.foo.clean.name=a.b",
        `set local.foo.clean.name=${"a".repeat(64)}`,
        "set local.foo.clean.name=second",
        "set local.foo.clean.name=theirs",
        "set local.foo.twin.name=one",
        "set local.foo.@5.name=two",
        "set local.foo.theirs.comment=x",
        "set local.foo.theirs.name=ours",
        "list --snapshots",
      ]),
    ).toMatchInlineSnapshot(`
      "$ set local.foo.clean.name=
      ! set failed: Invalid setting 'local.foo.clean.name=': Invalid snapshot name.
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ set local.foo.clean.name=@2
      ! set failed: Invalid setting 'local.foo.clean.name=@2': Invalid snapshot name.
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ set local.foo.clean.name=a.b
      ! set failed: Invalid setting 'local.foo.clean.name=a.b': Invalid snapshot name.
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ set local.foo.clean.name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      ! set failed: Invalid setting 'local.foo.clean.name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa': Invalid snapshot name.
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ set local.foo.clean.name=second
      ! set failed: Snapshot already exists: foo.second
      = 2
      $ set local.foo.clean.name=theirs
      ! set failed: Snapshot already exists: foo.theirs
      = 2
      $ set local.foo.twin.name=one
      ! set failed: Several snapshots are called foo.twin: foo.@4, foo.@5
      = 2
      $ set local.foo.@5.name=two
      = 0
      $ set local.foo.theirs.comment=x
      ! set failed: Snapshot foo.theirs was not taken by Calque: it has no place for a comment
      = 2
      $ set local.foo.theirs.name=ours
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        clean      --       as new
      foo        second     clean    --
      foo        ours       --       --
      foo        twin       --       --
      foo        two        --       --
      gone       clean      --       --
      = 0
      "
    `);
  });

  // The story: of a snapshot whose record was damaged it was said that Calque had not taken it.
  test("says of a snapshot whose record cannot be used what is wrong with it, and the way out", async () => {
    const here = furnished();
    take(here, "foo", { name: "second" });
    here.rewrite("instances/foo/snapshots/1.json", (text) => text.slice(0, 100));
    here.rewrite("instances/foo/snapshots/2.json", () => '{"schema": 2}');
    expect(
      await session(here.cli, [
        "get local.foo.clean.comment",
        "set local.foo.clean.comment=x",
        "set local.foo.second.comment=x",
        "set local.foo.clean.name=eins",
        "get local.foo.eins.name",
        "restore --destructive foo.eins",
      ]),
    ).toMatchInlineSnapshot(`
      "$ get local.foo.clean.comment
      <empty>
      ! warning: snapshot foo.clean is broken: snapshots/1.json is not JSON
      = 0
      $ set local.foo.clean.comment=x
      ! set failed: snapshot foo.clean is broken: snapshots/1.json is not JSON
      ! hint: its disk can be restored all the same; for a comment, put "STORE/instances/foo/snapshots/1.json" back, from a copy
      = 2
      $ set local.foo.second.comment=x
      ! set failed: snapshot foo.second is broken: made by a newer Calque: snapshots/2.json has schema 2
      = 2
      $ set local.foo.clean.name=eins
      = 0
      $ get local.foo.eins.name
      eins
      = 0
      $ restore --destructive foo.eins
      Snapshot restored: foo.eins
      ! warning: snapshot foo.eins is broken: snapshots/1.json is not JSON
      ! hint: the disk is restored; cpus, memory and mounts stay as they are
      = 0
      "
    `);
  });

  test("refuses a larger disk where the image cannot have one", async () => {
    const here = world();
    make(here.store, ["old", "marked"]);
    execFileSync("qemu-img", ["amend", "-f", "qcow2", "-o", "compat=0.10", here.disk("old")]);
    take(here, "old");
    execFileSync("qemu-img", ["bitmap", "--add", here.disk("marked"), "b"]);
    expect(await session(here.cli, ["set local.old.disk=2M", "set local.marked.disk=2M"]))
      .toMatchInlineSnapshot(`
        "$ set local.old.disk=2M
        ! set failed: "STORE/instances/old/disk.qcow2": Version 2 images with snapshots cannot change their size
        = 2
        $ set local.marked.disk=2M
        ! set failed: "STORE/instances/marked/disk.qcow2": Device has active dirty bitmaps
        ! hint: the bitmaps describe a disk of the present size
        = 2
        "
      `);
  });
});

describe("get", () => {
  test("shows sizes as Multipass does, or in bytes", async () => {
    const { cli } = furnished();
    expect(
      await session(cli, [
        "set local.foo.disk=1250K",
        "get local.foo.disk",
        "get --raw local.foo.disk",
        "get --bytes local.foo.disk",
        "get --bytes local.foo.memory",
        "get --bytes local.foo.cpus",
        "get local.foo.clean.name",
      ]),
    ).toMatchInlineSnapshot(`
      "$ set local.foo.disk=1250K
      = 0
      $ get local.foo.disk
      1.2MiB
      = 0
      $ get --raw local.foo.disk
      1.2MiB
      = 0
      $ get --bytes local.foo.disk
      1280000
      = 0
      $ get --bytes local.foo.memory
      1073741824
      = 0
      $ get --bytes local.foo.cpus
      1
      = 0
      $ get local.foo.clean.name
      clean
      = 0
      "
    `);
  });

  test("lists the keys there are, sorted, or echoes one of them", async () => {
    const here = furnished();
    const { cli, store } = here;
    make(store, ["foo-1"]);
    expect(await cli("get", "--keys")).toMatchInlineSnapshot(`
      "local.foo-1.cpus
      local.foo-1.disk
      local.foo-1.memory
      local.foo.clean.comment
      local.foo.clean.name
      local.foo.cpus
      local.foo.disk
      local.foo.memory
      local.gone.clean.comment
      local.gone.clean.name
      local.gone.cpus
      local.gone.disk
      local.gone.memory
      = 0"
    `);
    make(store, ["gone"]);
    expect(withoutIds(await cli("get", "--keys"))).toMatchInlineSnapshot(`
      "local.foo-1.cpus
      local.foo-1.disk
      local.foo-1.memory
      local.foo.clean.comment
      local.foo.clean.name
      local.foo.cpus
      local.foo.disk
      local.foo.memory
      local.gone.cpus
      local.gone.disk
      local.gone.memory
      local.gone@YYYYMMDD-hhmmss-xxxx.clean.comment
      local.gone@YYYYMMDD-hhmmss-xxxx.clean.name
      local.gone@YYYYMMDD-hhmmss-xxxx.cpus
      local.gone@YYYYMMDD-hhmmss-xxxx.disk
      local.gone@YYYYMMDD-hhmmss-xxxx.memory
      = 0"
    `);
    expect(
      await session(cli, [
        "get --keys local.foo.cpus",
        "get --keys local.none.cpus",
        "get --keys local.foo.clean.comment",
        "get --keys local.foo.none.comment",
        "get --keys client.primary-name",
      ]),
    ).toMatchInlineSnapshot(`
      "$ get --keys local.foo.cpus
      local.foo.cpus
      = 0
      $ get --keys local.none.cpus
      ! get failed: Cannot obtain instance settings; instance: none; reason: No such instance
      = 2
      $ get --keys local.foo.clean.comment
      local.foo.clean.comment
      = 0
      $ get --keys local.foo.none.comment
      ! get failed: Cannot access snapshot settings; reason: No such snapshot: foo.none
      = 2
      $ get --keys client.primary-name
      ! Unrecognized settings key: 'client.primary-name'
      = 1
      "
    `);
    expect(await world().cli("get", "--keys")).toMatchInlineSnapshot(`"= 0"`);
  });

  test("lists a key that works also for a snapshot whose name has a dot", async () => {
    const { cli, store, disk } = world();
    make(store, ["foo"]);
    takeForeign(disk("foo"), ["with.dot"]);
    expect(await session(cli, ["get --keys", "get local.foo.@1.name"])).toMatchInlineSnapshot(`
      "$ get --keys
      local.foo.@1.comment
      local.foo.@1.name
      local.foo.cpus
      local.foo.disk
      local.foo.memory
      = 0
      $ get local.foo.@1.name
      with.dot
      = 0
      "
    `);
  });

  test("reads what is in the trash, too", async () => {
    const { cli, id } = furnished();
    const lines = ["get local.gone.cpus", `get local.gone@${id}.cpus`, "get local.gone.clean.name"];
    expect(withoutIds(await session(cli, lines))).toMatchInlineSnapshot(`
      "$ get local.gone.cpus
      1
      = 0
      $ get local.gone@YYYYMMDD-hhmmss-xxxx.cpus
      1
      = 0
      $ get local.gone.clean.name
      clean
      = 0
      "
    `);
  });

  test("reads while somebody uses the disk", async () => {
    const { cli, disk } = furnished();
    await using _ = await Holder.io(disk("foo"));
    expect(await session(cli, ["get local.foo.disk", "get local.foo.clean.comment"]))
      .toMatchInlineSnapshot(`
        "$ get local.foo.disk
        1.0MiB
        = 0
        $ get local.foo.clean.comment
        as new
        = 0
        "
      `);
  });

  test("words what is wrong with a line, or a key", async () => {
    const here = furnished();
    takeForeign(here.disk("foo"), ["theirs", "twin", "twin"]);
    expect(
      await session(here.cli, [
        "get",
        "get --raw",
        "get a b",
        "get --keys a b",
        "get client.primary-name",
        "get local.driver",
        "get local.none.cpus",
        "get local.a.b.cpus",
        "get local.none.clean.name",
        "get local.foo.none.name",
        "get local.foo.none.comment",
        "get local.foo.twin.name",
        "get local.foo.theirs.comment",
        "get local.foo.cpus.name",
        ["get", ""],
      ]),
    ).toMatchInlineSnapshot(`
      "$ get
      ! Multiple settings not implemented yet. Please try again with one setting key or just the \`--keys\` option for now.
      = 1
      $ get --raw
      ! Multiple settings not implemented yet. Please try again with one setting key or just the \`--keys\` option for now.
      = 1
      $ get a b
      ! Need at most one setting key.
      = 1
      $ get --keys a b
      ! Need at most one setting key.
      = 1
      $ get client.primary-name
      ! Unrecognized settings key: 'client.primary-name'
      = 1
      $ get local.driver
      ! get failed: Unrecognized settings key: 'local.driver'
      = 2
      $ get local.none.cpus
      ! get failed: Cannot obtain instance settings; instance: none; reason: No such instance
      = 2
      $ get local.a.b.cpus
      ! get failed: Cannot obtain instance settings; instance: a.b; reason: No such instance
      = 2
      $ get local.none.clean.name
      ! get failed: Cannot access snapshot settings; instance: none; reason: No such instance
      = 2
      $ get local.foo.none.name
      ! get failed: Cannot access snapshot settings; reason: No such snapshot: foo.none
      = 2
      $ get local.foo.none.comment
      ! get failed: Cannot access snapshot settings; reason: No such snapshot: foo.none
      = 2
      $ get local.foo.twin.name
      ! get failed: Several snapshots are called foo.twin: foo.@3, foo.@4
      = 2
      $ get local.foo.theirs.comment
      <empty>
      = 0
      $ get local.foo.cpus.name
      ! get failed: Cannot access snapshot settings; reason: No such snapshot: foo.cpus
      = 2
      $ get 
      ! Unrecognized settings key: ''
      = 1
      "
    `);
  });
});
