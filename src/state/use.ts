// Whether an instance runs: whether somebody can write to its disk. Who only reads it, or is
// another Calque, does not count; where that matters the core waits for them.

import { type ImageUser, NativeFailure, unwrap } from "../native.ts";
import type { StoreAccess } from "./access.ts";
import { StateError } from "./errors.ts";
import { displayName, type Listed } from "./list.ts";
import { instancePaths } from "./paths.ts";

/** Who uses the disks of these directories, in order: one look, stale as soon as it is there. */
export function imageUsers(
  { native, files }: StoreAccess,
  directories: readonly string[],
): ImageUser[] {
  if (directories.length === 0) return [];
  const paths = directories.map((directory) => files.absolute(instancePaths(directory).disk));
  return unwrap(native.imageUsers({ paths })).users;
}

/** Refuses when a virtual machine, or anybody else who is no Calque, can write to the disk. */
export function ensureUnused(access: StoreAccess, where: Omit<Listed, "record">): void {
  const { use, holder, failure } = imageUsers(access, [where.directory])[0]!;
  if (use === "writer") {
    const instance = displayName(where);
    throw new StateError({
      code: "in-use",
      instance,
      ...(holder === undefined ? {} : { holder }),
    });
  }
  // A disk that is missing or no file is in nobody's use.
  if (failure !== undefined && where.problem === undefined) throw new NativeFailure(failure);
}
