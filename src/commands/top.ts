// The commands of the first level; one is listed when it is finished.

import type { Group } from "../command/group.ts";
import type { Context } from "../context.ts";
import { failed } from "../failure.ts";

export const top: Group = {
  kind: "group",
  path: "",
  dialect: "qt",
  description: `Clone and snapshot virtual machine disks in milliseconds.

This is one executable file; it needs no daemon, no root and no network.`,
  entries: [
    {
      name: "check",
      summary: "Check the disk of an instance for errors",
      load: () => import("./check.ts"),
    },
    {
      name: "clone",
      summary: "Clone an instance",
      load: () => import("./clone.ts"),
    },
    {
      name: "create",
      summary: "Create an instance with an empty disk",
      load: () => import("./create.ts"),
    },
    {
      name: "delete",
      summary: "Delete instances and snapshots",
      load: () => import("./delete.ts"),
    },
    {
      name: "export",
      summary: "Write the disk of an instance to a file",
      load: () => import("./export.ts"),
    },
    {
      name: "get",
      summary: "Get a configuration setting",
      load: () => import("./get.ts"),
    },
    {
      name: "help",
      summary: "Display help about a command",
      load: () => import("./help.ts"),
    },
    {
      name: "history",
      summary: "Display what has been done to an instance",
      load: () => import("./history.ts"),
    },
    {
      name: "image",
      summary: "Work on qcow2 files where they lie",
      load: () => import("./image/group.ts"),
    },
    {
      name: "import",
      summary: "Make an instance of a disk",
      load: () => import("./import.ts"),
    },
    {
      name: "info",
      summary: "Display information about instances or snapshots",
      load: () => import("./info.ts"),
    },
    {
      name: "list",
      aliases: ["ls"],
      summary: "List all available instances or snapshots",
      load: () => import("./list.ts"),
    },
    {
      name: "path",
      summary: "Print where the disk of an instance is",
      load: () => import("./path.ts"),
    },
    {
      name: "purge",
      summary: "Purge all deleted instances permanently",
      load: () => import("./purge.ts"),
    },
    {
      name: "recover",
      summary: "Recover deleted instances",
      load: () => import("./recover.ts"),
    },
    {
      name: "restore",
      summary: "Restore an instance from a snapshot",
      load: () => import("./restore.ts"),
    },
    {
      name: "set",
      summary: "Set a configuration setting",
      load: () => import("./set.ts"),
    },
    {
      name: "snapshot",
      summary: "Take a snapshot of an instance",
      load: () => import("./snapshot.ts"),
    },
    {
      name: "version",
      summary: "Show version details",
      load: () => import("./version.ts"),
    },
  ],
  examples: [
    { line: "import disk.qcow2 --name web-1", text: "Make an instance of a disk" },
    { line: "snapshot web-1 --name clean", text: "Take a snapshot of it" },
    { line: "clone web-1 --name worker --count 20", text: "Make twenty of it" },
    { line: "image snapshot -c before-upgrade disk.qcow2", text: "Take a snapshot" },
    { line: "image clone disk.qcow2 copy-1.qcow2 copy-2.qcow2", text: "Make two clones" },
    { line: "help image", text: "List what can be done with an image" },
  ],
  async missing({ program, stdout }) {
    const { groupHelp } = await import("../command/help.ts");
    stdout.write(groupHelp(top, program));
    return 2;
  },
  // Multipass's sentence, without its second way out: there is no command `aliases`.
  async unknown(word, context) {
    const verb = laterVerb(word);
    if (verb !== undefined) throw failed(verb, await notYet(verb, context));
    const { program, stdout } = context;
    const name = stdout.name(word);
    stdout.write(`Error: Unknown command or alias '${name}' (try "${program} help")\n`);
    return 1;
  },
};

/** What Multipass does with virtual machines, and Calque not yet, by each of its names. */
const LATER = new Map(
  ["launch", "start", "stop", "exec", "shell"].map((verb): [string, string] => [verb, verb]),
)
  .set("sh", "shell")
  .set("connect", "shell");

/** The name of a command that is not there yet. */
export function laterVerb(word: string): string | undefined {
  return LATER.get(word);
}

/** What is said of it. */
export async function notYet(verb: string, context: Context): Promise<string> {
  const { sentence } = await import("../text/sentences.ts");
  const { programName } = await import("./store.ts");
  const { program } = context;
  return sentence("later.verb", { ...programName(context), program, verb });
}
