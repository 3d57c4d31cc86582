//! What owns clusters beside the mapping: the LUKS header, an external data file. Bitmaps have a
//! file of their own.

use std::fs;

use crate::bench::{Bench, SNAPSHOT_COUNT, SNAPSHOTS_OFFSET};
use crate::support::layout::{COMPRESSED, COPIED};

#[test]
fn owners_outside_the_mapping_are_counted() {
    let bitmaps = ["w 0 128k", "bitmap first", "bitmap second", "w 0 3M"];
    let bench = Bench::create(4 << 20, "cluster_size=65536").prepare(&bitmaps);
    assert_eq!(bench.compare("bitmaps").status, 0);

    let luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let bench = Bench::create(4 << 20, luks).prepare(&["w 0 256k"]);
    assert_eq!(bench.compare("LUKS").status, 0);

    for raw in ["data_file_raw=off", "data_file_raw=on"] {
        let options = format!("data_file=DIR/data,{raw}");
        let bench = Bench::create(4 << 20, &options).prepare(&["w 0 256k", "z 64k 64k"]);
        assert_eq!(bench.compare(raw).status, 0);
    }
}

#[test]
fn a_luks_header_of_another_length_is_a_leak_or_a_corruption() {
    let luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let bench = Bench::create(4 << 20, luks).prepare(&["w 0 256k"]);
    let at = 112 + 8 + 8; // behind the header; extension type and length, offset
    let bytes = bench.get(at, 8);
    for (story, length, status) in [
        ("longer", bytes + 0x1_0000, 2),
        ("shorter", bytes - 0x1_0000, 3),
        ("longer than the file", 1 << 40, 2),
    ] {
        bench.put(at, 8, length);
        assert_eq!(bench.compare(story).status, status);
    }
}

#[test]
fn external_data_is_judged_by_copied_and_alignment_alone() {
    let bench = Bench::create(4 << 20, "data_file=DIR/data").prepare(&["w 0 256k", "w 1M 64k"]);
    let sound = fs::read(&bench.path).unwrap();
    for entry in [
        0,
        COPIED,
        COPIED | 1,
        COPIED | 2,
        3,
        0x200,
        0x201,
        COPIED | 0x200,
        COPIED | 0x900_0000,
        COPIED | 0x2_0000,
        0x2_0001,
        COPIED | 0x2_0001,
        COMPRESSED,
        COMPRESSED | COPIED | 0x5_0000,
    ] {
        for slot in [0, 3] {
            fs::write(&bench.path, &sound).unwrap();
            bench.put(bench.l2() + slot * 8, 8, entry);
            bench.compare(&format!("{entry:#x} in slot {slot}"));
        }
    }
    fs::write(&bench.path, &sound).unwrap();
    bench.put(SNAPSHOT_COUNT, 4, 1);
    bench.put(SNAPSHOTS_OFFSET, 8, 0x4_0000);
    bench.compare("a snapshot beside external data");
}
