// `path`: where the disk of an instance is, for the programs that run it.

import { Command } from "../command/command.ts";
import { UsageError } from "../failure.ts";
import { StateError } from "../state/errors.ts";
import { sentence } from "../text/sentences.ts";
import { withStore } from "./store.ts";

export default new Command("path")
  .usage("[options] <instance>")
  .description(
    `Print the absolute path of the disk of an instance, and nothing else.

Give it to whatever runs virtual machines:

  qemu-system-x86_64 -m 2G -drive file=$({program} path web-1),format=qcow2
  virt-install --import --name web-1 --memory 2048 --osinfo linux2022 \\
      --disk path=$({program} path web-1),format=qcow2

As long as something has the disk open for writing, the instance is Running.

A store can lie beside a libvirt pool, so that both are on one file system:

  export CALQUE_HOME=/var/lib/libvirt/calque

It belongs to the user who works with it, and nobody else can write to it. The
machines of qemu:///session run as that user. Those of qemu:///system run as one
who must be let through to the disk:

  chmod o+x $CALQUE_HOME $CALQUE_HOME/instances $(dirname $({program} path web-1))`,
  )
  .operand("instance", "The name of an instance")
  .action(({ operands }, context) => {
    const [name, ...others] = operands;
    if (name === undefined) throw new UsageError(sentence("path.name"));
    if (others.length > 0) throw new UsageError(sentence("arguments.too-many"));
    return withStore("path", context, (store) => {
      const listed = store.find(name);
      if (listed?.id !== undefined) throw new StateError({ code: "deleted", instance: name });
      if (listed === undefined) throw new StateError({ code: "missing", instance: name });
      context.stdout.write(`${store.summary(listed).diskPath}\n`);
      return 0;
    });
  });
