// `info`, on real stores.

import { rmSync, writeFileSync } from "node:fs";

import { beforeAll, describe, expect, test } from "vitest";

import { make } from "../../state/scene.ts";
import { takeForeign, withoutIds, type World, world } from "./world.ts";

/** A store with a primary instance, one with three snapshots, and one in the trash. */
function furnished(): World {
  const here = world();
  const { store, rewrite, clock } = here;
  make(store, ["gone", "primary", "work"]);
  rewrite("instances/work/instance.json", (text) =>
    text
      .replace('"image": {}', `"image": { "release": "24.04 LTS", "hash": "${"d8a3".repeat(16)}" }`)
      .replace(
        '"mounts": {}',
        `"mounts": { "/srv": ${mount("/home/me/src")}, "/data": ${mount("/d")} }`,
      ),
  );
  using change = store.change("work");
  change.takeSnapshot({});
  change.update({ cpus: 4, memoryBytes: 3 << 29 });
  clock.sec = Date.UTC(2026, 7, 22, 7, 5, 9) / 1000;
  change.takeSnapshot({ name: "second", comment: "before upgrade\nkernel 6.8, ext4" });
  change.restoreSnapshot(change.view.snapshots[0]!);
  clock.sec += 60;
  change.takeSnapshot({ name: "third" });
  store.trash("gone");
  return here;
}

function mount(sourcePath: string): string {
  const mapping = ["1000:default"];
  return JSON.stringify({ sourcePath, uidMappings: mapping, gidMappings: mapping });
}

describe("info", () => {
  let here: World;
  beforeAll(() => {
    here = furnished();
  });

  test("shows every instance, the trash included", async () => {
    expect(withoutIds(await here.cli("info"))).toMatchInlineSnapshot(`
      "Name:           primary
      State:          Stopped
      Snapshots:      0
      IPv4:           --
      Release:        --
      Image hash:     Not Available
      CPU(s):         --
      Load:           --
      Disk usage:     --
      Memory usage:   --
      Mounts:         --

      Name:           gone
      State:          Deleted
      Snapshots:      0
      IPv4:           --
      Release:        --
      Image hash:     Not Available
      CPU(s):         --
      Load:           --
      Disk usage:     --
      Memory usage:   --
      Mounts:         --

      Name:           work
      State:          Stopped
      Snapshots:      3
      IPv4:           --
      Release:        --
      Image hash:     d8a3d8a3d8a3 (Ubuntu 24.04 LTS)
      CPU(s):         --
      Load:           --
      Disk usage:     --
      Memory usage:   --
      Mounts:         /d           => /data
                          UID map: 1000:default
                          GID map: 1000:default
                      /home/me/src => /srv
                          UID map: 1000:default
                          GID map: 1000:default
      = 0"
    `);
  });

  test("shows in JSON what is known of a stopped instance, under keys of its own", async () => {
    expect(withoutIds(await here.cli("info", "gone", "work", "--format", "json")))
      .toMatchInlineSnapshot(`
        "{
            "errors": [
            ],
            "info": {
                "gone": {
                    "configuration": {
                        "cpus": 1,
                        "disk": 1048576,
                        "memory": 1073741824
                    },
                    "cpu_count": "",
                    "created_at": "2026-08-21T21:48:55.123Z",
                    "deleted_at": "2026-08-22T07:06:09.000Z",
                    "directory": "STORE/trash/gone@YYYYMMDD-hhmmss-xxxx",
                    "disk_path": "STORE/trash/gone@YYYYMMDD-hhmmss-xxxx/disk.qcow2",
                    "disks": {
                        "sda1": {
                        }
                    },
                    "image_hash": "",
                    "image_release": "",
                    "ipv4": [
                    ],
                    "load": [
                    ],
                    "memory": {
                    },
                    "mounts": {
                    },
                    "release": "",
                    "snapshot_count": "0",
                    "state": "Deleted"
                },
                "work": {
                    "configuration": {
                        "cpus": 1,
                        "disk": 1048576,
                        "memory": 1073741824
                    },
                    "cpu_count": "",
                    "created_at": "2026-08-21T21:48:55.123Z",
                    "directory": "STORE/instances/work",
                    "disk_path": "STORE/instances/work/disk.qcow2",
                    "disks": {
                        "sda1": {
                        }
                    },
                    "image_hash": "d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3",
                    "image_release": "24.04 LTS",
                    "ipv4": [
                    ],
                    "load": [
                    ],
                    "memory": {
                    },
                    "mounts": {
                        "/data": {
                            "gid_mappings": [
                                "1000:default"
                            ],
                            "source_path": "/d",
                            "uid_mappings": [
                                "1000:default"
                            ]
                        },
                        "/srv": {
                            "gid_mappings": [
                                "1000:default"
                            ],
                            "source_path": "/home/me/src",
                            "uid_mappings": [
                                "1000:default"
                            ]
                        }
                    },
                    "release": "",
                    "snapshot_count": "3",
                    "state": "Stopped"
                }
            }
        }
        = 0"
      `);
  });

  test("shows the same in YAML, and in CSV what Multipass has", async () => {
    expect(await here.cli("info", "work", "--format", "yaml")).toMatchInlineSnapshot(`
      "errors:
        - ~
      work:
        - state: Stopped
          snapshot_count: 3
          image_hash: d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3
          image_release: 24.04 LTS
          release: ~
          cpu_count: ~
          disks:
            - sda1:
                used: ~
                total: ~
          memory:
            usage: ~
            total: ~
          ipv4:
            []
          mounts:
            /data:
              uid_mappings:
                - "1000:default"
              gid_mappings:
                - "1000:default"
              source_path: /d
            /srv:
              uid_mappings:
                - "1000:default"
              gid_mappings:
                - "1000:default"
              source_path: /home/me/src
          configuration:
            cpus: 1
            memory: 1073741824
            disk: 1048576
          created_at: "2026-08-21T21:48:55.123Z"
          directory: STORE/instances/work
          disk_path: STORE/instances/work/disk.qcow2
      = 0"
    `);
    expect(await here.cli("info", "--format", "csv")).toMatchInlineSnapshot(`
      "Name,State,Ipv4,Ipv6,Release,Image hash,Image release,Load,Disk usage,Disk total,Memory usage,Memory total,Mounts,AllIPv4,CPU(s),Snapshots
      primary,Stopped,,,,,,,,,,,,,,0
      gone,Deleted,,,,,,,,,,,,,,0
      work,Stopped,,,,d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3,24.04 LTS,,,,,,/d => /data;/home/me/src => /srv,,,3
      = 0"
    `);
  });

  test("shows one snapshot, or several of one instance, as named", async () => {
    expect(await here.cli("info", "work.second")).toMatchInlineSnapshot(`
      "Snapshot:       second
      Instance:       work
      CPU(s):         4
      Disk space:     1.0MiB
      Memory size:    1.5GiB
      Mounts:         /d           => /data
                      /home/me/src => /srv
      Created:        Sat Aug 22 07:05:09 2026 UTC
      Parent:         snapshot1
      Children:       --
      Comment:        before upgrade
                      kernel 6.8, ext4
      = 0"
    `);
    expect(await here.cli("info", "work.third", "work.snapshot1", "--format=csv"))
      .toMatchInlineSnapshot(`
        "Snapshot,Instance,CPU(s),Disk space,Memory size,Mounts,Created,Parent,Children,Comment
        snapshot1,work,1,1.0MiB,1.0GiB,/d => /data;/home/me/src => /srv,Fri Aug 21 21:48:55 2026 UTC,,second;third,""
        third,work,1,1.0MiB,1.0GiB,/d => /data;/home/me/src => /srv,Sat Aug 22 07:06:09 2026 UTC,snapshot1,,""
        = 0"
      `);
    expect(await here.cli("info", "work.second", "--snapshots")).toBe(
      await here.cli("info", "work.second"),
    );
  });

  test("shows all snapshots of an instance, or of all", async () => {
    expect(await here.cli("info", "work", "--snapshots", "--format", "json"))
      .toMatchInlineSnapshot(`
        "{
            "errors": [
            ],
            "info": {
                "work": {
                    "snapshots": {
                        "second": {
                            "children": [
                            ],
                            "comment": "before upgrade\\nkernel 6.8, ext4",
                            "cpu_count": "4",
                            "created": "Sat Aug 22 07:05:09 2026 UTC",
                            "created_at": "2026-08-22T07:05:09.123Z",
                            "disk_bytes": 1048576,
                            "disk_space": "1.0MiB",
                            "id": "2",
                            "memory_bytes": 1610612736,
                            "memory_size": "1.5GiB",
                            "mounts": {
                                "/data": {
                                    "source_path": "/d"
                                },
                                "/srv": {
                                    "source_path": "/home/me/src"
                                }
                            },
                            "parent": "snapshot1",
                            "size": ""
                        },
                        "snapshot1": {
                            "children": [
                                "second",
                                "third"
                            ],
                            "comment": "",
                            "cpu_count": "1",
                            "created": "Fri Aug 21 21:48:55 2026 UTC",
                            "created_at": "2026-08-21T21:48:55.123Z",
                            "disk_bytes": 1048576,
                            "disk_space": "1.0MiB",
                            "id": "1",
                            "memory_bytes": 1073741824,
                            "memory_size": "1.0GiB",
                            "mounts": {
                                "/data": {
                                    "source_path": "/d"
                                },
                                "/srv": {
                                    "source_path": "/home/me/src"
                                }
                            },
                            "parent": "",
                            "size": ""
                        },
                        "third": {
                            "children": [
                            ],
                            "comment": "",
                            "cpu_count": "1",
                            "created": "Sat Aug 22 07:06:09 2026 UTC",
                            "created_at": "2026-08-22T07:06:09.123Z",
                            "disk_bytes": 1048576,
                            "disk_space": "1.0MiB",
                            "id": "3",
                            "memory_bytes": 1073741824,
                            "memory_size": "1.0GiB",
                            "mounts": {
                                "/data": {
                                    "source_path": "/d"
                                },
                                "/srv": {
                                    "source_path": "/home/me/src"
                                }
                            },
                            "parent": "snapshot1",
                            "size": ""
                        }
                    }
                }
            }
        }
        = 0"
      `);
    for (const format of ["table", "json", "csv", "yaml"]) {
      const all = await here.cli("info", "--snapshots", "--format", format);
      expect(await here.cli("info", "work", "--snapshots", "--format", format)).toBe(all);
    }
    expect(await here.cli("info", "primary", "--snapshots")).toMatchInlineSnapshot(`
      "No snapshots found.
      = 0"
    `);
  });

  test("shows an instance and a snapshot of it together", async () => {
    const yaml = await here.cli("info", "work", "work.third", "--format", "yaml");
    expect(yaml.match(/^\S.*|^ {2}- .*|^ {4}\w.*|^ {6}- .*/gm)).toMatchInlineSnapshot(`
      [
        "errors:",
        "  - ~",
        "work:",
        "  - state: Stopped",
        "    snapshot_count: 3",
        "    image_hash: d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3d8a3",
        "    image_release: 24.04 LTS",
        "    release: ~",
        "    cpu_count: ~",
        "    disks:",
        "      - sda1:",
        "    memory:",
        "    ipv4:",
        "    mounts:",
        "    configuration:",
        "    created_at: "2026-08-21T21:48:55.123Z"",
        "    directory: STORE/instances/work",
        "    disk_path: STORE/instances/work/disk.qcow2",
        "    snapshots:",
        "      - third:",
        "= 0",
      ]
    `);
  });

  test("takes a name for what is newest, and an id for what it tells apart", async () => {
    const { cli, store } = world();
    make(store, ["foo"]);
    store.trash("foo");
    make(store, ["foo"]);
    const id = store.trash("foo");
    const csv = async (name: string) => (await cli("info", name, "--format", "csv")).split("\n")[1];
    expect(await csv("foo")).toContain("foo,Deleted,");
    expect(await csv(`foo@${id}`)).toBe(await csv("foo"));
    make(store, ["foo"]);
    expect(await csv("foo")).toContain("foo,Stopped,");
    expect(await csv(`foo@${id}`)).toContain(`foo@${id},Deleted,`);
  });

  test("names what is not there", async () => {
    const { cli } = here;
    expect(await cli("info", "none", "work", "nobody.x")).toMatchInlineSnapshot(`
      "! info failed: The following errors occurred:
      ! instance "none" does not exist
      ! instance "nobody" does not exist
      = 2"
    `);
    expect(await cli("info", "work.x", "work.third", "work.y")).toMatchInlineSnapshot(`
      "! info failed: The following errors occurred:
      ! No such snapshot: work.x
      ! No such snapshot: work.y
      = 2"
    `);
    expect(await cli("info", "work.")).toMatchInlineSnapshot(`
      "! info failed: The following errors occurred:
      ! No such snapshot: work.
      = 2"
    `);
    expect(await cli("info", "./disk.qcow2")).toBe(
      (await cli("info", "disk.qcow2")).replace('"disk"', '""'),
    );
    expect(await cli("info", "disk.qcow2")).toMatchInlineSnapshot(`
      "! info failed: The following errors occurred:
      ! instance "disk" does not exist
      ! hint: on image files, \`calque image info\`
      = 2"
    `);
  });

  test("words its mistakes as Multipass does", async () => {
    const { cli } = here;
    expect(await cli("info", "--format", "xml")).toMatchInlineSnapshot(`
      "! Invalid format type given.
      = 1"
    `);
    expect(await cli("info", "--all", "work")).toMatchInlineSnapshot(`
      "! Cannot specify name when --all option set
      = 1"
    `);
    expect(await cli("info", "--all", "work", "primary")).toMatchInlineSnapshot(`
      "! Cannot specify names when --all option set
      = 1"
    `);
    expect(await cli("info", "work", "work.third", "--format", "csv")).toMatchInlineSnapshot(`
      "! Mixed snapshot and instance arguments are not supported with CSV format
      = 1"
    `);
    const all = await cli("info", "--all", "--no-runtime-information");
    expect(all.split("\n").filter((line) => line.startsWith("!"))).toMatchInlineSnapshot(`
      [
        "! Warning: the \`--all\` flag for the \`info\` command is deprecated. Please use \`info\` with no positional arguments for the same effect.",
      ]
    `);
    expect(all.replace(/^!.*\n/gm, "")).toBe(await cli("info"));
  });

  test("of an empty store finds nothing", async () => {
    const { cli } = world();
    expect(await cli("info")).toMatchInlineSnapshot(`
      "No instances found.
      = 0"
    `);
    expect(await cli("info", "--snapshots")).toMatchInlineSnapshot(`
      "No snapshots found.
      = 0"
    `);
    expect(await cli("info", "--format", "csv")).toMatchInlineSnapshot(`"= 0"`);
  });
});

describe("info of what is damaged", () => {
  test("shows an instance whose image is none, and whatever else is known of it", async () => {
    const { cli, store, disk } = world();
    make(store, ["foo", "whole"]);
    writeFileSync(disk("foo"), "not an image");
    expect(await cli("info", "foo")).toMatchInlineSnapshot(`
      "Name:           foo
      State:          Broken
      Snapshots:      --
      IPv4:           --
      Release:        --
      Image hash:     Not Available
      CPU(s):         --
      Load:           --
      Disk usage:     --
      Memory usage:   --
      Mounts:         --
      ! warning: instance "foo" is broken: Image is not in qcow2 format
      = 0"
    `);
    const json = await cli("info", "foo", "--format", "json");
    expect(json.match(/^ {12}"\w+": .*/gm)).toMatchInlineSnapshot(`
      [
        "            "configuration": {",
        "            "cpu_count": "",",
        "            "created_at": "2026-08-21T21:48:55.123Z",",
        "            "directory": "STORE/instances/foo",",
        "            "disks": {",
        "            "image_hash": "",",
        "            "image_release": "",",
        "            "ipv4": [",
        "            "load": [",
        "            "memory": {",
        "            "mounts": {",
        "            "problem": "Image is not in qcow2 format",",
        "            "release": "",",
        "            "snapshot_count": "",",
        "            "state": "Broken"",
      ]
    `);
    expect(await cli("info", "foo.x")).toMatchInlineSnapshot(`
      "! info failed: The following errors occurred:
      ! instance "foo" is broken: Image is not in qcow2 format
      = 2"
    `);
    expect(await cli("info", "--snapshots")).toMatchInlineSnapshot(`
      "No snapshots found.
      ! warning: instance "foo" is broken: Image is not in qcow2 format
      = 0"
    `);
  });

  test("says that a snapshot's record is not usable, and shows what the image says", async () => {
    const { cli, store, rewrite, clock, root } = world();
    make(store, ["foo"]);
    {
      using change = store.change("foo");
      change.takeSnapshot({ comment: "lost" });
      clock.sec += 60;
      change.takeSnapshot({ comment: "gone" });
    }
    rewrite("instances/foo/snapshots/1.json", () => "{");
    rmSync(`${root}/instances/foo/snapshots/2.json`);
    expect(await cli("info", "--snapshots")).toMatchInlineSnapshot(`
      "Snapshot:       snapshot1
      Instance:       foo
      CPU(s):         --
      Disk space:     1.0MiB
      Memory size:    --
      Mounts:         --
      Created:        Fri Aug 21 21:48:55 2026 UTC
      Parent:         --
      Children:       --
      Comment:        --

      Snapshot:       snapshot2
      Instance:       foo
      CPU(s):         --
      Disk space:     1.0MiB
      Memory size:    --
      Mounts:         --
      Created:        Fri Aug 21 21:49:55 2026 UTC
      Parent:         --
      Children:       --
      Comment:        --
      ! warning: snapshot foo.snapshot1 is broken: snapshots/1.json is not JSON
      = 0"
    `);
    expect(await cli("info", "foo.snapshot1", "--format", "json")).toMatchInlineSnapshot(`
      "{
          "errors": [
          ],
          "info": {
              "foo": {
                  "snapshots": {
                      "snapshot1": {
                          "children": [
                          ],
                          "comment": "",
                          "cpu_count": "",
                          "created": "Fri Aug 21 21:48:55 2026 UTC",
                          "created_at": "2026-08-21T21:48:55.123Z",
                          "disk_bytes": 1048576,
                          "disk_space": "1.0MiB",
                          "id": "1",
                          "memory_size": "",
                          "mounts": {
                          },
                          "parent": "",
                          "problem": "snapshots/1.json is not JSON",
                          "size": ""
                      }
                  }
              }
          }
      }
      = 0"
    `);
  });

  test("does not guess which of several snapshots a name means", async () => {
    const { cli, store, disk } = world();
    make(store, ["foo"]);
    takeForeign(disk("foo"), ["twin", "twin"]);
    expect(await cli("info", "foo.twin")).toMatchInlineSnapshot(`
      "! info failed: The following errors occurred:
      ! Several snapshots are called foo.twin: foo.@1, foo.@2
      = 2"
    `);
    const one = await cli("info", "foo.@1");
    expect(one.replace(/^Created: .*\n/m, "")).toMatchInlineSnapshot(`
      "Snapshot:       @1
      Instance:       foo
      CPU(s):         --
      Disk space:     1.0MiB
      Memory size:    --
      Mounts:         --
      Parent:         --
      Children:       --
      Comment:        --
      = 0"
    `);
  });

  test("knows a copy of an instance, also when only that is asked for", async () => {
    const { cli, store, copy } = world();
    make(store, ["foo"]);
    copy("instances/foo", "instances/foo-backup");
    expect(await cli("info", "foo-backup", "--format", "json")).toContain('"copy_of": "foo"');
    expect(await cli("info", "foo-backup")).toContain(
      '! warning: instance "foo-backup" is a copy of "foo": both have one identity\n',
    );
  });
});
