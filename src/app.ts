// From the command line to the status: finds the command, lets it run, and says what went wrong.
// Modules are loaded when they are needed, so that `--version` costs next to nothing.

import type { Command } from "./command/command.ts";
import { findEntry, type Group } from "./command/group.ts";
import { type Context, createContext } from "./context.ts";
import type { Host } from "./host.ts";
import type { Native } from "./native.ts";
import type { Place } from "./report.ts";
import { version } from "./version.ts";

/** Does what the arguments say; returns the status that the process should end with. */
export async function main(host: Host, native: Native): Promise<number> {
  const context = createContext(host, native);
  const args = host.argv.slice(1);
  if (args[0] === "--version" && args.length === 1) return showVersion(context);
  const { top } = await import("./commands/top.ts");
  const place = { path: top.path, dialect: top.dialect };
  try {
    return await dispatch(top, args, context, place);
  } catch (error) {
    const { report } = await import("./report.ts");
    return report(error, context, place);
  }
}

async function dispatch(
  group: Group,
  args: readonly string[],
  context: Context,
  place: Place,
): Promise<number> {
  place.path = group.path;
  place.dialect = group.dialect;
  const at = args.findIndex((arg) => !arg.startsWith("-") || arg === "-");
  const leading = at < 0 ? args : args.slice(0, at);
  const wanted = leading.length === 0 ? undefined : await readLeading(group, leading);
  if (wanted === "version") return showVersion(context);

  const word = args[at];
  if (word === undefined) {
    return wanted === "help" ? showHelp(group, context) : group.missing(context);
  }
  const entry = findEntry(group, word);
  const rest = args.slice(at + 1);
  if (entry === undefined) {
    if (word === "help") return helpFrom(group, rest, context, place);
    return group.unknown(word, context);
  }
  const target = (await entry.load()).default;
  if (target.kind === "group") {
    // A request for help before the word is one about the word behind it, too.
    return dispatch(target, wanted === "help" ? ["--help", ...rest] : rest, context, place);
  }
  if (wanted === "help") return showHelp(target, context);

  place.path = target.path;
  place.dialect = target.dialect;
  const { parse } = await import("./command/parse.ts");
  const request = parse(target, rest);
  return request === "help" ? showHelp(target, context) : target.run(request, context);
}

/** `image help info` is `help image info`. */
async function helpFrom(
  { path }: Group,
  words: readonly string[],
  context: Context,
  place: Place,
): Promise<number> {
  const { top } = await import("./commands/top.ts");
  return dispatch(top, ["help", ...path.split(" "), ...words], context, place);
}

/** What the options before the first word ask for. */
async function readLeading(
  group: Group,
  args: readonly string[],
): Promise<"help" | "version" | undefined> {
  const { normalize, standardSpellings } = await import("./command/normalize.ts");
  const read = normalize[group.dialect](args, [
    ...standardSpellings(group.dialect),
    { name: "version", letters: "V", takesValue: false },
  ]);
  if (read === "help") return "help";
  return read.options.includes("--version") ? "version" : undefined;
}

function showVersion(context: Context): number {
  context.stdout.write(`${context.program}   ${version}\n`);
  return 0;
}

async function showHelp(target: Command | Group, context: Context): Promise<number> {
  const { commandHelp, groupHelp } = await import("./command/help.ts");
  const text = target.kind === "group" ? groupHelp : commandHelp;
  context.stdout.write(text(target as never, context.program));
  return 0;
}
