// The commands of the first level; one is listed when it is finished.

import type { Group } from "../command/group.ts";

export const top: Group = {
  kind: "group",
  path: "",
  dialect: "qt",
  description: `Clone and snapshot virtual machine disks in milliseconds.

This is one executable file; it needs no daemon, no root and no network.`,
  entries: [
    {
      name: "help",
      summary: "Display help about a command",
      load: () => import("./help.ts"),
    },
    {
      name: "image",
      summary: "Work on qcow2 files where they lie",
      load: () => import("./image/group.ts"),
    },
    {
      name: "version",
      summary: "Show version details",
      load: () => import("./version.ts"),
    },
  ],
  examples: [
    { line: "image snapshot -c before-upgrade disk.qcow2", text: "Take a snapshot" },
    { line: "image clone disk.qcow2 copy-1.qcow2 copy-2.qcow2", text: "Make two clones" },
    { line: "help image", text: "List what can be done with an image" },
  ],
  async missing({ program, stdout }) {
    const { groupHelp } = await import("../command/help.ts");
    stdout.write(groupHelp(top, program));
    return 2;
  },
  unknown(word, { program, stdout, stderr }) {
    const name = stdout.name(word);
    stdout.write(
      `Error: Unknown command or alias '${name}' (try "${program} help" or "${program} aliases")\n`,
    );
    if (IMAGE_VERBS.has(word)) stderr.write(`hint: on image files, \`${program} image ${word}\`\n`);
    return 1;
  },
};

const IMAGE_VERBS = new Set(["check", "clone", "create", "info", "snapshot"]);
