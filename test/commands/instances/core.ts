// Operations of the core that end as a test wants them to.

import type {
  CloneInfo,
  CloneProgress,
  ConvertProgress,
  ConvertReport,
  Failure,
  Native,
  Reply,
} from "../../../src/native.ts";
import { native } from "../../state/scene.ts";

/** Where an operation names the file that it is to change, or to make. */
interface Files {
  path?: string;
  source?: string;
  targets?: readonly string[];
}

/** An operation that fails, because of that file. */
export function failing(failure: Pick<Failure, "code" | "reason">) {
  return ({ path, source, targets }: Files): Reply<never> => {
    const file = targets?.at(-1) ?? path ?? source;
    return {
      failure: { stage: "operation", ...(file === undefined ? {} : { path: file }), ...failure },
    };
  };
}

export const FULL = { code: "no-space", reason: "No space left on device" } as const;

/** How disks were cloned. Whether blocks can be shared depends on where the tests run. */
type How = Pick<CloneInfo, "strategy" | "copiedBytes" | "reason">;

/**
 * Clones, and says that it went like this; tells of these events instead of its own, if there are
 * any.
 */
export function cloning(how: How, ...events: readonly CloneProgress[]): Native["imageClone"] {
  return (request, progress) => {
    for (const event of events) progress?.(event);
    const { report, failure } = native.imageClone(
      request,
      events.length > 0 ? undefined : progress,
    );
    if (report === undefined) return { failure: failure! };
    const clones = report.clones.map((clone) => as(how, clone));
    return { report: { ...report, clones } };
  };
}

/** The same for a conversion. */
export function converting(
  how: How,
  ...events: readonly ConvertProgress[]
): Native["imageConvert"] {
  return (request, progress) => {
    for (const event of events) progress?.(event);
    const { report, failure } = native.imageConvert(
      request,
      events.length > 0 ? undefined : progress,
    );
    return report === undefined ? { failure: failure! } : { report: as(how, report) };
  };
}

function as<Report extends CloneInfo | ConvertReport>(how: How, report: Report): Report {
  const { reason: _, ...rest } = report;
  return { ...rest, ...how } as Report;
}
