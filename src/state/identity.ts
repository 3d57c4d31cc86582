// Who an instance is: the uuid, the id that cloud-init knows it by, the hardware addresses. A
// replica has the configuration of its source and an identity of its own.

import { randomHex, type StoreContext, timestamp } from "./access.ts";
import { StateError } from "./errors.ts";
import type { InstanceName } from "./names.ts";
import {
  type InstanceRecord,
  type NetworkInterface,
  schemaVersion,
  type SnapshotRecord,
} from "./schema.ts";
import type { InstanceView, SnapshotView } from "./snapshots.ts";

/** The range that QEMU's and Multipass's addresses come from. */
const ADDRESS_PREFIX = "52:54:00";
/** As many draws, each from 2^24, fail by chance never, and soon when there is none left. */
const MAX_DRAWS = 1000;

/** Makes identities that nobody in the store has, nor anybody else that it made one for. */
export class Maker {
  readonly #context: StoreContext;
  readonly #addresses: Set<string>;

  /** `records` are those of all instances, the trash included. */
  constructor(context: StoreContext, records: Iterable<InstanceRecord>) {
    this.#context = context;
    this.#addresses = new Set(Array.from(records).flatMap(addressesOf));
  }

  macAddress(): string {
    for (let draw = 1; draw <= MAX_DRAWS; draw += 1) {
      const digits = randomHex(this.#context, 3).match(/../g)!;
      const address = [ADDRESS_PREFIX, ...digits].join(":");
      if (this.#addresses.has(address)) continue;
      this.#addresses.add(address);
      return address;
    }
    const inUse = this.#addresses.size;
    throw new StateError({ code: "addresses-exhausted", attempts: MAX_DRAWS, inUse });
  }

  /** Version 4: random. */
  uuid(): string {
    const digits = randomHex(this.#context, 16);
    const variant = ((Number.parseInt(digits[16]!, 16) & 3) | 8).toString(16);
    const parts = [
      digits.slice(0, 8),
      digits.slice(8, 12),
      `4${digits.slice(13, 16)}`,
      variant + digits.slice(17, 20),
      digits.slice(20),
    ];
    return parts.join("-");
  }

  /** What every new instance has of its own. */
  identity(name: InstanceName): Pick<InstanceRecord, Identity> {
    const uuid = this.uuid();
    return {
      ...schemaVersion,
      uuid,
      createdAt: timestamp(this.#context),
      // Not the name alone: an instance may be deleted, and a clone of its clone get its name. On
      // that disk cloud-init has seen the name before and would keep the old addresses.
      instanceId: `${name}-${uuid.slice(0, 8)}`,
      macAddress: this.macAddress(),
    };
  }
}

type Identity = "schema" | "uuid" | "createdAt" | "instanceId" | "macAddress";

function addressesOf({ macAddress, interfaces }: InstanceRecord): string[] {
  return [macAddress, ...interfaces.map((one) => one.macAddress)];
}

interface NewInstance {
  name: InstanceName;
  cpus: number;
  memoryBytes: number;
  image?: InstanceRecord["image"];
  origin?: NonNullable<InstanceRecord["origin"]>;
}

/** The record of an instance that is made from nothing, or from a file. */
export function newRecord(maker: Maker, instance: NewInstance): InstanceRecord {
  const { name, cpus, memoryBytes, image = {}, origin } = instance;
  return {
    ...maker.identity(name),
    cpus,
    memoryBytes,
    interfaces: [],
    mounts: {},
    image,
    cloneCount: 0,
    ...(origin === undefined ? {} : { origin }),
    ...noSnapshots,
  };
}

const noSnapshots = { snapshotCount: 0, head: 0, parents: {} } as const;

interface Replication {
  name: InstanceName;
  /** Its disk is to be what this snapshot holds, and so its configuration. */
  snapshot?: SnapshotView;
  /** Whether the image of the replica has the snapshots of the source. */
  snapshots?: "keep" | "drop";
}

/**
 * The record of a clone: the source's configuration, a new identity, no clones of its own; and the
 * records of the snapshots that it keeps, in which the same interfaces have the same new addresses.
 */
export function replica(
  source: InstanceView,
  maker: Maker,
  { name, snapshot, snapshots = "drop" }: Replication,
): { record: InstanceRecord; snapshots: SnapshotRecord[] } {
  const { pending: _, ...configuration } = { ...source.record, ...restored(snapshot) };
  const addresses = new Map<string, string>();
  const renew = (interfaces: readonly NetworkInterface[]): NetworkInterface[] =>
    interfaces.map((one) => {
      const macAddress = addresses.get(one.macAddress) ?? maker.macAddress();
      addresses.set(one.macAddress, macAddress);
      return { ...one, macAddress };
    });
  const kept = snapshots === "keep" ? source.snapshots.flatMap(({ record }) => record ?? []) : [];
  return {
    record: {
      ...configuration,
      ...maker.identity(name),
      interfaces: renew(configuration.interfaces),
      cloneCount: 0,
      origin: {
        kind: "clone",
        source: source.name,
        uuid: source.record.uuid,
        ...(snapshot === undefined ? {} : { snapshot: snapshot.name }),
      },
      ...(snapshots === "keep" ? lineage(source, snapshot) : noSnapshots),
    },
    snapshots: kept.map((one) => Object.assign({}, one, { interfaces: renew(one.interfaces) })),
  };
}

/** What a snapshot brings back besides the disk; nothing if another program made it. */
export function restored(
  snapshot: SnapshotView | undefined,
): Pick<SnapshotRecord, "cpus" | "memoryBytes" | "interfaces" | "mounts"> | undefined {
  if (snapshot?.record === undefined) return undefined;
  const { cpus, memoryBytes, interfaces, mounts } = snapshot.record;
  return { cpus, memoryBytes, interfaces, mounts };
}

/** Where the disk of a replica that keeps the snapshots goes on from. */
function lineage(
  { record: { snapshotCount, head, parents } }: InstanceView,
  snapshot: SnapshotView | undefined,
): Pick<InstanceRecord, "snapshotCount" | "head" | "parents"> {
  const from = snapshot === undefined ? head : (snapshot.record?.id ?? 0);
  return { snapshotCount, head: from, parents };
}
