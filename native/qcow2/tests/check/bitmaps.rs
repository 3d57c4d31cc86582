//! Persistent bitmaps: their directory, tables and bits.

use std::fs;

use crate::bench::{AUTOCLEAR, Bench, Damage, change};

#[rustfmt::skip]
const BITMAP_DAMAGES: &[(&str, Damage)] = &[
    ("bitmaps declared stale", |b| b.put(AUTOCLEAR, 8, 0)),
    ("no bitmaps", |b| b.put(b.bitmap_extension(), 4, 0)),
    ("fewer bitmaps than there are", |b| b.put(b.bitmap_extension(), 4, 1)),
    ("more bitmaps than there are", |b| b.put(b.bitmap_extension(), 4, 3)),
    ("too many bitmaps", |b| b.put(b.bitmap_extension(), 4, 70_000)),
    ("a reserved field", |b| b.put(b.bitmap_extension() + 4, 4, 1)),
    ("a short extension", |b| b.put(b.bitmap_extension() - 4, 4, 16)),
    ("an empty directory", |b| b.put(b.bitmap_extension() + 8, 8, 0)),
    ("a directory that is too long", |b| b.put(b.bitmap_extension() + 8, 8, 1 << 40)),
    ("a directory that ends inside an entry", |b| change(b, b.bitmap_extension() + 8, |n| n + 8)),
    ("an unaligned directory", |b| change(b, b.bitmap_extension() + 16, |o| o | 0x200)),
    ("a directory outside", |b| b.put(b.bitmap_extension() + 16, 8, 0x900_0000)),
    ("an unaligned table", |b| change(b, b.bitmap_directory(), |o| o | 0x200)),
    ("a table outside", |b| b.put(b.bitmap_directory(), 8, 0x900_0000)),
    ("a table nowhere", |b| b.put(b.bitmap_directory(), 8, 0)),
    ("a table without entries", |b| b.put(b.bitmap_directory() + 8, 4, 0)),
    ("a table with too many entries", |b| b.put(b.bitmap_directory() + 8, 4, 1 << 30)),
    ("a table of the wrong length", |b| b.put(b.bitmap_directory() + 8, 4, 2)),
    ("a bitmap in use", |b| b.put(b.bitmap_directory() + 12, 4, 3)),
    ("a table of the wrong length, in use", |b| {
        b.put(b.bitmap_directory() + 8, 4, 2); b.put(b.bitmap_directory() + 12, 4, 3);
    }),
    ("unknown flags", |b| b.put(b.bitmap_directory() + 12, 4, 0x80)),
    ("an unknown type", |b| b.put(b.bitmap_directory() + 16, 1, 2)),
    ("a granularity too fine", |b| b.put(b.bitmap_directory() + 17, 1, 8)),
    ("a granularity too coarse", |b| b.put(b.bitmap_directory() + 17, 1, 32)),
    ("a name that runs over", |b| b.put(b.bitmap_directory() + 18, 2, 2000)),
    ("extra data", |b| b.put(b.bitmap_directory() + 20, 4, 8)),
    ("bits that are all ones", |b| b.put(bitmap_table(b), 8, 1)),
    ("reserved bits", |b| b.put(bitmap_table(b), 8, 1 << 63)),
    ("bits outside", |b| b.put(bitmap_table(b), 8, 0x900_0000)),
    ("bits in the L1 table", |b| b.put(bitmap_table(b), 8, b.l1())),
    ("unaligned bits", |b| b.put(bitmap_table(b), 8, 0x7_0200)),
    ("bits that are both", |b| b.put(bitmap_table(b), 8, 0x7_0001)),
];

fn bitmap_table(bench: &Bench) -> u64 {
    bench.get(bench.bitmap_directory(), 8)
}

#[test]
fn damaged_bitmaps_are_reported_as_qemu_reports_them() {
    let steps = ["w 0 128k", "bitmap b0", "bitmap b1", "w 0 3M"];
    let bench = Bench::create(4 << 20, "cluster_size=65536").prepare(&steps);
    let sound = fs::read(&bench.path).unwrap();
    for (story, damage) in BITMAP_DAMAGES {
        fs::write(&bench.path, &sound).unwrap();
        damage(&bench);
        bench.compare(story);
    }
}
