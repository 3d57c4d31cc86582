// `list` and `info` in Multipass's four formats. The two instances are those that the compatibility
// was worked out with, and every text is Multipass's to the byte: `primary` runs, `work` is stopped
// and has two snapshots. What follows are the corners.

import process from "node:process";

import { describe, expect, test } from "vitest";

import type { InstanceDetails, Mount, SnapshotDetails } from "../../../src/text/entries.ts";
import type { Format } from "../../../src/text/format.ts";
import { formatInfo, type Info } from "../../../src/text/info/formats.ts";
import { humanSize } from "../../../src/text/human-size.ts";
import { formatInstances, formatSnapshots, shorten } from "../../../src/text/list.ts";
import { formatMultipassJson } from "../../../src/text/multipass-json.ts";
import { escapeControls } from "../../../src/text/name.ts";
import { sentence, SENTENCES } from "../../../src/text/sentences.ts";
import { isoTimestamp, localTimestamp } from "../../../src/text/timestamp.ts";
import { formatYaml } from "../../../src/text/yaml.ts";

process.env.TZ = "UTC";

const NO_ADDITIONS = new Map<string, never>();

const MOUNT: Mount = {
  target: "/home/ubuntu/src",
  source: "/home/me/src",
  uidMappings: ["1000:default"],
  gidMappings: ["1000:default"],
};

const PRIMARY: InstanceDetails = {
  name: "primary",
  state: "Running",
  ipv4: ["10.97.0.12", "10.97.0.77"],
  imageRelease: "24.04 LTS",
  imageHash: "d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796",
  snapshotCount: 0,
  mounts: [MOUNT],
  runtime: {
    release: "Ubuntu 24.04.3 LTS",
    cpuCount: 2,
    load: "0.45 0.10 0.00",
    diskUsed: 1_932_735_283,
    diskTotal: 6_764_573_492,
    memoryUsed: 178_048_614,
    memoryTotal: 996_566_630,
  },
  additions: NO_ADDITIONS,
};

const WORK: InstanceDetails = {
  name: "work",
  state: "Stopped",
  ipv4: [],
  imageRelease: PRIMARY.imageRelease,
  imageHash: PRIMARY.imageHash,
  snapshotCount: 2,
  mounts: [],
  additions: NO_ADDITIONS,
};

const SNAPSHOT_ONE: SnapshotDetails = {
  instance: "work",
  name: "snapshot1",
  parent: "",
  comment: "",
  cpus: 2,
  memoryBytes: 2 ** 30,
  diskBytes: 5 * 2 ** 30,
  mounts: [],
  createdSec: Date.UTC(2026, 7, 21, 21, 48, 55) / 1000,
  children: ["snapshot2"],
  additions: NO_ADDITIONS,
};

const SNAPSHOT_TWO: SnapshotDetails = {
  ...SNAPSHOT_ONE,
  name: "snapshot2",
  parent: "snapshot1",
  comment: "before upgrade\nkernel 6.8, ext4",
  mounts: [MOUNT],
  createdSec: Date.UTC(2026, 7, 22, 7, 5, 9) / 1000,
  children: [],
};

const plain = (name: string): string => name;

const list = (format: Format): string => formatInstances[format]([PRIMARY, WORK], plain);

const listSnapshots = (format: Format): string =>
  formatSnapshots[format]([SNAPSHOT_ONE, SNAPSHOT_TWO], plain);

function info(format: Format, shown: Partial<Info>, show = plain): string {
  const all = { instances: [], snapshots: [], wanted: "instances" as const, ...shown };
  return formatInfo[format](all, show);
}

describe("the list of instances", () => {
  test("lines up in a table", () => {
    expect(list("table")).toMatchInlineSnapshot(`
      "Name                    State             IPv4             Image
      primary                 Running           10.97.0.12       Ubuntu 24.04 LTS
                                                10.97.0.77
      work                    Stopped           --               Ubuntu 24.04 LTS
      "
    `);
  });

  test("is JSON with sorted keys", () => {
    expect(list("json")).toMatchInlineSnapshot(`
      "{
          "list": [
              {
                  "ipv4": [
                      "10.97.0.12",
                      "10.97.0.77"
                  ],
                  "name": "primary",
                  "release": "Ubuntu 24.04 LTS",
                  "state": "Running"
              },
              {
                  "ipv4": [
                  ],
                  "name": "work",
                  "release": "Ubuntu 24.04 LTS",
                  "state": "Stopped"
              }
          ]
      }
      "
    `);
  });

  test("is comma-separated values", () => {
    expect(list("csv")).toMatchInlineSnapshot(`
      "Name,State,IPv4,IPv6,Release,AllIPv4
      primary,Running,10.97.0.12,,Ubuntu 24.04 LTS,"10.97.0.12,10.97.0.77"
      work,Stopped,,,Ubuntu 24.04 LTS,""
      "
    `);
  });

  test("is YAML", () => {
    expect(list("yaml")).toMatchInlineSnapshot(`
      "primary:
        - state: Running
          ipv4:
            - 10.97.0.12
            - 10.97.0.77
          release: Ubuntu 24.04 LTS
      work:
        - state: Stopped
          ipv4:
            []
          release: Ubuntu 24.04 LTS
      "
    `);
  });
});

describe("the list of snapshots", () => {
  test("lines up in a table", () => {
    expect(listSnapshots("table")).toMatchInlineSnapshot(`
      "Instance   Snapshot    Parent      Comment
      work       snapshot1   --          --
      work       snapshot2   snapshot1   before upgrade…
      "
    `);
  });

  test("is JSON with sorted keys", () => {
    expect(listSnapshots("json")).toMatchInlineSnapshot(`
      "{
          "errors": [
          ],
          "info": {
              "work": {
                  "snapshot1": {
                      "comment": "",
                      "parent": ""
                  },
                  "snapshot2": {
                      "comment": "before upgrade\\nkernel 6.8, ext4",
                      "parent": "snapshot1"
                  }
              }
          }
      }
      "
    `);
  });

  test("is comma-separated values", () => {
    expect(listSnapshots("csv")).toMatchInlineSnapshot(`
      "Instance,Snapshot,Parent,Comment
      work,snapshot1,,""
      work,snapshot2,snapshot1,"before upgrade
      kernel 6.8, ext4"
      "
    `);
  });

  test("is YAML", () => {
    expect(listSnapshots("yaml")).toMatchInlineSnapshot(`
      "work:
        - snapshot1:
            - parent: ~
              comment: ~
        - snapshot2:
            - parent: snapshot1
              comment: "before upgrade\\nkernel 6.8, ext4"
      "
    `);
  });
});

describe("what is known of instances", () => {
  test("lines up in a table", () => {
    expect(info("table", { instances: [PRIMARY, WORK] })).toMatchInlineSnapshot(`
      "Name:           primary
      State:          Running
      Snapshots:      0
      IPv4:           10.97.0.12
                      10.97.0.77
      Release:        Ubuntu 24.04.3 LTS
      Image hash:     d8a3f0c2b41e (Ubuntu 24.04 LTS)
      CPU(s):         2
      Load:           0.45 0.10 0.00
      Disk usage:     1.8GiB out of 6.3GiB
      Memory usage:   169.8MiB out of 950.4MiB
      Mounts:         /home/me/src => /home/ubuntu/src
                          UID map: 1000:default
                          GID map: 1000:default

      Name:           work
      State:          Stopped
      Snapshots:      2
      IPv4:           --
      Release:        --
      Image hash:     d8a3f0c2b41e (Ubuntu 24.04 LTS)
      CPU(s):         --
      Load:           --
      Disk usage:     --
      Memory usage:   --
      Mounts:         --
      "
    `);
  });

  test("is JSON with sorted keys", () => {
    expect(info("json", { instances: [PRIMARY, WORK] })).toMatchInlineSnapshot(`
      "{
          "errors": [
          ],
          "info": {
              "primary": {
                  "cpu_count": "2",
                  "disks": {
                      "sda1": {
                          "total": "6764573492",
                          "used": "1932735283"
                      }
                  },
                  "image_hash": "d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796",
                  "image_release": "24.04 LTS",
                  "ipv4": [
                      "10.97.0.12",
                      "10.97.0.77"
                  ],
                  "load": [
                      0.45,
                      0.1,
                      0
                  ],
                  "memory": {
                      "total": 996566630,
                      "used": 178048614
                  },
                  "mounts": {
                      "/home/ubuntu/src": {
                          "gid_mappings": [
                              "1000:default"
                          ],
                          "source_path": "/home/me/src",
                          "uid_mappings": [
                              "1000:default"
                          ]
                      }
                  },
                  "release": "Ubuntu 24.04.3 LTS",
                  "snapshot_count": "0",
                  "state": "Running"
              },
              "work": {
                  "cpu_count": "",
                  "disks": {
                      "sda1": {
                      }
                  },
                  "image_hash": "d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796",
                  "image_release": "24.04 LTS",
                  "ipv4": [
                  ],
                  "load": [
                  ],
                  "memory": {
                  },
                  "mounts": {
                  },
                  "release": "",
                  "snapshot_count": "2",
                  "state": "Stopped"
              }
          }
      }
      "
    `);
  });

  test("is comma-separated values", () => {
    expect(info("csv", { instances: [PRIMARY, WORK] })).toMatchInlineSnapshot(`
      "Name,State,Ipv4,Ipv6,Release,Image hash,Image release,Load,Disk usage,Disk total,Memory usage,Memory total,Mounts,AllIPv4,CPU(s),Snapshots
      primary,Running,10.97.0.12,,Ubuntu 24.04.3 LTS,d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796,24.04 LTS,0.45 0.10 0.00,1932735283,6764573492,178048614,996566630,/home/me/src => /home/ubuntu/src,10.97.0.12;10.97.0.77,2,0
      work,Stopped,,,,d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796,24.04 LTS,,,,,,,,,2
      "
    `);
  });

  test("is YAML", () => {
    expect(info("yaml", { instances: [PRIMARY, WORK] })).toMatchInlineSnapshot(`
      "errors:
        - ~
      primary:
        - state: Running
          snapshot_count: 0
          image_hash: d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796
          image_release: 24.04 LTS
          release: Ubuntu 24.04.3 LTS
          cpu_count: 2
          load:
            - 0.45
            - 0.10
            - 0.00
          disks:
            - sda1:
                used: 1932735283
                total: 6764573492
          memory:
            usage: 178048614
            total: 996566630
          ipv4:
            - 10.97.0.12
            - 10.97.0.77
          mounts:
            /home/ubuntu/src:
              uid_mappings:
                - "1000:default"
              gid_mappings:
                - "1000:default"
              source_path: /home/me/src
      work:
        - state: Stopped
          snapshot_count: 2
          image_hash: d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796
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
          mounts: ~
      "
    `);
  });
});

describe("what is known of snapshots", () => {
  test("lines up in a table", () => {
    expect(info("table", { snapshots: [SNAPSHOT_ONE, SNAPSHOT_TWO] })).toMatchInlineSnapshot(`
      "Snapshot:       snapshot1
      Instance:       work
      CPU(s):         2
      Disk space:     5.0GiB
      Memory size:    1.0GiB
      Mounts:         --
      Created:        Fri Aug 21 21:48:55 2026 UTC
      Parent:         --
      Children:       snapshot2
      Comment:        --

      Snapshot:       snapshot2
      Instance:       work
      CPU(s):         2
      Disk space:     5.0GiB
      Memory size:    1.0GiB
      Mounts:         /home/me/src => /home/ubuntu/src
      Created:        Sat Aug 22 07:05:09 2026 UTC
      Parent:         snapshot1
      Children:       --
      Comment:        before upgrade
                      kernel 6.8, ext4
      "
    `);
  });

  test("is JSON with sorted keys", () => {
    expect(info("json", { snapshots: [SNAPSHOT_ONE, SNAPSHOT_TWO] })).toMatchInlineSnapshot(`
      "{
          "errors": [
          ],
          "info": {
              "work": {
                  "snapshots": {
                      "snapshot1": {
                          "children": [
                              "snapshot2"
                          ],
                          "comment": "",
                          "cpu_count": "2",
                          "created": "Fri Aug 21 21:48:55 2026 UTC",
                          "disk_space": "5.0GiB",
                          "memory_size": "1.0GiB",
                          "mounts": {
                          },
                          "parent": "",
                          "size": ""
                      },
                      "snapshot2": {
                          "children": [
                          ],
                          "comment": "before upgrade\\nkernel 6.8, ext4",
                          "cpu_count": "2",
                          "created": "Sat Aug 22 07:05:09 2026 UTC",
                          "disk_space": "5.0GiB",
                          "memory_size": "1.0GiB",
                          "mounts": {
                              "/home/ubuntu/src": {
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
      "
    `);
  });

  test("is comma-separated values", () => {
    expect(info("csv", { snapshots: [SNAPSHOT_ONE, SNAPSHOT_TWO] })).toMatchInlineSnapshot(`
      "Snapshot,Instance,CPU(s),Disk space,Memory size,Mounts,Created,Parent,Children,Comment
      snapshot1,work,2,5.0GiB,1.0GiB,,Fri Aug 21 21:48:55 2026 UTC,,snapshot2,""
      snapshot2,work,2,5.0GiB,1.0GiB,/home/me/src => /home/ubuntu/src,Sat Aug 22 07:05:09 2026 UTC,snapshot1,,"before upgrade
      kernel 6.8, ext4"
      "
    `);
  });

  test("is YAML", () => {
    expect(info("yaml", { snapshots: [SNAPSHOT_ONE, SNAPSHOT_TWO] })).toMatchInlineSnapshot(`
      "errors:
        - ~
      work:
        - snapshots:
            - snapshot1:
                size: ~
                cpu_count: 2
                disk_space: 5.0GiB
                memory_size: 1.0GiB
                mounts: ~
                created: "Fri Aug 21 21:48:55 2026 UTC"
                parent: ~
                children:
                  - snapshot2
                comment: ~
            - snapshot2:
                size: ~
                cpu_count: 2
                disk_space: 5.0GiB
                memory_size: 1.0GiB
                mounts:
                  /home/ubuntu/src:
                    source_path: /home/me/src
                created: "Sat Aug 22 07:05:09 2026 UTC"
                parent: snapshot1
                children:
                  []
                comment: "before upgrade\\nkernel 6.8, ext4"
      "
    `);
  });
});

describe("what is known of one snapshot", () => {
  test("lines up in a table", () => {
    expect(info("table", { snapshots: [SNAPSHOT_TWO] })).toMatchInlineSnapshot(`
      "Snapshot:       snapshot2
      Instance:       work
      CPU(s):         2
      Disk space:     5.0GiB
      Memory size:    1.0GiB
      Mounts:         /home/me/src => /home/ubuntu/src
      Created:        Sat Aug 22 07:05:09 2026 UTC
      Parent:         snapshot1
      Children:       --
      Comment:        before upgrade
                      kernel 6.8, ext4
      "
    `);
  });

  test("is JSON with sorted keys", () => {
    expect(info("json", { snapshots: [SNAPSHOT_TWO] })).toMatchInlineSnapshot(`
      "{
          "errors": [
          ],
          "info": {
              "work": {
                  "snapshots": {
                      "snapshot2": {
                          "children": [
                          ],
                          "comment": "before upgrade\\nkernel 6.8, ext4",
                          "cpu_count": "2",
                          "created": "Sat Aug 22 07:05:09 2026 UTC",
                          "disk_space": "5.0GiB",
                          "memory_size": "1.0GiB",
                          "mounts": {
                              "/home/ubuntu/src": {
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
      "
    `);
  });

  test("is comma-separated values", () => {
    expect(info("csv", { snapshots: [SNAPSHOT_TWO] })).toMatchInlineSnapshot(`
      "Snapshot,Instance,CPU(s),Disk space,Memory size,Mounts,Created,Parent,Children,Comment
      snapshot2,work,2,5.0GiB,1.0GiB,/home/me/src => /home/ubuntu/src,Sat Aug 22 07:05:09 2026 UTC,snapshot1,,"before upgrade
      kernel 6.8, ext4"
      "
    `);
  });

  test("is YAML", () => {
    expect(info("yaml", { snapshots: [SNAPSHOT_TWO] })).toMatchInlineSnapshot(`
      "errors:
        - ~
      work:
        - snapshots:
            - snapshot2:
                size: ~
                cpu_count: 2
                disk_space: 5.0GiB
                memory_size: 1.0GiB
                mounts:
                  /home/ubuntu/src:
                    source_path: /home/me/src
                created: "Sat Aug 22 07:05:09 2026 UTC"
                parent: snapshot1
                children:
                  []
                comment: "before upgrade\\nkernel 6.8, ext4"
      "
    `);
  });
});

describe("nothing to show", () => {
  test("has a text of its own in every format", () => {
    const all = ["table", "json", "csv", "yaml"] as const;
    const texts = (show: (format: Format) => string): string =>
      all.map((format) => `--- ${format}\n${show(format)}`).join("");
    expect(texts((format) => formatInstances[format]([], plain))).toMatchInlineSnapshot(`
      "--- table
      No instances found.
      --- json
      {
          "list": [
          ]
      }
      --- csv
      Name,State,IPv4,IPv6,Release,AllIPv4
      --- yaml

      "
    `);
    expect(texts((format) => formatSnapshots[format]([], plain))).toMatchInlineSnapshot(`
      "--- table
      No snapshots found.
      --- json
      {
          "errors": [
          ],
          "info": {
          }
      }
      --- csv
      Instance,Snapshot,Parent,Comment
      --- yaml

      "
    `);
    expect(texts((format) => info(format, {}))).toMatchInlineSnapshot(`
      "--- table
      No instances found.
      --- json
      {
          "errors": [
          ],
          "info": {
          }
      }
      --- csv
      --- yaml
      errors:
        - ~
      "
    `);
    expect(info("table", { wanted: "snapshots" })).toBe("No snapshots found.\n");
  });
});

describe("instances and snapshots together", () => {
  test("share an object in JSON, and each has its mounts", () => {
    const shown = { instances: [WORK], snapshots: [SNAPSHOT_TWO] };
    expect(info("json", shown)).toMatchInlineSnapshot(`
      "{
          "errors": [
          ],
          "info": {
              "work": {
                  "cpu_count": "",
                  "disks": {
                      "sda1": {
                      }
                  },
                  "image_hash": "d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796d8a3f0c2b41e5796",
                  "image_release": "24.04 LTS",
                  "ipv4": [
                  ],
                  "load": [
                  ],
                  "memory": {
                  },
                  "mounts": {
                  },
                  "release": "",
                  "snapshot_count": "2",
                  "snapshots": {
                      "snapshot2": {
                          "children": [
                          ],
                          "comment": "before upgrade\\nkernel 6.8, ext4",
                          "cpu_count": "2",
                          "created": "Sat Aug 22 07:05:09 2026 UTC",
                          "disk_space": "5.0GiB",
                          "memory_size": "1.0GiB",
                          "mounts": {
                              "/home/ubuntu/src": {
                                  "source_path": "/home/me/src"
                              }
                          },
                          "parent": "snapshot1",
                          "size": ""
                      }
                  },
                  "state": "Stopped"
              }
          }
      }
      "
    `);
  });

  test("share a mapping in YAML, its last key the snapshots", () => {
    const shown = { instances: [WORK, PRIMARY], snapshots: [SNAPSHOT_ONE] };
    expect(info("yaml", shown).replace(/    image_hash[^]*?    mounts/g, "    …\n    mounts"))
      .toMatchInlineSnapshot(`
      "errors:
        - ~
      work:
        - state: Stopped
          snapshot_count: 2
          …
          mounts: ~
          snapshots:
            - snapshot1:
                size: ~
                cpu_count: 2
                disk_space: 5.0GiB
                memory_size: 1.0GiB
                mounts: ~
                created: "Fri Aug 21 21:48:55 2026 UTC"
                parent: ~
                children:
                  - snapshot2
                comment: ~
      primary:
        - state: Running
          snapshot_count: 0
          …
          mounts:
            /home/ubuntu/src:
              uid_mappings:
                - "1000:default"
              gid_mappings:
                - "1000:default"
              source_path: /home/me/src
      "
    `);
  });

  test("stand below each other in a table, snapshots behind all instances", () => {
    const shown = { instances: [PRIMARY, WORK], snapshots: [SNAPSHOT_TWO] };
    const lines = info("table", shown).split("\n");
    expect(lines.filter((line) => /^(Name|Snapshot|Instance):/.test(line))).toEqual([
      "Name:           primary",
      "Name:           work",
      "Snapshot:       snapshot2",
      "Instance:       work",
    ]);
  });
});

describe("what Multipass gets wrong", () => {
  const HOSTILE = "a\u001b[2J{b}\u009b{{c\u202e\u007f";
  const hostile = {
    instances: [
      { ...WORK, name: HOSTILE, mounts: [{ ...MOUNT, source: HOSTILE, target: HOSTILE }] },
    ],
    snapshots: [
      { ...SNAPSHOT_TWO, instance: HOSTILE, name: HOSTILE, parent: HOSTILE, comment: HOSTILE },
    ],
  };

  test("braces in paths and comments stand as they are", () => {
    const snapshots = [{ ...SNAPSHOT_TWO, comment: "{} {{x}} }" }];
    const mounts = [{ ...MOUNT, source: "/srv/{a}" }];
    expect(info("table", { snapshots })).toContain("Comment:        {} {{x}} }\n");
    expect(info("table", { instances: [{ ...WORK, mounts }] })).toContain("/srv/{a} => /home");
    expect(info("csv", { instances: [{ ...WORK, mounts }] })).toContain(",/srv/{a} => /home");
  });

  test("names reach a terminal with nothing that it would act on, in any format", () => {
    for (const format of ["table", "json", "csv", "yaml"] as const) {
      for (const shown of [
        hostile,
        { instances: hostile.instances },
        { snapshots: hostile.snapshots },
      ]) {
        const text = [
          info(format, shown, escapeControls),
          formatInstances[format](hostile.instances, escapeControls),
          formatSnapshots[format](hostile.snapshots, escapeControls),
        ].join("");
        expect(escapeControls(text.replaceAll("\n", ""))).toBe(text.replaceAll("\n", ""));
        expect(text).toContain("[2J{b}");
      }
    }
  });

  test("a reader of JSON and YAML gets the name that it is all the same", () => {
    const json = formatInstances.json(hostile.instances, escapeControls);
    expect(JSON.parse(json)).toMatchObject({ list: [{ name: HOSTILE }] });
    expect(formatYaml(new Map([[HOSTILE, null]]))).toBe('"a\\x1b[2J{b}\\x9b{{c\\u202e\\x7f": ~\n');
  });

  test("a comma, a quote or a line break in a value does not shift the columns of CSV", () => {
    const mounts = [{ ...MOUNT, source: '/srv/a,"b"' }];
    expect(info("csv", { instances: [{ ...WORK, mounts }] })).toContain(
      ',"/srv/a,""b"" => /home/ubuntu/src",',
    );
    const snapshots = [{ ...SNAPSHOT_ONE, name: 'a"b,c', comment: 'say "hi"\r\nor, well' }];
    expect(info("csv", { snapshots }).split("\n").slice(1).join("\n")).toMatchInlineSnapshot(`
      ""a""b,c",work,2,5.0GiB,1.0GiB,,Fri Aug 21 21:48:55 2026 UTC,,snapshot2,"say ""hi""
      or, well"
      "
    `);
    expect(formatSnapshots.csv(snapshots, plain)).toMatchInlineSnapshot(`
      "Instance,Snapshot,Parent,Comment
      work,"a""b,c",,"say ""hi""
      or, well"
      "
    `);
  });

  test("an instance called `errors` does not take the place of the errors in YAML", () => {
    const text = info("yaml", { instances: [{ ...WORK, name: "errors" }] });
    expect(text).toMatch(/^errors:\n  - ~\n  - state: Stopped\n/);
  });

  test("what is known beyond Multipass has keys of its own in JSON and YAML, and no column", () => {
    const additions = new Map<string, string | ReadonlyMap<string, number>>([
      ["problem", "instance.json: unexpected end"],
      ["configuration", new Map([["cpus", 2]])],
    ]);
    const instances = [{ ...WORK, state: "Broken" as const, additions }];
    expect(formatInstances.json(instances, plain)).toMatchInlineSnapshot(`
      "{
          "list": [
              {
                  "configuration": {
                      "cpus": 2
                  },
                  "ipv4": [
                  ],
                  "name": "work",
                  "problem": "instance.json: unexpected end",
                  "release": "Ubuntu 24.04 LTS",
                  "state": "Broken"
              }
          ]
      }
      "
    `);
    expect(formatInstances.yaml(instances, plain)).toMatchInlineSnapshot(`
      "work:
        - state: Broken
          ipv4:
            []
          release: Ubuntu 24.04 LTS
          problem: "instance.json: unexpected end"
          configuration:
            cpus: 2
      "
    `);
    for (const format of ["table", "csv"] as const) {
      expect(info(format, { instances })).toBe(
        info(format, { instances: [{ ...instances[0]!, additions: NO_ADDITIONS }] }),
      );
    }
    expect(info("json", { instances })).toContain('"problem": "instance.json: unexpected end"');
    expect(info("yaml", { instances })).toContain('problem: "instance.json: unexpected end"');
    const snapshots = [{ ...SNAPSHOT_ONE, additions: new Map([["id", "1"]]) }];
    expect(info("json", { snapshots })).toContain('"id": "1",');
    expect(info("yaml", { snapshots })).toContain("        id: 1\n");
  });
});

describe("corners of the table", () => {
  test("several mounts have their arrows below each other, and several ids share a line", () => {
    const second = {
      target: "/data",
      source: "/d",
      uidMappings: ["1000:1000", "0:default"],
      gidMappings: ["1000:1000"],
    };
    expect(info("table", { instances: [{ ...WORK, mounts: [MOUNT, second] }] }).split("Mounts:")[1])
      .toMatchInlineSnapshot(`
      "         /home/me/src => /home/ubuntu/src
                          UID map: 1000:default
                          GID map: 1000:default
                      /d           => /data
                          UID map: 1000:1000, 0:default
                          GID map: 1000:1000
      "
    `);
    expect(info("table", { snapshots: [{ ...SNAPSHOT_ONE, mounts: [second, MOUNT] }] }))
      .toMatchInlineSnapshot(`
      "Snapshot:       snapshot1
      Instance:       work
      CPU(s):         2
      Disk space:     5.0GiB
      Memory size:    1.0GiB
      Mounts:         /d           => /data
                      /home/me/src => /home/ubuntu/src
      Created:        Fri Aug 21 21:48:55 2026 UTC
      Parent:         --
      Children:       snapshot2
      Comment:        --
      "
    `);
  });

  test("several children stand below each other", () => {
    const snapshots = [{ ...SNAPSHOT_ONE, children: ["a", "b", "c"] }];
    expect(info("table", { snapshots })).toContain(
      "Children:       a\n                b\n                c\nComment:        --\n",
    );
    expect(info("csv", { snapshots })).toContain(",,a;b;c,");
  });

  test("what nobody recorded of a snapshot is empty", () => {
    const snapshots = [{ ...SNAPSHOT_ONE, cpus: undefined, memoryBytes: undefined }];
    expect(info("table", { snapshots })).toMatch(
      /CPU\(s\): {9}--\nDisk space: {5}5.0GiB\nMemory size: {4}--\n/,
    );
    expect(info("csv", { snapshots })).toContain("snapshot1,work,,5.0GiB,,,Fri");
    expect(info("json", { snapshots })).toContain('"cpu_count": "",');
    expect(info("yaml", { snapshots })).toContain("memory_size: ~");
  });

  test("an image of unknown origin is not available", () => {
    const unknown = { ...WORK, imageHash: "", imageRelease: "" };
    expect(info("table", { instances: [unknown] })).toContain("Image hash:     Not Available\n");
    expect(info("table", { instances: [{ ...WORK, imageRelease: "" }] })).toContain(
      "Image hash:     d8a3f0c2b41e\n",
    );
    expect(formatInstances.table([unknown], plain)).toContain("--               Not Available\n");
    expect(formatInstances.csv([unknown], plain)).toContain('work,Stopped,,,Not Available,""\n');
  });

  test("columns grow with their longest value", () => {
    const name = "an-instance-with-a-long-name";
    expect(formatInstances.table([{ ...WORK, name }, WORK], plain)).toMatchInlineSnapshot(`
      "Name                           State             IPv4             Image
      an-instance-with-a-long-name   Stopped           --               Ubuntu 24.04 LTS
      work                           Stopped           --               Ubuntu 24.04 LTS
      "
    `);
  });

  test.each([
    ["", ""],
    ["short", "short"],
    ["x".repeat(50), "x".repeat(50)],
    ["x".repeat(51), `${"x".repeat(49)}…`],
    // 48 bytes and a character of two: byte 49 is its first half.
    [`${"x".repeat(48)}éé`, `${"x".repeat(48)}…`],
    [`${"x".repeat(47)}éé`, `${"x".repeat(47)}é…`],
    [`${"x".repeat(46)}😀`, `${"x".repeat(46)}😀`],
    [`${"x".repeat(46)}😀y`, `${"x".repeat(46)}…`],
    ["first\nsecond", "first…"],
    ["first\r\nsecond", "first…"],
    ["first\n", "first…"],
    ["\nsecond", "…"],
    [`${"x".repeat(60)}\nsecond`, `${"x".repeat(49)}…`],
  ])("the comment %j is shortened to %j", (comment, short) => {
    expect(shorten(comment)).toBe(short);
  });
});

test("keys of JSON are sorted by code units, and text is as it is", () => {
  const value = new Map([
    ["snapshot2", "é😀"],
    ["10", "\u001b"],
    ["snapshot10", "\ud800"],
    ["9", '"\\'],
  ]);
  expect(formatMultipassJson(value)).toMatchInlineSnapshot(`
    "{
        "10": "\\u001b",
        "9": "\\"\\\\",
        "snapshot10": "�",
        "snapshot2": "é😀"
    }
    "
  `);
});

test.each([
  ["", '""'],
  ["~", '"~"'],
  ["null", '"null"'],
  ["nullable", "nullable"],
  ["true", "true"],
  ["007", "007"],
  ["24.04 LTS", "24.04 LTS"],
  ["a:b", '"a:b"'],
  ["a&b", '"a&b"'],
  ["a#b", "a#b"],
  ["a #b", '"a #b"'],
  ["-a", "-a"],
  ["- a", '"- a"'],
  ["-", '"-"'],
  ["? a", '"? a"'],
  [" a", '" a"'],
  ["a ", '"a "'],
  ["[a]", '"[a]"'],
  ["a[0]", "a[0]"],
  ["'a'", "\"'a'\""],
  ['"a"', '"\\"a\\""'],
  ["%a", '"%a"'],
  ["@a", '"@a"'],
  ["\\", "\\"],
  ["\\:", '"\\\\:"'],
  ["a\tb\r\n", '"a\\tb\\r\\n"'],
  ["\u0000\u0007\u0085", '"\\x00\\x07\\x85"'],
  ["é 😀", "é 😀"],
  ["\ufeff", '"\\ufeff"'],
])("the string %j is %s in YAML", (text, yaml) => {
  expect(formatYaml(new Map([["key", text]]))).toBe(`key: ${yaml}\n`);
});

test.each([
  [0, "0B"],
  [1023, "1023B"],
  [1024, "1.0KiB"],
  [1_048_575, "1024.0KiB"],
  [996_566_630, "950.4MiB"],
  [5 * 2 ** 30, "5.0GiB"],
  [1.25 * 2 ** 30, "1.2GiB"],
  [1.75 * 2 ** 30, "1.8GiB"],
  // 1.05 GiB and a bit, but not in single precision.
  [1_127_428_920, "1.0GiB"],
  [2 ** 40, "1024.0GiB"],
  [2 ** 53, "8388608.0GiB"],
])("%d bytes are %s", (bytes, text) => {
  expect(humanSize(bytes)).toBe(text);
});

describe("times", () => {
  const AUGUST = Date.UTC(2026, 7, 1, 21, 48, 5) / 1000;

  test.each([
    ["UTC", "Sat Aug  1 21:48:05 2026 UTC"],
    ["Europe/Berlin", "Sat Aug  1 23:48:05 2026 +02"],
    ["Asia/Kolkata", "Sun Aug  2 03:18:05 2026 +0530"],
    ["America/St_Johns", "Sat Aug  1 19:18:05 2026 -0230"],
  ])("in %s are %s", (zone, text) => {
    process.env.TZ = zone;
    try {
      expect(localTimestamp(AUGUST)).toBe(text);
    } finally {
      process.env.TZ = "UTC";
    }
  });

  test("for programs have milliseconds and no zone to guess", () => {
    expect(isoTimestamp({ sec: AUGUST, nsec: 123_999_999 })).toBe("2026-08-01T21:48:05.123Z");
  });
});

describe("a sentence", () => {
  test("says its values as they are, braces included", () => {
    expect(sentence("snapshot.missing", { instance: "{snapshot}", snapshot: "$&" })).toBe(
      "No such snapshot: {snapshot}.$&",
    );
  });

  test("has no brace that is not a placeholder's", () => {
    for (const template of Object.values(SENTENCES)) {
      expect(template.replaceAll(/\{\w+\}/g, "")).not.toMatch(/[{}]/);
    }
  });
});
