// `purge`: empties the trash.

import { Command } from "../command/command.ts";
import { UsageError } from "../failure.ts";
import { StateError } from "../state/errors.ts";
import { sentence } from "../text/sentences.ts";
import { refusalLines, refusalText, severalErrors, withStore } from "./store.ts";

export default new Command("purge")
  .usage("[options]")
  .description("Purge all deleted instances permanently, including all their data.")
  .action(({ operands }, context) => {
    if (operands.length > 0) throw new UsageError(sentence("arguments.none"));
    return withStore("purge", context, (store) => {
      const errors: string[] = [];
      for (const listed of store.list()) {
        if (listed.id === undefined) continue;
        try {
          store.purge(listed);
        } catch (error) {
          // One that somebody uses, or that a newer Calque made, does not keep the others.
          if (!(error instanceof StateError)) throw error;
          errors.push(refusalText(error.details), ...refusalLines(error.details));
        }
      }
      if (errors.length > 0) throw severalErrors("purge", errors);
      return 0;
    });
  });
