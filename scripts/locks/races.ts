// What becomes of an image when two start to change it within a few milliseconds, judged by
// qemu-img: its check, what it lists, and what the disk and each snapshot hold.

import { setTimeout as sleep } from "node:timers/promises";

import { type Command, type Ending, must, Place, start } from "./programs.ts";

/** Who takes part: programs that take and delete snapshots, and machines that start and write. */
export const contestants = [
  "qemu-img",
  "calque",
  "machine",
  "slow qemu-img",
  "slow machine",
] as const;
export type Contestant = (typeof contestants)[number];

/** The second one starts up to this many milliseconds after the first. */
const LARGEST_OFFSET_MS = 12;
/** How long a slow one is stopped, at most, between measuring the file and locking it. */
const LARGEST_DELAY_MS = 60;

/** What was wrong with an image afterwards. */
export const damages = ["corrupt", "leaks", "nameless", "lost", "content"] as const;
export type Damage = (typeof damages)[number];

export interface RaceReport {
  first: Contestant;
  second: Contestant;
  rounds: number;
  /** Rounds in which both got what they wanted. */
  both: number;
  /** Rounds with any damage. */
  damaged: number;
  /** By kind; one round may have several. */
  damages: Record<Damage, number>;
}

/** Lets two meet on `rounds` copies of an image. */
export async function countRaces(
  calque: string,
  pair: readonly [Contestant, Contestant],
  parent: string,
  rounds: number,
): Promise<RaceReport> {
  using place = await Place.make(parent);
  const judge = await Judge.of(place);
  const none = { corrupt: 0, leaks: 0, nameless: 0, lost: 0, content: 0 };
  const [first, second] = pair;
  const report: RaceReport = { first, second, rounds, both: 0, damaged: 0, damages: none };
  for (let round = 0; round < rounds; round += 1) {
    place.renew();
    const turns = pair.map((who, at) => turn(calque, who, at, round, place.file));
    // Each is first half of the time, and each offset is met by each pair of commands.
    if (round % 2 === 1) turns.reverse();
    const offset = (round * 7) % (LARGEST_OFFSET_MS + 1);
    const endings = await Promise.all(
      turns.map(async ({ command }, at) => {
        if (at === 1) await sleep(offset);
        return start(command);
      }),
    );
    if (endings.every(({ status }) => status === 0)) report.both += 1;
    const found = await judge.look(turns, endings);
    for (const damage of found) report.damages[damage] += 1;
    if (found.size > 0) report.damaged += 1;
  }
  return report;
}

/** What one of the two does in a round. */
interface Turn {
  command: Command;
  takes?: string;
  deletes?: string;
}

function turn(calque: string, who: Contestant, at: number, round: number, file: string): Turn {
  const isSlow = who.startsWith("slow ");
  const delay = 1000 * (1 + ((round * 23) % LARGEST_DELAY_MS));
  // The first lseek(2) of a QEMU is the one that measures the image.
  const slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=lseek"];
  const stop = ["-e", `inject=lseek:delay_exit=${delay}:when=1`, "--"];
  const of = (...command: [string, ...string[]]): Command =>
    isSlow ? [slow[0]!, ...slow.slice(1), ...stop, ...command] : command;
  if (who.endsWith("machine")) {
    return { command: of("qemu-io", "-f", "qcow2", "-c", "write -P 9 256k 512k", file) };
  }
  const program: [string, ...string[]] = who === "calque" ? [calque, "image"] : ["qemu-img"];
  // Every third round one of the two deletes.
  if (at === 1 && round % 3 === 2) {
    return { command: of(...program, "snapshot", "-d", "one", file), deletes: "one" };
  }
  const name = `new-${at}`;
  return { command: of(...program, "snapshot", "-c", name, file), takes: name };
}

/** Knows what may be on the disk, and in which snapshot. */
class Judge {
  readonly #place: Place;
  readonly #active: ReadonlySet<string>;
  readonly #one: string;

  private constructor(place: Place, active: ReadonlySet<string>, one: string) {
    this.#place = place;
    this.#active = active;
    this.#one = one;
  }

  static async of(place: Place): Promise<Judge> {
    place.renew();
    const before = await place.digest(place.file);
    const one = await place.digest(place.file, "1");
    await must(["qemu-io", "-f", "qcow2", "-c", "write -P 9 256k 512k", place.file]);
    return new Judge(place, new Set([before, await place.digest(place.file)]), one);
  }

  /** What is wrong after a round. */
  async look(turns: readonly Turn[], endings: readonly Ending[]): Promise<Set<Damage>> {
    const found = new Set<Damage>();
    const { file } = this.#place;
    const check = await start(["qemu-img", "check", "-q", "-f", "qcow2", file]);
    if (check.status === 3) found.add("leaks");
    else if (check.status !== 0) found.add("corrupt");
    const info = await start(["qemu-img", "info", "-f", "qcow2", "--output=json", file]);
    if (info.status !== 0) return found.add("corrupt");
    const { snapshots = [] } = JSON.parse(info.stdout) as {
      snapshots?: { id: string; name: string }[];
    };
    const listed = new Set(snapshots.map(({ name }) => name));
    if (listed.has("")) found.add("nameless");
    const expected = new Set(["one"]);
    for (const [at, { takes, deletes }] of turns.entries()) {
      if (endings[at]!.status !== 0) continue;
      if (takes !== undefined) expected.add(takes);
      if (deletes !== undefined) expected.delete(deletes);
    }
    if (expected.symmetricDifference(listed).size > 0) found.add("lost");
    if (!this.#active.has(await this.#place.digest(file))) found.add("content");
    for (const { id, name } of snapshots) {
      const digest = await this.#place.digest(file, id);
      const isRight = name === "one" ? digest === this.#one : this.#active.has(digest);
      if (!isRight) found.add("content");
    }
    return found;
  }
}
