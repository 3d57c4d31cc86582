//! Mistakes that nobody thought of.

use std::fs;

use crate::bench::{Bench, SNAPSHOT_COUNT, lively};
use crate::support::Random;
use crate::support::layout::{COMPRESSED, COPIED};
use crate::verdict::{Verdict, by_qemu, by_us};

/// QEMU's remark on an unaligned refcount block is told here only where the block hides the
/// refcount of a cluster of the file, not where a stray pointer leads to it.
fn without_remarks(verdict: &mut Verdict) {
    let kept = |line: &&str| !line.starts_with("qcow2: Image is corrupt");
    verdict.lines = verdict.lines.lines().filter(kept).collect::<Vec<_>>().join("\n");
}

#[test]
fn random_damage_is_reported_as_qemu_reports_it() {
    let mut random = Random::new(0x5eed);
    let benches = [
        lively(9, "refcount_bits=16"),
        lively(9, "refcount_bits=2"),
        lively(12, "refcount_bits=1"),
        lively(12, "refcount_bits=64"),
        lively(12, "compat=0.10"),
        lively(16, "refcount_bits=8"),
        lively(14, "extended_l2=on"),
        Bench::compressed(14, "extended_l2=on").prepare(&["snapshot one", "w 3k 5k"]),
        Bench::compressed(12, "compression_type=zstd").prepare(&["snapshot one"]),
    ];
    for bench in &benches {
        let sound = fs::read(&bench.path).unwrap();
        for round in 0..60 {
            fs::write(&bench.path, &sound).unwrap();
            let pokes: Vec<_> = (0..=random.below(4)).map(|_| poke(bench, &mut random)).collect();
            let (mut ours, mut qemu) = (by_us(&bench.path), by_qemu(&bench.path, false));
            without_remarks(&mut ours);
            without_remarks(&mut qemu);
            assert_eq!(ours, qemu, "{} round {round}: {pokes:x?}", bench.dir.path().display());
        }
    }
}

/// Overwrites one entry of one table; returns where and what.
fn poke(bench: &Bench, random: &mut Random) -> (u64, u64) {
    let cluster = bench.cluster();
    let len = bench.len();
    let table = match random.below(6) {
        0 => bench.l1(),
        1 => bench.table(),
        2 => bench.block(),
        3 if bench.get(SNAPSHOT_COUNT, 4) > 0 => bench.snapshot_l1(),
        _ => bench.l2(),
    };
    // An earlier poke may have sent it anywhere.
    let table = Some(table).filter(|table| *table < len).unwrap_or(bench.l1());
    let entries = if table == bench.table() || table == bench.l1() { 3 } else { 60 };
    let at = table + random.below(entries) * 8;
    let old = bench.get(at, 8);
    let new = match random.below(6) {
        0 => old ^ COPIED,
        1 => old ^ (1 << random.below(64)),
        2 => (random.below(len / cluster) * cluster) | (random.below(2) << 63),
        3 => random.below(len * 2),
        4 => COMPRESSED | random.below(len) | random.below(2) << 56,
        _ => len + random.below(3) * cluster,
    };
    bench.put(at, 8, new);
    (at, new)
}
