// What a check or a repair says of an image, in `qemu-img check`'s words.

import type { CheckReport, RepairReport } from "../native.ts";
import { percentage } from "./number.ts";

/** The summary. */
export function checkText(report: CheckReport): string {
  const { corruptions, leaks, checkErrors, allocatedClusters, totalClusters } = report;
  const lines: string[] = [];
  if (corruptions > 0) {
    lines.push(
      "",
      `${corruptions} errors were found on the image.`,
      "Data may be corrupted, or further writes to the image may corrupt it.",
    );
  }
  if (leaks > 0) {
    lines.push(
      "",
      `${leaks} leaked clusters were found on the image.`,
      "This means waste of disk space, but no harm to data.",
    );
  }
  if (checkErrors > 0) {
    lines.push("", `${checkErrors} internal errors have occurred during the check.`);
  }
  if (lines.length === 0) lines.push("No errors were found on the image.");
  if (allocatedClusters > 0 && totalClusters > 0) {
    const shares = [
      `${allocatedClusters}/${totalClusters} = ${percentage(allocatedClusters, totalClusters)}% allocated`,
      `${percentage(report.fragmentedClusters, allocatedClusters)}% fragmented`,
      `${percentage(report.compressedClusters, allocatedClusters)}% compressed clusters`,
    ];
    lines.push(shares.join(", "));
  }
  lines.push(`Image end offset: ${report.imageEndOffset}`, "");
  return lines.join("\n");
}

/** What stands before the summary of the check that follows a repair. */
export function repairText({ leaksFixed, corruptionsFixed }: RepairReport): string {
  return `The following inconsistencies were found and repaired:

    ${leaksFixed} leaked clusters
    ${corruptionsFixed} corruptions

Double checking the fixed image now...
`;
}

/** What stands behind the lines about single problems. */
export function omissions({ problemsOmitted }: CheckReport): string[] {
  return problemsOmitted > 0 ? [`... and ${problemsOmitted} more problems`] : [];
}

/** The status that a check ends with. */
export function checkStatus({ checkErrors, corruptions, leaks }: CheckReport): number {
  if (checkErrors > 0) return 1;
  if (corruptions > 0) return 2;
  return leaks > 0 ? 3 : 0;
}
