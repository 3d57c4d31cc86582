// `set`: cpus, memory and disk of an instance, name and comment of a snapshot.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { failed, UsageError } from "../failure.ts";
import { NativeFailure } from "../native.ts";
import type { InstanceChange } from "../state/change.ts";
import { StateError } from "../state/errors.ts";
import { findSnapshot } from "../state/snapshots.ts";
import type { Store } from "../state/store.ts";
import { parseMemorySize } from "../text/memory-size.ts";
import { sentence } from "../text/sentences.ts";
import { LEAST_MEMORY_BYTES } from "./hardware.ts";
import {
  type InstanceKey,
  parseKey,
  SETTINGS_HELP,
  type SnapshotKey,
  unknownKey,
} from "./settings.ts";
import { refusalLines, withStore } from "./store.ts";

export default new Command("set")
  .usage("[options] <key>[=<value>]")
  .description(
    `Set, to the given value, the configuration setting corresponding to the given key.

${SETTINGS_HELP}`,
  )
  .operand(
    "keyval",
    "A key, or a key-value pair. The key specifies a path to the setting to configure. The value " +
      "is its intended value. If only the key is given, the value will be prompted for.",
  )
  .example("set local.web-1.memory=4G", "More memory")
  .example("set local.web-1.disk=40G", "A larger disk")
  .example('set local.web-1.clean.comment="kernel=6.8"', "Say what a snapshot is for")
  .action(async ({ operands }, context) => {
    const [pair, ...others] = operands;
    if (pair === undefined || others.length > 0) throw new UsageError(sentence("set.one"));
    const { key: text, value } = await readPair(pair, context);
    const key = parseKey(text);
    if (key === undefined) throw unknownKey("set", text);
    return withStore("set", context, (store) => {
      if (key.of === "instance") setInstance(store, key, value);
      else setSnapshot(store, key, value);
      return 0;
    });
  });

/** The first `=` separates: a comment may have more. */
async function readPair(pair: string, context: Context): Promise<{ key: string; value: string }> {
  const at = pair.indexOf("=");
  const key = at < 0 ? pair : pair.slice(0, at);
  if (key === "") throw new UsageError(sentence("set.format"));
  if (at >= 0) return { key, value: pair.slice(at + 1) };
  const value = await context.readLine(`${key}: `);
  if (value === undefined) throw new UsageError(sentence("confirm.end"));
  return { key, value };
}

function setInstance(store: Store, key: InstanceKey, value: string): void {
  using change = reach(store, key, "set.instance");
  try {
    change.ensureStopped();
  } catch (error) {
    throw refused(error, key, "set.instance");
  }
  const { record, diskBytes } = change.view;
  switch (key.property) {
    case "cpus": {
      // Spaces around it and a sign are no mistake to Multipass.
      const cpus = /^ *\+?\d+ *$/.test(value) ? Number(value) : 0;
      if (!Number.isSafeInteger(cpus) || cpus < 1) throw invalid(key, value, sentence("set.cpus"));
      if (cpus !== record.cpus) change.update({ cpus });
      break;
    }
    case "memory": {
      const memoryBytes = positiveSize(key, value);
      if (memoryBytes < LEAST_MEMORY_BYTES) throw invalid(key, value, sentence("set.memory"));
      if (memoryBytes !== record.memoryBytes) change.update({ memoryBytes });
      break;
    }
    case "disk": {
      const bytes = positiveSize(key, value);
      if (bytes < diskBytes) throw invalid(key, value, sentence("set.disk"));
      if (bytes !== diskBytes) grow(change, key, { bytes, value });
      break;
    }
  }
}

function grow(
  change: InstanceChange,
  key: InstanceKey,
  { bytes, value }: { bytes: number; value: string },
): void {
  try {
    change.grow(bytes);
  } catch (error) {
    if (!(error instanceof NativeFailure) || error.failure.code !== "too-large") throw error;
    throw invalid(key, value, error.failure.reason);
  }
}

function positiveSize(key: InstanceKey, value: string): number {
  const bytes = parseMemorySize(value);
  if (bytes === undefined) throw invalid(key, value, sentence("set.size", { value }));
  if (bytes === 0) throw invalid(key, value, sentence("set.positive"));
  return bytes;
}

function setSnapshot(store: Store, key: SnapshotKey, value: string): void {
  using change = reach(store, key, "settings.snapshot");
  try {
    const snapshot = findSnapshot(change.view, key.snapshot);
    if (key.property === "comment") change.commentSnapshot(snapshot, value);
    else change.renameSnapshot(snapshot, value);
  } catch (error) {
    throw refused(error, key, "settings.snapshot", value);
  }
}

/** The right to change it. */
function reach(
  store: Store,
  key: InstanceKey | SnapshotKey,
  about: "set.instance" | "settings.snapshot",
): InstanceChange {
  try {
    return store.change(key.instance);
  } catch (error) {
    if (error instanceof StateError && error.code === "missing") {
      throw failed("set", sentence(about, { instance: key.instance, reason: absence(store, key) }));
    }
    throw refused(error, key, about);
  }
}

/** Why there is no instance of that name. */
function absence(store: Store, { instance }: InstanceKey | SnapshotKey): string {
  try {
    store.ensureFree([instance]);
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    if (error.code === "being-prepared") return sentence("set.being-prepared");
  }
  return sentence("settings.no-instance");
}

/** In Multipass's words, which are others here than elsewhere. */
function refused(
  error: unknown,
  key: InstanceKey | SnapshotKey,
  about: "set.instance" | "settings.snapshot",
  value = "",
): unknown {
  if (!(error instanceof StateError)) return error;
  const { details } = error;
  const { instance } = key;
  const say = (reason: string): Error =>
    failed("set", sentence(about, { instance, reason }), refusalLines(details));
  const { code } = details;
  if (code === "deleted") return say(sentence("settings.deleted"));
  if (code === "in-use") return say(sentence("set.stopped"));
  if (code === "snapshot-missing") {
    const reason = sentence("snapshot.missing", details);
    // A rename says no more than this.
    const isRename = key.property === "name";
    return failed("set", isRename ? reason : sentence("settings.snapshots", { reason }));
  }
  if (code !== "snapshot-invalid-name") return error;
  return invalid(key, value, sentence("set.snapshot-name"), refusalLines(details));
}

function invalid(
  key: InstanceKey | SnapshotKey,
  value: string,
  reason: string,
  lines: readonly string[] = [],
): Error {
  const path = [key.instance, ...(key.of === "snapshot" ? [key.snapshot] : []), key.property];
  const setting = `local.${path.join(".")}`;
  return failed("set", sentence("set.invalid", { key: setting, value, reason }), lines);
}
