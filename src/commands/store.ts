// The store, as the commands on instances use it: what it refuses, warns of and waits for becomes
// sentences here.

import type { Context } from "../context.ts";
import { type CommandError, failed, UsageError } from "../failure.ts";
import { type Failure, NativeFailure, type Reply, unwrap } from "../native.ts";
import type { Problem, Refusal, StateWarning } from "../state/errors.ts";
import { StateError } from "../state/errors.ts";
import { displayName, type Listed } from "../state/list.ts";
import { openStore, type Store } from "../state/store.ts";
import { sentence } from "../text/sentences.ts";
import { version } from "../version.ts";

/** Lets a command work on the store. What the store cannot do ends it: `list failed: …`, 2. */
export async function withStore<Result>(
  command: string,
  context: Context,
  action: (store: Store) => Result | Promise<Result>,
  words: Words = {},
): Promise<Result> {
  try {
    return await action(useStore(context));
  } catch (error) {
    throw asFailure(command, error, words);
  }
}

/** What a command says to a refusal in words of its own. */
export type Words = {
  [Code in Refusal["code"]]?: (refusal: Extract<Refusal, { code: Code }>) => string;
};

function useStore(context: Context): Store {
  const { native, stderr } = context;
  return openStore({
    native,
    version,
    now: () => context.now(),
    randomBytes: (count) => context.randomBytes(count),
    env: (name) => context.env(name),
    warn: (warning) => warn(context, warningText(warning)),
    waiting: (path) => (holder) => {
      stderr.write(`${stderr.name(sentence("store.waiting", { holder, path }))}\n`);
    },
  });
}

/** Tells what does not stop the command. */
export function warn({ stderr }: Context, text: string): void {
  stderr.write(`${stderr.name(sentence("warning", { text }))}\n`);
}

/** An error of the store as what ends the command; any other one as it is. */
function asFailure(command: string, error: unknown, words: Words): unknown {
  if (error instanceof StateError) {
    const { details } = error;
    const own = words[details.code] as ((refusal: Refusal) => string) | undefined;
    return failed(command, own?.(details) ?? refusalText(details), refusalLines(details));
  }
  return error instanceof NativeFailure ? coreFailure(command, error, words) : error;
}

/** A failure of the core, with the file that it is about. */
function coreFailure(command: string, { failure }: NativeFailure, words: Words): CommandError {
  const { code, path, reason } = failure;
  const lines = hintLines(failure);
  // Somebody came between our look and the core's.
  const inUse = code === "in-use" ? words["in-use"]?.({ code, instance: path ?? "" }) : undefined;
  if (inUse !== undefined) return failed(command, inUse, lines);
  const message = path === undefined ? reason : sentence("store.failure", { path, reason });
  return failed(command, message, lines);
}

/** What the core says besides: how things are, or the way out. */
export function hintLines({ code, hint = "" }: Failure): string[] {
  const texts = hint.split("\n").filter((text) => text !== "");
  if (code === "cannot-share") texts.push(sentence("clone.share-not"));
  return texts.map((text) => sentence("hint", { text }));
}

/**
 * What the core did in a stage. Where it failed, nobody needs to know the path there: it is gone
 * before they could look.
 */
export function unwrapStaged<Report>(reply: Reply<Report>, targets: readonly string[]): Report {
  const { failure } = reply;
  if (failure?.path === undefined || !targets.includes(failure.path)) return unwrap(reply);
  const { path: _, ...rest } = failure;
  throw new NativeFailure(rest);
}

/** The program's name in sentences about itself. */
export function programName({ program }: Context): { Program: string } {
  return { Program: program === "multipass" ? "Multipass" : "Calque" };
}

/** Tells what is good to know. */
export function tellHint({ stderr }: Context, text: string): void {
  stderr.write(`${stderr.name(sentence("hint", { text }))}\n`);
}

/** Writes a line of the result. */
export function displayed({ stdout }: Context, text: string): void {
  stdout.write(`${stdout.name(text)}\n`);
}

/** `instance.snapshot` in its parts; without a dot there is no snapshot. The first dot counts. */
export function splitTarget(text: string): { instance: string; snapshot?: string } {
  const dot = text.indexOf(".");
  if (dot < 0) return { instance: text };
  return { instance: text.slice(0, dot), snapshot: text.slice(dot + 1) };
}

/** Refuses what somebody may write to, and says who that is. */
export function ensureUnused(store: Store, listed: readonly Listed[]): void {
  for (const [one, { use, holder }] of store.users(listed)) {
    if (use !== "writer") continue;
    const instance = displayName(one);
    throw new StateError({ code: "in-use", instance, ...(holder === undefined ? {} : { holder }) });
  }
}

/** Either names or `--all`, as several commands want it. */
export function requireNamesOrAll(operands: readonly string[], all: boolean): void {
  if (!all && operands.length === 0) throw new UsageError(sentence("all.needed"));
  if (all && operands.length > 0) {
    const names = operands.length > 1 ? "arguments.all-and-names" : "arguments.all-and-name";
    throw new UsageError(sentence(names));
  }
}

/** Several errors of one command, in Multipass's form. */
export function severalErrors(command: string, errors: readonly string[]): CommandError {
  return failed(command, sentence("errors.several"), errors);
}

/** The sentence for a refusal, where a command has none of its own. */
export function refusalText(refusal: Refusal): string {
  switch (refusal.code) {
    case "store-relative":
      return sentence("store.relative", refusal);
    case "store-unknown":
      return sentence("store.unknown");
    case "store-refused":
      return sentence("store.refused", refusal);
    case "missing":
      return sentence("instance.missing", refusal);
    case "deleted":
      return sentence("instance.deleted", refusal);
    case "broken":
    case "newer":
      return sentence("instance.broken", {
        instance: refusal.instance,
        reason: problemText({ kind: refusal.code, reason: refusal.reason }),
      });
    case "snapshot-missing":
      return sentence("snapshot.missing", refusal);
    case "snapshot-ambiguous": {
      const { instance, snapshot, ids } = refusal;
      const choices = ids.map((id) => `${instance}.@${id}`).join(", ");
      return sentence("snapshot.ambiguous", { instance, snapshot, choices });
    }
    case "in-use":
      return sentence("instance.in-use", refusal);
    case "invalid-name":
      return sentence("instance.invalid-name", refusal);
    case "name-too-long":
      return sentence("instance.name-too-long", refusal);
    case "name-taken":
      return sentence("instance.exists", { instance: refusal.name });
    case "being-prepared":
      return sentence("instance.being-prepared", { instance: refusal.name });
    case "snapshot-exists":
      return sentence("snapshot.exists", refusal);
    case "snapshot-invalid-name":
      return sentence("snapshot.invalid-name", refusal);
    case "snapshot-foreign":
      return sentence("snapshot.foreign", refusal);
    case "snapshot-broken":
      return sentence("snapshot.broken", { ...refusal, reason: problemText(refusal) });
    case "too-many-snapshots":
      return sentence("snapshot.too-many", refusal);
    case "addresses-exhausted":
      return sentence("clone.addresses", refusal);
  }
}

/** What the user should know besides: who is in the way, what helps. */
export function refusalLines(refusal: Refusal): string[] {
  if (refusal.code === "in-use" && refusal.holder !== undefined) {
    const { instance, holder } = refusal;
    return [sentence("instance.used-by", { instance, holder })];
  }
  if (refusal.code === "snapshot-broken" && refusal.kind === "broken") {
    return [sentence("hint", { text: sentence("snapshot.mend-it", refusal) })];
  }
  if (refusal.code === "name-too-long") {
    return [sentence("hint", { text: sentence("instance.name-it") })];
  }
  if (refusal.code === "invalid-name" || refusal.code === "snapshot-invalid-name") {
    return [sentence("hint", { text: sentence("name.rule") })];
  }
  return [];
}

/** Why an instance or a snapshot is broken. */
export function problemText({ kind, reason }: Problem): string {
  return kind === "newer" ? sentence("problem.newer", { reason }) : reason;
}

function warningText(warning: StateWarning): string {
  switch (warning.code) {
    case "foreign-file":
      return sentence("warning.foreign-file", warning);
    case "overtaken":
      return sentence("warning.overtaken", warning);
    case "history-unwritten":
      return sentence("warning.history", warning);
    case "linked":
      return sentence("warning.linked", warning);
    case "unfinished":
      return sentence("warning.unfinished", warning);
  }
}
