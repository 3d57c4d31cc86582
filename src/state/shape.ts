// A schema of zod's as plain data: as much of it as the schemas of the store use. zod itself takes
// longer to be set up than a whole command may, so it does its work ahead of time: the executable
// has the data in it, and not zod.

import type { core } from "zod/mini";

/** What a value has to be. */
export type Shape =
  | { readonly is: "boolean" }
  | { readonly is: "string"; readonly pattern?: string }
  /** Exact as a JavaScript number, and not less than `least`. */
  | { readonly is: "integer"; readonly least?: number }
  | { readonly is: "one of"; readonly values: readonly unknown[] }
  | { readonly is: "array"; readonly of: Shape }
  /** An object whose keys are data. */
  | { readonly is: "map"; readonly key: Shape; readonly of: Shape }
  | ObjectShape;

/** With these fields, and any others. */
export interface ObjectShape {
  readonly is: "object";
  readonly fields: readonly Field[];
}

interface Field {
  readonly name: string;
  readonly shape: Shape;
  readonly optional?: true;
}

/** Throws for a schema that says more than a `Shape` can. */
export function shapeOf(schema: core.$ZodType): Shape {
  const def = definition(schema) as Known;
  switch (def.type) {
    case "boolean":
      return { is: "boolean" };
    case "string":
      return stringOf(def.checks);
    case "number":
      return integerOf(def);
    case "literal":
      return { is: "one of", values: def.values };
    case "enum":
      return { is: "one of", values: Object.values(def.entries) };
    case "array":
      if (def.checks !== undefined) throw unknown("a limit of an array");
      return { is: "array", of: shapeOf(def.element) };
    case "record":
      if (def.checks !== undefined) throw unknown("a limit of a map");
      return { is: "map", key: shapeOf(def.keyType), of: shapeOf(def.valueType) };
    case "object":
      return objectOf(def);
    default:
      throw unknown((def as core.$ZodTypeDef).type);
  }
}

/** The same for the whole of a file. */
export function objectShapeOf(schema: core.$ZodObject): ObjectShape {
  return objectOf(definition(schema) as core.$ZodObjectDef);
}

type Known =
  | core.$ZodBooleanDef
  | core.$ZodStringDef
  | core.$ZodNumberDef
  | core.$ZodLiteralDef<core.util.Literal>
  | core.$ZodEnumDef
  | core.$ZodArrayDef
  | core.$ZodRecordDef
  | core.$ZodObjectDef;
type Checks = readonly core.$ZodCheck[] | undefined;

function objectOf(def: core.$ZodObjectDef): ObjectShape {
  if (def.checks !== undefined || !isLoose(def.catchall)) throw unknown("a strict object");
  return { is: "object", fields: Object.entries(def.shape).map(fieldOf) };
}

function fieldOf([name, schema]: [string, core.$ZodType]): Field {
  const def = definition(schema) as core.$ZodTypeDef;
  if (def.type !== "optional") return { name, shape: shapeOf(schema) };
  const { innerType } = def as core.$ZodOptionalDef;
  return { name, shape: shapeOf(innerType), optional: true };
}

function stringOf(checks: Checks): Shape {
  const [check, ...more] = checks ?? [];
  if (check === undefined) return { is: "string" };
  const def = definition(check) as core.$ZodCheckRegexDef;
  const isPattern = def.check === "string_format" && def.format === "regex";
  if (!isPattern || def.pattern.flags !== "" || more.length > 0) throw unknown("a check of a text");
  return { is: "string", pattern: def.pattern.source };
}

function integerOf(def: core.$ZodNumberDef): Shape {
  if (!("format" in def) || def.format !== "safeint") throw unknown("a number that is not whole");
  const [check, ...more] = def.checks ?? [];
  if (check === undefined) return { is: "integer" };
  const limit = definition(check) as core.$ZodCheckGreaterThanDef;
  const isLeast = limit.check === "greater_than" && Number.isSafeInteger(limit.value);
  if (!isLeast || more.length > 0) throw unknown("a check of a number");
  const value = limit.value as number;
  return { is: "integer", least: limit.inclusive ? value : value + 1 };
}

function isLoose(catchall: core.$ZodType | undefined): boolean {
  return catchall !== undefined && (definition(catchall) as core.$ZodTypeDef).type === "unknown";
}

/** What zod says of a schema, or of a check, to those who read it. */
function definition(part: { _zod: { def: object } }): object {
  // oxlint-disable-next-line no-underscore-dangle -- zod's own name for it
  return part._zod.def;
}

function unknown(what: string): TypeError {
  return new TypeError(`a schema of the store has ${what}, which no shape can say`);
}
