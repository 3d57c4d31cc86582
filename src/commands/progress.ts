// What is shown of a copy that takes its time: on a terminal only, on a line that goes again.

import type { Context } from "../context.ts";
import { humanSize } from "../text/human-size.ts";
import { sentence } from "../text/sentences.ts";

/** How far a copy is, and who it is waiting for. */
export interface CopyProgress {
  copiedBytes: number;
  totalBytes: number;
  waitingFor?: string;
}

/** Shows progress until it is disposed of; `size` writes bytes as the command does. */
export function copyProgress(
  { stderr }: Context,
  path: string,
  size: (bytes: number) => string = humanSize,
): Disposable & { show: (progress: CopyProgress) => void } {
  let isShown = false;
  return {
    show({ copiedBytes, totalBytes, waitingFor }) {
      if (waitingFor !== undefined) {
        const text = sentence("store.waiting", { holder: waitingFor, path });
        stderr.write(`${stderr.name(text)}\n`);
      } else if (stderr.isTerminal && totalBytes > 0) {
        const percent = Math.floor((copiedBytes * 100) / totalBytes);
        const [copied, total] = [size(copiedBytes), size(totalBytes)];
        stderr.write(`\r\x1b[K${sentence("store.copying", { copied, total, percent })}`);
        isShown = true;
      }
    },
    [Symbol.dispose]() {
      if (isShown) stderr.write("\r\x1b[K");
    },
  };
}
