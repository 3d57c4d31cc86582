//! That a check says the same however little it may keep, on images in which everything is wrong.

use super::*;
use crate::format::mapping::{COMPRESSED, COPIED};
use crate::format::refcount::RefcountOrder;
use crate::format::snapshot::{SnapshotEntry, encode_table};
use crate::storage::RecordingStorage;
use crate::{NewImage, create};

const CLUSTERS: u64 = 8192;
const CLUSTER: u64 = 512;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// Tables that name anything, counts that are anything, and two snapshots.
fn nonsense(random: &mut Random, refcount_bits: u32) -> RecordingStorage {
    let storage = RecordingStorage::new();
    let new = NewImage {
        size: 64 * 128 * CLUSTER,
        cluster_bytes: CLUSTER,
        refcount_bits,
        ..NewImage::default()
    };
    create(&storage, &new).unwrap();
    let put = |at: u64, bytes: &[u8]| storage.write_at(bytes, at).unwrap();
    let put_words = |random: &mut Random, cluster: u64, name: &dyn Fn(&mut Random) -> u64| {
        for at in (cluster * CLUSTER..(cluster + 1) * CLUSTER).step_by(8) {
            let word = match random.below(60) {
                0 => random.below(u64::MAX),
                1 => 0,
                2 => (CLUSTERS + random.below(8)) * CLUSTER,
                _ => name(random) * CLUSTER,
            };
            let flags = match random.below(30) {
                0 => COMPRESSED,
                1 => 1,
                2 => 0x8000,
                3..10 => 0,
                _ => COPIED,
            };
            put(at, &(word | if word == 0 { 0 } else { flags }).to_be_bytes());
        }
    };
    let l2 = |random: &mut Random| 1000 + random.below(400);
    for cluster in 4..8 {
        put_words(random, cluster, &l2);
    }
    for cluster in 1000..1400 {
        put_words(random, cluster, &|random| 1500 + random.below(CLUSTERS - 1510));
    }
    let order = RefcountOrder::new(refcount_bits.ilog2());
    let blocks = CLUSTERS >> order.block_bits(9);
    for index in 0..blocks {
        let at = 100 + if random.below(40) == 0 { random.below(blocks) } else { index };
        let entry = match random.below(40) {
            0 => 0,
            1 => at * CLUSTER + 8,
            2 => (CLUSTERS + 5) * CLUSTER,
            _ => at * CLUSTER,
        };
        put(9 * CLUSTER + index * 8, &entry.to_be_bytes());
        let mut block = [0; 512];
        for nth in 0..1 << order.block_bits(9) {
            let count = if random.below(5) == 0 { random.below(3) } else { 1 };
            order.set_count(&mut block, nth, count.min(order.max()));
        }
        put((100 + index) * CLUSTER, &block);
    }
    let row = |l1_offset| {
        let row = SnapshotEntry::disk_only(b"1".to_vec(), b"n".to_vec(), (0, 0), 0);
        SnapshotEntry { l1_offset, l1_entries: 128, ..row }
    };
    put(2 * CLUSTER, &encode_table(&[row(6 * CLUSTER), row(5 * CLUSTER), row(77)]));
    // Header fields 36 to 71: L1 table, refcount table, snapshots.
    put(36, &u32::to_be_bytes(128));
    let places = [4 * CLUSTER, 9 * CLUSTER, (8 << 32) | 3, 2 * CLUSTER];
    for (at, field) in (40..).step_by(8).zip(places) {
        put(at, &field.to_be_bytes());
    }
    storage.set_len(CLUSTERS * CLUSTER).unwrap();
    storage
}

/// Memory decides how often the tables are read, and nothing else.
#[test]
fn a_check_in_many_walks_says_what_a_check_in_one_walk_says() {
    let mut random = Random(1);
    let mut rooms = vec![Room::CHECK];
    for (counts, ones) in [(0, 0), (3000, 0), (0, 1000), (usize::MAX, 0), (0, usize::MAX)] {
        rooms.push(Room { counts, least_counts: 0, ones });
    }
    for refcount_bits in [1, 2, 16, 64] {
        for _ in 0..6 {
            let storage = nonsense(&mut random, refcount_bits);
            let image = open(Box::new(storage)).unwrap();
            let said = rooms.iter().map(|&room| {
                let mut lines = Vec::new();
                let tell = &mut |problem: &Problem| lines.push(problem.clone());
                (check_within(room, &image, tell).unwrap(), lines)
            });
            let said: Vec<_> = said.collect();
            assert!(said[0].1.len() > 1000);
            for (other, room) in said[1..].iter().zip(1..) {
                assert!(*other == said[0], "{refcount_bits} bits, room {room}");
            }
        }
    }
}
