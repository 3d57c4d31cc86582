// The program in process, on a core that the test plays. A call gives everything that a user sees:
// standard output as it is, each line of standard error behind `! `, the exit status last.

import process from "node:process";

import { main } from "../../src/app.ts";
import type { Host, Stream } from "../../src/host.ts";
import type {
  CheckReport,
  Failure,
  ImageInfo,
  Native,
  SnapshotInfo,
  SnapshotListReport,
  SnapshotReport,
} from "../../src/native.ts";

process.env.TZ = "UTC";

interface Scene extends Partial<Native> {
  /** The name by which the program is called. */
  argv0?: string;
  /** Whether all streams are terminals. */
  terminal?: boolean;
  /** Whether standard input is one, if that is not as with the others. */
  typed?: boolean;
  /** What is typed, a line for each question; then the input ends. */
  answers?: readonly string[];
  randomBytes?: (count: number) => Uint8Array;
  env?: Readonly<Record<string, string>>;
}

/** The program, called with the words of a line. Operations that the scene lacks must not be used. */
export function app({
  argv0 = "/usr/bin/calque",
  terminal = false,
  typed = terminal,
  answers = [],
  randomBytes = (count) => new Uint8Array(count).fill(0x42),
  env = {},
  ...operations
}: Scene = {}) {
  const native = new Proxy(operations as Native, {
    get(known, name) {
      return (
        Reflect.get(known, name) ??
        (() => {
          throw new Error(`the core was asked for ${String(name)}`);
        })
      );
    },
  });
  return async (...args: string[]): Promise<string> => {
    const stdout = recorder(terminal);
    const stderr = recorder(terminal);
    const lines = answers.values();
    const host: Host = {
      argv: [argv0, ...args],
      env: (name) => env[name],
      stdout,
      stderr,
      stdin: { isTerminal: typed },
      randomBytes,
      now: () => ({ sec: 1_795_606_149, nsec: 330_473_000 }),
      readLine(prompt) {
        const answer = lines.next().value;
        // As a terminal shows it.
        stdout.write(`${prompt}${answer ?? "^D"}\n`);
        return Promise.resolve(answer);
      },
    };
    const status = await main(host, native);
    const messages = stderr.text().replace(/^(?=[^])/gm, "! ");
    return `${stdout.text()}${messages}= ${status}`;
  };
}

function recorder(isTerminal: boolean): Stream & { text: () => string } {
  const written: Buffer[] = [];
  return {
    isTerminal,
    columns: isTerminal ? 80 : undefined,
    write: (data) => void written.push(Buffer.from(data as string)),
    // Latin-1 keeps bytes that are not UTF-8 apart.
    text: () => {
      const bytes = Buffer.concat(written);
      const text = bytes.toString("utf8");
      return text.includes("\ufffd") ? bytes.toString("latin1") : text;
    },
  };
}

export function fails(failure: Partial<Failure>) {
  const { code = "io", stage = "operation", reason = "Input/output error", ...more } = failure;
  return () => ({ failure: { code, stage, reason, ...more } });
}

export function image(info: Partial<ImageInfo> = {}) {
  return ({ path }: { path: string }): { report: ImageInfo } => ({
    report: {
      path,
      virtualSize: 1 << 20,
      actualSize: 200704,
      fileLength: 196616,
      clusterSize: 65536,
      compat: "1.1",
      compressionType: "zlib",
      lazyRefcounts: false,
      refcountBits: 16,
      corrupt: false,
      dirty: false,
      extendedEntries: false,
      bitmaps: [],
      snapshots: [],
      ...info,
    },
  });
}

export function snapshot(info: Partial<SnapshotInfo> = {}): SnapshotInfo {
  return {
    id: "1",
    name: "foo",
    vmStateSize: 0,
    dateSec: 1_795_606_149,
    dateNsec: 330_473_000,
    vmClockSec: 0,
    vmClockNsec: 0,
    icount: "0",
    ...info,
  };
}

export function listed(snapshots: SnapshotInfo[]): { report: SnapshotListReport } {
  return { report: { snapshots, virtualSize: 1 << 20, commitFields: "00".repeat(48) } };
}

export function checked(report: Partial<CheckReport> = {}) {
  return (): { report: CheckReport } => ({
    report: {
      imageEndOffset: 458752,
      totalClusters: 16,
      allocatedClusters: 2,
      fragmentedClusters: 0,
      compressedClusters: 0,
      corruptions: 0,
      leaks: 0,
      checkErrors: 0,
      problems: [],
      problemsOmitted: 0,
      ...report,
    },
  });
}

/** An operation on a snapshot that succeeds and notes what it was asked for. */
export function changed(requests: unknown[] = [], commit: Partial<SnapshotReport["commit"]> = {}) {
  return (request: object): { report: SnapshotReport } => {
    requests.push(request);
    const cost = { writtenBytes: 131072, flushes: 3, punchedBytes: 0, ...commit };
    return { report: { id: "1", name: "foo", commit: cost } };
  };
}
