// `help`: what the program, a group or a command prints with `--help`.

import { Command } from "../command/command.ts";
import type { Group } from "../command/group.ts";
import { commandHelp, groupHelp } from "../command/help.ts";
import { UsageError } from "../failure.ts";
import { top } from "./top.ts";

export default new Command("help")
  .usage("[options] [<command>]")
  .description("Display help about a command")
  .operand("command", "Name of command to display help for")
  .action(async ({ operands }, { program, stdout, stderr }) => {
    let target: Command | Group = top;
    for (const word of operands) {
      if (target.kind !== "group") throw new UsageError("Too many arguments given");
      const entry: Group["entries"][number] | undefined = target.entries.find(
        ({ name }) => name === word,
      );
      if (entry === undefined) {
        stderr.write(`Error: Unknown Command: '${stderr.name(word)}'\n`);
        return 1;
      }
      target = (await entry.load()).default;
    }
    stdout.write(
      target.kind === "group" ? groupHelp(target, program) : commandHelp(target, program),
    );
    return 0;
  });
