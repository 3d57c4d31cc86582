//! Mistakes in an image of [`small`](crate::bench::small), one in every place that a table has.

use std::fs::File;

use crate::bench::{
    Bench, Damage, INCOMPATIBLE, L1_ENTRIES, L1_OFFSET, SIZE, SNAPSHOT_COUNT, SNAPSHOTS_OFFSET,
    TABLE_CLUSTERS, TABLE_OFFSET, VERSION, change, data_entry, refcount,
};
use crate::support::layout::{COMPRESSED, COPIED, OFFSET};

/// Where QEMU lets a file end.
const NO_FILE: u64 = 0x7fff_ffff_c000_0000;

#[rustfmt::skip]
pub const DAMAGES: &[(&str, Damage)] = &[
    ("a refcount too high", |b| refcount(b, 1)),
    ("a refcount too low", |b| refcount(b, -1)),
    ("a refcount of zero", |b| refcount(b, -2)),
    ("a refcount at its maximum", |b| refcount(b, -3)),
    ("a refcount beyond the end of the file", |b| b.put(b.block() + (b.len() >> 16) * 2, 2, 1)),
    ("the header referenced twice", |b| b.put(b.block(), 2, 2)),
    ("COPIED set on shared data", |b| change(b, b.l2(), |e| e ^ COPIED)),
    ("COPIED clear on data of its own", |b| change(b, b.l2() + 8, |e| e ^ COPIED)),
    ("COPIED clear on an L2 table", |b| change(b, b.l1(), |e| e ^ COPIED)),
    ("COPIED on an L1 entry without a table", |b| b.put(b.l1(), 8, COPIED)),
    ("COPIED on an empty L2 entry", |b| data_entry(b, COPIED)),
    ("COPIED on a zero cluster", |b| data_entry(b, COPIED | 1)),
    ("reserved bits in an L1 entry", |b| change(b, b.l1(), |e| e | 1)),
    ("reserved bits in an L2 entry", |b| change(b, b.l2(), |e| e | 2)),
    ("reserved bits in an L2 entry without a cluster", |b| data_entry(b, 1 << 60)),
    ("an unaligned L2 table", |b| change(b, b.l1(), |e| e | 0x200)),
    ("an unaligned L2 table of a snapshot", |b| change(b, b.snapshot_l1(), |e| e | 0x200)),
    ("unaligned data", |b| change(b, b.l2(), |e| e | 0x200)),
    ("unaligned data that follows itself", |b| {
        for slot in 0..3 { b.put(b.l2() + slot * 8, 8, 0x5_0200 + slot * 0x1_0000); }
    }),
    ("an unaligned preallocated cluster", |b| change(b, b.l2(), |e| e | 0x201)),
    ("an unaligned preallocated cluster of the disk's own", |b| place(b, 1, 0x201)),
    ("an unaligned preallocated cluster with reserved bits", |b| place(b, 1, 1 << 60 | 0x203)),
    ("an unaligned preallocated cluster outside", |b| data_entry(b, 0x900_0201)),
    ("an unaligned preallocated cluster outside with COPIED", |b| {
        data_entry(b, COPIED | 0x900_0201);
    }),
    ("an unaligned preallocated cluster just past the end", |b| {
        data_entry(b, COPIED | 0x201 | b.len().next_multiple_of(0x1_0000));
    }),
    ("an unaligned preallocated cluster in the header", |b| data_entry(b, 0x201)),
    ("an unaligned preallocated cluster in version 2", |b| {
        place(b, 1, 0x201); b.put(VERSION, 4, 2);
    }),
    ("an unaligned preallocated cluster of a snapshot", |b| {
        change(b, b.get(b.snapshot_l1(), 8) & OFFSET, |e| e | 0x201);
    }),
    ("an unaligned preallocated cluster that a snapshot shares", |b| {
        place(b, 1, 0x201); b.put(b.snapshot_l1(), 8, b.l2());
    }),
    ("an unaligned preallocated cluster of a snapshot and of the one after it", |b| {
        let table = b.get(b.snapshot_l1(), 8) & OFFSET;
        change(b, table, |e| e | 0x201);
        b.put(b.get(b.snapshots() + 72, 8), 8, table);
    }),
    ("an unaligned preallocated cluster of two snapshots with one L1 table", |b| {
        change(b, b.get(b.snapshot_l1(), 8) & OFFSET, |e| e | 0x201);
        b.put(b.snapshots() + 72, 8, b.snapshot_l1());
    }),
    ("an unaligned preallocated cluster and a snapshot with the disk's L1 table", |b| {
        place(b, 1, 0x201); b.put(b.snapshots(), 8, b.l1());
    }),
    ("an unaligned preallocated cluster, and another snapshot outside", |b| {
        change(b, b.get(b.snapshot_l1(), 8) & OFFSET, |e| e | 0x201);
        b.put(b.snapshots() + 72, 8, 0x90_0000);
    }),
    ("an unaligned preallocated cluster, and L1 tables of snapshots that overlap", |b| {
        change(b, b.get(b.snapshot_l1(), 8) & OFFSET, |e| e | 0x201);
        b.put(b.snapshots() + 72, 8, b.snapshot_l1()); b.put(b.snapshots() + 80, 4, 2);
    }),
    ("an unaligned preallocated cluster in an L2 table that is unaligned", |b| {
        b.put(b.l2() + 0x208, 8, 0x5_0201); change(b, b.l1(), |e| e | 0x200);
    }),
    ("an unaligned preallocated cluster, and an incomplete row", |b| {
        change(b, b.get(b.snapshot_l1(), 8) & OFFSET, |e| e | 0x201);
        b.put(b.snapshots() + 72 + 36, 4, 0);
    }),
    ("an unaligned preallocated cluster in a table that is named twice", |b| {
        place(b, 1, 0x201); b.put(L1_ENTRIES, 4, 2); b.put(b.l1() + 8, 8, b.l2());
    }),
    ("an unaligned preallocated cluster, and a count of zero", |b| {
        place(b, 1, 0x201); refcount(b, -3);
    }),
    ("an unaligned preallocated cluster with reserved bits, and a count of zero", |b| {
        place(b, 1, 1 << 60 | 0x203); refcount(b, -3);
    }),
    ("unaligned preallocated clusters, unaligned data, and a count too low", |b| {
        for slot in [0, 1, 6] { place(b, slot, 0x5_0201); }
        place(b, 2, 0x200);
        change(b, b.get(b.snapshot_l1(), 8) & OFFSET, |e| e | 0x201);
        refcount(b, -1);
    }),
    ("unaligned preallocated clusters, and wrong flags beside them", |b| {
        place(b, 1, 0x201); change(b, b.l2(), |e| e ^ COPIED); change(b, b.l1(), |e| e ^ COPIED);
    }),
    ("an unaligned preallocated cluster, and the marks", |b| {
        place(b, 1, 0x201); b.put(INCOMPATIBLE, 8, 3);
    }),
    ("a zero flag in version 2", |b| { change(b, b.l2(), |e| e | 1); b.put(VERSION, 4, 2); }),
    ("data outside", |b| data_entry(b, 0x900_0000)),
    ("data just past the end", |b| data_entry(b, b.len().next_multiple_of(0x1_0000))),
    ("one cluster twice", |b| data_entry(b, b.get(b.l2() + 8, 8))),
    ("data in the header", |b| change(b, b.l2(), |_| 1)),
    ("an L2 table outside", |b| b.put(b.l1(), 8, 0x900_0000)),
    ("an L2 table in the rest of the header", |b| b.put(b.l1(), 8, COPIED | 0x200)),
    ("an L2 table in the refcount table", |b| b.put(b.l1(), 8, COPIED | b.table())),
    ("an L2 table in a refcount block", |b| b.put(b.l1(), 8, COPIED | b.block())),
    ("an L2 table in its L1 table", |b| b.put(b.l1(), 8, COPIED | b.l1())),
    ("an L2 table in the snapshot table", |b| b.put(b.l1(), 8, COPIED | b.snapshots())),
    ("a second L2 table in the header", |b| {
        b.put(L1_ENTRIES, 4, 2); b.put(b.l1() + 8, 8, COPIED);
    }),
    ("a snapshot's L2 table in the header", |b| b.put(b.snapshot_l1(), 8, COPIED)),
    ("a snapshot's L2 table in its L1 table", |b| b.put(b.snapshot_l1(), 8, b.snapshot_l1())),
    ("one L2 table twice", |b| { b.put(L1_ENTRIES, 4, 2); b.put(b.l1() + 8, 8, b.l2()); }),
    ("one damaged L2 table twice", |b| {
        data_entry(b, 0x900_0000); b.put(L1_ENTRIES, 4, 2); b.put(b.l1() + 8, 8, b.l2());
    }),
    ("a damaged L2 table that a snapshot shares", |b| {
        data_entry(b, 0x900_0002); b.put(b.snapshots(), 8, b.l1());
    }),
    ("a damaged L2 table of a snapshot", |b| {
        let table = b.get(b.snapshot_l1(), 8) & OFFSET; change(b, table + 16, |e| e | 2);
    }),
    ("the active L1 table outside", |b| b.put(L1_OFFSET, 8, 0x90_0000)),
    ("the active L1 table beyond the format", |b| b.put(L1_OFFSET, 8, 1 << 56)),
    ("the active L1 table in the header", |b| b.put(L1_OFFSET, 8, 0)),
    ("the active L1 table where no file reaches", |b| b.put(L1_OFFSET, 8, NO_FILE)),
    ("the active L1 table in a refcount block", |b| b.put(L1_OFFSET, 8, b.block())),
    ("compressed data that overlaps", |b| data_entry(b, COMPRESSED | 3 << 54 | 0x5_0000)),
    ("compressed data of the greatest length", |b| {
        data_entry(b, COMPRESSED | 0xff << 54 | 0x5_0001);
    }),
    ("compressed data with COPIED", |b| data_entry(b, COMPRESSED | COPIED | 3 << 54 | 0x5_0000)),
    ("compressed data outside", |b| data_entry(b, COMPRESSED | 3 << 54 | 0x95_0000)),
    ("compressed data across the end", |b| {
        data_entry(b, COMPRESSED | 0x7f << 54 | (b.len().next_multiple_of(0x1_0000) - 512));
    }),
    ("compressed data too far across the end", |b| {
        data_entry(b, COMPRESSED | 0x80 << 54 | (b.len().next_multiple_of(0x1_0000) - 512));
    }),
    ("reserved bits in the refcount table", |b| change(b, b.table(), |e| e | 1)),
    ("an unaligned refcount block", |b| change(b, b.table(), |e| e | 0x200)),
    ("an unaligned refcount block that no cluster needs", |b| b.put(b.table() + 8, 8, 0x2_0200)),
    ("a refcount block outside", |b| b.put(b.table() + 8, 8, 0x90_0000)),
    ("the only refcount block outside", |b| b.put(b.table(), 8, 0x90_0000)),
    ("a refcount block that no file could have", |b| change(b, b.table(), |e| e | 1 << 63)),
    ("a refcount block beyond the format", |b| change(b, b.table(), |e| e | 1 << 62)),
    ("no refcount block", |b| b.put(b.table(), 8, 0)),
    ("one refcount block three times", |b| {
        b.put(b.table() + 8, 8, b.block()); b.put(b.table() + 16, 8, b.block());
    }),
    ("a refcount block that is an L2 table", |b| b.put(b.table() + 8, 8, b.l2())),
    ("the refcount table outside", |b| b.put(TABLE_OFFSET, 8, 0x90_0000)),
    ("the refcount table where no file reaches", |b| b.put(TABLE_OFFSET, 8, NO_FILE)),
    ("the refcount table beyond the format", |b| b.put(TABLE_OFFSET, 8, 1 << 56)),
    ("the refcount table in the header", |b| b.put(TABLE_OFFSET, 8, 0)),
    ("no refcount table", |b| b.put(TABLE_CLUSTERS, 4, 0)),
    ("a snapshot without an L1 table", |b| b.put(b.snapshots() + 8, 4, 0)),
    ("a snapshot's L1 table outside", |b| b.put(b.snapshots(), 8, 0x90_0000)),
    ("a snapshot's L1 table where no file reaches", |b| b.put(b.snapshots(), 8, 1 << 63)),
    ("a snapshot's L1 table in the header", |b| b.put(b.snapshots(), 8, 0)),
    ("a snapshot's long L1 table in the header", |b| {
        b.put(b.snapshots(), 8, 0); b.put(b.snapshots() + 8, 4, 20);
    }),
    ("a snapshot's L1 table unaligned", |b| change(b, b.snapshots(), |o| o | 0x200)),
    ("a snapshot's L1 table too large", |b| b.put(b.snapshots() + 8, 4, 0x40_0001)),
    ("a snapshot entry without sizes", |b| b.put(b.snapshots() + 36, 4, 8)),
    ("a snapshot entry without sizes in version 2", |b| {
        b.put(b.snapshots() + 36, 4, 0); b.put(VERSION, 4, 2);
    }),
    ("a snapshot entry with too much extra data", |b| b.put(b.snapshots() + 36, 4, 1032)),
    ("a snapshot with a long id", |b| b.put(b.snapshots() + 12, 2, 0xffff)),
    ("a snapshot more than there are", |b| b.put(SNAPSHOT_COUNT, 4, 3)),
    ("no snapshots although there are", |b| b.put(SNAPSHOT_COUNT, 4, 0)),
    ("too many snapshots", |b| b.put(SNAPSHOT_COUNT, 4, 70_000)),
    ("no snapshots, and an unaligned table", |b| {
        b.put(SNAPSHOT_COUNT, 4, 0); change(b, SNAPSHOTS_OFFSET, |o| o | 0x200);
    }),
    ("a snapshot table past the end", |b| b.put(SNAPSHOTS_OFFSET, 8, 0x900_0000)),
    ("a snapshot table in the header", |b| b.put(SNAPSHOTS_OFFSET, 8, 0)),
    ("a snapshot table where no file reaches", |b| b.put(SNAPSHOTS_OFFSET, 8, NO_FILE)),
    ("a file that ends before its snapshot table", |b| end_at(b, b.snapshots())),
    ("a file that ends inside its snapshot table", |b| end_at(b, b.snapshots() + 100)),
    ("a file that ends inside its header", |b| end_at(b, 100)),
    ("an unaligned snapshot table", |b| change(b, SNAPSHOTS_OFFSET, |o| o | 0x200)),
    ("the dirty bit", |b| b.put(INCOMPATIBLE, 8, 1)),
    ("the corrupt bit", |b| b.put(INCOMPATIBLE, 8, 2)),
    ("no disk", |b| b.put(SIZE, 8, 0)),
    ("a disk that ends inside a cluster", |b| b.put(SIZE, 8, 0x1_0200)),
    ("a disk that ends inside a sector", |b| b.put(SIZE, 8, 0x1_0064)),
    ("a file that ends inside its last cluster", |b| truncate(b, 100)),
    ("a file without its last cluster", |b| truncate(b, 0x1_0000)),
    ("a file without its last cluster and a bit", |b| truncate(b, 0x1_0100)),
];

/// Sets bits in a slot of the active L2 table.
fn place(bench: &Bench, slot: u64, bits: u64) {
    change(bench, bench.l2() + slot * 8, |entry| entry | bits);
}

fn truncate(bench: &Bench, bytes: u64) {
    end_at(bench, bench.len().next_multiple_of(0x1_0000) - bytes);
}

fn end_at(bench: &Bench, end: u64) {
    File::options().write(true).open(&bench.path).unwrap().set_len(end).unwrap();
}
