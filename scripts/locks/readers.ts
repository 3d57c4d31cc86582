// Whether somebody who looks at an image while it changes is ever told that it is damaged: `info`
// and `check` in loops, beside snapshots that are taken and deleted.

import { type Command, type Ending, must, Place, start } from "./programs.ts";

export interface ReadersReport {
  /** Snapshots that were taken and deleted. */
  pairs: number;
  clean: number;
  /** In use, or changing all the time. */
  busy: number;
  /** Anything else, which should be nothing. */
  other: number;
  /** What the first of the others said. */
  said?: string;
}

const BUSY = /keeps changing|Failed to get (shared )?"/;

/** Takes and deletes `pairs` snapshots with `program`, and counts what readers say meanwhile. */
export async function countReaders(
  calque: string,
  program: readonly [string, ...string[]],
  parent: string,
  pairs: number,
): Promise<ReadersReport> {
  using place = await Place.make(parent);
  const { file } = place;
  const report: ReadersReport = { pairs: 0, clean: 0, busy: 0, other: 0 };
  const note = ({ status, stdout, stderr }: Ending): void => {
    if (status === 0) report.clean += 1;
    else if (status === 1 && BUSY.test(stderr)) report.busy += 1;
    else {
      report.other += 1;
      report.said ??= `${status}: ${stdout}${stderr}`;
    }
  };
  const over = new AbortController();
  const look = async (command: Command): Promise<void> => {
    while (!over.signal.aborted) note(await start(command));
  };
  const looking = [look([calque, "image", "info", file]), look([calque, "image", "check", file])];
  try {
    for (; report.pairs < pairs; report.pairs += 1) {
      await must([...program, "snapshot", "-c", "new", file]);
      await must([...program, "snapshot", "-d", "new", file]);
    }
  } finally {
    over.abort();
    await Promise.all(looking);
  }
  await must(["qemu-img", "check", "-q", file]);
  return report;
}
