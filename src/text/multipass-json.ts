// JSON as Multipass (Qt) writes it: keys sorted by code units, and text that is not ASCII as it is.

import { entriesOf, formatJson, type Json, type JsonStyle } from "./json.ts";

/** A value and a line end; keys that are undefined are left out. */
export function formatMultipassJson(value: Json): string {
  return formatJson(value, MULTIPASS);
}

const MULTIPASS: JsonStyle = {
  quote(text) {
    return JSON.stringify(text.toWellFormed()).replace(FOR_TERMINALS, escape);
  },
  entries(object) {
    return entriesOf(object).toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  },
};

/** What a terminal would act on and JSON need not escape; a program reads the same either way. */
const FOR_TERMINALS = /[\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

function escape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
