// `get`: a setting of an instance or of a snapshot, and which there are.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { failed, UsageError } from "../failure.ts";
import { StateError } from "../state/errors.ts";
import { findSnapshot, type InstanceSummary, type InstanceView } from "../state/snapshots.ts";
import type { Store } from "../state/store.ts";
import { humanSize } from "../text/human-size.ts";
import { sentence } from "../text/sentences.ts";
import { inOrder, shownSnapshots } from "./entries.ts";
import { readInstance, warnOfSnapshot } from "./reading.ts";
import { parseKey, SETTINGS_HELP, type SnapshotKey, unknownKey } from "./settings.ts";
import { displayed, withStore } from "./store.ts";

export default new Command("get")
  .usage("[options] [<arg>]")
  .description(
    `Get the configuration setting corresponding to the given key, or all settings if no key is specified.
(Support for multiple keys and wildcards coming...)

${SETTINGS_HELP}`,
  )
  .option(
    "--raw",
    "Output in raw format. For now, this affects only the representation of empty values (i.e. " +
      '"" instead of "<empty>").',
  )
  .option(
    "--keys",
    "List available settings keys. This outputs the whole list of currently available settings " +
      "keys, or just <arg>, if provided and a valid key.",
  )
  .addition("--bytes", "Output sizes in bytes")
  .operand("arg", "Setting key, i.e. path to the intended setting.")
  .example("get local.web-1.memory", "How much memory has it?")
  .example("get local.web-1.clean.comment", "What is this snapshot for?")
  .action(({ options, operands }, context) => {
    const [text, ...others] = operands;
    if (others.length > 0) throw new UsageError(sentence("get.one"));
    if (text === undefined && !options.keys) throw new UsageError(sentence("get.several"));
    return withStore("get", context, (store) => {
      if (text === undefined) {
        for (const key of allKeys(store)) displayed(context, key);
        return 0;
      }
      const value = read(store, text, options, context);
      showValue(options.keys ? text : value, options.raw, context);
      return 0;
    });
  });

/** Line by line: a comment may have several. */
function showValue(value: string, isRaw: boolean, context: Context): void {
  if (value === "" && !isRaw) displayed(context, "<empty>");
  else for (const line of value.split("\n")) displayed(context, line);
}

/** The value as it is shown. Also of an instance in the trash. */
function read(store: Store, text: string, sizes: { bytes: boolean }, context: Context): string {
  const key = parseKey(text);
  if (key === undefined) throw unknownKey("get", text);
  const listed = store.find(key.instance);
  if (listed === undefined) {
    const about = key.of === "instance" ? "get.instance" : "settings.snapshot";
    const reason = sentence("settings.no-instance");
    throw failed("get", sentence(about, { instance: key.instance, reason }));
  }
  return key.of === "instance"
    ? instanceValue(store.summary(listed), key.property, sizes)
    : snapshotValue(store.view(listed), key, context);
}

function instanceValue(
  { record, diskBytes }: InstanceSummary,
  property: "cpus" | "disk" | "memory",
  { bytes }: { bytes: boolean },
): string {
  const size = bytes ? String : humanSize;
  switch (property) {
    case "cpus":
      return String(record.cpus);
    case "memory":
      return size(record.memoryBytes);
    case "disk":
      return size(diskBytes);
  }
}

function snapshotValue(
  view: InstanceView,
  { instance, snapshot: selector, property }: SnapshotKey,
  context: Context,
): string {
  try {
    const snapshot = findSnapshot(view, selector);
    if (property === "name") return snapshot.name;
    warnOfSnapshot(instance, { name: selector, snapshot }, context);
    return snapshot.record?.comment ?? "";
  } catch (error) {
    if (!(error instanceof StateError) || error.code !== "snapshot-missing") throw error;
    const reason = sentence("snapshot.missing", { instance, snapshot: selector });
    throw failed("get", sentence("settings.snapshots", { reason }));
  }
}

function allKeys(store: Store): string[] {
  const keys = inOrder(store.list()).flatMap((shown) => {
    const found = readInstance(shown, (listed) => shownSnapshots(store.view(listed)));
    if (found?.content === undefined) return [];
    const ofSnapshots = found.content.flatMap(({ name, snapshot }) => {
      // In a key, a dot would end the name.
      const selector = name.includes(".") ? `@${snapshot.id}` : name;
      return [`${selector}.comment`, `${selector}.name`];
    });
    return ["cpus", "disk", "memory", ...ofSnapshots].map((key) => `local.${shown.name}.${key}`);
  });
  return keys.toSorted((a, b) => (a < b ? -1 : 1));
}
