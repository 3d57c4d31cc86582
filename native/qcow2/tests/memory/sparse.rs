//! Files that are nearly all holes: an image whose tables say as much as a test wants, wherever.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::MIB;
use qcow2::format::mapping::encode_table;
use qcow2::format::refcount::RefcountOrder;
use qcow2::format::snapshot::{SnapshotEntry, encode_table as encode_snapshots};
use qcow2::storage::FileStorage;
use qcow2::{NewImage, create};

/// What is placed first; before it is what a new image has.
const FIRST: u64 = 64;

/// An image in the making. What `create` placed is nobody's but for the header.
pub struct Sparse {
    directory: tempfile::TempDir,
    file: File,
    cluster_bytes: u64,
    order: RefcountOrder,
    /// Clusters that are counted, and how often.
    counted: Vec<(Range<u64>, u64)>,
    next: u64,
}

impl Sparse {
    pub fn new(size: u64, cluster_bytes: u64, refcount_bits: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create_new(directory.path().join("image.qcow2")).unwrap();
        let new = NewImage { cluster_bytes, refcount_bits, ..NewImage::default() };
        create(&FileStorage::from_file(file.try_clone().unwrap()).unwrap(), &new).unwrap();
        file.write_all_at(&size.to_be_bytes(), 24).unwrap();
        let order = RefcountOrder::new(refcount_bits.ilog2());
        let mut image =
            Self { directory, file, cluster_bytes, order, counted: Vec::new(), next: FIRST };
        image.count(0..1, 1);
        image
    }

    /// One whose disk has an L1 table that names nothing.
    pub fn blank(cluster_bytes: u64) -> Self {
        let mut image = Self::new(MIB, cluster_bytes, 16);
        let l1 = image.table(&[0], 1);
        image.set_l1(l1, 1);
        image
    }

    /// The largest count.
    pub fn most(&self) -> u64 {
        self.order.max()
    }

    /// Counts clusters that were not.
    pub fn count(&mut self, clusters: Range<u64>, times: u64) {
        self.counted.push((clusters, times));
    }

    /// Places something of that length, which is referenced so often.
    pub fn place(&mut self, bytes: u64, times: u64) -> u64 {
        let first = self.next;
        self.next += bytes.div_ceil(self.cluster_bytes);
        self.count(first..self.next, times);
        first * self.cluster_bytes
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    /// Places a table of words, and writes it.
    pub fn table(&mut self, entries: &[u64], times: u64) -> u64 {
        let at = self.place(entries.len() as u64 * 8, times);
        self.write(at, &encode_table(entries, 0));
        at
    }

    /// The active L1 table. Header fields 36 and 40.
    pub fn set_l1(&self, offset: u64, entries: usize) {
        self.write(36, &u32::try_from(entries).unwrap().to_be_bytes());
        self.write(40, &offset.to_be_bytes());
    }

    /// Places the snapshots' table. Header fields 60 and 64.
    pub fn set_snapshots(&mut self, rows: &[SnapshotEntry]) {
        let bytes = encode_snapshots(rows);
        let at = self.place(bytes.len() as u64, 1);
        self.write(at, &bytes);
        self.write(60, &u32::try_from(rows.len()).unwrap().to_be_bytes());
        self.write(64, &at.to_be_bytes());
    }

    /// Clusters that are counted so far.
    pub fn counted(&self) -> u64 {
        self.counted.iter().map(|(run, _)| run.end - run.start).sum()
    }

    /// Counts nothing in a file of that length: the refcount table is a hole.
    pub fn finish_without_counts(mut self, bytes: u64) -> (tempfile::TempDir, PathBuf) {
        let table = self.place(self.cluster_bytes, 1);
        let entries = usize::try_from(self.cluster_bytes / 8).unwrap();
        self.finish_with_counts((table, entries), bytes)
    }

    /// Makes this the refcount table, and the file as long. Header fields 48 and 56.
    pub fn finish_with_counts(
        self,
        (table, entries): (u64, usize),
        bytes: u64,
    ) -> (tempfile::TempDir, PathBuf) {
        self.write(48, &table.to_be_bytes());
        let clusters = (entries as u64 * 8).div_ceil(self.cluster_bytes);
        self.write(56, &u32::try_from(clusters).unwrap().to_be_bytes());
        self.file.set_len(bytes).unwrap();
        let path = self.directory.path().join("image.qcow2");
        (self.directory, path)
    }

    /// Writes the counts, in blocks that are there only where something is counted, and makes the
    /// file as long as it has to be. Header fields 48 and 56.
    pub fn finish(mut self) -> (tempfile::TempDir, PathBuf) {
        let block_bits = self.order.block_bits(self.cluster_bytes.ilog2());
        let indices = |counted: &[(Range<u64>, u64)]| {
            let of = |(run, _): &(Range<u64>, u64)| {
                run.start >> block_bits..=(run.end - 1) >> block_bits
            };
            counted.iter().flat_map(of).collect::<std::collections::BTreeSet<_>>()
        };
        let used = indices(&self.counted);
        // The blocks may be counted by some more.
        let entries = used.last().unwrap() + 3 + (used.len() as u64 >> block_bits);
        let table_bytes = entries * 8;
        let table = self.place(table_bytes, 1);
        let blocks = self.next;
        loop {
            let needed = indices(&self.counted).len() as u64;
            let have = self.next - blocks;
            if needed <= have {
                break;
            }
            self.place((needed - have) * self.cluster_bytes, 1);
        }
        self.counted.sort_by_key(|(run, _)| run.start);
        let mut place = blocks * self.cluster_bytes;
        let mut words = vec![0; usize::try_from(entries).unwrap()];
        let mut first = 0;
        for index in indices(&self.counted) {
            let clusters = index << block_bits..(index + 1) << block_bits;
            let mut block = vec![0; usize::try_from(self.cluster_bytes).unwrap()];
            while self.counted[first].0.end <= clusters.start {
                first += 1;
            }
            for (run, times) in &self.counted[first..] {
                if run.start >= clusters.end {
                    break;
                }
                for cluster in run.start.max(clusters.start)..run.end.min(clusters.end) {
                    let nth = usize::try_from(cluster - clusters.start).unwrap();
                    self.order.set_count(&mut block, nth, *times);
                }
            }
            self.write(place, &block);
            words[usize::try_from(index).unwrap()] = place;
            place += self.cluster_bytes;
        }
        assert!(place <= self.next * self.cluster_bytes, "every block has its place");
        self.write(table, &encode_table(&words, 0));
        self.write(48, &table.to_be_bytes());
        let clusters = u32::try_from(table_bytes.div_ceil(self.cluster_bytes)).unwrap();
        self.write(56, &clusters.to_be_bytes());
        let end = self.counted.last().unwrap().0.end.max(self.next);
        self.file.set_len(end * self.cluster_bytes).unwrap();
        let path = self.directory.path().join("image.qcow2");
        (self.directory, path)
    }
}
