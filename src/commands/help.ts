// `help`: what the program, a group or a command prints with `--help`.

import { Command } from "../command/command.ts";
import { type Entry, findEntry, type Group } from "../command/group.ts";
import { commandHelp, groupHelp } from "../command/help.ts";
import type { Context } from "../context.ts";
import { UsageError } from "../failure.ts";
import { laterVerb, notYet, top } from "./top.ts";

export default new Command("help")
  .usage("[options] [<command> ...]")
  .description("Display help about a command")
  .operand("command", "Name of command to display help for")
  .action(async ({ operands }, context) => {
    const { program, stdout, stderr } = context;
    let target: Command | Group = top;
    for (const word of operands) {
      if (target.kind !== "group") throw new UsageError("Too many arguments given");
      const entry: Entry | undefined = findEntry(target, word);
      const verb = target === top ? laterVerb(word) : undefined;
      if (verb !== undefined) {
        stdout.write(await laterHelp(verb, context));
        return 0;
      }
      if (entry === undefined) {
        const list = ["help", target.path].filter((part) => part !== "").join(" ");
        const hint = `hint: \`${program} ${list}\` lists the commands`;
        stderr.write(`Error: Unknown Command: '${stderr.name(word)}'\n${hint}\n`);
        return 1;
      }
      target = (await entry.load()).default;
    }
    stdout.write(
      target.kind === "group" ? groupHelp(target, program) : commandHelp(target, program),
    );
    return 0;
  });

/** What is to be known of a command that is not there yet. */
async function laterHelp(verb: string, context: Context): Promise<string> {
  const lines = [await notYet(verb, context)];
  if (verb === "launch") {
    // Others refer to it for this.
    const { sentence } = await import("../text/sentences.ts");
    lines.push("", sentence("later.names", { rule: sentence("name.rule") }));
  }
  return `${lines.join("\n")}\n`;
}
