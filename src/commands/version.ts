// `version`: what this program is, in Multipass's formats. Its second line, of the daemon, is there
// when one answers; Calque has none.

import { Command } from "../command/command.ts";
import { UsageError } from "../failure.ts";
import { type Format, parseFormat } from "../text/format.ts";
import { formatMultipassJson } from "../text/multipass-json.ts";
import { sentence } from "../text/sentences.ts";
import { version } from "../version.ts";

export default new Command("version")
  .usage("[options]")
  .description("Display version information")
  .option(
    "--format <format>",
    "Output version information in the requested format.\n" +
      "Valid formats are: table (default), json, csv and yaml",
  )
  .action(({ options, operands }, { program, stdout }) => {
    if (operands.length > 0) throw new UsageError(sentence("arguments.none"));
    stdout.write(FORMATS[parseFormat(options.format)](program));
    return 0;
  });

const FORMATS: Readonly<Record<Format, (program: string) => string>> = {
  table: (program) => `${program}   ${version}\n`,
  json: (program) => formatMultipassJson({ [program]: version }),
  yaml: (program) => `${program}: ${version}\n`,
  // Multipass's columns; there is no daemon and nothing is looked up that could be an update.
  csv: (program) => `${title(program)},${title(program)}d,Title,Description,URL\n${version},,,,\n`,
};

function title(program: string): string {
  return program.slice(0, 1).toUpperCase() + program.slice(1);
}
