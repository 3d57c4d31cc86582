// Comma-separated values. Multipass quotes some columns always and the others never, and does not
// escape quotes, so that a comma in a path or a quote in a comment shifts what follows. Here such
// values are quoted, and quotes doubled, as RFC 4180 has it; all other output is Multipass's.

/** The lines of a table, each with its end. */
export function formatCsv(rows: readonly (readonly string[])[]): string {
  return rows.map((row) => `${row.join(",")}\n`).join("");
}

/** A value that stands plain where it can. */
export function csvField(text: string): string {
  return /[",\n\r]/.test(text) ? csvQuoted(text) : text;
}

/** A value of a column that is always quoted. */
export function csvQuoted(text: string): string {
  return `"${text.replaceAll('"', '""')}"`;
}
