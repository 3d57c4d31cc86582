// The table of sentences, the options, the tests and the documentation: that none of them says what
// another one does not know.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import { top } from "../../src/commands/top.ts";
import { type SentenceKey, SENTENCES } from "../../src/text/sentences.ts";

const keys = Object.keys(SENTENCES) as SentenceKey[];

/** The texts of all files below a directory whose name ends so. */
function texts(directory: string, ending: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(ending))
    .map((name) => readFileSync(path.join(directory, name), "utf8"));
}

/** What matches the sentence with any values in it. */
function pattern(key: SentenceKey): string {
  const parts = SENTENCES[key].split(/\{\w+\}/);
  return parts.map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("[^\n]*?");
}

/** What the tests expect, as a user would see it. */
const expected = texts("test", ".ts")
  .map((text) => text.replaceAll("\\`", "`"))
  .filter((text) => !text.includes("The table of sentences, the options, the tests"));

test.each(keys)("a test knows the sentence %s", (key) => {
  const said = new RegExp(pattern(key));
  expect(expected.some((text) => said.test(text))).toBe(true);
});

/** Sentences for which one would have to wait too long: of 2^24 addresses, none is free. */
const PLAYED = new Set<SentenceKey>(["clone.addresses"]);

/** Tests that call the program with words, and no function of it. */
const golden = texts("test/commands/instances", ".test.ts").filter(
  (text) => text.includes("world()") && !text.includes("withStore"),
);

/** What the tests expect that call the executable: no block of theirs begins with `played`. */
const seen = [...golden, ...texts("test/e2e", ".test.ts")].flatMap((text) =>
  text.split(/^(?= *(?:test|played|describe)\b)/m).filter((block) => !/^ *played/.test(block)),
);

test.each(keys.filter((key) => !PLAYED.has(key)))("the executable says %s", (key) => {
  const said = new RegExp(pattern(key));
  expect(seen.some((text) => said.test(text.replaceAll("\\`", "`")))).toBe(true);
});

test.each(keys)("somebody says the sentence %s", (key) => {
  const source = texts("src", ".ts").filter((text) => !text.includes("export const SENTENCES"));
  expect(source.some((text) => text.includes(`"${key}"`))).toBe(true);
});

test("a test gives every command on instances each of its options, in each spelling", async () => {
  const lines = texts("test/commands/instances", ".test.ts").flatMap((text) => text.split("\n"));
  const untested: string[] = [];
  for (const { name, load } of top.entries) {
    const { default: command } = await load();
    // `image` has tests of its own, and `help` and `version` are not about instances.
    if (command.kind === "group" || name === "help" || name === "version") continue;
    for (const { flags } of command.options) {
      for (const [flag] of flags.matchAll(/(?<![\w-])--?[\w-]+/g)) {
        // A long one is not the beginning of another one; a short one may have its value behind it.
        const given = new RegExp(
          String.raw`\b${name}\b.*["' ]${flag}${flag[1] === "-" ? "\\b(?!-)" : ""}`,
        );
        if (!lines.some((line) => given.test(line))) untested.push(`${name} ${flag}`);
      }
    }
  }
  expect(untested).toEqual([]);
});

describe("docs/multipass.md", () => {
  /** What only Multipass says, and the page tells for comparison. */
  const THEIRS = new Set(["Caught an unhandled exception: …"]);

  const page = readFileSync("docs/multipass.md", "utf8");
  const spans = [...page.matchAll(/`([^`]+)`/g)].map(([, text]) => text!.replace(/\s+/g, " "));
  const quotations = spans.filter((text) => /^[A-Z][^`]* [^`]*/.test(text) || /"/.test(text));

  test("quotes something", () => {
    expect(quotations.length).toBeGreaterThan(2);
  });

  test.each(quotations)("quotes what somebody says: %s", (text) => {
    const isOurs = keys.some((key) => new RegExp(`^${pattern(key)}$`).test(text));
    expect(isOurs || THEIRS.has(text)).toBe(true);
  });

  test("has the sentence for each name that stands in it", () => {
    const commands = spans.flatMap((text) => /^calque ([a-z]+)$/.exec(text)?.[1] ?? []);
    const known = readFileSync("src/commands/top.ts", "utf8");
    for (const command of commands) expect(known).toContain(`name: "${command}"`);
  });
});
