// The program, in process or as it is built. A call gives everything that a user sees: standard
// output as it is, each line of standard error behind `! `, the exit status last. In process it has
// no core but the operations that the test plays.

import process from "node:process";

import { main } from "../../src/app.ts";
import type { Host, Stream } from "../../src/host.ts";
import type {
  CheckReport,
  Failure,
  ImageInfo,
  Native,
  RepairReport,
  SnapshotInfo,
  SnapshotListReport,
  SnapshotReport,
} from "../../src/native.ts";
import { executable } from "./executable.ts";
import { NOW, type Surroundings, transcript } from "./transcript.ts";
import { vehicle } from "./vehicle.ts";

process.env.TZ = "UTC";

interface Scene extends Partial<Surroundings>, Partial<Native> {
  randomBytes?: Host["randomBytes"];
}

/**
 * The program, called with the words of a line. In process, operations that the scene lacks must
 * not be used.
 */
export function app({
  argv0 = "/usr/bin/calque",
  terminal = false,
  typed = terminal,
  answers = [],
  env = {},
  randomBytes,
  ...operations
}: Scene = {}): (...args: readonly string[]) => Promise<string> {
  const surroundings = { argv0, terminal, typed, answers, env };
  if (vehicle === "process") return inProcess(surroundings, operations, randomBytes);
  const things = Object.keys({ ...operations, ...(randomBytes && { randomBytes }) });
  if (things.length > 0) throw new Error(`a test that plays ${things.join(", ")} is \`played\``);
  return executable(surroundings);
}

function inProcess(
  { argv0, terminal, typed, answers, env }: Surroundings,
  operations: Partial<Native>,
  randomBytes: Host["randomBytes"] = (count) => new Uint8Array(count).fill(0x42),
): (...args: readonly string[]) => Promise<string> {
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
  return async (...args) => {
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
      now: () => NOW,
      readLine(prompt) {
        const answer = lines.next().value;
        // As a terminal shows it.
        stdout.write(`${prompt}${answer ?? "^D"}\n`);
        return Promise.resolve(answer);
      },
    };
    const status = await main(host, native);
    return transcript(stdout.written, stderr.written, status);
  };
}

function recorder(isTerminal: boolean): Stream & { readonly written: Buffer[] } {
  const written: Buffer[] = [];
  return {
    isTerminal,
    columns: isTerminal ? 80 : undefined,
    write: (data) => void written.push(Buffer.from(data as string)),
    written,
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
      bitmapCount: info.bitmaps?.length ?? 0,
      snapshots: [],
      snapshotCount: info.snapshots?.length ?? 0,
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

/** A repair that says this, and notes what it was asked for. */
export function repaired(report: Partial<RepairReport> = {}, requests: unknown[] = []) {
  return (request: object): { report: RepairReport } => {
    requests.push(request);
    return {
      report: {
        found: checked()().report,
        leaksFixed: 0,
        corruptionsFixed: 0,
        mustRebuild: false,
        ...report,
      },
    };
  };
}
