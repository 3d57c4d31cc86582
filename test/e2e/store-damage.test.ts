// Stores that somebody has damaged, or prepared: every command on every one of them.
//
// The story: a tool that trusts its own directory follows a link out of it, hangs on a FIFO in the
// place of a record, or ends in a stack trace because a file is no JSON; and takes all other
// instances down with it.

import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { calque, mustCalque } from "./instances.ts";
import {
  type Ending,
  executable,
  guest,
  have,
  isRoot,
  judged,
  must,
  nobody,
  qemuImg,
  run,
  Scene,
  sha256,
} from "./support.ts";

const scene = new Scene();
afterAll(() => scene[Symbol.dispose]());

const pristine = scene.path("pristine");
const outside = scene.path("outside");

/** A store with a victim and one that has nothing to do with it; and what lies around. */
beforeAll(async () => {
  if (!judged) return;
  for (const name of ["web", "db"]) {
    await mustCalque(pristine, ["create", name, "--disk", "2M"]);
    const disk = (await mustCalque(pristine, ["path", name])).trim();
    await guest(disk, "write -P 1 0 100k");
    await mustCalque(pristine, ["snapshot", name, "--name", "one"]);
    await mustCalque(pristine, ["snapshot", name, "--name", "two"]);
  }
  cpSync(path.join(pristine, "instances/web"), path.join(outside, "web"), { recursive: true });
  mkdirSync(path.join(outside, "place/deep"), { recursive: true });
  writeFileSync(path.join(outside, "place/deep/precious"), "precious");
  writeFileSync(path.join(outside, "file"), "precious");
});

/** Everything in a directory, as far as it could be changed. */
function digestOfTree(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .toSorted()
    .map((name) => {
      const file = path.join(directory, name);
      const stat = lstatSync(file);
      const content = stat.isFile() ? sha256(readFileSync(file)) : "";
      const target = stat.isSymbolicLink() ? readlinkSync(file) : "";
      return [name, stat.mode.toString(8), stat.nlink, stat.mtimeMs, content, target].join(" ");
    });
}

type Damage = (file: string, home: string) => void | Promise<void>;

function written(content: string | Buffer): Damage {
  return (file) => {
    rmSync(file, { recursive: true, force: true });
    writeFileSync(file, content);
  };
}

/** The story: an engine reads so many levels, and cannot write them. */
function deepened(file: string): void {
  const text = existsSync(file) ? readFileSync(file, "utf8") : '{"schema": 1}';
  const deep = `${"[".repeat(8000)}${"]".repeat(8000)}`;
  rmSync(file, { force: true });
  writeFileSync(file, text.replace(/\}\s*$/, `, "later": ${deep}}\n`));
}

function linked(target: string): Damage {
  return (file) => {
    rmSync(file, { recursive: true, force: true });
    symlinkSync(target, file);
  };
}

/** What can stand in the place of any file. */
const anything: Record<string, Damage> = {
  missing: (file) => rmSync(file, { recursive: true, force: true }),
  empty: written(""),
  "a directory": (file) => {
    rmSync(file, { recursive: true, force: true });
    mkdirSync(path.join(file, "in/it"), { recursive: true });
  },
  "a FIFO": (file) => {
    rmSync(file, { recursive: true, force: true });
    execFileSync("mkfifo", [file]);
  },
  "a device": (file) => {
    rmSync(file, { recursive: true, force: true });
    execFileSync("mknod", [file, "c", "1", "5"]);
  },
  "a link to a file outside": linked(path.join(outside, "file")),
  "a link to a directory outside": linked(path.join(outside, "place")),
  "a dangling link": linked(path.join(outside, "nothing")),
};

const texts: Record<string, Damage> = {
  ...anything,
  truncated: (file) => truncateSync(file, 10),
  "of zeros": written(Buffer.alloc(700)),
  "no UTF-8": written(Buffer.from("fffe7b7d", "hex")),
  "huge, and a hole": (file) => truncateSync(file, 1 << 30),
  "a number": written("17"),
  null: written("null"),
  "a list": written("[]"),
  foreign: written('{"hello": "world", "schema": "1"}'),
  "of an endless depth": written("[".repeat(3_000_000)),
  "of a depth that ends": written(`${"[".repeat(1_000_000)}${"]".repeat(1_000_000)}`),
  "of a depth that can be read and not written": deepened,
  "of a newer schema": written('{"schema": 99}'),
  "of this schema, without anything": written('{"schema": 1, "__proto__": {"names": []}}'),
};

/** Where it does not matter that much what is in it. */
const few: Record<string, Damage> = Object.fromEntries(
  Object.entries(texts).filter(([is]) => Object.hasOwn(anything, is) || is.startsWith("of ")),
);

const images: Record<string, Damage> = {
  ...anything,
  "a raw disk": written(Buffer.alloc(1 << 20)),
  "a text": written("no image\n".repeat(1000)),
  "a VMDK": written(Buffer.concat([Buffer.from("KDMV\u0001\0\0\0"), Buffer.alloc(70_000)])),
  "only a magic number": written("QFI\xfb"),
  truncated: (file) => truncateSync(file, 70_000),
  "another image": async (file) => {
    rmSync(file);
    await qemuImg("create", "-q", "-f", "qcow2", file, "3M");
    await qemuImg("snapshot", "-c", "foreign", file);
  },
  "backed by a file that is not theirs": async (file) => {
    rmSync(file);
    const backing = ["-u", "-b", "/etc/passwd", "-F", "raw"];
    await qemuImg("create", "-q", "-f", "qcow2", ...backing, file, "2M");
  },
  "with its data in another file": async (file, home) => {
    rmSync(file);
    const options = `data_file=${home}.data`;
    await qemuImg("create", "-q", "-f", "qcow2", "-o", options, file, "2M");
  },
};

/** What can stand in the place of a directory of the store. */
const directories: Record<string, Damage> = {
  missing: anything["missing"]!,
  "a file": written("no directory"),
  "a FIFO": anything["a FIFO"]!,
  "a link to a directory outside": linked(path.join(outside, "place")),
  "a dangling link": anything["a dangling link"]!,
};

const instance = "instances/web";
const stage = "stage/0123456789abcdef";

/** A stage whose maker is gone, with an instance in it. */
function staged(file: string): (damage: Damage) => Damage {
  return (damage) => (target, home) => {
    const place = path.join(home, stage);
    mkdirSync(place, { recursive: true });
    renameSync(path.join(home, instance), path.join(place, "web"));
    writeFileSync(path.join(place, "stage.lock"), "");
    writeFileSync(path.join(place, file), '{"schema": 1, "names": ["web"]}');
    return damage(target, home);
  };
}

/** Names that the store would not give. */
const names = [
  "a b",
  ".hidden",
  "..hidden",
  "-",
  "web.one",
  "web@1",
  "line\nbreak",
  "\u001b[31mred\u0007",
  "\u202eright-to-left",
  "x".repeat(255),
  "no-utf8-\u00ff",
];

function strange(place: string, make: (file: Buffer) => void): Damage {
  return (_, home) => {
    for (const name of names) {
      // Latin-1: the last of them is no UTF-8, and the others are as they are.
      const bytes = Buffer.from(name, name.startsWith("no-utf8") ? "latin1" : "utf8");
      make(Buffer.concat([Buffer.from(`${path.join(home, place)}/`), bytes]));
    }
  };
}

interface Case {
  what: string;
  damage: (home: string) => void | Promise<void>;
}

function cases(file: string, damages: Record<string, Damage>): Case[] {
  return Object.entries(damages).map(([is, damage]) => ({
    what: `${file}: ${is}`,
    damage: (home) => damage(path.join(home, file), home),
  }));
}

function wrapped(damages: Record<string, Damage>, wrap: (damage: Damage) => Damage) {
  return Object.fromEntries(Object.entries(damages).map(([is, damage]) => [is, wrap(damage)]));
}

/** Damage to one instance; the other one must not notice. */
const local: readonly Case[] = [
  ...cases(`${instance}/instance.json`, texts),
  ...cases(`${instance}/snapshots/1.json`, texts),
  ...cases(`${instance}/.instance.json.new`, anything),
  ...cases(`${instance}/snapshots/3.json`, few),
  ...cases(`${instance}/snapshots/.3.json.new`, anything),
  ...cases(`${instance}/lock`, anything),
  ...cases(`${instance}/history.jsonl`, few),
  ...cases(`${instance}/disk.qcow2`, images),
  ...cases(`${instance}/snapshots`, directories),
  ...cases(instance, {
    ...directories,
    "a link to an instance outside": linked(path.join(outside, "web")),
  }),
  ...cases("trash/web@20260101-000000-0000", {
    ...directories,
    "a link to an instance outside": linked(path.join(outside, "web")),
  }),
  ...cases(`${stage}/manifest.json`, wrapped(texts, staged("manifest.json"))),
  ...cases(`${stage}/commit.json`, wrapped(few, staged("commit.json"))),
  ...cases(`${stage}/stage.lock`, wrapped(anything, staged("commit.json"))),
  ...cases(`${stage}/web`, wrapped(directories, staged("commit.json"))),
  ...cases(stage, directories),
  {
    what: "names that break the rules, of directories",
    damage: (home) => strange("instances", (file) => mkdirSync(file))("", home),
  },
  {
    what: "names that break the rules, of files",
    damage: (home) => strange("instances", (file) => writeFileSync(file, ""))("", home),
  },
  {
    what: "names that break the rules, in the trash and the stage",
    damage: async (home) => {
      await strange("trash", (file) => mkdirSync(file))("", home);
      await strange("stage", (file) => mkdirSync(file))("", home);
    },
  },
  {
    what: "names that break the rules, in an instance",
    damage: async (home) => {
      await strange(instance, (file) => mkdirSync(file))("", home);
      await strange(`${instance}/snapshots`, (file) => writeFileSync(file, "{}"))("", home);
    },
  },
];

/** Damage to what all have in common. */
const common: readonly Case[] = [
  ...cases("store.lock", anything),
  ...["instances", "trash", "stage"].flatMap((directory) => cases(directory, directories)),
];

const reading = [
  ["list"],
  ["list", "--snapshots", "--format", "json"],
  ["info", "web"],
  ["path", "web"],
  ["history", "web"],
];

const changing = [
  ["snapshot", "web"],
  ["restore", "--destructive", "web.one"],
  ["set", "local.web.disk=4M"],
  ["set", "local.web.one.comment=remarkable"],
  ["clone", "web", "--name", "many", "--count", "2", "--keep-snapshots"],
  ["export", "web", "OUT/web.qcow2"],
  ["create", "web", "--disk", "1M"],
  ["delete", "--purge", "web.two"],
  ["delete", "web"],
  ["recover", "web"],
  ["delete", "--purge", "web"],
  ["purge"],
];

const unrelated = [
  ["list"],
  ["info", "db"],
  ["snapshot", "db"],
  ["clone", "db", "--name", "new"],
  ["delete", "--purge", "new"],
];

/** What no command ever does, whatever it meets. */
function expectComposed(story: string, { status, signal, stderr }: Ending): void {
  expect({ story, signal, stderr }).toMatchObject({ signal: null });
  expect([0, 1, 2], `${story}: ${stderr}`).toContain(status);
  expect(stderr, story).not.toMatch(/panicked|internal error|RUST_BACKTRACE|\bat .*:\d+:\d+/);
  if (status !== 0) expect(stderr, story).toMatch(/\S/);
}

let trials = 0;

/**
 * Damages a copy of the store, and does everything on it; what each command said. Nothing outside
 * of the store changes meanwhile.
 */
async function meet({ what, damage }: Case, commands: readonly string[][]): Promise<string[]> {
  trials += 1;
  const home = scene.path(`home-${trials}`);
  const out = scene.path(`out-${trials}`);
  mkdirSync(out);
  cpSync(pristine, home, { recursive: true });
  await damage(home);
  const before = digestOfTree(outside);
  const said: string[] = [];
  for (const command of commands) {
    const words = command.map((word) => word.replace("OUT", out));
    const ending = await calque(home, words);
    expectComposed(`${what}: ${command.join(" ")}`, ending);
    const text = ending.stderr.replaceAll(home, "STORE").replaceAll(scene.directory, "SCENE");
    said.push(`${command.join(" ")}: ${ending.status} ${text}`);
  }
  expect(digestOfTree(outside), what).toEqual(before);
  rmSync(home, { recursive: true, force: true });
  rmSync(out, { recursive: true, force: true });
  return said;
}

describe.runIf(judged && isRoot)("a store that was damaged", () => {
  test.concurrent.each(common)("is met with composure ($what)", async (trial) => {
    await meet(trial, [...reading, ...changing, ...unrelated]);
  });

  test.concurrent.each(local)(
    "is met with composure, and other instances work ($what)",
    async (trial) => {
      const said = await meet(trial, [...reading, ...changing, ...unrelated]);
      const failed = said.slice(-unrelated.length).filter((text) => !/^[^:]*: 0 /.test(text));
      expect(failed).toEqual([]);
    },
  );
});

describe.runIf(judged && isRoot)("a store that cannot be written to", () => {
  const changes = [...changing, ["create", "new", "--disk", "1M"], ["clone", "db"]];

  /** Reading works, and whatever changes says why it cannot. */
  async function expectReadable(
    home: string,
    reason: RegExp,
    as: readonly string[] = [],
  ): Promise<void> {
    const out = scene.place();
    const own = (args: readonly string[]): Promise<Ending> =>
      run([...as, "env", `CALQUE_HOME=${home}`, executable, ...args]);
    for (const args of [...reading, ["info", "db"]]) {
      expect({ args, ...(await own(args)) }).toMatchObject({ args, status: 0, stderr: "" });
    }
    for (const command of changes) {
      const args = command.map((word) => word.replace("OUT", out));
      const ending = await own(args);
      expectComposed(args.join(" "), ending);
      const [verb] = args;
      if (verb === "export" || verb === "purge" || verb === "recover") continue;
      const isTaken = verb === "create" && args[1] === "web";
      if (!isTaken) expect({ args, ...ending }).toMatchObject({ status: 2 });
      if (!isTaken) expect(ending.stderr).toMatch(reason);
    }
  }

  test("because its file system is read-only is shown all the same", async () => {
    using own = new Scene();
    const point = await own.mount("ext4", "64M");
    const home = path.join(point, "home");
    cpSync(pristine, home, { recursive: true });
    await must(["mount", "-o", "remount,ro", point]);
    await expectReadable(home, /Read-only file system/);
  });

  test.runIf(have("setpriv"))("because of its modes is shown all the same", async () => {
    const home = scene.path("modes");
    cpSync(pristine, home, { recursive: true });
    await must(["chown", "-R", `${nobody}`, home]);
    await must(["chmod", "-R", "a-w", home]);
    chmodSync(scene.directory, 0o755);
    const as = ["setpriv", `--reuid=${nobody}`, "--clear-groups"];
    await expectReadable(home, /Permission denied/, as);
  });

  test.each([
    ["belongs to somebody else", (home: string) => chownSync(home, nobody, nobody)],
    ["can be written to by others", (home: string) => chmodSync(home, 0o777)],
  ])("because it %s is refused", async (_, damage) => {
    const home = `${scene.place()}/home`;
    cpSync(pristine, home, { recursive: true });
    damage(home);
    const before = digestOfTree(home);
    for (const args of [...reading, ...changes]) {
      const { status, stderr } = await calque(home, args);
      expect({ args, status, stderr }).toEqual({
        args,
        status: 2,
        stderr: expect.stringMatching(/it belongs to another user|others can write to it/),
      });
    }
    expect(digestOfTree(home)).toEqual(before);
  });
});

test.runIf(judged)("a record that could not be written again keeps all changes away", async () => {
  const home = scene.path("deep");
  cpSync(pristine, home, { recursive: true });
  deepened(path.join(home, "instances/web/instance.json"));
  const before = digestOfTree(home);
  for (const command of [
    ["snapshot", "web"],
    ["restore", "--destructive", "web.one"],
    ["set", "local.web.cpus=3"],
    ["set", "local.web.memory=2G"],
    ["set", "local.web.disk=4M"],
    ["set", "local.web.one.comment=remarkable"],
    ["set", "local.web.one.name=eins"],
    ["clone", "web"],
    ["clone", "web", "--name", "new"],
    ["check", "web", "--repair", "all"],
    ["export", "web", scene.path("exported.qcow2")],
    ["delete", "--purge", "web.two"],
  ]) {
    expect({ command, ...(await calque(home, command)) }).toMatchObject({
      command,
      // 2 would say that the check found corruptions.
      status: command[0] === "check" ? 1 : 2,
      stdout: "",
      stderr: expect.stringContaining(
        'instance "web" is broken: instance.json is nested too deeply\n',
      ),
    });
  }
  expect(digestOfTree(home)).toEqual(before);
});

test.runIf(judged)("what is in the way is named, with the way out", async () => {
  const home = scene.path("ways-out");
  cpSync(pristine, home, { recursive: true });
  const say = async (...args: string[]): Promise<string> => {
    const { status, stderr } = await calque(home, args);
    return `${status}: ${stderr.replaceAll(home, "STORE")}`;
  };
  const lock = path.join(home, "instances/web/lock");
  rmSync(lock);
  mkdirSync(lock);
  expect(await say("delete", "--purge", "web")).toMatchInlineSnapshot(`
    "2: delete failed: "STORE/instances/web/lock": not a regular file
    hint: it is no lock; remove it, and a new one is made
    "
  `);
  rmSync(lock, { recursive: true });
  expect(await say("delete", "--purge", "web")).toBe("0: ");

  writeFileSync(path.join(home, "instances/db/instance.json"), "[".repeat(3_000_000));
  expect(await say("path", "db")).toBe(
    '2: path failed: instance "db" is broken: instance.json is nested too deeply\n',
  );
  const trash = path.join(home, "trash");
  rmSync(trash, { recursive: true });
  symlinkSync(outside, trash);
  expect(await say("list")).toMatchInlineSnapshot(`
    "2: list failed: "STORE/trash": it is a symbolic link
    hint: move it away; what the store needs in its place is made anew
    "
  `);
  rmSync(trash);
  expect(await say("delete", "db")).toBe("0: ");
});
