// The table in docs/locks.md, cell by cell: beside somebody who has the image, what the table says
// is done is done, and what it says is refused is refused in its words and leaves every byte as it
// was.

import { existsSync, readFileSync, rmSync, statSync } from "node:fs";
import path from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { docsTable, reasonsOf } from "../docs-table.ts";
import {
  copyInto,
  digestOfFile,
  expectRefusal,
  guest,
  have,
  Holder,
  image,
  isRoot,
  judged,
  must,
  mustImage,
  qemuImg,
  Scene,
  snapshotsOf,
  until,
} from "./support.ts";

const { operations, lines } = docsTable(
  "docs/locks.md",
  (line) => line.startsWith("| ") && line.split("|").length === 10,
);

/** Lets somebody have the image until the end of the block. */
type Taking = (file: string) => Promise<AsyncDisposable>;

/** A program that has the image as soon as it has made `FILE.ready`. */
const program = (...command: string[]): Taking => {
  return (file) => {
    const ready = `${file}.ready`;
    rmSync(ready, { force: true });
    const args = command.map((word) => word.replaceAll("FILE", file));
    return Holder.of(args, () => existsSync(ready));
  };
};

const shell = (script: string): Taking => program("sh", "-c", script, "sh", "FILE");

/** A lock by `fcntl(2)`, as another tool takes it. A length of 0 is all of the file. */
const lock = (type: "shared" | "exclusive", start: number, length: number): Taking => {
  const fields = `${type === "shared" ? 0 : 1}, 0, ${start}, ${length}, 0`;
  const flock = `my $flock = pack "s s x4 q q l x4", ${fields}; fcntl F, 6, $flock or die`;
  const script = `open F, "+<", $ARGV[0]; ${flock}; open R, ">$ARGV[0].ready"`;
  return program("perl", "-e", `${script}; sleep 60`, "FILE");
};

const nbd =
  (...flags: string[]): Taking =>
  (file) => {
    const socket = `${file}.sock`;
    rmSync(socket, { force: true });
    const command = ["qemu-nbd", "--persistent", "-k", socket, "-f", "qcow2", ...flags, file];
    // It listens before it opens the image.
    return Holder.of(command, async () => (await locksOn(file)) > 0);
  };

const io =
  (...flags: string[]): Taking =>
  (file) =>
    Holder.io(file, ...flags);

/** How many byte ranges of a file are locked. */
async function locksOn(file: string): Promise<number> {
  const inode = `:${(await must(["stat", "-c", "%i", file])).trim()} `;
  return (await must(["cat", "/proc/locks"])).split("\n").filter((it) => it.includes(inode)).length;
}

const holders: Record<string, Taking> = {
  nobody: () => Promise.resolve({ [Symbol.asyncDispose]: () => Promise.resolve() }),
  "a reader that shares all of it (byte 100)": io("-r", "-U"),
  "a reader (100, 201, 203)": io("-r"),
  async "a machine of which it is the backing file"(file) {
    const overlay = `${file}.overlay`;
    await qemuImg("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", file, overlay);
    return Holder.io(overlay);
  },
  "`qemu-nbd -r`": nbd("-r"),
  "a machine (100, 101, 103, 201, 203)": io(),
  "`qemu-nbd`": nbd(),
  "somebody who writes and shares all of it (byte 101)": lock("shared", 101, 1),
  "somebody who may change the size (byte 103)": lock("shared", 103, 1),
  "an exclusive lock on the whole file": lock("exclusive", 0, 0),
  "a shared lock on the whole file": lock("shared", 0, 0),
  "an exclusive lock on byte 0": lock("exclusive", 0, 1),
  "an exclusive `flock(2)`": shell(
    'exec flock -x -F "$1" sh -c \': >"$1.ready"; sleep 60\' sh "$1"',
  ),
  "a shared `flock(2)`": shell('exec flock -s -F "$1" sh -c \': >"$1.ready"; sleep 60\' sh "$1"'),
  "a machine with `locking=off`": (file) =>
    Holder.io(
      `driver=qcow2,file.driver=file,file.locking=off,file.filename=${file}`,
      "--image-opts",
    ),
  "a program that has it open to write": shell('exec 3<>"$1"; : >"$1.ready"; exec sleep 60'),
  async "a loop device"(file) {
    const device = (await must(["losetup", "--show", "-f", file])).trim();
    return {
      async [Symbol.asyncDispose]() {
        await must(["losetup", "-d", device]);
      },
    };
  },
  "a program that has it open to read": shell('exec 3<"$1"; : >"$1.ready"; exec sleep 60'),
  "a QEMU that has opened it, and not put a format on it": (file) => {
    const node = `driver=file,node-name=disk,auto-read-only=on,filename=${file}`;
    const command = ["qemu-storage-daemon", "--pidfile", `${file}.pid`, "--blockdev", node];
    rmSync(`${file}.pid`, { force: true });
    return Holder.of(command, () => existsSync(`${file}.pid`));
  },
};

/** What is missing here for a row. */
function isMissing(name: string): boolean {
  if (name === "a loop device") return !isRoot;
  if (name.startsWith("`qemu-nbd")) return !have("qemu-nbd");
  if (name.startsWith("a QEMU")) return !have("qemu-storage-daemon");
  return false;
}

test("the table has each holder once", () => {
  expect(lines.map(([name]) => name)).toEqual(Object.keys(holders));
});

describe.runIf(judged)("an image that somebody has", () => {
  const scene = new Scene();
  const original = scene.path("original.qcow2");
  beforeAll(async () => {
    await qemuImg("create", "-q", "-f", "qcow2", original, "4M");
    await guest(original, "write -P 1 0 1M");
    await qemuImg("snapshot", "-c", "one", original);
    return () => scene[Symbol.dispose]();
  });

  /** The image without room for a further table, so that a snapshot makes it longer. */
  test("grows when a snapshot is taken", async () => {
    const file = copyInto(scene.place(), original);
    await mustImage(["snapshot", "-c", "new", file]);
    expect(statSync(file).size).toBeGreaterThan(statSync(original).size);
  });

  describe.each(lines)("%s", (name, ...cells) => {
    const reasons = reasonsOf(cells);
    let file = "";
    let holder: AsyncDisposable | undefined;
    beforeAll(async () => {
      if (isMissing(name)) return;
      file = copyInto(scene.place(), original);
      holder = await holders[name]!(file);
    });
    afterAll(() => holder?.[Symbol.asyncDispose]());

    test
      .skipIf(isMissing(name))
      .each(operations.map((operation, at) => ({ operation, cell: cells[at]! })))(
      "$operation: $cell",
      async ({ operation, cell }) => {
        const targets = (operation === "clone of five" ? [1, 2, 3, 4, 5] : [1]).map((number) =>
          path.join(path.dirname(file), `target-${number}.qcow2`),
        );
        const commands: Record<string, string[]> = {
          info: ["info", file],
          check: ["check", file],
          "snapshot -l": ["snapshot", "-l", file],
          "snapshot -c": ["snapshot", "--no-wait", "-c", "new", file],
          clone: ["clone", "--no-wait", "-q", file, ...targets],
          "clone of five": ["clone", "--no-wait", "-q", file, ...targets],
        };
        const before = digestOfFile(file);
        const ending = await image(commands[operation]!);
        const isClone = operation.startsWith("clone");
        if (cell === "refused") {
          expectRefusal(ending);
          expect(
            reasons.some((reason) => ending.stderr.includes(reason)),
            ending.stderr,
          ).toBe(true);
        } else {
          expect(cell).toBe("yes");
          expect(ending).toMatchObject({ status: 0, stderr: "" });
          if (operation === "snapshot -c") {
            expect((await snapshotsOf(file)).map((it) => it.name)).toEqual(["one", "new"]);
            return;
          }
        }
        expect(digestOfFile(file)).toBe(before);
        for (const target of targets) {
          expect(existsSync(target)).toBe(isClone && cell === "yes");
          rmSync(target, { force: true });
        }
      },
    );
  });

  /**
   * The story: a storage daemon was given the file, then a snapshot was taken, then the daemon was
   * given the format. It took all that lay beyond the length it had measured for zeros, the tables
   * among it, and what a guest wrote then destroyed the image.
   */
  test.runIf(have("qemu-storage-daemon"))(
    "opened, measured and not locked is changed as soon as that one is gone",
    async () => {
      const file = copyInto(scene.place(), original);
      {
        await using daemon = await holders[lines.at(-1)![0]!]!(file);
        expect(daemon).toBeDefined();
        const ending = await image(["snapshot", "-c", "new", file]);
        expectRefusal(ending, /It is open, and not locked yet, in qemu-storage-da/);
        expect(digestOfFile(file)).toBe(digestOfFile(original));
      }
      await mustImage(["snapshot", "-c", "new", file]);
      await qemuImg("check", "-q", file);
    },
  );

  test.runIf(have("strace"))(
    "measured by a QEMU that is slow to lock it is not changed underneath it",
    async () => {
      const file = copyInto(scene.place(), original);
      const trace = `${file}.trace`;
      // The first lseek(2) measures the image; the locks come after it.
      const stop = ["-e", "trace=lseek", "-e", "inject=lseek:delay_exit=1500000:when=1"];
      const qemu = ["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 1 0 1M", file];
      const reading = must(["strace", "-f", "-qq", "-o", trace, ...stop, "--", ...qemu]);
      await until(() => existsSync(trace) && readFileSync(trace, "utf8").includes("lseek("));
      expectRefusal(await image(["snapshot", "-c", "new", file]), /It is open, and not locked yet/);
      expect(await reading).not.toMatch(/failed/);
      await mustImage(["snapshot", "-c", "new", file]);
      await qemuImg("check", "-q", file);
    },
  );
});
