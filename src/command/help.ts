// Help in the layout of Qt's command line parser, which Multipass has.

import type { Command } from "./command.ts";
import type { Group } from "./group.ts";

const WIDTH = 79;
const MAX_COLUMN = 50;
const HELP = { name: "-h, --help", help: "Displays help on commandline options" };

interface Item {
  name: string;
  help: string;
}

/** What `help COMMAND` and `COMMAND --help` print. */
export function commandHelp(command: Command, program: string): string {
  const name = `${program} ${command.path}`;
  const options = command.options
    .filter((option) => option.refusal === undefined)
    .map(({ flags, help }) => ({ name: flags, help }));
  const column = columnOf([HELP, ...options, ...command.operandHelp]);
  return blocks(
    usage(command.usages.map((form) => `${name} ${form}`.trimEnd())) + command.text,
    list("Options:", [HELP, ...options], column),
    list("Arguments:", command.operandHelp, column),
    examples(command.examples, program),
  );
}

/** What the program, or a group of its commands, prints about itself. */
export function groupHelp(group: Group, program: string): string {
  const path = `${program} ${group.path}`.trimEnd();
  const commands = group.entries.map(({ name, summary }) => ({ name, help: summary }));
  return blocks(
    usage([`${path} [options] <command>`]) + group.description,
    list("Options:", [HELP], columnOf([HELP])),
    list("Available commands:", commands, columnOf(commands)),
    examples(group.examples, program),
  );
}

/** What there is, with an empty line between. */
function blocks(...texts: string[]): string {
  return `${texts.filter((text) => text !== "").join("\n\n")}\n`;
}

function usage(forms: readonly string[]): string {
  return `Usage: ${forms.join("\n       ")}\n`;
}

function examples(items: readonly { line: string; text: string }[], program: string): string {
  if (items.length === 0) return "";
  const lines = items.map(({ line, text }) => `  ${program} ${line}\n${wrap(text, 6).join("\n")}`);
  return ["Examples:", ...lines].join("\n");
}

/** Where the help of a list starts: names that are too long get a line of their own. */
function columnOf(items: readonly Item[]): number {
  return Math.min(MAX_COLUMN, Math.max(...items.map(({ name }) => name.length)) + 1);
}

function list(title: string, items: readonly Item[], column: number): string {
  if (items.length === 0) return "";
  const indent = column + 3;
  const entries = items.map(({ name, help }) => {
    const text = wrap(help, indent).join("\n");
    const fits = name.length < column;
    return fits ? `  ${name.padEnd(column)} ${text.slice(indent)}` : `  ${name}\n${text}`;
  });
  return [title, ...entries].join("\n");
}

/** Lines of at most 79 characters, each indented; line ends in the text are kept. */
function wrap(text: string, indent: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      if (line !== "" && indent + line.length + 1 + word.length > WIDTH) {
        lines.push(line);
        line = word;
      } else {
        line += line === "" ? word : ` ${word}`;
      }
    }
    lines.push(line);
  }
  return lines.map((line) => " ".repeat(indent) + line);
}
