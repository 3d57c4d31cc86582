// What happened to an instance: one line of JSON per committed operation, in its directory.
//
// A line is added after the commit and not flushed: the history tells of what is done, and nothing
// depends on it. A power cut may take lines or tear one; what is no line of ours, or is nested more
// deeply than a record may be, is skipped.

import { type StoreAccess, timestamp } from "./access.ts";
import { isWithin, MOST_LEVELS } from "./depth.ts";
import { attempt } from "./files.ts";
import { displayName } from "./list.ts";
import { instancePaths } from "./paths.ts";
import { fits, type HistoryEntry } from "./schema.ts";
import type { Whereabouts } from "./view.ts";

/** What an operation tells of itself. */
export interface Event {
  readonly operation: string;
  readonly [detail: string]: string | number;
}

export function historyLine(access: StoreAccess, { operation, ...details }: Event): string {
  const { version } = access;
  return `${JSON.stringify({ when: timestamp(access), operation, ...details, version })}\n`;
}

/** Adds a line. The operation is committed: that the line cannot be written is a warning. */
export function remember(access: StoreAccess, where: Whereabouts, event: Event): void {
  const { history } = instancePaths(where.directory);
  const failure = attempt(() => access.files.append(history, historyLine(access, event)));
  if (failure === undefined) return;
  const { reason } = failure;
  access.warn({ code: "history-unwritten", instance: displayName(where), reason });
}

/** The lines, oldest first. */
export function readHistory({ files }: StoreAccess, where: Whereabouts): HistoryEntry[] {
  const text = files.readOne(instancePaths(where.directory).history) ?? "";
  return text.split("\n").flatMap((line) => {
    const entry = parse(line);
    return fits("entry", entry) ? entry : [];
  });
}

function parse(line: string): unknown {
  try {
    const value: unknown = JSON.parse(line);
    return isWithin(value, MOST_LEVELS) ? value : undefined;
  } catch {
    return undefined;
  }
}
