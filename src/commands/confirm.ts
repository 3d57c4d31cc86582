// Questions to the user, as Multipass asks them: yes, no, or the question again.

import type { Context } from "../context.ts";
import { UsageError } from "../failure.ts";
import { sentence } from "../text/sentences.ts";

/** Whether somebody is there to answer: both streams are a terminal. */
export function canAsk({ stdin, stdout }: Context): boolean {
  return stdin.isTerminal && stdout.isTerminal;
}

/** Asks until the answer is one; an empty line means `unsaid`. */
export async function confirm(
  question: string,
  unsaid: "yes" | "no",
  context: Context,
): Promise<boolean> {
  for (let prompt = question; ; prompt = sentence("confirm.again")) {
    const answer = await context.readLine(prompt);
    if (answer === undefined) throw new UsageError(sentence("confirm.end"));
    const word = (answer === "" ? unsaid : answer).toLowerCase();
    if (word === "y" || word === "yes") return true;
    if (word === "n" || word === "no") return false;
  }
}
