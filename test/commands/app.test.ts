// The program around its commands: versions, help, names that it does not know, and mistakes before
// any command.

import { readFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { version } from "../../src/version.ts";
import { app } from "./app.ts";
import { played } from "./vehicle.ts";

describe("the program", () => {
  test("has the version of its package", () => {
    const manifest = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
    expect(version).toBe(manifest.version);
  });

  test("says its version", async () => {
    const cli = app();
    expect(await cli("--version")).toMatchInlineSnapshot(`
      "calque   0.1.0
      = 0"
    `);
    expect(await cli("-V")).toBe(await cli("--version"));
    expect(await cli("-v", "--version")).toBe(await cli("--version"));
    expect(await cli("image", "--version")).toBe(await cli("--version"));
    expect(await cli("version")).toBe(await cli("--version"));
    expect(await cli("version", "-vv")).toBe(await cli("--version"));
  });

  test("says its version in Multipass's formats", async () => {
    const cli = app();
    expect(await cli("version", "--format", "table")).toMatchInlineSnapshot(`
      "calque   0.1.0
      = 0"
    `);
    expect(await cli("version", "--format", "json")).toMatchInlineSnapshot(`
      "{
          "calque": "0.1.0"
      }
      = 0"
    `);
    expect(await cli("version", "--format=yaml")).toMatchInlineSnapshot(`
      "calque: 0.1.0
      = 0"
    `);
    expect(await cli("version", "--format=csv")).toMatchInlineSnapshot(`
      "Calque,Calqued,Title,Description,URL
      0.1.0,,,,
      = 0"
    `);
    expect(await cli("version", "--format=xml")).toMatchInlineSnapshot(`
      "! Invalid format type given.
      = 1"
    `);
    expect(await cli("version", "now")).toMatchInlineSnapshot(`
      "! This command takes no arguments
      = 1"
    `);
  });

  test("answers as multipass when it is called so", async () => {
    const cli = app({ argv0: "/usr/local/bin/multipass" });
    expect(await cli("--version")).toMatchInlineSnapshot(`
      "multipass   0.1.0
      = 0"
    `);
    expect(await cli("version", "--format=csv")).toMatchInlineSnapshot(`
      "Multipass,Multipassd,Title,Description,URL
      0.1.0,,,,
      = 0"
    `);
    expect(await cli("lunch")).toMatchInlineSnapshot(`
      "Error: Unknown command or alias 'lunch' (try "multipass help")
      = 1"
    `);
    expect(await cli("image", "info")).toMatchInlineSnapshot(`
      "! error: Expecting one image file name
      ! Try 'multipass image info --help' for more info
      = 1"
    `);
  });

  test("answers as calque whatever its file is called", async () => {
    const cli = app({ argv0: "./calque-0.1.0-linux" });
    expect(await cli("--version")).toMatchInlineSnapshot(`
      "calque   0.1.0
      = 0"
    `);
  });

  test("shows its help without a command, but ends with 2", async () => {
    const cli = app();
    expect(await cli()).toMatchInlineSnapshot(`
      "Usage: calque [options] <command>
      Clone and snapshot virtual machine disks in milliseconds.

      This is one executable file; it needs no daemon, no root and no network.

      Options:
        -h, --help     Displays help on commandline options
        -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                       for more detail. Maximum verbosity is obtained with 4 (or more)
                       v's, i.e. -vvvv.

      Available commands:
        check     Check the disk of an instance for errors
        clone     Clone an instance
        create    Create an instance with an empty disk
        delete    Delete instances and snapshots
        export    Write the disk of an instance to a file
        get       Get a configuration setting
        help      Display help about a command
        history   Display what has been done to an instance
        image     Work on qcow2 files where they lie
        import    Make an instance of a disk
        info      Display information about instances or snapshots
        list      List all available instances or snapshots
        path      Print where the disk of an instance is
        purge     Purge all deleted instances permanently
        recover   Recover deleted instances
        restore   Restore an instance from a snapshot
        set       Set a configuration setting
        snapshot  Take a snapshot of an instance
        version   Show version details

      Examples:
        calque import disk.qcow2 --name web-1
            Make an instance of a disk
        calque snapshot web-1 --name clean
            Take a snapshot of it
        calque clone web-1 --name worker --count 20
            Make twenty of it
        calque image snapshot -c before-upgrade disk.qcow2
            Take a snapshot
        calque image clone disk.qcow2 copy-1.qcow2 copy-2.qcow2
            Make two clones
        calque help image
            List what can be done with an image
      = 2"
    `);
    expect(await cli("-v")).toBe(await cli());
    const help = (await cli()).replace("= 2", "= 0");
    for (const args of [["help"], ["--help"], ["-h"], ["-v", "-h"]]) {
      expect(await cli(...args)).toBe(help);
    }
  });

  test("names a command that it does not have", async () => {
    const cli = app();
    expect(await cli("lunch")).toMatchInlineSnapshot(`
      "Error: Unknown command or alias 'lunch' (try "calque help")
      = 1"
    `);
  });

  test("cannot be made to move a terminal's cursor by what it repeats", async () => {
    const cli = app({ terminal: true });
    expect(await cli("a\u001b[2Jb\nc")).toMatchInlineSnapshot(`
      "Error: Unknown command or alias 'a\\u001b[2Jb\\u000ac' (try "calque help")
      = 1"
    `);
    expect(await cli("image", "info", "--a\u001b[2Jb\nc")).toMatchInlineSnapshot(`
      "! error: unrecognized option '--a\\u001b[2Jb\\u000ac'
      ! Try 'calque image info --help' for more info
      = 1"
    `);
  });

  test("words mistakes before and in a command of the instances as Qt does", async () => {
    const cli = app();
    expect(await cli("--frobnicate", "version")).toMatchInlineSnapshot(`
      "! Unknown option 'frobnicate'.
      = 1"
    `);
    expect(await cli("version", "-x", "--yes", "-vz")).toMatchInlineSnapshot(`
      "! Unknown options: x, yes, z.
      = 1"
    `);
    expect(await cli("version", "-\u{1f480}v")).toMatchInlineSnapshot(`
      "! Unknown option '💀'.
      = 1"
    `);
    expect(await cli("version", "--format")).toMatchInlineSnapshot(`
      "! Missing value after '--format'.
      = 1"
    `);
    expect(await cli("version", "--verbose=3")).toMatchInlineSnapshot(`
      "! Unexpected value after '--verbose'.
      = 1"
    `);
    expect(await cli("version", "-v=3")).toMatchInlineSnapshot(`
      "! Unexpected value after '-v'.
      = 1"
    `);
  });

  test("lets a mistake win over a request for help, as Qt does", async () => {
    const cli = app();
    expect(await cli("version", "--help", "-x")).toMatchInlineSnapshot(`
      "! Unknown option 'x'.
      = 1"
    `);
  });

  played("ends on a bug of its own with the exception", async () => {
    const cli = app();
    await expect(cli("image", "info", "disk.qcow2")).rejects.toThrow("asked for imageInfo");
  });

  played("takes an answer without report and failure for a bug", async () => {
    const cli = app({ imageInfo: () => ({}) });
    await expect(cli("image", "info", "x")).rejects.toThrow("the core answered nothing");
  });
});

describe("help", () => {
  test("shows what a group has", async () => {
    const cli = app();
    expect(await cli("help", "image")).toMatchInlineSnapshot(`
      "Usage: calque image [options] <command>
      Work on qcow2 files where they lie.

      The command lines and the output of check, create, info and snapshot are those
      of qemu-img; clone and what is marked as an addition are Calque's own.

      Options:
        -h, --help  Displays help on commandline options

      Available commands:
        check     Check an image for errors
        clone     Make clones of an image that share its blocks where possible
        create    Create an empty image
        info      Display information about an image
        snapshot  List, take, apply, delete and rename snapshots in an image

      Examples:
        calque image info disk.qcow2
            What is it?
        calque image snapshot -c before-upgrade disk.qcow2
            Take a snapshot
        calque image snapshot -a before-upgrade disk.qcow2
            Go back to it
        calque image clone disk.qcow2 copy-1.qcow2 copy-2.qcow2
            Make two clones
        calque help image snapshot
            Learn more about one of them
      = 0"
    `);
    expect(await cli("image", "--help")).toBe(await cli("help", "image"));
    expect(await cli("--help", "image")).toBe(await cli("help", "image"));
    expect(await cli("image", "help")).toBe(await cli("help", "image"));
  });

  test("explains itself and the version", async () => {
    const cli = app();
    expect(await cli("help", "help")).toMatchInlineSnapshot(`
      "Usage: calque help [options] [<command> ...]
      Display help about a command

      Options:
        -h, --help     Displays help on commandline options
        -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                       for more detail. Maximum verbosity is obtained with 4 (or more)
                       v's, i.e. -vvvv.

      Arguments:
        command        Name of command to display help for
      = 0"
    `);
    expect(await cli("help", "version")).toMatchInlineSnapshot(`
      "Usage: calque version [options]
      Display version information

      Options:
        -h, --help         Displays help on commandline options
        -v, --verbose      Increase logging verbosity. Repeat the 'v' in the short
                           option for more detail. Maximum verbosity is obtained with
                           4 (or more) v's, i.e. -vvvv.
        --format <format>  Output version information in the requested format.
                           Valid formats are: table (default), json, csv and yaml
      = 0"
    `);
    expect(await cli("version", "-h")).toBe(await cli("help", "version"));
  });

  test("explains every command of a group", async () => {
    const cli = app();
    for (const verb of ["check", "clone", "create", "info", "snapshot"]) {
      const help = await cli("help", "image", verb);
      for (const line of ["image VERB --help", "image help VERB", "--help image VERB"]) {
        expect(await cli(...line.replace("VERB", verb).split(" "))).toBe(help);
      }
      expect(await cli("image", verb, "-h", "--not-read-any-more")).toContain("Examples:");
    }
    expect(await cli("help", "image", "check")).toMatchInlineSnapshot(`
      "Usage: calque image check [-q] [-f qcow2] [-U] [--output human|json] FILE
             calque image check -r leaks|all [-q] [-f qcow2] [--no-wait]
                                [--output human|json] FILE
      Check an image for errors; without -r, nothing is written.

      What -r repairs changes in one step: whatever interrupts it leaves the image as
      it was, or repaired. No data is changed; entries that lead nowhere stay errors.

      The exit status says what was found, after a repair what is left:

        0   no errors
        1   the check was not completed
        2   corruptions: data may be damaged
        3   leaked clusters: space is wasted, data is not in danger
        63  the image cannot be checked

      Options:
        -h, --help             Displays help on commandline options
        -q, --quiet            Print nothing on standard output
        -f, --format <format>  The format of the image; only qcow2 is accepted, and
                               nothing is ever guessed
        -U, --force-share      Read the image also while somebody else writes to it;
                               what is read may be torn (not with -r)
        --output <format>      Output for people (human, the default) or for programs
                               (json)
        -r, --repair <what>    Repair leaked clusters (leaks), or everything that can
                               be repaired (all)
        --no-wait              Fail at once when another Calque is at work on the
                               image, instead of waiting for it (only with -r)

      Arguments:
        FILE                   The image

      Examples:
        calque image check disk.qcow2
            Check a disk that nobody uses
        calque image check -q disk.qcow2 && echo clean
            Ask in a script
        calque image check -r leaks disk.qcow2
            Free what is counted and unused
        calque image check -r all disk.qcow2
            Repair a disk after a crash of its last user
      = 0"
    `);
    expect(await cli("help", "image", "clone")).toMatchInlineSnapshot(`
      "Usage: calque image clone [-q] [-f qcow2] [--strategy auto|reflink|copy]
                                [--from-snapshot NAME | --keep-snapshots]
                                [--output human|json] [--no-wait] SOURCE TARGET...
      Make clones of an image that nobody writes to. All of them are made, or none.

      Where the file system can do that, a clone shares the blocks of its source
      until one of them is changed; otherwise it is a copy of what the source uses,
      and the reason is printed. A target that exists is never replaced.

      Options:
        -h, --help              Displays help on commandline options
        -q, --quiet             Print nothing on standard output
        -f, --format <format>   The format of the image; only qcow2 is accepted, and
                                nothing is ever guessed
        --strategy <strategy>   How: share blocks or else copy (auto, the default),
                                share them or fail (reflink), or copy
        --from-snapshot <name>  Clone what the disk held at the snapshot of this ID
                                or, if there is none, this name
        --keep-snapshots        Give the clones the snapshots of the source, too
        --output <format>       Output for people (human, the default) or for
                                programs (json)
        --no-wait               Fail at once when another Calque is at work on the
                                image, instead of waiting for it

      Arguments:
        SOURCE                  The image to clone
        TARGET                  The files to make

      Examples:
        calque image clone disk.qcow2 copy.qcow2
            One clone
        calque image clone base.qcow2 web-1.qcow2 web-2.qcow2 web-3.qcow2
            Three at once
        calque image clone --from-snapshot v1 disk.qcow2 old.qcow2
            The disk as it was
        calque image clone --output json disk.qcow2 copy.qcow2
            Say it for a program
      = 0"
    `);
    expect(await cli("help", "image", "create")).toMatchInlineSnapshot(`
      "Usage: calque image create [-q] [-f qcow2] [-o OPTIONS] [--no-wait] FILE [SIZE]
             calque image create -o help
      Create an empty image. A file that exists is overwritten, unless it is in use.

      Options:
        -h, --help               Displays help on commandline options
        -q, --quiet              Print nothing on standard output
        -f, --format <format>    The format of the image; only qcow2, which is the
                                 default
        -o, --options <options>  Options of the format, as NAME=VALUE,NAME=VALUE:
                                 cluster_size, compat, compression_type, extended_l2,
                                 lazy_refcounts, refcount_bits, size; \`help\` lists
                                 them
        --no-wait                Fail at once when another Calque is at work on the
                                 image, instead of waiting for it

      Arguments:
        FILE                     The image to create
        SIZE                     The size of the disk, unless \`-o size=SIZE\` gives
                                 it; b, k, M, G, T, P and E are powers of 1024, 1.5G
                                 works

      Examples:
        calque image create disk.qcow2 20G
            An empty disk of 20 GiB
        calque image create -o cluster_size=2M disk.qcow2 4T
            A large one, with larger clusters
      = 0"
    `);
    expect(await cli("help", "image", "info")).toMatchInlineSnapshot(`
      "Usage: calque image info [-f qcow2] [-U] [--output human|json] FILE
      Display information about an image. No other file that it names is opened.

      Options:
        -h, --help             Displays help on commandline options
        -f, --format <format>  The format of the image; only qcow2 is accepted, and
                               nothing is ever guessed
        -U, --force-share      Read the image also while somebody else writes to it;
                               what is read may be torn
        --output <format>      Output for people (human, the default) or for programs
                               (json)

      Arguments:
        FILE                   The image

      Examples:
        calque image info disk.qcow2
            Sizes, format details and snapshots
        calque image info --output json disk.qcow2
            The same for a program
      = 0"
    `);
    expect(await cli("help", "image", "snapshot")).toMatchInlineSnapshot(`
      "Usage: calque image snapshot [-l] [-q] [-f qcow2] [-U] FILE
             calque image snapshot -c NAME [-q] [-f qcow2] [--no-wait] FILE
             calque image snapshot -a NAME [--drop-bitmaps] [-q] [-f qcow2]
                                   [--no-wait] FILE
             calque image snapshot -d NAME [-q] [-f qcow2] [--no-wait] FILE
             calque image snapshot --rename OLD NEW [-q] [-f qcow2] [--no-wait] FILE
      List, take, apply, delete and rename the snapshots inside an image.

      Each change happens completely or not at all, whatever interrupts it.

      Options:
        -h, --help             Displays help on commandline options
        -l, --list             List the snapshots (the default)
        -c, --create <name>    Take a snapshot of what the disk holds now
        -a, --apply <name>     Make the disk hold what it held at the snapshot of
                               this ID or, if there is none, this name; what it holds
                               now is lost unless it is in a snapshot
        --drop-bitmaps         With -a, give up the image's dirty bitmaps, which
                               would be wrong afterwards (an addition to qemu-img,
                               which refuses)
        -d, --delete <name>    Delete the snapshot of this name
        --rename <old>         Give the snapshot of this ID or, if there is none,
                               this name the name NEW (an addition to qemu-img)
        -q, --quiet            Accepted as by qemu-img; there is nothing to be quiet
                               about
        -f, --format <format>  The format of the image; only qcow2 is accepted, and
                               nothing is ever guessed
        -U, --force-share      Read the image also while somebody else writes to it;
                               what is read may be torn (only with -l)
        --no-wait              Fail at once when another Calque is at work on the
                               image, instead of waiting for it (only with changes)

      Arguments:
        NEW                    With --rename, the new name
        FILE                   The image

      Examples:
        calque image snapshot -c before-upgrade disk.qcow2
            Take a snapshot
        calque image snapshot disk.qcow2
            List what there is
        calque image snapshot -a before-upgrade disk.qcow2
            Go back to it
        calque image snapshot --rename before-upgrade v1 disk.qcow2
            Call it v1
      = 0"
    `);
  });

  test("fits a terminal of 80 columns", async () => {
    const cli = app();
    for (const verb of [[], ["check"], ["clone"], ["create"], ["info"], ["snapshot"]]) {
      const lines = (await cli("help", "image", ...verb)).split("\n");
      expect(lines.filter((line) => line.length > 79)).toEqual([]);
    }
  });

  test("names every option in a usage line", async () => {
    const cli = app();
    for (const verb of ["check", "clone", "create", "info", "snapshot"]) {
      const help = await cli("help", "image", verb);
      const [usage = ""] = /^Usage:.*\n(?: .*\n)*/.exec(help) ?? [];
      const options = help.match(/^ {2}(-\w|--[\w-]+)/gm) ?? [];
      expect(options.length).toBeGreaterThan(2);
      expect(options.map((option) => option.trim()).filter((it) => !usage.includes(it))).toEqual([
        "-h",
      ]);
    }
  });

  test("does not know what is not there", async () => {
    const cli = app();
    expect(await cli("help", "lunch")).toMatchInlineSnapshot(`
      "! Error: Unknown Command: 'lunch'
      ! hint: \`calque help\` lists the commands
      = 1"
    `);
    expect(await cli("help", "image", "convert")).toMatchInlineSnapshot(`
      "! Error: Unknown Command: 'convert'
      ! hint: \`calque help image\` lists the commands
      = 1"
    `);
    expect(await cli("image", "help", "lunch")).toMatchInlineSnapshot(`
      "! Error: Unknown Command: 'lunch'
      ! hint: \`calque help image\` lists the commands
      = 1"
    `);
    expect(await cli("image", "--help", "lunch")).toMatchInlineSnapshot(`
      "! error: Command not found: lunch
      ! Try 'calque image --help' for more info
      = 1"
    `);
    expect(await cli("help", "version", "json")).toMatchInlineSnapshot(`
      "! Too many arguments given
      = 1"
    `);
  });
});
