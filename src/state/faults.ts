// Where a value differs from its shape. A thousand records are read for one list, in an engine that
// interprets this: a shape becomes closures once, and what is sound costs no allocation.
//
// Values come from `JSON.parse`: no cycles, no classes. A field that is `undefined` is not there.

import type { Shape } from "./shape.ts";

/** Finds the first fault, in the order of the shape's fields: how to get there, or undefined. */
export type FindFault = (value: unknown) => readonly string[] | undefined;

/** Compiles a shape. */
export function findFault(shape: Shape): FindFault {
  switch (shape.is) {
    case "boolean":
      return unless((value) => typeof value === "boolean");
    case "string":
      return unless(isString(shape));
    case "integer":
      return unless(isInteger(shape));
    case "one of":
      return unless((value) => shape.values.includes(value));
    case "array":
      return inArray(findFault(shape.of));
    case "map":
      return inMap(findFault(shape.key), findFault(shape.of));
    case "object":
      return inObject(shape);
  }
}

type Of<Is extends Shape["is"]> = Extract<Shape, { is: Is }>;

/** The value itself. */
const HERE: readonly string[] = [];

/** No key of ours: an assignment would change the object's prototype. */
const SPECIAL = "__proto__";

function unless(isSound: (value: unknown) => boolean): FindFault {
  return (value) => (isSound(value) ? undefined : HERE);
}

function isString({ pattern }: Of<"string">): (value: unknown) => boolean {
  if (pattern === undefined) return (value) => typeof value === "string";
  const regularExpression = new RegExp(pattern);
  return (value) => typeof value === "string" && regularExpression.test(value);
}

function isInteger({ least = -Infinity }: Of<"integer">): (value: unknown) => boolean {
  return (value) => Number.isSafeInteger(value) && (value as number) >= least;
}

function inArray(element: FindFault): FindFault {
  return (value) => {
    if (!Array.isArray(value)) return HERE;
    for (let index = 0; index < value.length; index += 1) {
      const fault = element(value[index]);
      if (fault !== undefined) return [`${index}`, ...fault];
    }
    return undefined;
  };
}

function inMap(key: FindFault, content: FindFault): FindFault {
  return (value) => {
    if (!isObject(value)) return HERE;
    for (const name of Object.keys(value)) {
      if (name === SPECIAL || key(name) !== undefined) return [name];
      const fault = content(value[name]);
      if (fault !== undefined) return [name, ...fault];
    }
    return undefined;
  };
}

function inObject({ fields }: Of<"object">): FindFault {
  const known = fields.map(({ name, shape, optional = false }) => ({
    name,
    optional,
    find: findFault(shape),
  }));
  return (value) => {
    if (!isObject(value)) return HERE;
    if (Object.hasOwn(value, SPECIAL)) return [SPECIAL];
    for (const { name, optional, find } of known) {
      const content = value[name];
      if (content === undefined) {
        if (optional) continue;
        return [name];
      }
      const fault = find(content);
      if (fault !== undefined) return [name, ...fault];
    }
    return undefined;
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
