// `info`: what is known about instances and about their snapshots.

import { Command } from "../command/command.ts";
import type { Context } from "../context.ts";
import { UsageError } from "../failure.ts";
import { StateError } from "../state/errors.ts";
import { displayName, type Listed } from "../state/list.ts";
import {
  findSnapshot,
  type InstanceSummary,
  type InstanceView,
  type SnapshotView,
} from "../state/snapshots.ts";
import type { Store } from "../state/store.ts";
import { type Format, parseFormat } from "../text/format.ts";
import { formatInfo } from "../text/info/formats.ts";
import { sentence } from "../text/sentences.ts";
import {
  inOrder,
  instanceDetails,
  type Shown,
  type ShownSnapshot,
  shownSnapshots,
  snapshotDetails,
} from "./entries.ts";
import { readInstance, warnOfInstance, warnOfSnapshot } from "./reading.ts";
import { problemText, refusalText, severalErrors, splitTarget, withStore } from "./store.ts";

export default new Command("info")
  .usage("[options] <instance>[.snapshot] [<instance>[.snapshot] ...]")
  .description("Display information about instances or snapshots")
  .option(
    "--snapshots",
    "Display detailed information about the snapshots of specified instances. This option has no " +
      "effect on snapshot arguments. Omit instance/snapshot arguments to obtain detailed " +
      "information on all the snapshots of all instances.",
  )
  .option(
    "--format <format>",
    "Output info in the requested format.\n" +
      "Valid formats are: table (default), json, csv and yaml.",
  )
  .hidden("--all")
  .hidden("--no-runtime-information")
  .operand("instance/snapshot", "Names of instances or snapshots to display information about")
  .action(({ options, operands }, context) => {
    if (options.all && operands.length > 0) {
      const names = operands.length > 1 ? "arguments.all-and-names" : "arguments.all-and-name";
      throw new UsageError(sentence(names));
    }
    if (options.all) context.stderr.write(`${sentence("info.all-deprecated")}\n`);
    const format = parseFormat(options.format);
    const picks = readArguments(operands);
    if (format === "csv" && !options.snapshots) refuseMixed([...picks.values()]);
    return withStore("info", context, (store) => {
      const wanted = options.snapshots ? "snapshots" : "instances";
      show(store, { picks, wanted, format }, context);
      return 0;
    });
  });

/** What is wanted of one instance. */
interface Choice {
  /** Whether it was named itself. */
  isNamed: boolean;
  /** Snapshots that were named: `@ID`, or a name. */
  readonly selectors: Set<string>;
}

interface Request {
  /** By the instance's name; nothing stands for all instances. */
  readonly picks: ReadonlyMap<string, Choice>;
  /** What the name of an instance stands for. */
  readonly wanted: "instances" | "snapshots";
  readonly format: Format;
}

/** What is wanted, by instance. */
function readArguments(operands: readonly string[]): Map<string, Choice> {
  const picks = new Map<string, Choice>();
  for (const operand of operands) {
    const { instance, snapshot } = splitTarget(operand);
    const pick = picks.get(instance) ?? { isNamed: false, selectors: new Set() };
    picks.set(instance, pick);
    if (snapshot === undefined) pick.isNamed = true;
    else pick.selectors.add(snapshot);
  }
  return picks;
}

/** A table of values can be about instances or about snapshots. */
function refuseMixed(picks: readonly Choice[]): void {
  const areNamed = picks.some(({ isNamed }) => isNamed);
  if (areNamed && picks.some(({ selectors }) => selectors.size > 0)) {
    throw new UsageError(sentence("info.mixed-csv"));
  }
}

function show(store: Store, request: Request, context: Context): void {
  const { wanted, format } = request;
  const chosen = choose(store.list(), request.picks, context);
  const areWanted = chosen.filter(({ pick }) => wanted === "instances" && pick.isNamed);
  const users = store.users(areWanted.map(({ shown }) => shown.listed));
  const read = chosen.flatMap((one) => readChosen(store, one, request) ?? []);

  const instances = read
    .filter(({ pick }) => wanted === "instances" && pick.isNamed)
    .map(({ shown, content }) => {
      const user = users.get(shown.listed);
      return instanceDetails(shown, { root: store.root, user, summary: content?.summary });
    });
  const snapshots = read.flatMap(({ shown, content }) =>
    (content?.snapshots ?? []).map((snapshot) => snapshotDetails(shown.name, snapshot)),
  );
  context.stdout.write(formatInfo[format]({ instances, snapshots, wanted }, context.stdout.name));
  for (const { shown, content } of read) {
    // Of snapshots, no format has a place for an instance that is broken.
    if (format === "table" || wanted === "snapshots") {
      warnOfInstance(shown, users.get(shown.listed), context);
    }
    if (format !== "table") continue;
    for (const snapshot of content?.snapshots ?? []) warnOfSnapshot(shown.name, snapshot, context);
  }
}

/** An instance and what is wanted of it. */
interface Chosen {
  readonly shown: Shown;
  readonly pick: Choice;
}

/** The instances that were asked for, in order. */
function choose(
  all: readonly Listed[],
  picks: ReadonlyMap<string, Choice>,
  { program }: Context,
): Chosen[] {
  const everything = { isNamed: true, selectors: new Set<string>() };
  const found = new Set<string>();
  const chosen = inOrder(all).flatMap((shown) => {
    if (picks.size === 0) return { shown, pick: everything };
    return [...new Set([shown.name, displayName(shown.listed)])].flatMap((name) => {
      const pick = picks.get(name);
      if (pick === undefined) return [];
      found.add(name);
      return { shown, pick };
    });
  });
  const missing = [...picks].filter(([name]) => !found.has(name));
  if (missing.length > 0) {
    const lines = missing.map(([instance]) => sentence("instance.missing", { instance }));
    if (missing.some(isLikelyFile)) {
      lines.push(sentence("hint", { text: sentence("info.hint", { program }) }));
    }
    throw severalErrors("info", lines);
  }
  return chosen;
}

/** Whether somebody means the `info` of image files. */
function isLikelyFile([name, { selectors }]: readonly [string, Choice]): boolean {
  return name.includes("/") || name === "" || selectors.has("qcow2") || selectors.has("img");
}

interface Content {
  readonly summary: InstanceSummary;
  readonly snapshots: readonly ShownSnapshot[];
}

/** Reads an instance, with its snapshots where some are wanted. Nothing when it has gone. */
function readChosen(
  store: Store,
  { shown, pick }: Chosen,
  { picks, wanted }: Request,
): (Chosen & { content?: Content }) | undefined {
  const wantsAll = pick.isNamed && wanted === "snapshots";
  const wantsSome = pick.selectors.size > 0;
  const read = readInstance(shown, (listed): Content => {
    if (!wantsAll && !wantsSome) return { summary: store.summary(listed), snapshots: [] };
    const view = store.view(listed);
    const selected = select({ ...view, name: shown.name, id: undefined }, pick.selectors);
    const snapshots = shownSnapshots(view);
    return {
      summary: view,
      snapshots: wantsAll ? snapshots : snapshots.filter((one) => selected.has(one.snapshot)),
    };
  });
  if (read === undefined) {
    if (picks.size === 0) return undefined;
    throw severalErrors("info", [sentence("instance.missing", { instance: shown.name })]);
  }
  const { problem } = read.shown.listed;
  if (wantsSome && problem !== undefined) {
    const reason = problemText(problem);
    throw severalErrors("info", [sentence("instance.broken", { instance: shown.name, reason })]);
  }
  return { ...read, pick };
}

/** The snapshots that are meant; all that are not there are named at once. */
function select(view: InstanceView, selectors: ReadonlySet<string>): Set<SnapshotView> {
  const selected = new Set<SnapshotView>();
  const errors: string[] = [];
  for (const selector of selectors) {
    try {
      selected.add(findSnapshot(view, selector));
    } catch (error) {
      if (!(error instanceof StateError)) throw error;
      errors.push(refusalText(error.details));
    }
  }
  if (errors.length > 0) throw severalErrors("info", errors);
  return selected;
}
