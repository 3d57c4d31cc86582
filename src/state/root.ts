// Where the store is: $CALQUE_HOME, else calque in $XDG_DATA_HOME, else in ~/.local/share.

import { unwrap } from "../native.ts";
import type { StoreContext } from "./access.ts";
import { StateError } from "./errors.ts";
import { failureOf } from "./files.ts";

/**
 * The root, whether it is there or not. Throws a `StateError`: `store-relative`, `store-unknown`;
 * `store-refused` if the core finds something there that is not the caller's alone.
 */
export function findRoot({ native, env }: StoreContext): string {
  const root = chooseRoot(env);
  try {
    return unwrap(native.storeOpen({ root })).root;
  } catch (error) {
    const failure = failureOf(error);
    if (failure === undefined) throw error;
    throw new StateError({ code: "store-refused", root, reason: failure.reason });
  }
}

/** An empty variable is as good as none. */
function chooseRoot(env: (name: string) => string | undefined): string {
  const own = env("CALQUE_HOME") ?? "";
  // Somebody who says where has to say it so that it means the same in every directory.
  if (own !== "" && !isAbsolute(own)) throw new StateError({ code: "store-relative", value: own });
  if (own !== "") return own;
  // The XDG specification wants relative paths ignored.
  const data = env("XDG_DATA_HOME") ?? "";
  if (isAbsolute(data)) return `${withoutSlash(data)}/calque`;
  const home = env("HOME") ?? "";
  if (isAbsolute(home)) return `${withoutSlash(home)}/.local/share/calque`;
  throw new StateError({ code: "store-unknown" });
}

function isAbsolute(path: string): boolean {
  return path.startsWith("/");
}

function withoutSlash(path: string): string {
  return path.replace(/\/+$/, "");
}
