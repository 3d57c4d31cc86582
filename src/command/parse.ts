// Command lines to requests. The only file that knows commander: the dialects bring a line to one
// form, commander reads that.

import { Command as Commander, Option as CommanderOption } from "commander";

import { UsageError } from "../failure.ts";
import { camelCase, type Command, longName, type Option, type Request } from "./command.ts";
import { normalize, standardSpellings } from "./normalize.ts";
import type { Spelling } from "./spelling.ts";

/** The request that the arguments make of a command, or `help` if that is what they ask for. */
export function parse<Options>(
  command: Command<Options>,
  args: readonly string[],
): Request<Options> | "help" {
  const spellings = command.options.map(spelling);
  const standard = standardSpellings(command.dialect);
  const line = normalize[command.dialect](args, [...spellings, ...standard]);
  if (line === "help") return "help";

  const given: string[] = [];
  const parser = new Parser().allowExcessArguments().helpOption(false);
  for (const option of command.options) {
    const name = longName(option.flags);
    parser.addOption(commanderOption(option));
    parser.on(`option:${name}`, () => {
      if (option.refusal !== undefined) throw option.refusal();
      given.push(name);
    });
  }
  for (const { name } of standard) parser.option(`--${name}`);
  parser.parse([...line.options, "--", ...line.operands], { from: "user" });
  const flags = spellings
    .filter(({ takesValue }) => !takesValue)
    .map(({ name }) => [camelCase(name), given.includes(name)]);
  const options = { ...Object.fromEntries(flags), ...parser.opts() } as Options;
  return { options, given, operands: parser.args };
}

class Parser extends Commander {
  /** The dialects let nothing through that commander would not understand. */
  override error(message: string): never {
    throw new UsageError(message);
  }
}

function commanderOption(described: Option): CommanderOption {
  // The dialects have brought every spelling to the long name.
  const value = /<.*>/.exec(described.flags)?.[0] ?? "";
  const option = new CommanderOption(`--${longName(described.flags)} ${value}`.trimEnd());
  return described.parse === undefined ? option : option.argParser(described.parse);
}

function spelling({ flags }: Option): Spelling {
  const letters = [...flags.matchAll(/(?<![\w-])-(\w)/g)].map((match) => match[1]).join("");
  return { name: longName(flags), letters, takesValue: flags.includes("<") };
}
