// `image`: work on qcow2 files where they lie, in qemu-img's words.

import type { Group } from "../../command/group.ts";
import { CommandError, UsageError } from "../../failure.ts";

const image: Group = {
  kind: "group",
  path: "image",
  dialect: "getopt",
  description: `Work on qcow2 files where they lie.

The command lines and the output of check, create, info and snapshot are those
of qemu-img; clone and what is marked as an addition are Calque's own.`,
  entries: [
    {
      name: "check",
      summary: "Check an image for errors",
      load: () => import("./check.ts"),
    },
    {
      name: "clone",
      summary: "Make clones of an image that share its blocks where possible",
      load: () => import("./clone.ts"),
    },
    {
      name: "create",
      summary: "Create an empty image",
      load: () => import("./create.ts"),
    },
    {
      name: "info",
      summary: "Display information about an image",
      load: () => import("./info.ts"),
    },
    {
      name: "snapshot",
      summary: "List, take, apply, delete and rename snapshots in an image",
      load: () => import("./snapshot.ts"),
    },
  ],
  examples: [
    { line: "image info disk.qcow2", text: "What is it?" },
    { line: "image snapshot -c before-upgrade disk.qcow2", text: "Take a snapshot" },
    { line: "image snapshot -a before-upgrade disk.qcow2", text: "Go back to it" },
    { line: "image clone disk.qcow2 copy-1.qcow2 copy-2.qcow2", text: "Make two clones" },
    { line: "help image snapshot", text: "Learn more about one of them" },
  ],
  missing() {
    throw new UsageError("Not enough arguments");
  },
  unknown(word, { program }) {
    if (!OTHER_VERBS.has(word)) throw new UsageError(`Command not found: ${word}`);
    const verbs = image.entries
      .map(({ name }) => name)
      .join(", ")
      .replace(/, (\w+)$/, " and $1");
    throw new CommandError(
      `Cannot run "${word}": it is a command of qemu-img that Calque does not have`,
      { lines: [`hint: use \`qemu-img ${word}\`; \`${program} image\` has ${verbs}`] },
    );
  },
};

export default image;

const OTHER_VERBS = new Set(
  "amend bench bitmap commit compare convert dd map measure rebase resize".split(" "),
);
