//! That a check says the same however little it may keep, on images in which everything is wrong.

use std::io;
use std::ops::Range;

use super::counted::PAGE_CLUSTERS;
use super::*;
use crate::format::mapping::{COMPRESSED, COPIED};
use crate::format::refcount::RefcountOrder;
use crate::format::snapshot::{SnapshotEntry, encode_table};
use crate::storage::{RecordingStorage, Storage};
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

/// One cluster of data in each of 64 pages, counted twice, and one page that has refcount blocks and
/// nothing else: what a walk keeps of it is found out when the tables have been read.
fn scattered() -> RecordingStorage {
    const PAGES: u64 = 64;
    const BLOCKS: u64 = 512;
    let (l1, l2, table, blocks) = (4, 5, 16, PAGE_CLUSTERS);
    let storage = RecordingStorage::new();
    let new = NewImage { size: 64 * 64 * CLUSTER, cluster_bytes: CLUSTER, ..NewImage::default() };
    create(&storage, &new).unwrap();
    let put = |at: u64, bytes: &[u8]| storage.write_at(bytes, at).unwrap();
    let mut counts = vec![0; (BLOCKS * 256).try_into().unwrap()];
    let mut own = |cluster: u64, count| counts[usize::try_from(cluster).unwrap()] = count;
    for cluster in [0, l1, l2].into_iter().chain(table..table + 8).chain(blocks..blocks + BLOCKS) {
        own(cluster, 1);
    }
    put(l1 * CLUSTER, &((l2 * CLUSTER) | COPIED).to_be_bytes());
    put(l2 * CLUSTER, &[0; 512]);
    for page in (0..PAGES).filter(|page| page * PAGE_CLUSTERS != blocks) {
        let cluster = page * PAGE_CLUSTERS + 100;
        own(cluster, 2);
        put(l2 * CLUSTER + page * 8, &(cluster * CLUSTER).to_be_bytes());
    }
    for (nth, counts) in (0..).zip(counts.chunks(256)) {
        put((table * CLUSTER) + nth * 8, &((blocks + nth) * CLUSTER).to_be_bytes());
        let bytes: Vec<u8> = counts.iter().flat_map(|&count: &u16| count.to_be_bytes()).collect();
        put((blocks + nth) * CLUSTER, &bytes);
    }
    put(36, &u32::to_be_bytes(64));
    for (at, field) in [(40, l1 * CLUSTER), (48, table * CLUSTER), (56, 8 << 32), (64, 0)] {
        put(at, &field.to_be_bytes());
    }
    storage.set_len(PAGES * PAGE_CLUSTERS * CLUSTER).unwrap();
    storage
}

/// Blocks are counted when it is settled which clusters another walk will count.
#[test]
fn refcount_blocks_take_no_cluster_from_those_that_are_compared() {
    let image = open(Box::new(scattered())).unwrap();
    let said = |room| {
        let mut lines = Vec::new();
        let tell = &mut |problem: &Problem| lines.push(problem.clone());
        (check_within(room, &image, tell).unwrap(), lines)
    };
    let at_once = said(Room::CHECK);
    assert_eq!((at_once.0.leaks, at_once.0.corruptions), (63, 0));
    let table_bytes = 512 * 8;
    for counts in (4000..44_000).step_by(500) {
        let room = Room { counts: table_bytes + counts, least_counts: 0, ones: usize::MAX };
        assert!(said(room) == at_once, "{counts} bytes for counts");
    }
}

/// A disk whose medium has gone bad in one place.
struct BadSector {
    disk: RecordingStorage,
    bad: Range<u64>,
}

impl Storage for BadSector {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset < self.bad.end && self.bad.start < offset + buf.len() as u64 {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.disk.read_at(buf, offset)
    }

    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.disk.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.disk.punch(range)
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.disk.data_ranges(within)
    }
}

/// Of a block with a bad sector, a part can be read. Whether its counts were believed depended on
/// whether somebody had tried to read all of it before, and so on how many walks there were.
#[test]
fn a_block_that_can_be_read_in_part_counts_nothing_however_many_walks_there_are() {
    let mut random = Random(7);
    let mut told_unreadable = 0;
    for refcount_bits in [2, 16, 64] {
        let disk = nonsense(&mut random, refcount_bits);
        // One near the beginning and one in the middle, each in its last eight bytes.
        for block in [3, 20] {
            let end = (100 + block + 1) * CLUSTER;
            let said = |room| {
                let disk = BadSector { disk: disk.clone(), bad: end - 8..end };
                let image = open(Box::new(disk)).unwrap();
                let mut lines = Vec::new();
                let tell = &mut |problem: &Problem| lines.push(problem.clone());
                (check_within(room, &image, tell).unwrap(), lines)
            };
            let at_once = said(Room::CHECK);
            told_unreadable += at_once.0.check_errors;
            for (counts, ones) in [(0, 0), (3000, 0), (0, 1000), (usize::MAX, 0), (0, usize::MAX)] {
                let room = Room { counts, least_counts: 0, ones };
                assert!(said(room) == at_once, "{refcount_bits} bits, {counts}, {ones}");
            }
        }
    }
    assert!(told_unreadable > 0);
}
