// The physical minimum of an operation: what has to be read and written, at the speed of this file
// system, and the flushes that nobody can do without.

/** How fast a file system is, as measured at the time of the benchmark. */
export interface Device {
  readBytesPerSecond: number;
  writeBytesPerSecond: number;
  flushNs: number;
  /** Whether it was measured past the page cache. */
  direct: boolean;
}

/** What an operation has to do. */
export interface Needed {
  readBytes: number;
  writtenBytes: number;
  flushes: number;
}

/** T_min. */
export function minimumNs(needed: Needed, device: Device): number {
  return (
    (needed.readBytes / device.readBytesPerSecond) * 1e9 +
    (needed.writtenBytes / device.writeBytesPerSecond) * 1e9 +
    needed.flushes * device.flushNs
  );
}
