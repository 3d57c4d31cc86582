//! How much memory an operation takes: at most 64 MiB, up to a disk of a terabyte, however its
//! clusters lie in the file, and no more for a small file, whatever its tables claim; for a check,
//! of any file.
//!
//! Memory belongs to a process, so each operation is done by one of its own: this test, again.

mod change;
mod check;
mod process;
mod sparse;

use std::fs::File;
use std::os::unix::fs::FileExt;

use process::{KIB, MIB, assert_bounded, is_child};
use qcow2::format::mapping::{COPIED, encode_table};
use qcow2::format::snapshot::{SnapshotEntry, encode_table as encode_snapshots};
use qcow2::storage::FileStorage;
use qcow2::{NewImage, create};
use sparse::Sparse;

const TIB: u64 = 1 << 40;

const CLUSTER: u64 = 64 * KIB;
const TABLE_ENTRIES: u64 = CLUSTER / 8;
const BLOCK_ENTRIES: u64 = CLUSTER / 2;

/// An image of that size, and its file.
fn new_image(directory: &tempfile::TempDir, size: u64) -> (FileStorage, std::path::PathBuf) {
    let path = directory.path().join("image.qcow2");
    let storage = FileStorage::from_file(File::create_new(&path).unwrap()).unwrap();
    create(&storage, &NewImage { size, ..NewImage::default() }).unwrap();
    (storage, path)
}

fn put(file: &File, at: u64, entries: &[u64]) {
    file.write_all_at(&encode_table(entries, 0), at).unwrap();
}

/// Sixteen million clusters in random order, of which an eighth was written again after a snapshot.
/// The metadata is written straight, the data are holes.
fn write_shuffled(file: &File, size: u64) {
    let guests = size / CLUSTER;
    let tables = guests / TABLE_ENTRIES;
    // Header, refcount table, two L1 tables, snapshot table; then blocks, L2 tables, data.
    let [refcount_table, active_l1, old_l1, snapshots, blocks] = [1, 2, 3, 4, 5];
    let all = 5 + 2 * tables + guests * 9 / 8;
    let block_count = all.div_ceil(BLOCK_ENTRIES - 1);
    let l2 = [blocks + block_count, blocks + block_count + tables];
    let data = l2[1] + tables;
    let end = data + guests * 9 / 8;
    // Multiplying by an odd number is a permutation of a power of two.
    let old = |guest: u64| data + (guest * 0x9e37_79b1 + 77) % guests;
    let is_changed = |guest: u64| guest % 8 == 3;
    let active = |guest: u64| {
        let changed = data + guests + (guest / 8 * 0x85eb_ca6b + 5) % (guests / 8);
        if is_changed(guest) { changed } else { old(guest) }
    };
    file.set_len(end * CLUSTER).unwrap();
    let mut counts = vec![1_u16; usize::try_from(end).unwrap()];
    for table in 0..tables {
        let guests = table * TABLE_ENTRIES..(table + 1) * TABLE_ENTRIES;
        let entries: Vec<_> = guests.clone().map(|guest| old(guest) * CLUSTER).collect();
        put(file, (l2[1] + table) * CLUSTER, &entries);
        let entry = |guest| {
            let copied = if is_changed(guest) { COPIED } else { 0 };
            (active(guest) * CLUSTER) | copied
        };
        put(file, (l2[0] + table) * CLUSTER, &guests.clone().map(entry).collect::<Vec<_>>());
        for guest in guests.filter(|&guest| !is_changed(guest)) {
            counts[usize::try_from(old(guest)).unwrap()] = 2;
        }
    }
    for ((l1, l2), copied) in [(active_l1, l2[0]), (old_l1, l2[1])].into_iter().zip([COPIED, 0]) {
        let entries: Vec<_> = (l2..l2 + tables).map(|table| (table * CLUSTER) | copied).collect();
        put(file, l1 * CLUSTER, &entries);
    }
    for (block, counts) in (blocks..).zip(counts.chunks(BLOCK_ENTRIES.try_into().unwrap())) {
        let bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        file.write_all_at(&bytes, block * CLUSTER).unwrap();
    }
    let used = end.div_ceil(BLOCK_ENTRIES);
    let entries: Vec<_> = (blocks..blocks + used).map(|block| block * CLUSTER).collect();
    put(file, refcount_table * CLUSTER, &entries);
    // Blocks that were reserved and not needed are nobody's.
    for spare in blocks + used..blocks + block_count {
        let at = (blocks + spare / BLOCK_ENTRIES) * CLUSTER + spare % BLOCK_ENTRIES * 2;
        file.write_all_at(&[0; 2], at).unwrap();
    }
    let row = SnapshotEntry {
        l1_offset: old_l1 * CLUSTER,
        l1_entries: tables.try_into().unwrap(),
        ..SnapshotEntry::disk_only(b"1".to_vec(), b"old".to_vec(), (1, 0), size)
    };
    file.write_all_at(&encode_snapshots(&[row]), snapshots * CLUSTER).unwrap();
    // Header fields 40 and 48: L1 table, refcount table; 60 and 64: snapshots.
    put(file, 40, &[active_l1 * CLUSTER, refcount_table * CLUSTER]);
    file.write_all_at(&1_u32.to_be_bytes(), 60).unwrap();
    put(file, 64, &[snapshots * CLUSTER]);
}

/// Each cluster took two bytes and six bits, and each run that a deletion frees sixteen bytes: on a
/// disk like this 62 MiB, and above it with one snapshot more.
#[test]
fn every_operation_on_a_shuffled_terabyte_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (storage, path) = new_image(&directory, TIB);
    write_shuffled(storage.file(), TIB);
    let all = ["check", "create", "rename", "apply", "clone", "delete", "grow", "check"];
    assert_bounded(&path, &all);
}

/// A refcount table of 8 MiB names a million blocks, all in one hole of a sparse file.
#[test]
fn a_million_refcount_blocks_in_a_hole_take_at_most_64_mib() {
    const BLOCKS: u64 = MIB - 8192;
    if is_child() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (storage, path) = new_image(&directory, MIB);
    let file = storage.file();
    let table = 4;
    let real = 64;
    let hole = table + 128 + real;
    // The blocks that count something come first in the table.
    let blocks = (table + 128..table + 128 + real).chain(hole..hole + BLOCKS - real);
    put(file, table * CLUSTER, &blocks.map(|block| block * CLUSTER).collect::<Vec<_>>());
    let end = hole + BLOCKS - real;
    let mut counts = vec![1_u16; usize::try_from(end).unwrap()];
    counts[1..3].fill(0);
    for (block, counts) in (table + 128..).zip(counts.chunks(BLOCK_ENTRIES.try_into().unwrap())) {
        let bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        file.write_all_at(&bytes, block * CLUSTER).unwrap();
    }
    // The header's fields 48 and 56.
    put(file, 48, &[table * CLUSTER]);
    file.write_all_at(&128_u32.to_be_bytes(), 56).unwrap();
    file.set_len(end * CLUSTER).unwrap();
    assert_bounded(&path, &["check", "create", "check"]);
}

/// Four thousand blocks that count themselves and nothing else: each is a page of the file, and
/// took 88 KiB of memory.
#[test]
fn refcount_blocks_that_count_little_take_little() {
    const BLOCKS: u64 = 4000;
    if is_child() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (storage, path) = new_image(&directory, MIB);
    let file = storage.file();
    for index in 1..BLOCKS {
        let block = index * BLOCK_ENTRIES;
        put(file, CLUSTER + index * 8, &[block * CLUSTER]);
        file.write_all_at(&1_u16.to_be_bytes(), block * CLUSTER).unwrap();
    }
    file.set_len(((BLOCKS - 1) * BLOCK_ENTRIES + 1) * CLUSTER).unwrap();
    assert_bounded(&path, &["create", "check"]);
}

/// One snapshot less than there may be, as they are made day by day.
#[test]
fn changing_an_image_with_65_535_snapshots_takes_at_most_64_mib() {
    const SNAPSHOTS: u64 = 65_535;
    if is_child() {
        return;
    }
    let mut image = Sparse::blank(4 * KIB);
    let first = image.place(SNAPSHOTS * 4 * KIB, 1);
    let row = |nth: u64| {
        let id = (nth + 1).to_string().into_bytes();
        let name = if nth == 40_000 {
            "old".to_owned()
        } else {
            format!("before-the-update-of-day-{nth}")
        };
        SnapshotEntry {
            l1_offset: first + nth * 4 * KIB,
            l1_entries: 1,
            ..SnapshotEntry::disk_only(id, name.into_bytes(), (1, 0), MIB)
        }
    };
    image.set_snapshots(&(0..SNAPSHOTS).map(row).collect::<Vec<_>>());
    let (_directory, path) = image.finish();
    let all = ["check", "list", "create", "rename", "apply", "clone", "delete", "grow", "check"];
    assert_bounded(&path, &all);
}
