// Help in the layout of Qt's command line parser, which Multipass has.

import type { Command, Dialect } from "./command.ts";
import type { Group } from "./group.ts";

const WIDTH = 79;
const MAX_COLUMN = 50;

interface Item {
  name: string;
  help: string;
}

const HELP = { name: "-h, --help", help: "Displays help on commandline options" };
const VERBOSE = {
  name: "-v, --verbose",
  help:
    "Increase logging verbosity. Repeat the 'v' in the short option for more detail. Maximum " +
    "verbosity is obtained with 4 (or more) v's, i.e. -vvvv.",
};

/** The options that every command has. */
const STANDARD: Readonly<Record<Dialect, readonly Item[]>> = {
  qt: [HELP, VERBOSE],
  getopt: [HELP],
};

/** What `help COMMAND` and `COMMAND --help` print. */
export function commandHelp(command: Command, program: string): string {
  const name = `${program} ${command.path}`;
  const { dialect } = command;
  const described = command.options.filter((option) => option.hidden !== true);
  const [ours, theirs] = [true, undefined].map((isAddition) =>
    described
      .filter((option) => option.isAddition === isAddition)
      .map(({ flags, help }) => ({ name: flags, help })),
  );
  const options = [...STANDARD[dialect], ...theirs!];
  const column = columnOf([...options, ...command.operandHelp]);
  // Whoever calls Multipass reads what Multipass says, to the letter.
  const additions = program === "multipass" ? [] : ours!;
  return blocks(
    usage(name, command.usages, dialect) + command.text.replaceAll("{program}", program),
    list("Options:", options, column, dialect),
    list("Arguments:", command.operandHelp, column, dialect),
    list("Options that Multipass does not have:", additions, columnOf(additions), dialect),
    examples(program === "multipass" ? [] : command.examples, program),
  );
}

/** What the program, or a group of its commands, prints about itself. */
export function groupHelp(group: Group, program: string): string {
  const path = `${program} ${group.path}`.trimEnd();
  const { dialect } = group;
  const options = STANDARD[dialect];
  const commands = group.entries.map(({ name, summary }) => ({ name, help: summary }));
  return blocks(
    usage(path, ["[options] <command>"], dialect) + group.description,
    list("Options:", options, columnOf(options), dialect),
    list("Available commands:", commands, columnOf(commands), dialect),
    examples(group.examples, program),
  );
}

/** What there is, with an empty line between. */
function blocks(...texts: string[]): string {
  return `${texts.filter((text) => text !== "").join("\n\n")}\n`;
}

/** A line for each form of the arguments; what does not fit goes on below them, but not in Qt. */
function usage(name: string, forms: readonly string[], dialect: Dialect): string {
  const title = "Usage: ";
  const first = `${title}${name} `;
  const next = " ".repeat(title.length) + `${name} `;
  const usages = forms.map((form, at) => {
    const whole = form.replace(/\[[^\]]*\]/g, (group) => group.replaceAll(" ", UNBROKEN));
    const lines = dialect === "qt" ? [whole] : wrap(whole, first.length);
    const text = lines.join("\n").replaceAll(UNBROKEN, " ");
    return ((at === 0 ? first : next) + text.trimStart()).trimEnd();
  });
  return `${usages.join("\n")}\n`;
}

/** Stands for a space at which no line may end. */
const UNBROKEN = "\u00a0";

function examples(items: readonly { line: string; text: string }[], program: string): string {
  if (items.length === 0) return "";
  const lines = items.map(({ line, text }) => `  ${program} ${line}\n${wrap(text, 6).join("\n")}`);
  return ["Examples:", ...lines].join("\n");
}

/** Where the help of a list starts: names that are too long get a line of their own. */
function columnOf(items: readonly Item[]): number {
  return Math.min(MAX_COLUMN, Math.max(...items.map(({ name }) => name.length)) + 1);
}

function list(title: string, items: readonly Item[], column: number, dialect: Dialect): string {
  if (items.length === 0) return "";
  const indent = column + 3;
  const entries = items.map(({ name, help }) => {
    // Qt gives all lines of a text but the first one column more.
    const text = wrap(help, indent, dialect === "qt" ? WIDTH + 1 : WIDTH).join("\n");
    const fits = name.length < column;
    return fits ? `  ${name.padEnd(column)} ${text.slice(indent)}` : `  ${name}\n${text}`;
  });
  return [title, ...entries].join("\n");
}

/**
 * Lines of at most 79 characters, each indented; line ends in the text are kept. `laterWidth` is
 * for all lines but the first.
 */
function wrap(text: string, indent: number, laterWidth = WIDTH): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      const width = lines.length === 0 ? WIDTH : laterWidth;
      if (line !== "" && indent + line.length + 1 + word.length > width) {
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
