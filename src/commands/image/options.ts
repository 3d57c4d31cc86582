// Options that several of the image commands have, and what is refused of qemu-img's.

import { CommandError, UsageError } from "../../failure.ts";

/** An option of qemu-img that means nothing here. */
export function refusal(name: string, reason: string, status = 1): () => Error {
  return () => new CommandError(`Cannot use '${name}': ${reason}`, { status });
}

export const noObjects = refusal("--object", "there is nothing that takes QEMU objects");
export const noImageOptions = refusal("--image-opts", "an image is named by its file");

export const FORMAT_HELP =
  "The format of the image; only qcow2 is accepted, and nothing is ever guessed";
export const OUTPUT_HELP = "Output for people (human, the default) or for programs (json)";
export const FORCE_SHARE_HELP =
  "Read the image also while somebody else writes to it; what is read may be torn";
export const QUIET_HELP = "Print nothing on standard output";
export const NO_WAIT_HELP =
  "Fail at once when another Calque is at work on the image, instead of waiting for it";

export type OutputFormat = "human" | "json";

export function parseOutput(text: string): OutputFormat {
  if (text === "human" || text === "json") return text;
  throw new UsageError(`--output expects 'human' or 'json' not '${text}'`);
}

/** The one operand of most commands. */
export function oneFile(operands: readonly string[]): string {
  const [file, ...others] = operands;
  if (file === undefined || others.length > 0)
    throw new UsageError("Expecting one image file name");
  return file;
}

/** Refuses other formats than qcow2 by name, and what is no name of a file. */
export function requireQcow2(format: string | undefined, file: string, status = 1): void {
  if (file === "") {
    throw new CommandError("Could not open '': The 'file' block driver requires a file name");
  }
  if (format === undefined || format === "qcow2") return;
  const reason = isOtherFormat(format)
    ? `Only qcow2 images are supported, not ${format}`
    : `Unknown driver '${format}'`;
  throw new CommandError(`Could not open '${file}': ${reason}`, {
    status: isOtherFormat(format) ? status : 1,
  });
}

/** Whether it is a format that qemu-img knows and Calque does not. */
export function isOtherFormat(format: string): boolean {
  return OTHER_FORMATS.has(format);
}

const OTHER_FORMATS = new Set(
  "bochs cloop dmg luks parallels qcow qed raw vdi vhdx vmdk vpc vvfat".split(" "),
);
