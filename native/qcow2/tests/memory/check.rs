//! A check, which anybody may run on a file of anybody, and lists of snapshots.

use std::time::{Duration, Instant};

use qcow2::format::mapping::COPIED;
use qcow2::format::snapshot::SnapshotEntry;

use crate::process::{KIB, MIB, assert_bounded, is_child};
use crate::sparse::Sparse;

const GIB: u64 = 1 << 30;

/// The longest L1 table there can be, each entry of which names another table.
pub fn four_million_tables() -> Sparse {
    const TABLES: u64 = 4 * MIB;
    let mut image = Sparse::new(128 * GIB, 512, 16);
    // In an order that is not the file's.
    let first = image.place(TABLES * 512, 1) / 512;
    let table = |index: u64| ((first + index * 0x9e37_79b1 % TABLES) * 512) | COPIED;
    let entries: Vec<_> = (0..TABLES).map(table).collect();
    let l1 = image.table(&entries, 1);
    image.set_l1(l1, entries.len());
    image
}

/// Each table took 24 bytes, and half as much again while the list of them grew.
#[test]
fn a_check_of_four_million_l2_tables_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    let (_directory, path) = four_million_tables().finish();
    assert_bounded(&path, &["check"]);
}

/// Clusters of a disk with a cluster in every page of counts: none of them is like its neighbours.
const SCATTERED: u64 = 131_064;

/// A disk of a tebibyte with clusters of 4 KiB, of which these are there. Its L1 table is named so
/// often.
pub fn scattered(refcount_bits: u32, times: u64) -> (Sparse, u64, usize) {
    const PAGE: u64 = 2048;
    let mut image = Sparse::new(GIB, 4 * KIB, refcount_bits);
    // Behind everything else, which the blocks of wide counts are most of.
    let data = |nth: u64| (nth + 80) * PAGE + nth % PAGE;
    let (mut tables, mut nth) = (Vec::new(), 0);
    let copied = if times == 1 { COPIED } else { 0 };
    while nth < SCATTERED {
        let clusters = nth..SCATTERED.min(nth + 512);
        nth = clusters.end;
        let entries: Vec<_> = clusters.clone().map(|nth| (data(nth) * 4 * KIB) | copied).collect();
        tables.push(image.table(&entries, times.min(image.most())) | copied);
        for nth in clusters {
            image.count(data(nth)..data(nth) + 1, times.min(image.most()));
        }
    }
    tables.resize(512, 0);
    let l1 = image.table(&tables, times.min(image.most()));
    image.set_l1(l1, tables.len());
    (image, l1, tables.len())
}

/// Two bits and a half a cluster are 100 MiB here: they are counted in several walks.
#[test]
fn a_check_of_268_million_small_clusters_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    let (image, ..) = scattered(1, 1);
    let (_directory, path) = image.finish();
    assert_bounded(&path, &["check"]);
}

/// Snapshots that name one table make counts wide, and more than the image can count: the check
/// tells each reference that is too many.
#[test]
fn a_check_of_small_clusters_with_wide_counts_takes_at_most_64_mib() {
    const SNAPSHOTS: u64 = 1000;
    if is_child() {
        return;
    }
    let (mut image, l1, entries) = scattered(1, SNAPSHOTS + 1);
    let row = SnapshotEntry {
        l1_offset: l1,
        l1_entries: entries.try_into().unwrap(),
        ..SnapshotEntry::disk_only(b"1".to_vec(), b"one".to_vec(), (1, 0), GIB)
    };
    image.set_snapshots(&vec![row; usize::try_from(SNAPSHOTS).unwrap()]);
    let (_directory, path) = image.finish();
    let named = SCATTERED + SCATTERED.div_ceil(512) + 1;
    // Each reference but one, and the flags of the active disk, which say "shared".
    let problems = named * SNAPSHOTS + SCATTERED + SCATTERED.div_ceil(512);
    assert_bounded(&path, &[&format!("check {problems}")]);
}

/// As long a table as there may be: nobody shows what makes its rows long.
#[test]
fn a_snapshot_table_of_63_mib_is_checked_and_listed_in_at_most_64_mib() {
    if is_child() {
        return;
    }
    let mut image = Sparse::blank(64 * KIB);
    let row = |id: u64| {
        let id = id.to_string().into_bytes();
        let mut row = SnapshotEntry::disk_only(id, b"name".to_vec(), (1, 0), MIB);
        row.l1_offset = 64 * KIB;
        row.extra.resize(940, 7);
        row
    };
    image.set_snapshots(&(1..=65_536).map(row).collect::<Vec<_>>());
    let (_directory, path) = image.finish();
    assert_bounded(&path, &["check", "list"]);
}

/// The longest names, in rows that a check has to speak of by name.
#[test]
fn rows_with_names_of_64_kib_are_told_in_at_most_64_mib() {
    const ROWS: u64 = 500;
    if is_child() {
        return;
    }
    let mut image = Sparse::blank(64 * KIB);
    let name = vec![b'n'; 65_535];
    let mut row = SnapshotEntry::disk_only(name.clone(), name, (1, 0), MIB);
    row.l1_offset = 512;
    image.set_snapshots(&vec![row; usize::try_from(ROWS).unwrap()]);
    let (_directory, path) = image.finish();
    assert_bounded(&path, &[&format!("check {ROWS}"), "list"]);
}

/// As many bitmaps as there may be, with names that fill the longest directory.
#[test]
fn a_check_of_65_535_bitmaps_with_long_names_takes_at_most_64_mib() {
    const BITMAPS: u32 = 65_535;
    if is_child() {
        return;
    }
    let mut image = Sparse::blank(64 * KIB);
    let table = image.table(&[0], BITMAPS.into());
    let mut directory = Vec::new();
    for nth in 0..BITMAPS {
        directory.extend(table.to_be_bytes());
        directory.extend(1_u32.to_be_bytes());
        directory.extend(0_u32.to_be_bytes());
        // Type, granularity, length of the name, extra data.
        directory.extend([1, 16]);
        directory.extend(1000_u16.to_be_bytes());
        directory.extend(0_u32.to_be_bytes());
        directory.extend(format!("{nth:01000}").as_bytes());
    }
    let at = image.place(directory.len() as u64, 1);
    image.write(at, &directory);
    // The header extension, after the one that `create` writes, and its autoclear bit.
    image.write(504, &[0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24]);
    image.write(512, &(u64::from(BITMAPS) << 32).to_be_bytes());
    image.write(520, &(directory.len() as u64).to_be_bytes());
    image.write(528, &at.to_be_bytes());
    image.write(95, &[1]);
    let (_directory, path) = image.finish();
    assert_bounded(&path, &["check"]);
}

/// A file of 45 MiB that is 8 TiB long. Each of a million clusters is named a hundred thousand times, and
/// lies in a page of its own; each page was counted as wide as that, a few thousand pages at a time, so
/// that the tables were read a thousand times over.
#[test]
fn a_check_of_wide_counts_far_apart_takes_seconds_and_at_most_64_mib() {
    const TABLES: u64 = 2040;
    const PAGE: u64 = 2048;
    if is_child() {
        return;
    }
    let mut image = Sparse::new(GIB, 4 * KIB, 64);
    let data = |nth: u64| ((nth + 100) * PAGE + 7) * 4 * KIB;
    let tables: Vec<u64> = (0..TABLES)
        .map(|table| {
            let entries: Vec<_> = (0..512).map(|nth| data(table * 512 + nth)).collect();
            image.table(&entries, 1)
        })
        .collect();
    let twice = [tables.clone(), tables].concat();
    let shared = image.table(&twice, 1);
    // As many tables again as an L1 table can name, in holes.
    let holes: Vec<u64> = (0..4 * MIB).map(|nth| (1_000_000 + 2 * nth) * 4 * KIB).collect();
    let l1 = image.table(&holes, 1);
    image.set_l1(l1, holes.len());
    let row = SnapshotEntry {
        l1_offset: shared,
        l1_entries: twice.len().try_into().unwrap(),
        ..SnapshotEntry::disk_only(b"1".to_vec(), b"n".to_vec(), (1, 0), GIB)
    };
    image.set_snapshots(&vec![row; 65_535]);
    // And the refcount table.
    let metadata = image.counted() + 1;
    let (_directory, path) = image.finish_without_counts(((1 << 31) - 1) * 4 * KIB);
    let problems = metadata + TABLES * 512 + holes.len() as u64;
    let started = Instant::now();
    assert_bounded(&path, &[&format!("check {problems}")]);
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());
}

/// One refcount block that a hundred thousand entries of the refcount table name, with counts of one and
/// of none, and pages of which some are referenced only after others were given up: 73 MiB.
#[test]
fn a_check_of_a_refcount_block_named_100_000_times_takes_seconds_and_at_most_64_mib() {
    const C: u64 = 4 * KIB;
    const PAGE: u64 = 2048;
    const QUARTER: u64 = 11_000;
    if is_child() {
        return;
    }
    let mut image = Sparse::new(GIB, C, 16);
    let block = image.place(C, 1);
    let counts: Vec<u8> = (0..C / 4).flat_map(|_| [0, 1, 0, 0]).collect();
    image.write(block, &counts);
    let table = image.table(&vec![block; 100_000], 1);
    let page = |nth: u64| ((100 + nth) * PAGE + 1) * C;
    let kept = |nth: u64| page(QUARTER + nth);
    let mut l1 = Vec::new();
    for nth in 0..QUARTER {
        l1.extend([page(nth), kept(2 * nth), page(3 * QUARTER + nth), kept(2 * nth + 1)]);
    }
    (0..QUARTER).for_each(|nth| l1.extend([page(nth); 3]));
    let entry = |nth: u64| kept(nth * 7919 % (2 * QUARTER)) + (5 + nth / (2 * QUARTER) * 2) * C;
    for first in (1..=1100 * 512).step_by(512) {
        l1.push(image.table(&(first..first + 512).map(entry).collect::<Vec<_>>(), 1));
    }
    // As many names as are kept at once, of holes.
    l1.extend((0..230_000).map(|nth| (300_000 * PAGE + 2 * nth) * C));
    let at = image.table(&l1, 1);
    image.set_l1(at, l1.len());
    let (_directory, path) = image.finish_with_counts((table, 100_000), 800_000_000 * C);
    let started = Instant::now();
    assert_bounded(&path, &["check 102809013"]);
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());
}
