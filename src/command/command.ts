// Our command interface, shaped like Cliffy's: a command is a description and a function of a
// request and a context. What parses it stays behind `parse.ts` and can be exchanged.

import type { Context } from "../context.ts";

export interface Option {
  /** All spellings, then the value's name: `-f, --format <format>`. */
  readonly flags: string;
  readonly help: string;
  /** Turns the text into the value, or throws a `UsageError`; gets what an earlier one gave. */
  readonly parse?: ((text: string, previous: unknown) => unknown) | undefined;
  /** Without a place in the help. */
  readonly hidden?: true;
  /** Not among Multipass's options. */
  readonly isAddition?: true;
  /** What is thrown when somebody gives it. */
  readonly refusal?: () => Error;
}

export interface Request<Options> {
  /** By long name in camel case. */
  readonly options: Options;
  /** The long names in the order given, repeated ones repeated. */
  readonly given: readonly string[];
  readonly operands: readonly string[];
}

export type Action<Options> = (
  request: Request<Options>,
  context: Context,
) => number | Promise<number>;

/** `qt` as Multipass parses, `getopt` as qemu-img does; errors are worded accordingly. */
export type Dialect = "qt" | "getopt";

/** A command whose options have the given types. */
export class Command<Options = unknown> {
  readonly kind = "command";
  readonly path: string;
  readonly dialect: Dialect;
  readonly options: Option[] = [];
  readonly operandHelp: { name: string; help: string }[] = [];
  readonly examples: { line: string; text: string }[] = [];
  usages: readonly string[] = [];
  text = "";
  // A command of any options is a `Command`, so this must not depend on them.
  #action: Action<never> | undefined;

  /** `path` is what is typed after the program's name: `image check`. */
  constructor(path: string, dialect: Dialect = "qt") {
    this.path = path;
    this.dialect = dialect;
  }

  /** The forms of the command line, after the path. */
  usage(...forms: string[]): this {
    this.usages = forms;
    return this;
  }

  /**
   * What stands under the usage in the help; lines are kept, and `{program}` becomes the name by
   * which the program was called.
   */
  description(text: string): this {
    this.text = text;
    return this;
  }

  /**
   * An option. The name and type of its value follow from the flags, as in Cliffy: `-q, --quiet` is
   * a boolean, `-f, --format <format>` a string, or what `parse` makes of it.
   */
  option<Flags extends string, Value = string>(
    flags: Flags,
    help: string,
    parse?: (text: string, previous: Value | undefined) => Value,
  ): Command<Options & OptionOf<Flags, Value>> {
    this.options.push({ flags, help, parse: parse as Option["parse"] });
    return this as unknown as Command<Options & OptionOf<Flags, Value>>;
  }

  /** An option that Multipass does not have: the help shows such options by themselves. */
  addition<Flags extends string, Value = string>(
    flags: Flags,
    help: string,
    parse?: (text: string, previous: Value | undefined) => Value,
  ): Command<Options & OptionOf<Flags, Value>> {
    this.options.push({ flags, help, parse: parse as Option["parse"], isAddition: true });
    return this as unknown as Command<Options & OptionOf<Flags, Value>>;
  }

  /** An option that the help does not mention. */
  hidden<Flags extends string>(flags: Flags): Command<Options & OptionOf<Flags, string>> {
    this.options.push({ flags, help: "", hidden: true });
    return this as unknown as Command<Options & OptionOf<Flags, string>>;
  }

  /** An option that is known, but refused with a sentence; a value that `parse` refuses, sooner. */
  refuse(flags: string, refusal: () => Error, parse?: (text: string) => unknown): this {
    this.options.push({ flags, help: "", hidden: true, refusal, parse });
    return this;
  }

  /** What an operand means, for the help. */
  operand(name: string, help: string): this {
    this.operandHelp.push({ name, help });
    return this;
  }

  /** A line that works, and what it does. */
  example(line: string, text: string): this {
    this.examples.push({ line, text });
    return this;
  }

  action(action: Action<Options>): this {
    this.#action = action;
    return this;
  }

  /** The status that the program ends with. */
  run(request: Request<Options>, context: Context): number | Promise<number> {
    if (this.#action === undefined) throw new TypeError(`\`${this.path}\` has no action`);
    return this.#action(request as Request<never>, context);
  }
}

/** The long name in flags, without its dashes. */
export function longName(flags: string): string {
  return /--([a-z0-9-]+)/.exec(flags)?.[1] ?? "";
}

/** `force-share` as `forceShare`. */
export function camelCase(name: string): string {
  return name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
}

type OptionOf<Flags extends string, Value> = {
  readonly [Key in CamelCase<LongName<Flags>>]: Flags extends `${string}<${string}`
    ? Value | undefined
    : boolean;
};

type LongName<Flags extends string> = Flags extends `${string}--${infer Rest}`
  ? Rest extends `${infer Word} ${string}`
    ? Word extends `${infer Name},`
      ? Name
      : Word
    : Rest
  : never;

type CamelCase<Name extends string> = Name extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : Name;
