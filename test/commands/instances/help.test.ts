// The help of the commands that read instances. For those of Multipass, it is Multipass's to the
// byte, with its lines of 80 columns where Qt makes them.

import { expect, test } from "vitest";

import { app } from "../app.ts";

const multipass = app({ argv0: "multipass" });

test("list explains itself as in Multipass, also by its other name", async () => {
  expect(await multipass("help", "list")).toMatchInlineSnapshot(`
    "Usage: multipass list [options]
    List all instances or snapshots which have been created.

    Options:
      -h, --help         Displays help on commandline options
      -v, --verbose      Increase logging verbosity. Repeat the 'v' in the short
                         option for more detail. Maximum verbosity is obtained with
                         4 (or more) v's, i.e. -vvvv.
      --snapshots        List all available snapshots
      --format <format>  Output list in the requested format.
                         Valid formats are: table (default), json, csv and yaml
    = 0"
  `);
  for (const line of [
    ["help", "ls"],
    ["list", "--help"],
    ["ls", "-h"],
    ["-h", "list"],
  ]) {
    expect(await multipass(...line)).toBe(await multipass("help", "list"));
  }
});

test("info explains itself as in Multipass", async () => {
  expect(await multipass("help", "info")).toMatchInlineSnapshot(`
    "Usage: multipass info [options] <instance>[.snapshot] [<instance>[.snapshot] ...]
    Display information about instances or snapshots

    Options:
      -h, --help         Displays help on commandline options
      -v, --verbose      Increase logging verbosity. Repeat the 'v' in the short
                         option for more detail. Maximum verbosity is obtained with
                         4 (or more) v's, i.e. -vvvv.
      --snapshots        Display detailed information about the snapshots of
                         specified instances. This option has no effect on snapshot
                         arguments. Omit instance/snapshot arguments to obtain
                         detailed information on all the snapshots of all instances.
      --format <format>  Output info in the requested format.
                         Valid formats are: table (default), json, csv and yaml.

    Arguments:
      instance/snapshot  Names of instances or snapshots to display information
                         about
    = 0"
  `);
});

test("path explains how to run the disk, and where a store may lie", async () => {
  expect(await app()("help", "path")).toMatchInlineSnapshot(`
    "Usage: calque path [options] <instance>
    Print the absolute path of the disk of an instance, and nothing else.

    Give it to whatever runs virtual machines:

      qemu-system-x86_64 -m 2G -drive file=$(calque path web-1),format=qcow2
      virt-install --import --name web-1 --memory 2048 --osinfo linux2022 \\
          --disk path=$(calque path web-1),format=qcow2

    As long as something has the disk open for writing, the instance is Running.

    A store can lie beside a libvirt pool, so that both are on one file system:

      export CALQUE_HOME=/var/lib/libvirt/calque

    It belongs to the user who works with it, and nobody else can write to it. The
    machines of qemu:///session run as that user. Those of qemu:///system run as one
    who must be let through to the disk:

      chmod o+x $CALQUE_HOME $CALQUE_HOME/instances $(dirname $(calque path web-1))

    Options:
      -h, --help     Displays help on commandline options
      -v, --verbose  Increase logging verbosity. Repeat the 'v' in the short option
                     for more detail. Maximum verbosity is obtained with 4 (or more)
                     v's, i.e. -vvvv.

    Arguments:
      instance       The name of an instance
    = 0"
  `);
});

test("history explains itself", async () => {
  expect(await app()("help", "history")).toMatchInlineSnapshot(`
    "Usage: calque history [options] <instance>
    Display what has been done to an instance, the oldest first. Each line says by
    which version of Calque.

    Options:
      -h, --help         Displays help on commandline options
      -v, --verbose      Increase logging verbosity. Repeat the 'v' in the short
                         option for more detail. Maximum verbosity is obtained with
                         4 (or more) v's, i.e. -vvvv.
      --format <format>  Output history in the requested format.
                         Valid formats are: table (default) and json

    Arguments:
      instance           The name of an instance
    = 0"
  `);
});
