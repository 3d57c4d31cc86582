// Names that are not free, for whoever makes one up: of live instances, of trashed ones, and of
// those that are being made. Nothing is reserved by looking.

import type { StoreAccess } from "./access.ts";
import { listNames } from "./list.ts";
import { reservedNames } from "./settle.ts";

export function takenNames(access: StoreAccess): Set<string> {
  return new Set([...reservedNames(access), ...listNames(access)]);
}
