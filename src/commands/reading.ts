// How `list` and `info` look at instances: one that is broken or has gone meanwhile does not keep
// the others from being shown.

import type { Context } from "../context.ts";
import type { ImageUser } from "../native.ts";
import { StateError } from "../state/errors.ts";
import type { Listed } from "../state/list.ts";
import { sentence } from "../text/sentences.ts";
import type { Shown, ShownSnapshot } from "./entries.ts";
import { problemText, warn } from "./store.ts";

/**
 * The instance with what `read` finds out about it; as a broken one where that is impossible.
 * Nothing when somebody has removed it meanwhile.
 */
export function readInstance<Content>(
  shown: Shown,
  read: (listed: Listed) => Content,
): { shown: Shown; content?: Content } | undefined {
  if (shown.listed.problem !== undefined) return { shown };
  try {
    return { shown, content: read(shown.listed) };
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    const { details } = error;
    if (details.code === "missing") return undefined;
    if (details.code !== "broken" && details.code !== "newer") throw error;
    const problem = { kind: details.code, reason: details.reason };
    return { shown: { ...shown, listed: { ...shown.listed, problem } } };
  }
}

/** Tells on stderr what a table has no place for. */
export function warnOfInstance(
  { name: instance, listed }: Shown,
  user: ImageUser | undefined,
  context: Context,
): void {
  const { problem, copyOf, isLinked } = listed;
  if (problem !== undefined) {
    const reason = problemText(problem);
    warn(context, sentence("instance.broken", { instance, reason }));
  } else if (user?.failure !== undefined) {
    const { reason } = user.failure;
    warn(context, sentence("warning.unknown", { instance, reason }));
  }
  if (isLinked) warn(context, sentence("warning.linked", { instance }));
  if (copyOf !== undefined) warn(context, sentence("warning.copy", { instance, original: copyOf }));
}

export function warnOfSnapshot(
  instance: string,
  { name, snapshot: { problem } }: ShownSnapshot,
  context: Context,
): void {
  if (problem === undefined) return;
  const reason = problemText(problem);
  warn(context, sentence("snapshot.broken", { instance, snapshot: name, reason }));
}
