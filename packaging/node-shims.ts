// What commander imports from `node:` in the executable, where there is no Node: six modules in
// one, each with the little that commander touches before and while it parses. The bundler puts
// this file in their place. What would start programs or look for files does not exist here.

import { host } from "calque:host";

type Listener = (...values: unknown[]) => void;

/** `node:events`: commander announces options to listeners, in the order in which they came. */
export class EventEmitter {
  readonly #listeners = new Map<string, Listener[]>();

  on(event: string, listener: Listener): this {
    const listeners = this.#listeners.get(event) ?? [];
    this.#listeners.set(event, [...listeners, listener]);
    return this;
  }

  emit(event: string, ...values: unknown[]): boolean {
    const listeners = this.#listeners.get(event) ?? [];
    for (const listener of listeners) listener.apply(this, values);
    return listeners.length > 0;
  }

  listenerCount(event: string): number {
    return this.#listeners.get(event)?.length ?? 0;
  }
}

/** `node:util`. */
export function stripVTControlCharacters(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what it is about
  return text.replace(/\u001b\[[0-9;]*[A-Za-z]/g, "");
}

/** The default exports of `node:process`, `node:path`, `node:fs` and `node:child_process`. */
export default {
  argv: host.argv,
  env: {},
  execArgv: [],
  stdout: host.stdout,
  stderr: host.stderr,
  basename: (path: string, extension = ""): string => {
    const name = path.slice(path.lastIndexOf("/") + 1);
    return name.endsWith(extension) ? name.slice(0, name.length - extension.length) : name;
  },
  extname: (path: string): string => {
    const name = path.slice(path.lastIndexOf("/") + 1);
    const dot = name.lastIndexOf(".");
    return dot > 0 ? name.slice(dot) : "";
  },
};
