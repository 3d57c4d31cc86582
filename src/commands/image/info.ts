// `image info`: what an image says about itself, as `qemu-img info` prints it.

import { Command } from "../../command/command.ts";
import { type ImageInfo, type SnapshotInfo, unwrap } from "../../native.ts";
import { formatJson, type Json } from "../../text/json.ts";
import { formatSize } from "../../text/size.ts";
import { snapshotId, snapshotList, snapshotName } from "../../text/snapshots.ts";
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
    const info = attempt(
      context,
      () => unwrap(native.imageInfo({ path: file, forceShare: options.forceShare })),
      { path: file, sentence: ({ reason }) => `Could not open '${file}': ${reason}` },
    );
    const text = options.output === "json" ? formatJson(asJson(info)) : asText(info, stdout.name);
    stdout.write(text);
    return 0;
  });

function asText(info: ImageInfo, show: (name: string) => string): string {
  const lines = [
    `image: ${show(info.path)}`,
    "file format: qcow2",
    `virtual size: ${formatSize(info.virtualSize)} (${info.virtualSize} bytes)`,
    `disk size: ${formatSize(info.actualSize)}`,
  ];
  if (info.encryption !== undefined) lines.push("encrypted: yes");
  lines.push(`cluster_size: ${info.clusterSize}`);
  if (info.dirty) lines.push("cleanly shut down: no");
  if (info.backingFile !== undefined) {
    const actual = resolveBacking(info.path, info.backingFile);
    const note = actual === info.backingFile ? "" : ` (actual path: ${show(actual)})`;
    lines.push(`backing file: ${show(info.backingFile)}${note}`);
  }
  if (info.backingFormat !== undefined) {
    lines.push(`backing file format: ${show(info.backingFormat)}`);
  }
  const length = wholeSectors(info.fileLength);
  return [
    ...lines,
    `${snapshotList(info.snapshots, show)}Format specific information:`,
    ...specificText(info, show).map((line) => `    ${line}`),
    "Child node '/file':",
    `    filename: ${show(info.path)}`,
    "    protocol type: file",
    `    file length: ${formatSize(length)} (${length} bytes)`,
    `    disk size: ${formatSize(info.actualSize)}`,
    "",
  ].join("\n");
}

function specificText(info: ImageInfo, show: (name: string) => string): string[] {
  const lines = [`compat: ${info.compat}`, `compression type: ${info.compressionType}`];
  if (info.compat !== "0.10") lines.push(`lazy refcounts: ${info.lazyRefcounts}`);
  if (info.bitmaps.length > 0) lines.push("bitmaps:");
  for (const [at, bitmap] of info.bitmaps.entries()) {
    lines.push(`    [${at}]:`, "        flags:");
    lines.push(...bitmap.flags.map((flag, n) => `            [${n}]: ${flag}`));
    lines.push(`        name: ${show(bitmap.name)}`, `        granularity: ${bitmap.granularity}`);
  }
  lines.push(`refcount bits: ${info.refcountBits}`);
  if (info.dataFile !== undefined) lines.push(`data file: ${show(info.dataFile)}`);
  if (info.encryption !== undefined) lines.push("encrypt:", `    format: ${info.encryption}`);
  if (info.dataFileRaw !== undefined) lines.push(`data file raw: ${info.dataFileRaw}`);
  if (info.compat !== "0.10") {
    lines.push(`corrupt: ${info.corrupt}`, `extended l2: ${info.extendedEntries}`);
  }
  return lines;
}

/** The keys stand in qemu-img's order. */
function asJson(info: ImageInfo): Json {
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
    snapshots: info.snapshots.length > 0 ? info.snapshots.map(snapshotJson) : undefined,
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
        bitmaps: info.bitmaps.length > 0 ? info.bitmaps.map(bitmapJson) : undefined,
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

function bitmapJson({ flags, name, granularity }: ImageInfo["bitmaps"][number]): Json {
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
