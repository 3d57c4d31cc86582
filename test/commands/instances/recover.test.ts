// `recover` and `purge`: what comes out of the trash, and how it is emptied.

import { describe, expect, test } from "vitest";

import { Holder } from "../../e2e/support.ts";
import { make } from "../../state/scene.ts";
import { session, take, within, withoutIds, withoutProcess, type World, world } from "./world.ts";

/** Deletes an instance of that name, which is made for it; its id in the trash. */
function trashed({ store }: World, name: string): string {
  make(store, [name]);
  return store.trash(name);
}

describe("the help", () => {
  test("of recover and purge is Multipass's when it is called so", async () => {
    const { called } = world();
    const multipass = called({ argv0: "multipass" });
    expect(await session(multipass, ["help recover", "help purge"])).toMatchInlineSnapshot(`
      "$ help recover
      Usage: multipass recover [options] <name> [<name> ...]
      Recover deleted instances so they can be used again.

      Options:
        -h, --help     Displays help on commandline options
        -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                       for more detail. Maximum verbosity is obtained with 4 (or more)
                       v's, i.e. -vvvv.
        --all          Recover all deleted instances

      Arguments:
        name           Names of instances to recover
      = 0
      $ help purge
      Usage: multipass purge [options]
      Purge all deleted instances permanently, including all their data.

      Options:
        -h, --help     Displays help on commandline options
        -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                       for more detail. Maximum verbosity is obtained with 4 (or more)
                       v's, i.e. -vvvv.
      = 0
      "
    `);
  });

  test("of recover has what Multipass has not in a part of its own", async () => {
    expect(await world().cli("help", "recover")).toMatchInlineSnapshot(`
      "Usage: calque recover [options] <name> [<name> ...]
      Recover deleted instances so they can be used again.

      Options:
        -h, --help     Displays help on commandline options
        -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                       for more detail. Maximum verbosity is obtained with 4 (or more)
                       v's, i.e. -vvvv.
        --all          Recover all deleted instances

      Arguments:
        name           Names of instances to recover

      Options that Multipass does not have:
        --name <name>  Give the recovered instance this name

      Examples:
        calque recover web-1
            Get it back; of several that had the name, the newest
        calque recover web-1 --name web-old
            Get it back beside the one that has its name now
      = 0"
    `);
  });
});

describe("recover", () => {
  test("brings instances back with their snapshots, without a word", async () => {
    const here = world();
    make(here.store, ["foo", "bar"]);
    take(here, "foo", { name: "clean", comment: "as new" });
    const lines = [
      "delete foo bar",
      "recover foo bar foo",
      "list",
      "list --snapshots",
      "history foo",
    ];
    expect(withoutIds(await session(here.cli, lines))).toMatchInlineSnapshot(`
      "$ delete foo bar
      = 0
      $ recover foo bar foo
      = 0
      $ list
      Name                    State             IPv4             Image
      bar                     Stopped           --               Not Available
      foo                     Stopped           --               Not Available
      = 0
      $ list --snapshots
      Instance   Snapshot   Parent   Comment
      foo        clean      --       as new
      = 0
      $ history foo
      Time                           Version   Operation   Details
      Fri Aug 21 21:48:55 2026 UTC   0.1.0     create
      Fri Aug 21 21:48:55 2026 UTC   0.1.0     snapshot    snapshot: clean, id: 1
      Wed Nov 25 11:29:09 2026 UTC   0.1.0     delete
      Wed Nov 25 11:29:09 2026 UTC   0.1.0     recover     from: foo@YYYYMMDD-hhmmss-xxxx
      = 0
      "
    `);
  });

  test("does nothing for one that lives", async () => {
    const { cli, store } = world();
    make(store, ["foo"]);
    expect(await session(cli, ["recover foo", "recover foo --name bar", "recover --all"]))
      .toMatchInlineSnapshot(`
        "$ recover foo
        = 0
        $ recover foo --name bar
        ! recover failed: instance "foo" does not need to be recovered
        = 2
        $ recover --all
        = 0
        "
      `);
  });

  test("words what is wrong with a line", async () => {
    const { cli } = world();
    expect(
      await session(cli, [
        "recover",
        "recover --all foo",
        "recover --all foo bar",
        "recover foo bar --name x",
        "recover --all --name x",
        "recover foo --purge",
      ]),
    ).toMatchInlineSnapshot(`
      "$ recover
      ! Name argument or --all is required
      = 1
      $ recover --all foo
      ! Cannot specify name when --all option set
      = 1
      $ recover --all foo bar
      ! Cannot specify names when --all option set
      = 1
      $ recover foo bar --name x
      ! Cannot use '--name' with more than one instance
      = 1
      $ recover --all --name x
      ! Cannot use '--name' with more than one instance
      = 1
      $ recover foo --purge
      ! Unknown option 'purge'.
      = 1
      "
    `);
  });

  test("brings none back if one of them is not there", async () => {
    const here = world();
    trashed(here, "foo");
    expect(await session(here.cli, ["recover foo none other.a none", "recover foo@1"]))
      .toMatchInlineSnapshot(`
        "$ recover foo none other.a none
        ! recover failed: The following errors occurred:
        ! instance "none" does not exist
        ! instance "other.a" does not exist
        = 2
        $ recover foo@1
        ! recover failed: The following errors occurred:
        ! instance "foo@1" does not exist
        = 2
        "
      `);
    expect(within(here, "instances")).toEqual([]);
  });

  test("of several that had the name brings back the newest, or the one with the id", async () => {
    const here = world();
    const [first, second, third] = [1, 2, 3].map(() => trashed(here, "foo"));
    expect(withoutIds(await here.cli("recover", "foo"))).toMatchInlineSnapshot(`
      "! hint: of several deleted instances "foo", the newest was recovered: foo@YYYYMMDD-hhmmss-xxxx
      = 0"
    `);
    expect(within(here, "trash")).toEqual([`foo@${first}`, `foo@${second}`]);
    here.store.purge(here.store.living("foo"));
    expect(third! > second!).toBe(true);
    expect(await here.cli("recover", `foo@${first}`)).toMatchInlineSnapshot(`"= 0"`);
    expect(within(here, "trash")).toEqual([`foo@${second}`]);
  });

  test("refuses a name that was taken since, and offers another", async () => {
    const here = world();
    const { cli, called, store } = here;
    const id = trashed(here, "foo");
    trashed(here, "bar");
    make(store, ["foo", "foo-2"]);
    expect(withoutIds(await cli("recover", "bar", "foo"))).toMatchInlineSnapshot(`
      "! recover failed: instance "foo" already exists
      ! hint: \`calque recover foo@YYYYMMDD-hhmmss-xxxx --name foo-3\` brings it back beside that one
      = 2"
    `);
    expect(within(here, "instances")).toEqual(["foo", "foo-2"]);
    const multipass = called({ argv0: "multipass" });
    expect(withoutIds(await multipass("recover", `foo@${id}`))).toMatchInlineSnapshot(`
      "! recover failed: instance "foo" already exists
      ! hint: \`multipass recover foo@YYYYMMDD-hhmmss-xxxx --name foo-3\` brings it back beside that one
      = 2"
    `);
    expect(await cli("recover", `foo@${id}`, "--name", "foo-3")).toMatchInlineSnapshot(`"= 0"`);
    expect(within(here, "instances")).toEqual(["foo", "foo-2", "foo-3"]);
    {
      using _ = store.reserve(["baz"]);
      trashed(here, "qux");
      expect(await session(cli, ["recover qux --name baz", "recover qux --name _"]))
        .toMatchInlineSnapshot(`
          "$ recover qux --name baz
          ! recover failed: instance "baz" is being prepared
          = 2
          $ recover qux --name _
          ! recover failed: Invalid instance name: _
          ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
          = 2
          "
        `);
    }
    expect(within(here, "trash")).toHaveLength(2);
  });

  test("brings none back if two of them had one name", async () => {
    const here = world();
    const ids = [1, 2].map(() => trashed(here, "foo"));
    const names = ids.map((id) => `foo@${id}`);
    expect(withoutIds(await here.cli("recover", ...names))).toMatchInlineSnapshot(`
      "! recover failed: instance "foo" already exists
      ! hint: \`calque recover foo@YYYYMMDD-hhmmss-xxxx --name foo-2\` brings it back beside that one
      = 2"
    `);
    expect(within(here, "trash")).toEqual(names);
    // Named twice, it is one.
    expect(withoutIds(await here.cli("recover", "foo", names[1]!))).toMatchInlineSnapshot(`
      "! hint: of several deleted instances "foo", the newest was recovered: foo@YYYYMMDD-hhmmss-xxxx
      = 0"
    `);
    expect(within(here, "trash")).toEqual([names[0]]);
  });

  test("with --all brings back all that can be, and says what cannot", async () => {
    const here = world();
    for (const name of ["foo", "foo", "bar", "baz", "newer"]) trashed(here, name);
    make(here.store, ["bar"]);
    const newer = within(here, "trash").find((name) => name.startsWith("newer"))!;
    here.rewrite(`trash/${newer}/instance.json`, (text) =>
      text.replace('"schema": 1', '"schema": 2'),
    );
    expect(withoutIds(await here.cli("recover", "--all"))).toMatchInlineSnapshot(`
      "! recover failed: The following errors occurred:
      ! instance "bar" already exists
      ! hint: \`calque recover bar@YYYYMMDD-hhmmss-xxxx --name bar-2\` brings it back beside that one
      ! instance "foo" already exists
      ! hint: \`calque recover foo@YYYYMMDD-hhmmss-xxxx --name foo-2\` brings it back beside that one
      ! instance "newer@YYYYMMDD-hhmmss-xxxx" is broken: made by a newer Calque: instance.json has schema 2
      = 2"
    `);
    expect(within(here, "instances")).toEqual(["bar", "baz", "foo"]);
    expect(withoutIds(await here.cli("recover", "newer", "bar"))).toMatchInlineSnapshot(`
      "! recover failed: instance "newer@YYYYMMDD-hhmmss-xxxx" is broken: made by a newer Calque: instance.json has schema 2
      = 2"
    `);
    expect(await world().cli("recover", "--all")).toMatchInlineSnapshot(`"= 0"`);
  });

  test("refuses one that somebody uses", async () => {
    const here = world();
    const id = trashed(here, "foo");
    trashed(here, "bar");
    await using _ = await Holder.io(`${here.root}/trash/foo@${id}/disk.qcow2`);
    const lines = ["recover bar foo", "list", "recover --all", "list"];
    expect(withoutIds(withoutProcess(await session(here.cli, lines)))).toMatchInlineSnapshot(`
      "$ recover bar foo
      ! recover failed: instance "foo@YYYYMMDD-hhmmss-xxxx" is in use
      ! "foo@YYYYMMDD-hhmmss-xxxx" is used by qemu-io (process PID)
      = 2
      $ list
      Name                    State             IPv4             Image
      bar                     Deleted           --               Not Available
      foo                     Deleted           --               Not Available
      = 0
      $ recover --all
      ! recover failed: The following errors occurred:
      ! instance "foo@YYYYMMDD-hhmmss-xxxx" is in use
      ! "foo@YYYYMMDD-hhmmss-xxxx" is used by qemu-io (process PID)
      = 2
      $ list
      Name                    State             IPv4             Image
      bar                     Stopped           --               Not Available
      foo                     Deleted           --               Not Available
      = 0
      "
    `);
  });
});

describe("purge", () => {
  test("empties the trash, and leaves what lives", async () => {
    const here = world();
    for (const name of ["foo", "foo", "bar"]) trashed(here, name);
    make(here.store, ["foo"]);
    expect(await session(here.cli, ["purge", "list", "purge"])).toMatchInlineSnapshot(`
      "$ purge
      = 0
      $ list
      Name                    State             IPv4             Image
      foo                     Stopped           --               Not Available
      = 0
      $ purge
      = 0
      "
    `);
    expect([within(here, "trash"), within(here, "stage")]).toEqual([[], []]);
  });

  test("words what is wrong with a line, and makes no store", async () => {
    const { cli, root } = world();
    expect(await session(cli, ["purge foo", "purge --all", "purge"])).toMatchInlineSnapshot(`
      "$ purge foo
      ! This command takes no arguments
      = 1
      $ purge --all
      ! Unknown option 'all'.
      = 1
      $ purge
      = 0
      "
    `);
    expect(await world().cli("list")).toContain("No instances found.");
    expect(within({ root } as World, "..")).toEqual([]);
  });

  test("goes on past what somebody uses, or a newer Calque made", async () => {
    const here = world();
    const [first] = ["bar", "foo", "newer"].map((name) => trashed(here, name));
    const newer = within(here, "trash").find((name) => name.startsWith("newer"))!;
    here.rewrite(`trash/${newer}/instance.json`, (text) =>
      text.replace('"schema": 1', '"schema": 2'),
    );
    await using _ = await Holder.io(`${here.root}/trash/bar@${first}/disk.qcow2`);
    expect(withoutIds(withoutProcess(await here.cli("purge")))).toMatchInlineSnapshot(`
      "! purge failed: The following errors occurred:
      ! instance "bar@YYYYMMDD-hhmmss-xxxx" is in use
      ! "bar@YYYYMMDD-hhmmss-xxxx" is used by qemu-io (process PID)
      ! instance "newer@YYYYMMDD-hhmmss-xxxx" is broken: made by a newer Calque: instance.json has schema 2
      = 2"
    `);
    expect(within(here, "trash").map((name) => name.replace(/@.*/, ""))).toEqual(["bar", "newer"]);
  });
});
