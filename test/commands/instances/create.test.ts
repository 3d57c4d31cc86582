// `create`, and the commands of Multipass that are not there yet.

import { execFileSync } from "node:child_process";

import { describe, expect, test } from "vitest";

import { make } from "../../state/scene.ts";
import { played } from "../vehicle.ts";
import { failing, FULL } from "./core.ts";
import { recordOf, session, within, world } from "./world.ts";

describe("create", () => {
  test("explains itself", async () => {
    expect(await world().cli("help", "create")).toMatchInlineSnapshot(`
      "Usage: calque create [options] <name> --disk <size>
      Create an instance with an empty disk, to be installed on: \`calque path\` says
      where it is.

      Options:
        -h, --help           Displays help on commandline options
        -v, --verbose        Increase logging verbosity. Repeat the 'v' in the short
                             option for more detail. Maximum verbosity is obtained
                             with 4 (or more) v's, i.e. -vvvv.
        -d, --disk <size>    Disk space to allocate. Positive integers, in bytes, or
                             decimals, with K, M, G suffix
        -c, --cpus <number>  Number of CPUs to allocate. Minimum: 1, default: 1.
        -m, --memory <size>  Amount of memory to allocate. Minimum: 128M, default:
                             1G.

      Arguments:
        name                 The name of the instance

      Examples:
        calque create web-1 --disk 20G
            An empty disk of 20 GiB
        calque create db --disk 100G --cpus 4 --memory 8G
            With what it should run on
      = 0"
    `);
  });

  test("makes an instance with an empty disk, and the store if there is none", async () => {
    const here = world();
    expect(
      await session(here.cli, [
        "create web-1 --disk 20G",
        "create db -d 1.5M -c 4 -m 2G",
        "list",
        "history db",
      ]),
    ).toMatchInlineSnapshot(`
      "$ create web-1 --disk 20G
      Created: web-1
      = 0
      $ create db -d 1.5M -c 4 -m 2G
      Created: db
      = 0
      $ list
      Name                    State             IPv4             Image
      db                      Stopped           --               Not Available
      web-1                   Stopped           --               Not Available
      = 0
      $ history db
      Time                           Version   Operation   Details
      Wed Nov 25 11:29:09 2026 UTC   0.1.0     create      diskBytes: 1572864
      = 0
      "
    `);
    const info = JSON.parse(
      execFileSync("qemu-img", ["info", "--output=json", here.disk("web-1")], { encoding: "utf8" }),
    ) as Record<string, unknown>;
    expect(info).toMatchObject({
      "virtual-size": 20 * 2 ** 30,
      "cluster-size": 65_536,
      "format-specific": { data: { compat: "1.1", "refcount-bits": 16 } },
    });
    expect(recordOf(here, "web-1")).toMatchObject({ cpus: 1, memoryBytes: 2 ** 30 });
    expect(recordOf(here, "db")).toMatchObject({
      cpus: 4,
      memoryBytes: 2 ** 31,
      origin: { kind: "create" },
      snapshotCount: 0,
      cloneCount: 0,
    });
    expect(recordOf(here, "db").macAddress).not.toBe(recordOf(here, "web-1").macAddress);
  });

  test("words what is wrong with a line", async () => {
    const here = world();
    expect(
      await session(here.cli, [
        "create",
        "create --disk 1G",
        "create web-1",
        "create web-1 web-2 --disk 1G",
        "create web-1 --disk 0",
        "create web-1 --disk 1T",
        "create web-1 --disk",
        "create web-1 --disk 1G --cpus 0",
        "create web-1 --disk 1G --cpus two",
        "create web-1 --disk 1G --memory 127M",
        "create web-1 --disk 1G --memory lots",
        "create web-1 --disk 1G --name web-2",
      ]),
    ).toMatchInlineSnapshot(`
      "$ create
      ! Please provide the name of the instance to create.
      = 1
      $ create --disk 1G
      ! Please provide the name of the instance to create.
      = 1
      $ create web-1
      ! Please provide the size of the disk with --disk.
      = 1
      $ create web-1 web-2 --disk 1G
      ! Too many arguments supplied.
      = 1
      $ create web-1 --disk 0
      ! Invalid disk size value supplied: 0.
      = 1
      $ create web-1 --disk 1T
      ! Invalid disk size value supplied: 1T.
      = 1
      $ create web-1 --disk
      ! Missing value after '--disk'.
      = 1
      $ create web-1 --disk 1G --cpus 0
      ! Error: invalid CPU count '0', need a positive integer value.
      = 1
      $ create web-1 --disk 1G --cpus two
      ! Error: invalid CPU count 'two', need a positive integer value.
      = 1
      $ create web-1 --disk 1G --memory 127M
      ! Invalid memory size value supplied: 127M.
      = 1
      $ create web-1 --disk 1G --memory lots
      ! Invalid memory size value supplied: lots.
      = 1
      $ create web-1 --disk 1G --name web-2
      ! Unknown option 'name'.
      = 1
      "
    `);
    expect(await here.cli("list")).toContain("No instances found.");
  });

  test("refuses names that nobody can have, or that somebody has", async () => {
    const here = world();
    make(here.store, ["web-1"]);
    using _ = here.store.reserve(["busy"]);
    expect(
      await session(here.cli, [
        "create _ --disk 1M",
        "create web-1 --disk 1M",
        "create busy --disk 1M",
        "create web.1 --disk 1M",
      ]),
    ).toMatchInlineSnapshot(`
      "$ create _ --disk 1M
      ! create failed: Invalid instance name: _
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      $ create web-1 --disk 1M
      ! create failed: instance "web-1" already exists
      = 2
      $ create busy --disk 1M
      ! create failed: instance "busy" is being prepared
      = 2
      $ create web.1 --disk 1M
      ! create failed: Invalid instance name: web.1
      ! hint: a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long
      = 2
      "
    `);
  });

  test("leaves nothing behind when the disk cannot be made", async () => {
    const here = world();
    expect(await here.cli("create", "huge", "--disk", "8000000G")).toMatchInlineSnapshot(`
      "! create failed: The image size is too large for file format 'qcow2' (try using a larger cluster size)
      = 2"
    `);
    expect([within(here, "instances"), within(here, "stage")]).toEqual([[], []]);
  });

  played("leaves nothing behind when the disk is full", async () => {
    const here = world();
    const cli = here.called({ core: { imageCreate: failing(FULL) } });
    expect(await cli("create", "web-1", "--disk", "1G")).toMatchInlineSnapshot(`
      "! create failed: No space left on device
      = 2"
    `);
    expect([within(here, "instances"), within(here, "stage")]).toEqual([[], []]);
  });
});

describe("what is not there yet", () => {
  test("says so, and what to do instead, by each of its names", async () => {
    const { cli, called } = world();
    expect(
      await session(cli, [
        "launch",
        "launch 24.04 --name web-1",
        "start --all",
        "stop web-1",
        "exec web-1 -- ls",
        "shell",
        "sh web-1",
        "connect web-1",
        "launch --help",
        "-h start",
      ]),
    ).toMatchInlineSnapshot(`
      "$ launch
      ! launch failed: Calque has no \`launch\` yet; \`calque help path\` says what can run instances
      = 2
      $ launch 24.04 --name web-1
      ! launch failed: Calque has no \`launch\` yet; \`calque help path\` says what can run instances
      = 2
      $ start --all
      ! start failed: Calque has no \`start\` yet; \`calque help path\` says what can run instances
      = 2
      $ stop web-1
      ! stop failed: Calque has no \`stop\` yet; \`calque help path\` says what can run instances
      = 2
      $ exec web-1 -- ls
      ! exec failed: Calque has no \`exec\` yet; \`calque help path\` says what can run instances
      = 2
      $ shell
      ! shell failed: Calque has no \`shell\` yet; \`calque help path\` says what can run instances
      = 2
      $ sh web-1
      ! shell failed: Calque has no \`shell\` yet; \`calque help path\` says what can run instances
      = 2
      $ connect web-1
      ! shell failed: Calque has no \`shell\` yet; \`calque help path\` says what can run instances
      = 2
      $ launch --help
      ! launch failed: Calque has no \`launch\` yet; \`calque help path\` says what can run instances
      = 2
      $ -h start
      ! start failed: Calque has no \`start\` yet; \`calque help path\` says what can run instances
      = 2
      "
    `);
    expect(await called({ argv0: "multipass" })("start", "web-1")).toMatchInlineSnapshot(`
      "! start failed: Multipass has no \`start\` yet; \`multipass help path\` says what can run instances
      = 2"
    `);
  });

  test("says the same in its help, and what a name is, which others refer to", async () => {
    const { cli, called } = world();
    expect(await session(cli, ["help launch", "help exec", "help sh"])).toMatchInlineSnapshot(`
      "$ help launch
      Calque has no \`launch\` yet; \`calque help path\` says what can run instances

      For instances and snapshots alike, a name has letters, digits and hyphens, begins with a letter, does not end with a hyphen, and is at most 63 characters long.
      = 0
      $ help exec
      Calque has no \`exec\` yet; \`calque help path\` says what can run instances
      = 0
      $ help sh
      Calque has no \`shell\` yet; \`calque help path\` says what can run instances
      = 0
      "
    `);
    expect(await called({ argv0: "multipass" })("help", "stop")).toMatchInlineSnapshot(`
      "Multipass has no \`stop\` yet; \`multipass help path\` says what can run instances
      = 0"
    `);
  });
});
