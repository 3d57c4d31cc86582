//! Extended L2 entries: what their second word may say, and what the first one no longer means.

use std::fs;

use crate::bench::Bench;
use crate::support::Random;
use crate::support::layout::{COMPRESSED, COPIED, OFFSET};

/// Slots of the table: written whole, in part, zeros only, and never.
const SLOTS: [u64; 4] = [0, 6, 12, 9];

fn subclusters() -> Bench {
    let steps = ["w 0 100k", "snapshot one", "w 20k 3k", "z 200k 3k", "w 1M 16k"];
    Bench::create(4 << 20, "extended_l2=on,cluster_size=16k").prepare(&steps)
}

#[test]
fn sound_images_are_sound_at_every_cluster_size() {
    for bits in 14..=21 {
        let cluster = 1_u64 << bits;
        let steps = [
            format!("w 0 {}", 3 * cluster),
            format!("w {} 512", 5 * cluster),
            "snapshot one".to_owned(),
            format!("z {} {}", cluster, cluster / 32),
            format!("d {} {cluster}", 2 * cluster),
        ];
        let bench = Bench::create(40 << bits, &format!("extended_l2=on,cluster_size={cluster}"));
        let steps: Vec<_> = steps.iter().map(String::as_str).collect();
        assert_eq!(bench.prepare(&steps).compare(&format!("{cluster}")).status, 0);
    }
}

#[test]
fn each_bit_of_the_second_word_is_judged_by_the_first() {
    let bench = subclusters();
    let sound = fs::read(&bench.path).unwrap();
    let table = bench.l2();
    for slot in SLOTS {
        let first = bench.get(table + slot * 16, 8);
        let offset = first & OFFSET;
        for word in [
            first,
            first ^ COPIED,
            first | 1,
            first | 2,
            first | 512,
            0,
            COPIED,
            COMPRESSED | offset,
            COMPRESSED | COPIED | offset,
            1 << 40,
        ] {
            for bitmap in [0, 1, 1 << 31, 1 << 32, 1 << 63, 1 | 1 << 32, 0xffff_ffff, u64::MAX] {
                fs::write(&bench.path, &sound).unwrap();
                bench.put(table + slot * 16, 8, word);
                bench.put(table + slot * 16 + 8, 8, bitmap);
                bench.compare(&format!("slot {slot}: {word:#x} {bitmap:#x}"));
            }
        }
    }
}

#[test]
fn random_second_words_are_reported_as_qemu_reports_them() {
    let bench = subclusters();
    let sound = fs::read(&bench.path).unwrap();
    let mut random = Random::new(0xe17);
    for round in 0..150 {
        fs::write(&bench.path, &sound).unwrap();
        for _ in 0..=random.below(4) {
            let at = bench.l2() + random.below(16) * 16 + 8;
            bench.put(at, 8, bench.get(at, 8) ^ 1 << random.below(64));
        }
        bench.compare(&format!("round {round}"));
    }
}
