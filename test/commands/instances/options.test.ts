// Lines of the commands on instances are read as Qt reads them, by whichever command.

import { describe, expect, test } from "vitest";

import { make } from "../../state/scene.ts";
import { app } from "../app.ts";
import { session, take, type World, world } from "./world.ts";

/** An instance `foo` with a snapshot `clean`. */
function furnished(): World {
  const here = world();
  make(here.store, ["foo"]);
  take(here, "foo", { name: "clean" });
  return here;
}

describe("options", () => {
  test("take values in any of Qt's ways, and the last one counts", async () => {
    expect(
      await session(furnished().cli, [
        "clone --name a foo",
        "clone foo --name=b",
        "clone foo -n c",
        "clone -nd foo",
        "clone -n=e foo",
        "clone foo -n x --name y -nf",
        "clone foo --name x=y",
        "clone -vn g foo",
        "snapshot -vvm=text foo",
        "list --snapshots --format json --format=csv",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone --name a foo
      Cloned from foo to a.
      = 0
      $ clone foo --name=b
      Cloned from foo to b.
      = 0
      $ clone foo -n c
      Cloned from foo to c.
      = 0
      $ clone -nd foo
      Cloned from foo to d.
      = 0
      $ clone -n=e foo
      Cloned from foo to e.
      = 0
      $ clone foo -n x --name y -nf
      Cloned from foo to f.
      = 0
      $ clone foo --name x=y
      ! clone failed: Invalid destination instance name: x=y
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ clone -vn g foo
      Cloned from foo to g.
      = 0
      $ snapshot -vvm=text foo
      Snapshot taken: foo.snapshot2
      = 0
      $ list --snapshots --format json --format=csv
      Instance,Snapshot,Parent,Comment
      foo,clean,,""
      foo,snapshot2,clean,"text"
      = 0
      "
    `);
  });

  test("stand anywhere, but not behind `--`", async () => {
    expect(
      await session(furnished().cli, [
        "-v clone -v foo -v",
        "clone -- foo",
        "clone foo --",
        "clone -- foo -n",
        "delete -- -p --all",
        "restore -vd foo.clean",
        "restore foo.clean -dv",
        "-- list --format csv",
      ]),
    ).toMatchInlineSnapshot(`
      "$ -v clone -v foo -v
      Cloned from foo to foo-clone1.
      = 0
      $ clone -- foo
      Cloned from foo to foo-clone2.
      = 0
      $ clone foo --
      Cloned from foo to foo-clone3.
      = 0
      $ clone -- foo -n
      ! Too many arguments.
      = 1
      $ delete -- -p --all
      ! delete failed: The following errors occurred:
      ! instance "-p" does not exist
      ! instance "--all" does not exist
      = 2
      $ restore -vd foo.clean
      Snapshot restored: foo.clean
      = 0
      $ restore foo.clean -dv
      Snapshot restored: foo.clean
      = 0
      $ -- list --format csv
      Name,State,IPv4,IPv6,Release,AllIPv4
      foo,Stopped,,,Not Available,""
      foo-clone1,Stopped,,,Not Available,""
      foo-clone2,Stopped,,,Not Available,""
      foo-clone3,Stopped,,,Not Available,""
      = 0
      "
    `);
  });

  test("are not to be abbreviated, and take no value if they have none", async () => {
    expect(
      await session(furnished().cli, [
        "clone --nam x foo",
        "delete --purg foo",
        "delete -pa foo",
        "restore --destructive=yes foo.clean",
        "restore -d=yes foo.clean",
        "recover --all=yes",
        "info --snapshots=no",
        "list --format",
        "snapshot foo -c",
        "get --raw=1 local.foo.cpus",
        "--format csv list",
        "--version=3",
        "clone --help=3",
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone --nam x foo
      ! Unknown option 'nam'.
      = 1
      $ delete --purg foo
      ! Unknown option 'purg'.
      = 1
      $ delete -pa foo
      ! Unknown option 'a'.
      = 1
      $ restore --destructive=yes foo.clean
      ! Unexpected value after '--destructive'.
      = 1
      $ restore -d=yes foo.clean
      ! Unexpected value after '-d'.
      = 1
      $ recover --all=yes
      ! Unexpected value after '--all'.
      = 1
      $ info --snapshots=no
      ! Unexpected value after '--snapshots'.
      = 1
      $ list --format
      ! Missing value after '--format'.
      = 1
      $ snapshot foo -c
      ! Missing value after '-c'.
      = 1
      $ get --raw=1 local.foo.cpus
      ! Unexpected value after '--raw'.
      = 1
      $ --format csv list
      ! Unknown option 'format'.
      = 1
      $ --version=3
      ! Unexpected value after '--version'.
      = 1
      $ clone --help=3
      ! Unexpected value after '--help'.
      = 1
      "
    `);
  });

  test("that are empty are none as the name of a snapshot, and a name as that of a clone", async () => {
    expect(
      await session(furnished().cli, [
        "snapshot foo --name=",
        ["snapshot", "-n", "", "foo"],
        "clone foo --name=",
      ]),
    ).toMatchInlineSnapshot(`
      "$ snapshot foo --name=
      Snapshot taken: foo.snapshot2
      = 0
      $ snapshot -n  foo
      Snapshot taken: foo.snapshot3
      = 0
      $ clone foo --name=
      ! clone failed: Invalid destination instance name: 
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      "
    `);
  });

  test("of verbosity are known to every command of Multipass, and change nothing", async () => {
    const { cli } = furnished();
    for (const line of [
      "list",
      "info foo",
      "get local.foo.cpus",
      "get --keys",
      "version",
      "purge",
    ]) {
      const words = line.split(" ");
      const said = await cli(...words);
      for (const option of ["-v", "-vvvv", "-vvvvvv", "--verbose"]) {
        expect(await cli(...words, option)).toBe(said);
        expect(await cli(option, ...words)).toBe(said);
      }
    }
  });
});

describe("a request for help", () => {
  test("wins over what else is on the line, as long as that can be read", async () => {
    const { cli } = furnished();
    const help = await cli("help", "clone");
    for (const line of ["clone -h", "clone --help", "clone foo bar -vh", "-h clone foo bar"]) {
      expect(await cli(...line.split(" "))).toBe(help);
    }
    expect(await session(cli, ["clone foo -hx", "delete -h --name", "list"]))
      .toMatchInlineSnapshot(`
      "$ clone foo -hx
      ! Unknown option 'x'.
      = 1
      $ delete -h --name
      ! Unknown option 'name'.
      = 1
      $ list
      Name                    State             IPv4             Image
      foo                     Stopped           --               Not Available
      = 0
      "
    `);
  });
});

describe("a name that is empty", () => {
  test("is that of nobody", async () => {
    expect(
      await session(furnished().cli, [
        ["clone", ""],
        ["snapshot", ""],
        ["delete", ""],
        ["recover", ""],
        ["restore", ""],
        ["get", ""],
        ["set", ""],
        [""],
      ]),
    ).toMatchInlineSnapshot(`
      "$ clone 
      ! clone failed: instance "" does not exist
      = 2
      $ snapshot 
      ! snapshot failed: instance "" does not exist
      = 2
      $ delete 
      ! delete failed: The following errors occurred:
      ! instance "" does not exist
      = 2
      $ recover 
      ! recover failed: The following errors occurred:
      ! instance "" does not exist
      = 2
      $ restore 
      ! Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>.
      = 1
      $ get 
      ! Unrecognized settings key: ''
      = 1
      $ set 
      ! Bad key-value format.
      = 1
      $ 
      Error: Unknown command or alias '' (try "calque help")
      = 1
      "
    `);
  });
});

describe("a store in which nothing is", () => {
  test("is shown as Multipass shows it, in each of its formats", async () => {
    const lines = ["list", "list --snapshots", "info", "info --snapshots"];
    const formats = ["table", "csv", "yaml", "json"];
    const all = formats.flatMap((format) => lines.map((line) => `${line} --format ${format}`));
    expect(await session(world().cli, all)).toMatchInlineSnapshot(`
      "$ list --format table
      No instances found.
      = 0
      $ list --snapshots --format table
      No snapshots found.
      = 0
      $ info --format table
      No instances found.
      = 0
      $ info --snapshots --format table
      No snapshots found.
      = 0
      $ list --format csv
      Name,State,IPv4,IPv6,Release,AllIPv4
      = 0
      $ list --snapshots --format csv
      Instance,Snapshot,Parent,Comment
      = 0
      $ info --format csv
      = 0
      $ info --snapshots --format csv
      = 0
      $ list --format yaml

      = 0
      $ list --snapshots --format yaml

      = 0
      $ info --format yaml
      errors:
        - ~
      = 0
      $ info --snapshots --format yaml
      errors:
        - ~
      = 0
      $ list --format json
      {
          "list": [
          ]
      }
      = 0
      $ list --snapshots --format json
      {
          "errors": [
          ],
          "info": {
          }
      }
      = 0
      $ info --format json
      {
          "errors": [
          ],
          "info": {
          }
      }
      = 0
      $ info --snapshots --format json
      {
          "errors": [
          ],
          "info": {
          }
      }
      = 0
      "
    `);
  });

  test("has no settings", async () => {
    expect(await world().cli("get", "--keys")).toBe("= 0");
  });
});

describe("the commands of Multipass", () => {
  const here =
    "clone delete exec get help info launch list ls purge recover restore set shell sh connect " +
    "snapshot start stop version";
  const missing =
    "alias aliases auth authenticate copy-files find mount networks prefer restart suspend " +
    "transfer umount unalias unmount";
  const cli = app({ argv0: "multipass" });

  test.each(here.split(" "))("have a help here: %s", async (name) => {
    const expected = /^(?:Usage: multipass |Multipass has no `\w+` yet; )[^]*\n= 0$/;
    expect(await cli("help", name)).toMatch(expected);
  });

  test.each(missing.split(" "))("are unknown where they are not here: %s", async (name) => {
    expect(await cli(name, "foo")).toBe(
      `Error: Unknown command or alias '${name}' (try "multipass help")\n= 1`,
    );
    expect(await cli("help", name)).toBe(
      `! Error: Unknown Command: '${name}'\n! hint: \`multipass help\` lists the commands\n= 1`,
    );
  });
});
