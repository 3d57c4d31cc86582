// What ends differently with qemu-img, on purpose; docs/qemu-img.md says why. Damaged headers have
// their own list, in headers.test.ts.

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, symlinkSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { Scene } from "./images.ts";
import { calque, type Ending, expectSame, run } from "./programs.ts";

const scene = new Scene(
  ..."ordinary orphan aes luks dirty bitmaps".split(" ").map((name) => `${name}.qcow2`),
  "raw.img",
  "directory",
);

/** Standard output, standard error behind `! `, the status. */
function shown(...args: string[]): string {
  const { stdout, stderr, status } = run(calque, ["image", ...args], scene.place);
  return `${stdout}${stderr.replace(/^(?=[^])/gm, "! ")}= ${status}`;
}

describe("what differs on purpose", () => {
  test("formats are never guessed, and others than qcow2 not opened", () => {
    expect(shown("info", "raw.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'raw.img': Image is not in qcow2 format
      = 1"
    `);
    expect(shown("snapshot", "-c", "x", "raw.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'raw.img': Image is not in qcow2 format
      = 1"
    `);
    expect(shown("info", "-f", "raw", "raw.img")).toMatchInlineSnapshot(`
      "! error: Could not open 'raw.img': Only qcow2 images are supported, not raw
      = 1"
    `);
  });

  test("an image is created in qcow2 without being asked for it", () => {
    expect(shown("create", "default.qcow2", "1M")).toMatchInlineSnapshot(`
      "Formatting 'default.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16
      = 0"
    `);
    expect(
      run("qemu-img", ["check", "-f", "qcow2", "-q", "default.qcow2"], scene.place).status,
    ).toBe(0);
  });

  test("a refused create leaves the file that is there alone", () => {
    const before = readFileSync(scene.path("ordinary.qcow2"));
    expect(shown("create", "-o", "cluster_size=3", "ordinary.qcow2", "1M")).toMatchInlineSnapshot(`
      "Formatting 'ordinary.qcow2', fmt=qcow2 cluster_size=3 extended_l2=off compression_type=zlib size=1048576 lazy_refcounts=off refcount_bits=16
      ! error: ordinary.qcow2: Cluster size must be a power of two between 512 and 2048k
      = 1"
    `);
    expect(readFileSync(scene.path("ordinary.qcow2")).equals(before)).toBe(true);
  });

  test("a link that leads nowhere is not followed to make an image", () => {
    symlinkSync("elsewhere.qcow2", scene.path("link.qcow2"));
    expect(shown("create", "-q", "link.qcow2", "1M")).toMatchInlineSnapshot(`
      "! error: link.qcow2: Could not create 'link.qcow2': No such file or directory
      = 1"
    `);
    expect(existsSync(scene.path("elsewhere.qcow2"))).toBe(false);
    scene.make("create", "-q", "-f", "qcow2", "link.qcow2", "1M");
    expect(existsSync(scene.path("elsewhere.qcow2"))).toBe(true);
    // To an image that is there it leads.
    expect(shown("create", "-q", "link.qcow2", "2M")).toMatchInlineSnapshot(`"= 0"`);
  });

  test("the backing file is not needed, as it is not opened", () => {
    expect(shown("check", "orphan.qcow2")).toMatchInlineSnapshot(`
      "No errors were found on the image.
      Image end offset: 262144
      = 0"
    `);
    expect(shown("snapshot", "-c", "x", "orphan.qcow2")).toMatchInlineSnapshot(`"= 0"`);
  });

  test("encrypted images are checked and snapshotted without their key", () => {
    for (const file of ["aes.qcow2", "luks.qcow2"]) {
      expect(shown("check", "-q", file)).toBe("= 0");
      expect(shown("snapshot", "-c", "x", file)).toBe("= 0");
      expect(shown("snapshot", "-l", file)).toContain("1       x ");
      expect(shown("check", "-q", file)).toBe("= 0");
    }
  });

  test("of the LUKS header only its presence is shown", () => {
    expect(shown("info", "luks.qcow2")).toContain(
      "    encrypt:\n        format: luks\n    corrupt:",
    );
  });

  test("a dirty image is not repaired in passing", () => {
    expect(shown("snapshot", "-c", "x", "dirty.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not open 'dirty.qcow2': The image is marked dirty: its reference counts may be stale
      ! hint: repair it first, for example with \`calque image check -r all\`
      = 1"
    `);
  });

  test("names of snapshots are unique, not empty and not cut", () => {
    expect(shown("snapshot", "-c", "one", "ordinary.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not create snapshot 'one': A snapshot of that name exists
      ! hint: \`calque image snapshot --rename OLD NEW FILE\` gives it another name
      = 1"
    `);
    expect(shown("snapshot", "-c", "", "ordinary.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not create snapshot '': A snapshot name cannot be empty
      = 1"
    `);
    expect(shown("snapshot", "-c", "x".repeat(256), "ordinary.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not create snapshot 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx': A snapshot name cannot be longer than 255 bytes
      = 1"
    `);
  });

  test("a name that several snapshots have is no name of one", () => {
    scene.create("ambiguous.qcow2", "size=1M");
    for (let n = 0; n < 2; n += 1) scene.make("snapshot", "-c", "twin", "ambiguous.qcow2");
    expect(shown("snapshot", "-a", "twin", "ambiguous.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not apply snapshot 'twin': Several snapshots have that name
      ! hint: their IDs are 1, 2
      ! hint: \`calque image snapshot --rename ID NEW FILE\` gives one of them a name of its own
      = 1"
    `);
    expect(shown("snapshot", "-d", "twin", "ambiguous.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not delete snapshot 'twin': Several snapshots have that name
      ! hint: their IDs are 1, 2
      ! hint: \`calque image snapshot --rename ID NEW FILE\` gives one of them a name of its own
      = 1"
    `);
  });

  test("a directory is called one whatever was to be done with it", () => {
    expect(shown("snapshot", "-c", "x", "directory")).toMatchInlineSnapshot(`
      "! error: Could not open 'directory': 'file' driver requires 'directory' to be a regular file
      = 1"
    `);
    expect(shown("create", "-q", "directory", "1M")).toMatchInlineSnapshot(`
      "! error: directory: 'file' driver requires 'directory' to be a regular file
      = 1"
    `);
  });

  test("what is neither file nor block device is never opened, and nothing waits for it", () => {
    execFileSync("mkfifo", ["fifo"], { cwd: scene.place });
    for (const verb of ["info", "check", "snapshot"]) {
      expect(shown(verb, "-f", "qcow2", "fifo")).toMatchInlineSnapshot(`
        "! error: Could not open 'fifo': 'file' driver requires 'fifo' to be a regular file
        = 1"
      `);
      expect(shown(verb, "-f", "qcow2", "/dev/null")).toMatchInlineSnapshot(`
        "! error: Could not open '/dev/null': 'file' driver requires '/dev/null' to be a regular file
        = 1"
      `);
    }
    expect(run("qemu-img", ["info", "-f", "qcow2", "/dev/null"], scene.place).stderr).toBe(
      "qemu-img: Could not open '/dev/null': Image is not in qcow2 format\n",
    );
  });

  test("what standard output does not take is a failure, and then nothing is created", () => {
    const into = (program: string, line: string): Ending =>
      run("sh", ["-c", `'${program}' ${line} >/dev/full`], scene.place);
    for (const line of ["info", "info --output=json", "check", "snapshot -l"]) {
      const file = "ordinary.qcow2";
      expect(into(calque, `image ${line} ${file}`)).toMatchObject({
        stderr: "error: Cannot write to standard output: No space left on device\n",
        status: 1,
      });
      expect(into("qemu-img", `${line} ${file}`)).toMatchObject({ stderr: "", status: 0 });
    }
    expect(into(calque, "image create -f qcow2 untold.qcow2 1M")).toMatchObject({ status: 1 });
    expect(existsSync(scene.path("untold.qcow2"))).toBe(false);
    expect(into(calque, "image create -q -f qcow2 untold.qcow2 1M")).toMatchObject({ status: 0 });
    expect(into("qemu-img", "create -f qcow2 theirs.qcow2 1M")).toMatchObject({ status: 0 });
  });

  test("the size of a machine's state is rounded where no machine has one", () => {
    scene.ordinary("huge.qcow2");
    const sizes = (bytes: number): string[] => {
      scene.patch("huge.qcow2", (image) => {
        // The high half of the first field of the extra data, then the low one.
        image.set(image.read(64, 8) + 40, 4, Math.floor(bytes / 2 ** 32));
        image.set(image.read(64, 8) + 44, 4, bytes % 2 ** 32);
      });
      const args = ["info", "--output=json", "huge.qcow2"];
      const both = [
        run("qemu-img", args, scene.place),
        run(calque, ["image", ...args], scene.place),
      ];
      return both.map(({ stdout }) => /"vm-state-size": (.*)/.exec(stdout)![1]!);
    };
    expect(sizes(2 ** 53 - 1)).toEqual(["9007199254740991", "9007199254740991"]);
    expect(sizes(2 ** 64 - 2 ** 12)).toEqual(["-4096", "18446744073709548000"]);
  });

  test("names of other files that are not UTF-8 are shown as far as they are", () => {
    scene.create("foreign.qcow2", "size=1M", "-u", "-b", "base.raw", "-F", "raw");
    scene.patch("foreign.qcow2", (image) => image.set(image.read(8, 8), 1, 0xff));
    expect(shown("info", "foreign.qcow2")).toContain("\nbacking file: \u00ef\u00bf\u00bdase.raw\n");
    expect(run("qemu-img", ["info", "foreign.qcow2"], scene.place).stdout).toContain(
      "\nbacking file: \u00ffase.raw\n",
    );
  });

  // The story: `check` escaped them everywhere, and named to scripts what was not in the image.
  test("control characters in names pass a pipe, and do not reach a terminal", () => {
    scene.ordinary("control.qcow2");
    scene.make("snapshot", "-c", "a\u001b[2J\u009b1A", "control.qcow2");
    copyFileSync(scene.path("control.qcow2"), scene.path("unaligned.qcow2"));
    scene.patch("unaligned.qcow2", (image) => {
      // One that qemu-img would not make: the second character of `one` is the end of a line.
      const entry = image.read(64, 8);
      image.set(entry, 8, image.read(entry, 8) + 512);
      const idBytes = image.read(entry + 12, 4) >> 16;
      image.set(entry + 40 + image.read(entry + 36, 4) + idBytes + 1, 1, 0x0a);
    });
    for (const line of [
      "check unaligned.qcow2",
      "snapshot -l control.qcow2",
      "info control.qcow2",
    ]) {
      const args = line.split(" ");
      expectSame(args, scene.place);
      const command = [calque, "image", ...args].join(" ");
      const { stdout } = run("script", ["-q", "-e", "-c", command, "/dev/null"], scene.place);
      const told = line.startsWith("check") ? "(o\\u000ae)" : "a\\u001b[2J\\u009b1A";
      expect(stdout).toContain(told);
      // All that is left is a terminal's own end of a line; the bytes of U+009B are C2 9B.
      expect(stdout.replaceAll("\r\n", "")).not.toMatch(/[\p{Cc}--[\x80-\x9f]]|\xc2[\x80-\x9f]/v);
    }
  });

  test("bitmaps that another program made stale are not warned of", () => {
    copyFileSync(scene.path("bitmaps.qcow2"), scene.path("stale.qcow2"));
    scene.patch("stale.qcow2", (image) => image.set(88, 8, 0));
    expect(shown("check", "-q", "stale.qcow2")).toMatch(/^(! Leaked cluster .*\n)+= 3$/);
    expect(run("qemu-img", ["check", "-q", "stale.qcow2"], scene.place).stderr).toContain(
      "warning: a program lacking bitmap support modified this file",
    );
  });

  test("bitmaps are in the way of `-a`, unless they are given up", () => {
    expect(shown("snapshot", "-a", "one", "bitmaps.qcow2")).toMatchInlineSnapshot(`
      "! error: Could not apply snapshot 'one': Device has active dirty bitmaps
      ! hint: \`--drop-bitmaps\` gives them up: the next backup is a full one, and QEMU warns once of them
      = 1"
    `);
    expect(shown("snapshot", "-a", "one", "--drop-bitmaps", "bitmaps.qcow2")).toBe("= 0");
    expect(shown("info", "bitmaps.qcow2")).not.toContain("bitmaps:");
    const { place } = scene;
    expect(run("qemu-img", ["check", "-q", "bitmaps.qcow2"], place)).toMatchObject({ status: 0 });
    // Which QEMU then forgets, at its first write.
    expect(run("qemu-io", ["-c", "write 0 1", "bitmaps.qcow2"], place)).toMatchObject({
      status: 0,
    });
    expect(run("qemu-img", ["check", "-q", "bitmaps.qcow2"], place)).toMatchObject({ stderr: "" });
    expect(shown("snapshot", "-d", "one", "--drop-bitmaps", "bitmaps.qcow2"))
      .toMatchInlineSnapshot(`
      "! error: Cannot use '--drop-bitmaps' without '-a'
      ! Try 'calque image snapshot --help' for more info
      = 1"
    `);
  });

  test("names are paths, never protocols", () => {
    expect(shown("info", "nbd://host/x")).toMatchInlineSnapshot(`
      "! error: Could not open 'nbd://host/x': Could not open 'nbd://host/x': No such file or directory
      = 1"
    `);
    expect(shown("create", "-q", "a:b.qcow2", "1M")).toBe("= 0");
  });

  test("long options take values, too", () => {
    expect(shown("snapshot", "--create=long", "ordinary.qcow2")).toBe("= 0");
    expect(shown("snapshot", "--delete", "long", "ordinary.qcow2")).toBe("= 0");
  });

  test("a size of 8 PiB or more is too large", () => {
    expect(shown("create", "-q", "-o", "cluster_size=2M", "c.qcow2", "8P")).toMatchInlineSnapshot(`
      "! error: c.qcow2: The image size is too large for file format 'qcow2' (try using a larger cluster size)
      = 1"
    `);
  });
});
