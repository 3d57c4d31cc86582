//! Mistakes that nobody thought of, in images of all kinds: what qemu-img repairs, we repair.
//!
//! `CALQUE_SEED` chooses others, `CALQUE_REPAIR_ROUNDS` how many for each kind of image.

use std::fs;

use qcow2::Repair;

use crate::bench::{Bench, INCOMPATIBLE, SNAPSHOT_COUNT, TABLE_OFFSET, lively};
use crate::outcome::{Contents, Outcome, is_as_good, repair_by_qemu, repair_by_us, word};
use crate::support::layout::{COPIED, OFFSET};
use crate::support::{Random, seed, setting};
use crate::verdict::by_qemu;

fn kinds() -> Vec<(&'static str, Bench)> {
    let two = ["snapshot one", "w 4M 2M", "snapshot two", "w 0 2M"];
    let big = Bench::create(32 << 20, "cluster_size=2M").prepare(&["w 0 8M"]).prepare(&two);
    vec![
        ("512 B, 16 bits", lively(9, "refcount_bits=16")),
        ("512 B, 64 bits", lively(9, "refcount_bits=64")),
        ("1 KiB, 2 bits", lively(10, "refcount_bits=2")),
        ("4 KiB, 1 bit", lively(12, "refcount_bits=1")),
        ("4 KiB, 4 bits", lively(12, "refcount_bits=4")),
        ("4 KiB, version 2", lively(12, "compat=0.10")),
        ("64 KiB, 8 bits", lively(16, "refcount_bits=8")),
        ("64 KiB, 32 bits", lively(16, "refcount_bits=32,lazy_refcounts=on")),
        ("64 KiB, extended", lively(16, "extended_l2=on")),
        ("2 MiB, 16 bits", big),
        ("compressed", Bench::compressed(12, "compression_type=zstd").prepare(&["snapshot one"])),
    ]
}

#[test]
fn random_damage_is_repaired_at_least_as_well_as_by_qemu() {
    let mut random = Random::named(seed(), "repair");
    let (mut same, mut given_up, mut clean) = (0, 0, 0);
    let other = tempfile::tempdir().unwrap();
    let theirs = other.path().join("image.qcow2");
    for (kind, bench) in kinds() {
        let sound = fs::read(&bench.path).unwrap();
        for round in 0..setting("CALQUE_REPAIR_ROUNDS", 12) {
            fs::write(&bench.path, &sound).unwrap();
            let what = if random.chance(70) { Repair::All } else { Repair::Leaks };
            let count = 1 + random.below(3);
            let pokes: Vec<_> = (0..count).map(|_| poke(&bench, what, &mut random)).collect();
            let story = format!("{kind}, round {round}, -r {}, {pokes:x?}", word(what));
            let before = Contents::of(&bench.path, &["one", "two"]);
            fs::copy(&bench.path, &theirs).unwrap();
            let qemus = repair_by_qemu(&theirs, what).about(&theirs, &bench.path);
            let ours = repair_by_us(&bench.path, what);
            let (a, b) = (by_qemu(&bench.path, false), by_qemu(&theirs, false));
            assert!(is_as_good(a.status, b.status), "{story}: {a:#?} after us, {b:#?} after qemu");
            let after = Contents::of(&bench.path, &["one", "two"]);
            assert!(before.is_kept_by(&after), "{story}: content changed");
            clean += u64::from(a.status == 0);
            if has_given_up(&qemus) {
                given_up += 1;
            } else {
                assert_eq!(ours, qemus, "{story} (ours left, qemu-img's right)");
                same += 1;
            }
            if what == Repair::All {
                let left = fs::read(&bench.path).unwrap();
                let again = repair_by_us(&bench.path, what);
                assert_eq!(again.status, ours.status, "{story}: again {again:#?}");
                let same = fs::read(&bench.path).unwrap() == left;
                assert!(same, "{story}: again, something was written: {again:#?}");
            }
        }
    }
    eprintln!("{same} repaired with the same words, {given_up} by us alone; {clean} are clean");
    assert!(same > 50 && clean > 50);
}

/// Whether QEMU stopped in the middle, or made the file longer to reach a refcount block.
fn has_given_up(qemus: &Outcome) -> bool {
    ["Marking image as corrupt", "Repairing refcount block", "ERROR writing refblock"]
        .iter()
        .any(|words| qemus.lines.contains(words))
}

/// Does one mistake to bookkeeping; returns where and what.
fn poke(bench: &Bench, what: Repair, random: &mut Random) -> (&'static str, u64, u64) {
    let bits = 1 << bench.get(96, 4);
    let is_old = bench.get(4, 4) == 2;
    let bits = if is_old { 16 } else { bits };
    let clusters = bench.len() / bench.cluster();
    let entries = bench.cluster() / 8;
    match random.below(11) {
        0..=3 => {
            let cluster = random.below(clusters);
            let count = match random.below(4) {
                0 => 0,
                1 => random.below(4),
                2 => u64::MAX,
                _ => random.next(),
            };
            set_refcount(bench, cluster, bits, count);
            ("count", cluster, count)
        }
        4 | 5 => {
            // The second word of an extended entry is not looked at.
            let at = bench.l2() + random.below(entries.min(64)) / 2 * 16;
            let old = bench.get(at, 8);
            if old & OFFSET != 0 && old >> 62 & 1 == 0 {
                bench.put(at, 8, old ^ COPIED);
            }
            ("flag", at, old)
        }
        6 => {
            let old = bench.get(bench.l1(), 8);
            bench.put(bench.l1(), 8, old ^ COPIED);
            ("L1 flag", bench.l1(), old)
        }
        // What `-r leaks` leaves may point to where tables were, or to what the file grows over.
        7 | 8 if bench.cluster() > 512 && what == Repair::All => misplace(bench, random),
        9 if !is_old => {
            let marks = 1 + random.below(3);
            bench.put(INCOMPATIBLE + 7, 1, bench.get(INCOMPATIBLE + 7, 1) & !3 | marks);
            ("marks", INCOMPATIBLE, marks)
        }
        _ => {
            let values = [0, bench.len() + (bench.cluster() << 4), bench.block() | 1, 7 << 56];
            let entry = bench.get(TABLE_OFFSET, 8) + random.below(2) * 8;
            let value = *random.pick(&values);
            if bench.get(SNAPSHOT_COUNT, 4) < 2 || random.chance(60) {
                bench.put(entry, 8, value);
                return ("refcount table", entry, value);
            }
            let at = bench.snapshots() + 8;
            bench.put(at, 4, 0);
            ("entries of a snapshot's L1 table", at, 0)
        }
    }
}

/// Makes an entry of an L2 table, the disk's or a snapshot's, a zero cluster that keeps an unaligned
/// place.
fn misplace(bench: &Bench, random: &mut Random) -> (&'static str, u64, u64) {
    let has_snapshots = bench.get(SNAPSHOT_COUNT, 4) > 0;
    let l1 = if has_snapshots && random.chance(50) { bench.snapshot_l1() } else { bench.l1() };
    let is_extended = bench.get(4, 4) == 3 && bench.get(INCOMPATIBLE, 8) & 1 << 4 != 0;
    let entry_bytes = if is_extended { 16 } else { 8 };
    let at = (bench.get(l1, 8) & OFFSET) + random.below(60) * entry_bytes;
    let old = bench.get(at, 8);
    let clusters = bench.len() / bench.cluster() + 2;
    let place = if old & OFFSET != 0 && old >> 62 & 1 == 0 && random.chance(70) {
        old & OFFSET & !(bench.cluster() - 1)
    } else {
        random.below(clusters) * bench.cluster()
    };
    let flags = random.next() & (COPIED | 1 << 57);
    let within = 512 * (1 + random.below(bench.cluster() / 512 - 1));
    let word = (place + within) | flags;
    if is_extended {
        bench.put(at, 8, word);
        bench.put(at + 8, 8, random.next() << 32);
        return ("misplaced subclusters", at, word);
    }
    bench.put(at, 8, word | 1);
    ("misplaced zeros", at, word)
}

/// Sets the count of a cluster in the first refcount block, if it is there.
fn set_refcount(bench: &Bench, cluster: u64, bits: u64, count: u64) {
    let at = cluster * bits;
    let block = bench.block();
    if at / 8 >= bench.cluster() || block == 0 || !block.is_multiple_of(512) || block >= bench.len()
    {
        return;
    }
    let at_byte = block + at / 8;
    if bits >= 8 {
        bench.put(at_byte, usize::try_from(bits / 8).unwrap(), count);
    } else {
        let mask = (1 << bits) - 1;
        let byte = bench.get(at_byte, 1) & !(mask << (at % 8));
        bench.put(at_byte, 1, byte | (count & mask) << (at % 8));
    }
}
