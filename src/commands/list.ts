// `list`: all instances, or all snapshots. Reads the records and looks once at who uses the disks;
// no image is opened unless its snapshots are wanted.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { UsageError } from "../failure.ts";
import type { Store } from "../state/store.ts";
import { type Format, parseFormat } from "../text/format.ts";
import { formatInstances, formatSnapshots } from "../text/list.ts";
import { sentence } from "../text/sentences.ts";
import { inOrder, instanceEntry, shownSnapshots, snapshotEntry } from "./entries.ts";
import { readInstance, warnOfInstance, warnOfSnapshot } from "./reading.ts";
import { withStore } from "./store.ts";

export default new Command("list")
  .usage("[options]")
  .description("List all instances or snapshots which have been created.")
  .option("--snapshots", "List all available snapshots")
  .option(
    "--format <format>",
    "Output list in the requested format.\n" +
      "Valid formats are: table (default), json, csv and yaml",
  )
  .hidden("--no-ipv4")
  .action(({ options, operands }, context) => {
    if (operands.length > 0) throw new UsageError(sentence("arguments.none"));
    if (options.snapshots && options.noIpv4) {
      throw new UsageError(sentence("list.no-addresses"));
    }
    const format = parseFormat(options.format);
    return withStore("list", context, (store) => {
      if (options.snapshots) listSnapshots(store, format, context);
      else listInstances(store, { format, noIpv4: options.noIpv4 }, context);
      return 0;
    });
  });

interface Wanted {
  readonly format: Format;
  readonly noIpv4: boolean;
}

function listInstances(store: Store, { format, noIpv4 }: Wanted, context: Context): void {
  const all = store.list();
  const users = store.users(all);
  const shown = inOrder(all);
  const entries = shown.map((one) => instanceEntry(one, users.get(one.listed)));
  const wanted = noIpv4 ? entries.map((entry) => ({ ...entry, ipv4: [] })) : entries;
  context.stdout.write(formatInstances[format](wanted, context.stdout.name));
  if (format !== "table") return;
  for (const one of shown) warnOfInstance(one, users.get(one.listed), context);
}

function listSnapshots(store: Store, format: Format, context: Context): void {
  const read = inOrder(store.list()).flatMap(
    (one) => readInstance(one, (listed) => shownSnapshots(store.view(listed))) ?? [],
  );
  const entries = read.flatMap(({ shown, content = [] }) =>
    content.map((snapshot) => snapshotEntry(shown.name, snapshot)),
  );
  context.stdout.write(formatSnapshots[format](entries, context.stdout.name));
  // No format has a place for an instance whose snapshots are not known.
  for (const { shown, content = [] } of read) {
    warnOfInstance(shown, undefined, context);
    for (const snapshot of content) warnOfSnapshot(shown.name, snapshot, context);
  }
}
