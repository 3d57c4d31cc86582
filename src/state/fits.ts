// A schema of zod's, compiled to plain closures that answer one question: does zod take this value
// as it is? A thousand records are read for one list, and the engine of the executable interprets
// zod, so the common answer has to be cheap. There stays one definition, the schema: "no" only
// means that zod itself is asked, which then says what is wrong, and whatever this file does not
// know is a "no".
//
// Values come from `JSON.parse`: no `undefined`, no cycles, no classes.

import type { core } from "zod/mini";

/** Whether zod surely takes the value, and returns it unchanged but for the order of keys. */
export type Fits = (value: unknown) => boolean;

/** Compiles a schema. */
export function fits(schema: core.$ZodType): Fits {
  const def = definition(schema) as Known;
  switch (def.type) {
    case "string":
      return all((value) => typeof value === "string", def.checks);
    case "number":
      // `z.int()`; other numbers are not in our records.
      return "format" in def && def.format === "safeint"
        ? all(Number.isSafeInteger, def.checks)
        : unknown;
    case "boolean":
      return (value) => typeof value === "boolean";
    case "literal":
      return among(def.values);
    case "enum":
      return among(Object.values(def.entries));
    case "array":
      return def.checks === undefined ? every(fits(def.element)) : unknown;
    case "record":
      return def.checks === undefined ? entries(fits(def.keyType), fits(def.valueType)) : unknown;
    case "object":
      return def.checks === undefined && isLoose(def.catchall) ? fields(def.shape) : unknown;
    default:
      return unknown;
  }
}

/** What zod says of a schema, or of a check, to those who compile it. */
function definition(part: { _zod: { def: object } }): object {
  // oxlint-disable-next-line no-underscore-dangle -- zod's own name for it
  return part._zod.def;
}

type Known =
  | core.$ZodStringDef
  | core.$ZodNumberDef
  | core.$ZodBooleanDef
  | core.$ZodLiteralDef<core.util.Literal>
  | core.$ZodEnumDef
  | core.$ZodArrayDef
  | core.$ZodRecordDef
  | core.$ZodObjectDef;
type KnownCheck = core.$ZodCheckGreaterThanDef | core.$ZodCheckRegexDef;

/** A key that an assignment would not make: zod leaves it out. */
const SPECIAL = "__proto__";

/** What this file does not know, zod has to judge. */
const unknown: Fits = () => false;

type Checks = readonly core.$ZodCheck[] | undefined;

/** A basic type, and what else is asked of its values. */
function all(isType: Fits, checks: Checks = []): Fits {
  const conditions = checks.map(condition);
  if (conditions.length === 0) return isType;
  return (value) => isType(value) && conditions.every((holds) => holds(value as never));
}

function condition(check: core.$ZodCheck): (value: never) => boolean {
  const def = definition(check) as KnownCheck;
  if (def.check === "greater_than" && typeof def.value === "number") {
    const limit = def.value;
    return def.inclusive ? (value: number) => value >= limit : (value: number) => value > limit;
  }
  if (def.check === "string_format" && def.format === "regex") {
    const { pattern } = def;
    if (!pattern.global && !pattern.sticky) return (value: string) => pattern.test(value);
  }
  return unknown;
}

function among(values: readonly unknown[]): Fits {
  return (value) => values.includes(value);
}

function every(element: Fits): Fits {
  return (value) => Array.isArray(value) && value.every(element);
}

function entries(key: Fits, content: Fits): Fits {
  return (value) => {
    if (!isObject(value)) return false;
    for (const name of Object.keys(value)) {
      if (name === SPECIAL || !key(name) || !content(value[name])) return false;
    }
    return true;
  };
}

function fields(shape: Readonly<Record<string, core.$ZodType>>): Fits {
  const known = Object.entries(shape).map(([name, schema]) => {
    const def = definition(schema) as core.$ZodTypeDef;
    const isOptional = def.type === "optional";
    const content = isOptional ? (def as core.$ZodOptionalDef).innerType : schema;
    return { name, isOptional, fits: fits(content) };
  });
  return (value) => {
    if (!isObject(value) || Object.hasOwn(value, SPECIAL)) return false;
    for (const field of known) {
      const content = value[field.name];
      if (content === undefined ? !field.isOptional : !field.fits(content)) return false;
    }
    return true;
  };
}

function isLoose(catchall: core.$ZodType | undefined): boolean {
  return catchall !== undefined && (definition(catchall) as core.$ZodTypeDef).type === "unknown";
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
