//! The work is bounded by the file, whatever its tables claim.

use std::fs::File;
use std::os::unix::fs::FileExt;

use qcow2::check::{self, MAX_PROBLEMS};
use qcow2::storage::{Access, FileStorage};

use crate::bench::{Bench, L1_ENTRIES, SNAPSHOT_COUNT, SNAPSHOTS_OFFSET, data_entry};

/// 65 536 snapshots of one L1 table that names one damaged L2 table 64 times: four million visits
/// for QEMU, one here. The report still counts each, and only the first are told.
#[test]
fn a_table_that_is_named_millions_of_times_is_read_once() {
    const SNAPSHOTS: u64 = 65_536;
    let bench = Bench::create(4 << 20, "cluster_size=65536").prepare(&["w 0 64k"]);
    bench.put(L1_ENTRIES, 4, 64);
    for slot in 1..64 {
        bench.put(bench.l1() + slot * 8, 8, bench.l2());
    }
    data_entry(&bench, 0x900_0000);
    let at = bench.len().next_multiple_of(0x1_0000);
    let mut entry = bench.l1().to_be_bytes().to_vec();
    entry.extend(64_u32.to_be_bytes());
    entry.resize(36, 0);
    entry.extend(16_u32.to_be_bytes());
    entry.resize(56, 0);
    let snapshots = entry.repeat(usize::try_from(SNAPSHOTS).unwrap());
    File::options().write(true).open(&bench.path).unwrap().write_all_at(&snapshots, at).unwrap();
    bench.put(SNAPSHOTS_OFFSET, 8, at);
    bench.put(SNAPSHOT_COUNT, 4, SNAPSHOTS);

    let storage = FileStorage::open(&bench.path, Access::Read).unwrap();
    let image = check::open(Box::new(storage)).unwrap();
    let mut told = 0;
    let report = check::check(&image, &mut |_| told += 1).unwrap();
    let visits = (SNAPSHOTS + 1) * 64;
    assert_eq!(told, MAX_PROBLEMS);
    // Each visit meets the entry outside. L1, L2 and data exceed 16 bits by all references but
    // 65 535; with what is stored, each of these clusters is a corruption of its own; and so is
    // each cluster of the snapshot table, which has no refcount.
    let overflows = (SNAPSHOTS + 1 - 65_535) + 2 * (visits - 65_535);
    let table_clusters = snapshots.len() as u64 / 0x1_0000;
    assert!(report.corruptions >= visits + overflows + 3 + table_clusters, "{report:?}");
    assert_eq!(report.problems_omitted, report.corruptions - told, "{report:?}");
}
