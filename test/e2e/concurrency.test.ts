// Several at once on one image: Calques among themselves, and with those who have it open.
//
// The story: of 40 images on which two `qemu-img snapshot -c` were started within 12 ms, 29 ended
// damaged. Calques wait for each other; and nobody is told that an image is corrupt because it
// moved while it was looked at.

import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";

import { describe, expect, test } from "vitest";

import {
  copyInto,
  digest,
  digestOfFile,
  type Ending,
  executable,
  expectRefusal,
  guest,
  have,
  Holder,
  image,
  inTrouble,
  isRoot,
  judged,
  makeOriginal,
  must,
  mustImage,
  qemuImg,
  run,
  sleep,
  snapshotsOf,
  until,
  view,
} from "./support.ts";

const { scene, file: original } = makeOriginal();

const SECONDS = 4;
/** How often everybody gets their turn at least; the test's own time limit is the judge of that. */
const ROUNDS = 3;

/** Repeats work until time is up and it was done a few times; how often it was done. */
async function keepOn(work: (round: number) => Promise<void>): Promise<number> {
  const end = Date.now() + SECONDS * 1000;
  let round = 0;
  for (; Date.now() < end || round < ROUNDS; round += 1) await work(round);
  return round;
}

/** An image that keeps moving may be called busy, and nothing else. */
function isFine({ status, stderr }: Ending): boolean {
  return status === 0 || (status === 1 && /keeps changing/.test(stderr));
}

describe.runIf(judged)("several Calques on one image", () => {
  test.concurrent("that all change it wait for each other and lose nothing", async () => {
    const place = scene.place();
    const file = copyInto(place, original);
    const [made, gone] = [new Set<string>(["one", "two"]), new Set<string>()];
    const failures: Ending[] = [];
    const note = (ending: Ending, allowed?: RegExp): boolean => {
      const isAllowed = ending.status === 1 && allowed?.test(ending.stderr) === true;
      if (ending.status !== 0 && !isAllowed) failures.push(ending);
      return ending.status === 0;
    };
    const creator = (who: string) => async (round: number) => {
      const name = `${who}-${round}`;
      if (note(await image(["snapshot", "-c", name, file]))) made.add(name);
    };
    const remover = async (): Promise<void> => {
      const name = [...made].find((it) => !gone.has(it) && it !== "one");
      if (name === undefined) return sleep(5);
      gone.add(name);
      note(await image(["snapshot", "-d", name, file]));
    };
    // Nobody is kept out all the time: each of them gets done with their rounds.
    await Promise.all([
      keepOn(creator("a")),
      keepOn(creator("b")),
      keepOn(remover),
      keepOn(remover),
      keepOn(async () => void note(await image(["snapshot", "-a", "one", file]))),
      keepOn(async () => {
        // While it is called so, the one who applies it does not find it.
        note(await image(["snapshot", "--rename", "one", "eins", file]));
        note(await image(["snapshot", "--rename", "eins", "one", file]));
      }),
      keepOn(async () => {
        const list = await image(["snapshot", "-l", file]);
        if (note(list, /keeps changing/)) expect(list.stdout).toMatch(/ one | eins /);
      }),
      keepOn(async (round) => {
        const clone = path.join(place, `clone-${round}.qcow2`);
        if (note(await image(["clone", "-q", "--keep-snapshots", file, clone]))) {
          await qemuImg("check", "-q", clone);
          rmSync(clone);
        }
      }),
    ]);
    // Renaming makes `-a one` miss now and then; nothing else may go wrong.
    const unexpected = failures.filter(({ stderr }) => !/'one': .*No such file/.test(stderr));
    expect(unexpected).toEqual([]);
    const left = (await snapshotsOf(file)).map(({ name }) => name).toSorted();
    const expected = [...made].filter((name) => !gone.has(name)).toSorted();
    expect(left).toEqual(expected);
    expect(await view(file)).toMatchObject({ check: 0 });
    expect(readdirSync(place)).toEqual(["disk.qcow2"]);
  });

  test.concurrent("that only look never see corruption beside others that change it", async () => {
    const file = copyInto(scene.place(), original);
    const seen: Ending[] = [];
    const looking = (args: string[]) => async (): Promise<void> => {
      const ending = await image([...args, file]);
      if (!isFine(ending)) seen.push(ending);
    };
    await Promise.all([
      keepOn(async () => {
        await mustImage(["snapshot", "-c", "new", file]);
        await mustImage(["snapshot", "-a", "one", file]);
        await mustImage(["snapshot", "-d", "new", file]);
      }),
      keepOn(looking(["info"])),
      keepOn(looking(["info", "--output", "json", "-U"])),
      keepOn(looking(["check"])),
      keepOn(looking(["check", "-U"])),
      keepOn(looking(["snapshot", "-l"])),
    ]);
    expect(seen).toEqual([]);
    expect(await view(file)).toMatchObject({ check: 0 });
  });

  test.concurrent("that clone it at once all get the same", async () => {
    const place = scene.place();
    const file = copyInto(place, original);
    const names = Array.from({ length: 8 }, (_, at) => path.join(place, `clone-${at}.qcow2`));
    await Promise.all(names.map((name) => mustImage(["clone", "-q", file, name])));
    for (const name of names) expect(digestOfFile(name)).toBe(digestOfFile(names[0]!));
    await qemuImg("check", "-q", names[0]!);
  });

  test.concurrent("that all want one target: one gets it, the others are told", async () => {
    const place = scene.place();
    copyInto(place, original);
    const all = Array.from({ length: 8 }, () =>
      image(["clone", "-q", "disk.qcow2", "a.qcow2"], { cwd: place }),
    );
    const endings = await Promise.all(all);
    expect(endings.filter(({ status }) => status === 0)).toHaveLength(1);
    for (const ending of endings.filter(({ status }) => status !== 0)) {
      expectRefusal(ending, /File exists/);
    }
    expect(readdirSync(place).toSorted()).toEqual(["a.qcow2", "disk.qcow2"]);
    expect(await view(path.join(place, "a.qcow2"))).toMatchObject({ check: 0 });
  });

  test.concurrent("that all create one image leave one that is sound", async () => {
    const file = path.join(scene.place(), "new.qcow2");
    const all = Array.from({ length: 8 }, () => image(["create", "-q", file, "1G"]));
    for (const ending of await Promise.all(all)) {
      expect(ending).toMatchObject({ status: 0, stderr: "" });
    }
    expect(await view(file)).toMatchObject({ check: 0, snapshots: [] });
  });

  test.concurrent("and qemu-img's, which gives up where we wait, do no harm to each other", async () => {
    const file = copyInto(scene.place(), original);
    const odd: Ending[] = [];
    const passing = /lock|Is another process/;
    let [ours, theirs] = [0, 0];
    const count = await keepOn(async (round) => {
      const names = [`ours-${round}`, `theirs-${round}`];
      const [our, their] = await Promise.all([
        image(["snapshot", "-c", names[0]!, file]),
        run(["qemu-img", "snapshot", "-c", names[1]!, file]),
      ]);
      if (our.status === 0) ours += 1;
      if (their.status === 0) theirs += 1;
      odd.push(
        ...[our, their].filter(({ status, stderr }) => status !== 0 && !passing.test(stderr)),
      );
      const listed = new Set((await snapshotsOf(file)).map(({ name }) => name));
      for (const [at, { status }] of [our, their].entries()) {
        expect(listed.has(names[at]!)).toBe(status === 0);
      }
      expect((await run(["qemu-img", "check", "-q", file])).status).toBe(0);
    });
    expect(odd).toEqual([]);
    expect(ours + theirs).toBeGreaterThanOrEqual(count);
  });
});

/** Nothing is changed, not a byte, and nothing is made. */
async function expectRefused(file: string, commands: string[][], reason: RegExp): Promise<void> {
  const before = digestOfFile(file);
  for (const args of commands) {
    const ending = await image([...args, file]);
    expectRefusal(ending, reason);
    expect(ending.stderr).toContain(`Is another process using the image [${file}]?`);
    expect(digestOfFile(file)).toBe(before);
  }
  expectRefusal(await image(["create", "-q", file, "1M"]), /Failed to get "write" lock/);
  expect(digestOfFile(file)).toBe(before);
}

describe.runIf(judged)("an image that somebody has open", () => {
  const changing = [
    ["snapshot", "-c", "new"],
    ["snapshot", "-a", "one"],
    ["snapshot", "-d", "one"],
    ["snapshot", "--rename", "one", "eins"],
  ];
  const reading = [["info"], ["check"], ["snapshot", "-l"]];

  test.concurrent("to write is neither changed nor cloned; -U reads it", async () => {
    const file = copyInto(scene.place(), original);
    await using holder = await Holder.io(file);
    expect(holder.pid).toBeGreaterThan(0);
    await expectRefused(file, changing, /Failed to get "write" lock/);
    await expectRefused(file, reading, /Failed to get shared "write" lock/);
    for (const args of [
      ["clone"],
      ["clone", "--keep-snapshots"],
      ["clone", "--strategy", "copy"],
    ]) {
      expectRefusal(
        await image([...args, file, `${file}.copy`]),
        /Failed to get shared "write" lock/,
      );
      expect(existsSync(`${file}.copy`)).toBe(false);
    }
    for (const args of reading) {
      expect(await image([...args, "-U", file])).toMatchObject({ status: 0, stderr: "" });
    }
    for (const args of changing) {
      expectRefusal(
        await image([args[0]!, "-U", ...args.slice(1), file]),
        /force-share=on can only/,
      );
    }
  });

  test.concurrent("to write is refused with a word about who it is", async () => {
    const file = copyInto(scene.place(), original);
    await using holder = await Holder.io(file);
    const { stderr } = await image(["snapshot", "-c", "new", file]);
    expect(stderr).toContain(`qemu-io (process ${holder.pid})`);
  });

  test.concurrent("to read is read and cloned, but not changed", async () => {
    const file = copyInto(scene.place(), original);
    await using holder = await Holder.io(file, "-r");
    expect(holder.pid).toBeGreaterThan(0);
    for (const args of reading) expect(await image([...args, file])).toMatchObject({ status: 0 });
    await expectRefused(file, changing, /Failed to get "write" lock/);
    await mustImage(["clone", "-q", file, `${file}.copy`]);
    expect(await digest(`${file}.copy`)).toBe(await digest(file));
  });

  test.concurrent("to read is changed as soon as the reader leaves", async () => {
    const file = copyInto(scene.place(), original);
    const reader = await Holder.io(file, "-r");
    const change = image(["snapshot", "-c", "new", file]);
    setTimeout(() => reader.kill(), 400);
    expect(await change).toMatchObject({ status: 0, stderr: "" });
    await reader[Symbol.asyncDispose]();
  });

  test.runIf(have("qemu-nbd"))(
    "by qemu-nbd is refused, too, and free when that was killed",
    { concurrent: true },
    async () => {
      const place = scene.place();
      const file = copyInto(place, original);
      const socket = path.join(place, "nbd.sock");
      {
        const command = ["qemu-nbd", "--persistent", "-k", socket, "-f", "qcow2", file];
        await using server = await Holder.of(command, () => existsSync(socket));
        await expectRefused(file, changing, /Failed to get "write" lock/);
        await expectRefused(file, reading, /Failed to get shared "write" lock/);
        server.kill();
      }
      await mustImage(["snapshot", "-c", "new", file]);
    },
  );

  test.runIf(isRoot)(
    "through a loop device, without a lock, is not changed",
    { concurrent: true },
    async () => {
      const file = copyInto(scene.place(), original);
      const device = (await must(["losetup", "--show", "-f", file])).trim();
      try {
        const before = digestOfFile(file);
        for (const args of changing) {
          expectRefusal(await image([...args, file]), /lock/);
          expect(digestOfFile(file)).toBe(before);
        }
      } finally {
        await must(["losetup", "-d", device]);
      }
      await until(async () => (await image(["snapshot", "-c", "free", file])).status === 0);
    },
  );

  test.concurrent("by a program that has it open to write, without a lock, is not changed", async () => {
    const file = copyInto(scene.place(), original);
    const script = 'exec 3<>"$1"; : > "$1.ready"; exec sleep 60';
    await using holder = await Holder.of(["sh", "-c", script, "sh", file], () =>
      existsSync(`${file}.ready`),
    );
    const ending = await image(["snapshot", "-c", "new", file]);
    expectRefusal(ending, /lock/);
    expect(ending.stderr).toContain(`process ${holder.pid}`);
    expect(digestOfFile(file)).toBe(digestOfFile(original));
  });

  test.concurrent("by flock, as crosvm does, is not changed", async () => {
    const file = copyInto(scene.place(), original);
    const script = 'exec flock -x -F "$1" sh -c \': > "$1.ready"; exec sleep 60\' sh "$1"';
    await using holder = await Holder.of(["sh", "-c", script, "sh", file], () =>
      existsSync(`${file}.ready`),
    );
    expect(holder.pid).toBeGreaterThan(0);
    expectRefusal(await image(["snapshot", "-c", "new", file]), /lock/);
    expect(digestOfFile(file)).toBe(digestOfFile(original));
  });
});

/** A Calque that is stopped before its `call`, held there, and then goes on. */
async function whileAt(
  call: string,
  args: string[],
  place: string,
  work: () => Promise<void>,
): Promise<Ending> {
  const trace = path.join(place, "..", `${path.basename(place)}.trace`);
  const inject = `inject=${call}:delay_enter=1500000:when=1`;
  const strace = ["strace", "-f", "-o", trace, "-e", `trace=${call}`, "-e", inject];
  const ended = run([...strace, executable, "image", ...args], { cwd: place });
  await until(() => existsSync(trace) && readFileSync(trace, "utf8").includes(`${call}(`));
  await work();
  return ended;
}

describe.runIf(judged && have("strace"))("while a Calque is at work", () => {
  test.concurrent("on a clone, its source can be read and cloned, but not written", async () => {
    const place = scene.place();
    const file = copyInto(place, original);
    const ending = await whileAt(
      "linkat",
      ["clone", "-q", "disk.qcow2", "a.qcow2"],
      place,
      async () => {
        const writer = await run(["qemu-io", "-c", "write 0 64k", file]);
        expect(writer.stderr + writer.stdout).toMatch(/Failed to get "write" lock/);
        expect(await run(["qemu-io", "-r", "-c", "read 0 4k", file])).toMatchObject({ status: 0 });
        expect(await image(["info", file])).toMatchObject({ status: 0 });
        await mustImage(["clone", "-q", file, `${file}.other`]);
        const refused = await image(["snapshot", "--no-wait", "-c", "new", file]);
        expectRefusal(refused, /Failed to get "write" lock/);
        expect(existsSync(path.join(place, "a.qcow2"))).toBe(false);
      },
    );
    expect(ending).toMatchObject({ status: 0 });
    expect(await digest(path.join(place, "a.qcow2"))).toBe(await digest(original));
  });

  test.concurrent("on a change, nobody gets in, and who waits says so after a second", async () => {
    const place = scene.place();
    const file = copyInto(place, original);
    let waiting: Promise<Ending> | undefined;
    const ending = await whileAt(
      "pwrite64",
      ["snapshot", "-c", "slow", "disk.qcow2"],
      place,
      async () => {
        waiting = image(["snapshot", "-c", "next", file]);
        for (const program of [
          ["qemu-img", "snapshot", "-l"],
          ["qemu-io", "-r", "-c", "read 0 4k"],
        ]) {
          const theirs = await run([...program, file]);
          expect(theirs.stdout + theirs.stderr).toMatch(/Failed to get/);
        }
        expectRefusal(await image(["snapshot", "--no-wait", "-c", "never", file]), /write" lock/);
        const clone = await image(["clone", "--no-wait", file, `${file}.never`]);
        expectRefusal(clone, /Failed to get shared "write" lock/);
      },
    );
    expect(ending).toMatchObject({ status: 0, stderr: "" });
    const next = await waiting;
    expect(next).toMatchObject({ status: 0 });
    expect(next?.stderr).toMatch(/^Waiting for .*process \d+.* to finish with "/);
    const names = (await snapshotsOf(file)).map(({ name }) => name);
    expect(names).toEqual(["one", "two", "slow", "next"]);
    await qemuImg("check", "-q", file);
  });

  test.concurrent("that is killed, its lock is gone with it", async () => {
    for (const args of [
      ["snapshot", "-c", "new", "disk.qcow2"],
      ["clone", "disk.qcow2", "a.qcow2"],
    ]) {
      const place = scene.place();
      const file = copyInto(place, original);
      const trouble = { call: "fdatasync", what: "signal=SIGKILL", when: "1" };
      const [, met] = await inTrouble(args, trouble, place);
      expect(met).toBe(true);
      expect(await image(["snapshot", "--no-wait", "-c", "next", file])).toMatchObject({
        status: 0,
        stderr: "",
      });
      await guest(file, "write -P 1 0 4k");
      const locks = await must(["cat", "/proc/locks"]);
      const inode = (await must(["stat", "-c", "%i", file])).trim();
      expect(locks).not.toMatch(new RegExp(`:${inode} `));
    }
  });

  test.concurrent("the path that is replaced underneath is noticed, not written to", async () => {
    const place = scene.place();
    const file = copyInto(place, original);
    const ending = await whileAt(
      "flock",
      ["snapshot", "-c", "new", "disk.qcow2"],
      place,
      async () => {
        await must(["cp", original, `${file}.new`]);
        await must(["mv", `${file}.new`, file]);
      },
    );
    expectRefusal(ending, /replaced/);
    expect(digestOfFile(file)).toBe(digestOfFile(original));
  });
});
