// Whether a QEMU that starts trips over somebody who only looks: starts with a loop of Calque's
// readers beside them and without, in turns, so that both meet the same weather.

import path from "node:path";

import { type Command, must, Place, start } from "./programs.ts";

const PER_BLOCK = 50;

/** How many QEMUs were started, and how many of them could not open the image. */
export interface Starts {
  started: number;
  failed: number;
}

export interface StartsReport {
  alone: Starts;
  beside: Starts;
  /** How often somebody looked meanwhile. */
  looks: number;
  /** What a QEMU that failed said first. */
  said?: string;
}

/** Starts `count` QEMUs that open an instance's disk to write, and as many beside readers. */
export async function countStarts(
  calque: string,
  parent: string,
  count: number,
): Promise<StartsReport> {
  using place = await Place.make(parent);
  const home = path.join(place.directory, "home");
  await must([calque, "import", "--name", "dev", place.file], home);
  const disk = (await must([calque, "path", "dev"], home)).trim();
  const looks: Command[] = [
    [calque, "image", "info", disk],
    [calque, "image", "check", disk],
    [calque, "image", "snapshot", "-l", disk],
    [calque, "list"],
    [calque, "info", "dev"],
  ];
  const report: StartsReport = {
    alone: { started: 0, failed: 0 },
    beside: { started: 0, failed: 0 },
    looks: 0,
  };
  const begin = async (starts: Starts): Promise<void> => {
    const left = count - starts.started;
    for (let n = Math.min(PER_BLOCK, left); n > 0; n -= 1) {
      const { status, stderr } = await start(["qemu-io", "-f", "qcow2", "-c", "length", disk]);
      starts.started += 1;
      if (status === 0) continue;
      starts.failed += 1;
      report.said ??= stderr;
    }
  };
  while (report.beside.started < count) {
    await begin(report.alone);
    const over = new AbortController();
    const looking = (async () => {
      // It may well find the image in use; that is not the question here.
      for (; !over.signal.aborted; report.looks += 1) {
        await start(looks[report.looks % looks.length]!, home);
      }
    })();
    await begin(report.beside);
    over.abort();
    await looking;
  }
  return report;
}
