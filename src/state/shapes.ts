// The shapes of the store's files. Where the program is bundled into one executable this module is
// evaluated then, and what it exports goes in as data: nothing here may depend on where it runs.

import { type Kind, SCHEMA, schemas } from "./schemas.ts";
import { type ObjectShape, objectShapeOf } from "./shape.ts";

export { SCHEMA };

export const shapes: Readonly<Record<Kind, ObjectShape>> = {
  instance: objectShapeOf(schemas.instance),
  snapshot: objectShapeOf(schemas.snapshot),
  manifest: objectShapeOf(schemas.manifest),
  entry: objectShapeOf(schemas.entry),
};
