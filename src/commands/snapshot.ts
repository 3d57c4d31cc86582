// `snapshot`: a way back to what an instance is now.

import { Command } from "../command/command.ts";
import { UsageError } from "../failure.ts";
import { sentence } from "../text/sentences.ts";
import { displayed, programName, withStore } from "./store.ts";

export default new Command("snapshot")
  .usage("[options] instance")
  .description(
    "Take a snapshot of an instance that can later be restored to recover the current state.",
  )
  .option(
    "-n, --name <name>",
    "An optional name for the snapshot, subject to the same validity rules as instance names " +
      '(see `help launch`). Default: "snapshotN", where N is one plus the number of snapshots ' +
      "that were ever taken for <instance>.",
  )
  .option(
    "--comment, -c, -m <comment>",
    "An optional free comment to associate with the snapshot. (Hint: quote the text to avoid " +
      "spaces being parsed by your shell)",
  )
  .operand("instance", "The instance to take a snapshot of.")
  .example("snapshot web-1", "Take a snapshot with a name that is made up")
  .example('snapshot web-1 --name clean --comment "before the upgrade"', "Say what it is for")
  .action(({ options, operands }, context) => {
    const [instance, ...others] = operands;
    if (instance === undefined) throw new UsageError(sentence("snapshot.name"));
    if (others.length > 0) throw new UsageError(sentence("snapshot.too-many-arguments"));
    const { name = "", comment = "" } = options;
    return withStore(
      "snapshot",
      context,
      (store) => {
        using change = store.change(instance);
        change.ensureStopped();
        const taken = change.takeSnapshot(name === "" ? { comment } : { name, comment });
        displayed(context, sentence("snapshot.taken", { instance, snapshot: taken.name }));
        return 0;
      },
      { "in-use": () => sentence("snapshot.in-use", programName(context)) },
    );
  });
