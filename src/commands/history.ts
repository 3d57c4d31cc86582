// `history`: what happened to an instance, as its directory remembers it.

import { Command } from "../command/command.ts";
import { UsageError } from "../failure.ts";
import { StateError } from "../state/errors.ts";
import type { HistoryEntry } from "../state/schema.ts";
import type { Show } from "../text/entries.ts";
import type { Json } from "../text/json.ts";
import { formatMultipassJson } from "../text/multipass-json.ts";
import { sentence } from "../text/sentences.ts";
import { formatTable } from "../text/table.ts";
import { localTimestamp } from "../text/timestamp.ts";
import { withStore } from "./store.ts";

export default new Command("history")
  .usage("[options] <instance>")
  .description(
    `Display what has been done to an instance, the oldest first. Each line says by
which version of Calque.`,
  )
  .option(
    "--format <format>",
    "Output history in the requested format.\nValid formats are: table (default) and json",
  )
  .operand("instance", "The name of an instance")
  .action(({ options, operands }, context) => {
    const [name, ...others] = operands;
    if (name === undefined) throw new UsageError(sentence("history.name"));
    if (others.length > 0) throw new UsageError(sentence("arguments.too-many"));
    const { format = "table" } = options;
    if (format !== "table" && format !== "json") throw new UsageError(sentence("format.invalid"));
    return withStore("history", context, (store) => {
      const listed = store.find(name);
      if (listed === undefined) throw new StateError({ code: "missing", instance: name });
      const entries = store.history(listed);
      const { write, name: show } = context.stdout;
      write(format === "json" ? asJson(name, entries) : asTable(entries, show));
      return 0;
    });
  });

function asTable(entries: readonly HistoryEntry[], show: Show): string {
  if (entries.length === 0) return `${sentence("history.empty")}\n`;
  const columns = ["Time", "Version", "Operation", "Details"].map((title) => ({ title }));
  const rows = entries.map(({ when, operation, version, ...details }) => {
    const pairs = Object.entries(details).map(
      ([key, value]) => `${key}: ${String(asValue(value))}`,
    );
    const cells = [localTime(when), version, operation];
    // Without an empty one at the end, there are no blanks there.
    return (pairs.length === 0 ? cells : [...cells, pairs.join(", ")]).map(show);
  });
  return formatTable(columns, rows);
}

/** A time as records have it, for people. */
function localTime(when: string): string {
  const milliseconds = Date.parse(when);
  return Number.isNaN(milliseconds) ? when : localTimestamp(Math.floor(milliseconds / 1000));
}

function asJson(instance: string, entries: readonly HistoryEntry[]): string {
  const history = entries.map(
    (entry) => new Map(Object.entries(entry).map(([key, value]) => [key, asValue(value)])),
  );
  return formatMultipassJson({ instance, history });
}

/** What an operation told of itself; of a newer version it may be anything. */
function asValue(value: unknown): Exclude<Json, object> {
  return typeof value === "string" || typeof value === "number" || typeof value === "boolean"
    ? value
    : JSON.stringify(value);
}
