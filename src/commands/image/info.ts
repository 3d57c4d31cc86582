// `image info`: what an image says about itself, as `qemu-img info` prints it.

import { Command } from "../../command/command.ts";
import { type BitmapInfo, type ImageInfo, type SnapshotInfo, unwrap } from "../../native.ts";
import { formatAround, formatItems, GAP, itemSeparator, type Json } from "../../text/json.ts";
import { formatSize } from "../../text/size.ts";
import { snapshotHeading, snapshotId, snapshotName, snapshotRows } from "../../text/snapshots.ts";
import { attempt } from "./failure.ts";
import {
  FORCE_SHARE_HELP,
  FORMAT_HELP,
  noImageOptions,
  noObjects,
  oneFile,
  OUTPUT_HELP,
  parseOutput,
  refusal,
  requireQcow2,
} from "./options.ts";

export default new Command("image info", "getopt")
  .usage("[-f qcow2] [-U] [--output human|json] FILE")
  .description("Display information about an image. No other file that it names is opened.")
  .option("-f, --format <format>", FORMAT_HELP)
  .option("-U, --force-share", FORCE_SHARE_HELP)
  .option("--output <format>", OUTPUT_HELP, parseOutput)
  .refuse("--object <objdef>", noObjects)
  .refuse("--image-opts", noImageOptions)
  .refuse(
    "-b, --backing-chain",
    refusal("--backing-chain", "no file that an image names is opened"),
  )
  .operand("FILE", "The image")
  .example("image info disk.qcow2", "Sizes, format details and snapshots")
  .example("image info --output json disk.qcow2", "The same for a program")
  .action(({ options, operands }, context) => {
    const { native, stdout } = context;
    const file = oneFile(operands);
    requireQcow2(options.format, file);
    const layOut = options.output === "json" ? asJson : asText;
    const sheet = new Sheet((info) => layOut(info, stdout.name));
    const request = { path: file, forceShare: options.forceShare };
    const last = attempt(
      context,
      () => unwrap(native.imageInfo(request, (piece) => stdout.write(sheet.add(piece)))),
      { path: file, sentence: ({ reason }) => `Could not open '${file}': ${reason}` },
    );
    stdout.write(sheet.end(last));
    return 0;
  });

/** How an image's description is written, whose two lists may be long. */
interface Layout {
  /** What stands before the snapshots, between these and the bitmaps, and behind them. */
  readonly around: readonly [head: string, middle: string, tail: string];
  /** Rows of each list, of which so many have been written. */
  readonly snapshots: (rows: readonly SnapshotInfo[], written: number) => string;
  readonly bitmaps: (rows: readonly BitmapInfo[], written: number) => string;
}

/** The text of a description whose lists come in pieces, as it grows. */
class Sheet {
  readonly #layOut: (info: ImageInfo) => Layout;
  #layout: Layout | undefined;
  #snapshots = 0;
  #bitmaps = 0;
  #isPastSnapshots = false;

  constructor(layOut: (info: ImageInfo) => Layout) {
    this.#layOut = layOut;
  }

  add(piece: ImageInfo): string {
    return this.#next(piece, piece.bitmaps.length > 0).text;
  }

  end(last: ImageInfo): string {
    const { text, layout } = this.#next(last, true);
    return text + layout.around[2];
  }

  #next(piece: ImageInfo, endsSnapshots: boolean): { text: string; layout: Layout } {
    let text = this.#layout === undefined ? this.#begin(piece) : "";
    const layout = this.#layout!;
    text += layout.snapshots(piece.snapshots, this.#snapshots);
    this.#snapshots += piece.snapshots.length;
    if (endsSnapshots && !this.#isPastSnapshots) {
      this.#isPastSnapshots = true;
      text += layout.around[1];
    }
    text += layout.bitmaps(piece.bitmaps, this.#bitmaps);
    this.#bitmaps += piece.bitmaps.length;
    return { text, layout };
  }

  #begin(piece: ImageInfo): string {
    this.#layout = this.#layOut(piece);
    return this.#layout.around[0];
  }
}

function asText(info: ImageInfo, show: (name: string) => string): Layout {
  const head = [
    `image: ${show(info.path)}`,
    "file format: qcow2",
    `virtual size: ${formatSize(info.virtualSize)} (${info.virtualSize} bytes)`,
    `disk size: ${formatSize(info.actualSize)}`,
  ];
  if (info.encryption !== undefined) head.push("encrypted: yes");
  head.push(`cluster_size: ${info.clusterSize}`);
  if (info.dirty) head.push("cleanly shut down: no");
  if (info.backingFile !== undefined) {
    const actual = resolveBacking(info.path, info.backingFile);
    const note = actual === info.backingFile ? "" : ` (actual path: ${show(actual)})`;
    head.push(`backing file: ${show(info.backingFile)}${note}`);
  }
  if (info.backingFormat !== undefined) {
    head.push(`backing file format: ${show(info.backingFormat)}`);
  }
  const length = wholeSectors(info.fileLength);
  const recent = info.compat !== "0.10";
  const middle = ["Format specific information:", `    compat: ${info.compat}`];
  middle.push(`    compression type: ${info.compressionType}`);
  if (recent) middle.push(`    lazy refcounts: ${info.lazyRefcounts}`);
  if (info.bitmapCount > 0) middle.push("    bitmaps:");
  const tail = [`    refcount bits: ${info.refcountBits}`];
  if (info.dataFile !== undefined) tail.push(`    data file: ${show(info.dataFile)}`);
  if (info.encryption !== undefined) {
    tail.push("    encrypt:", `        format: ${info.encryption}`);
  }
  if (info.dataFileRaw !== undefined) tail.push(`    data file raw: ${info.dataFileRaw}`);
  if (recent) {
    tail.push(`    corrupt: ${info.corrupt}`, `    extended l2: ${info.extendedEntries}`);
  }
  tail.push(
    "Child node '/file':",
    `    filename: ${show(info.path)}`,
    "    protocol type: file",
    `    file length: ${formatSize(length)} (${length} bytes)`,
    `    disk size: ${formatSize(info.actualSize)}`,
  );
  return {
    around: [lines(head) + snapshotHeading(info.snapshotCount), lines(middle), lines(tail)],
    snapshots: (rows) => snapshotRows(rows, show),
    bitmaps: (rows, written) =>
      lines(rows.flatMap((bitmap, at) => bitmapText(bitmap, written + at, show))),
  };
}

function lines(all: readonly string[]): string {
  return all.map((line) => `${line}\n`).join("");
}

function bitmapText(bitmap: BitmapInfo, at: number, show: (name: string) => string): string[] {
  return [
    `        [${at}]:`,
    "            flags:",
    ...bitmap.flags.map((flag, n) => `                [${n}]: ${flag}`),
    `            name: ${show(bitmap.name)}`,
    `            granularity: ${bitmap.granularity}`,
  ];
}

function asJson(info: ImageInfo): Layout {
  const parts = formatAround(aroundLists(info));
  // A list that is not there has no gap.
  if (info.snapshotCount === 0) parts.unshift("");
  if (info.bitmapCount === 0) parts.push("");
  const [head = "", middle = "", tail = ""] = parts;
  return {
    around: [head, middle, tail],
    snapshots: (rows, written) => jsonItems(rows.map(snapshotJson), written, SNAPSHOTS_DEPTH),
    bitmaps: (rows, written) => jsonItems(rows.map(bitmapJson), written, BITMAPS_DEPTH),
  };
}

/** How deep the lists' items stand. */
const SNAPSHOTS_DEPTH = 2;
const BITMAPS_DEPTH = 4;

function jsonItems(items: readonly Json[], written: number, depth: number): string {
  const separator = written > 0 && items.length > 0 ? itemSeparator(depth) : "";
  return separator + formatItems(items, depth);
}

/** All but the lists. The keys stand in qemu-img's order. */
function aroundLists(info: ImageInfo): Json {
  const recent = info.compat !== "0.10";
  const { backingFile } = info;
  return {
    children: [
      {
        name: "file",
        info: {
          children: [],
          "virtual-size": wholeSectors(info.fileLength),
          filename: info.path,
          format: "file",
          "actual-size": info.actualSize,
          "format-specific": { type: "file", data: {} },
          "dirty-flag": false,
        },
      },
    ],
    "backing-filename-format": info.backingFormat,
    snapshots: info.snapshotCount > 0 ? [GAP] : undefined,
    "virtual-size": info.virtualSize,
    filename: info.path,
    "cluster-size": info.clusterSize,
    format: "qcow2",
    "actual-size": info.actualSize,
    "format-specific": {
      type: "qcow2",
      data: {
        compat: info.compat,
        "compression-type": info.compressionType,
        "lazy-refcounts": recent ? info.lazyRefcounts : undefined,
        bitmaps: info.bitmapCount > 0 ? [GAP] : undefined,
        "refcount-bits": info.refcountBits,
        "data-file": info.dataFile,
        encrypt: info.encryption === undefined ? undefined : { format: info.encryption },
        "data-file-raw": info.dataFileRaw,
        corrupt: recent ? info.corrupt : undefined,
        "extended-l2": recent ? info.extendedEntries : undefined,
      },
    },
    "full-backing-filename":
      backingFile === undefined ? undefined : resolveBacking(info.path, backingFile),
    encrypted: info.encryption === undefined ? undefined : true,
    "backing-filename": backingFile,
    "dirty-flag": info.dirty,
  };
}

function bitmapJson({ flags, name, granularity }: BitmapInfo): Json {
  return { flags, name, granularity };
}

function snapshotJson(snapshot: SnapshotInfo): Json {
  return {
    icount: snapshot.icount === undefined ? undefined : BigInt(snapshot.icount),
    "vm-clock-nsec": snapshot.vmClockNsec,
    name: snapshotName(snapshot),
    "date-sec": snapshot.dateSec,
    "date-nsec": snapshot.dateNsec,
    "vm-clock-sec": snapshot.vmClockSec,
    id: snapshotId(snapshot),
    "vm-state-size": snapshot.vmStateSize,
  };
}

/** Where a relative backing file is looked for: beside the image. Names with a protocol stay. */
function resolveBacking(image: string, backing: string): string {
  if (backing.startsWith("/") || /^[^/]*:/.test(backing)) return backing;
  return image.slice(0, image.lastIndexOf("/") + 1) + backing;
}

/** qemu-img counts the length of a file in sectors of 512 bytes. */
function wholeSectors(bytes: number): number {
  return Math.ceil(bytes / 512) * 512;
}
