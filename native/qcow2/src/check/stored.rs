//! The refcounts that the image has on disk.
//!
//! Blocks are streamed, not kept: what stays in memory is the refcount table and one bit a cluster,
//! "is exactly one", which is all that COPIED is compared with.

use std::collections::BTreeMap;
use std::ops::Range;

use super::references::index;
use crate::error::{Error, Result};
use crate::format::header::{Header, MAX_FILE_BYTES};
use crate::format::mapping::decode_table;
use crate::format::refcount::RefcountOrder;
use crate::image::Reader;

/// Bits of a refcount table entry that must be zero.
const TABLE_ENTRY_RESERVED: u64 = 0x1ff;

/// Who knows how often a cluster is counted.
pub(super) trait Counts {
    /// The refcount of `cluster`; none where it cannot be known.
    fn count(&self, cluster: u64) -> Option<u64>;
}

/// What the refcount table says about one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// All its counts are zero.
    Absent,
    /// It begins there, perhaps outside the file, where everything is zero.
    At(u64),
    /// It begins there, inside a cluster, and is not read.
    Unaligned(u64),
    /// It cannot be read.
    Unreadable,
}

/// The refcount structures of an image.
pub(super) struct Stored<'a> {
    reader: Reader<'a>,
    pub order: RefcountOrder,
    cluster_bits: u32,
    block_bits: u32,
    /// As far as the file has it; what follows is zeros.
    table: Vec<u64>,
    exactly_one: Vec<u64>,
    /// Reasons of blocks that could not be read.
    failed: BTreeMap<u64, String>,
    /// Whether any block of a cluster of the file cannot be used.
    any_unusable: bool,
}

impl<'a> Stored<'a> {
    /// Reads the table, and the blocks of the file's `clusters` once. Fails where the table cannot
    /// be read; a block that cannot is remembered.
    pub fn load(header: &Header, reader: Reader<'a>, clusters: u64) -> Result<Self> {
        let claimed = header.refcount_table_bytes();
        let present = reader.file_bytes.saturating_sub(header.refcount_table_offset);
        let bytes = claimed.min(present.next_multiple_of(8));
        // At most 8 MiB: the header was checked.
        let mut table = vec![0; usize::try_from(bytes).unwrap_or(0)];
        reader
            .fill(&mut table, header.refcount_table_offset)
            .map_err(|error| error.context("Could not initialize refcount handling"))?;
        let order = RefcountOrder::new(header.refcount_order);
        let mut stored = Self {
            reader,
            order,
            cluster_bits: header.cluster_bits,
            block_bits: order.block_bits(header.cluster_bits),
            table: decode_table(&table),
            // A table may reach one cluster past the end of the file.
            exactly_one: vec![0; usize::try_from((clusters + 1).div_ceil(64)).unwrap_or(0)],
            failed: BTreeMap::new(),
            any_unusable: false,
        };
        stored.find_ones(clusters + 1);
        Ok(stored)
    }

    fn find_ones(&mut self, clusters: u64) {
        let mut bytes = vec![0; 1 << self.cluster_bits];
        for block in 0..clusters.div_ceil(self.block_entries()) {
            match self.read_block(block, &mut bytes) {
                Ok(Block::At(_)) => self.note_ones(block, clusters, &bytes),
                Ok(Block::Absent) => {}
                Ok(Block::Unaligned(_) | Block::Unreadable) => self.any_unusable = true,
                Err(error) => {
                    self.any_unusable = true;
                    self.failed.insert(block, error.reason().to_owned());
                }
            }
        }
    }

    fn note_ones(&mut self, block: u64, clusters: u64, bytes: &[u8]) {
        let first = block << self.block_bits;
        let count = self.block_entries().min(clusters - first);
        // Blocks hold at least 64 counts (512 bytes of 64 bits), so words are never shared.
        for word in 0..count.div_ceil(64) {
            let mut ones = 0;
            for bit in 0..64.min(count - word * 64) {
                let is_one = self.order.get_count(bytes, index(word * 64 + bit)) == 1;
                ones |= u64::from(is_one) << bit;
            }
            self.exactly_one[index(first / 64 + word)] = ones;
        }
    }

    /// Clusters that one block counts.
    pub fn block_entries(&self) -> u64 {
        1 << self.block_bits
    }

    /// The table's entries, without trailing zeros.
    pub fn table(&self) -> &[u64] {
        let used = self.table.iter().rposition(|&entry| entry != 0).map_or(0, |last| last + 1);
        &self.table[..used]
    }

    /// Splits a table entry into offset and reserved bits.
    pub fn split_table_entry(entry: u64) -> (u64, u64) {
        (entry & !TABLE_ENTRY_RESERVED, entry & TABLE_ENTRY_RESERVED)
    }

    fn block(&self, index: u64) -> Block {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index));
        let (offset, _) = Self::split_table_entry(entry.copied().unwrap_or(0));
        if offset == 0 {
            Block::Absent
        } else if !offset.is_multiple_of(1 << self.cluster_bits) {
            Block::Unaligned(offset)
        } else if offset > MAX_FILE_BYTES - (1 << self.cluster_bits) {
            Block::Unreadable
        } else {
            Block::At(offset)
        }
    }

    /// Fills `bytes`, one cluster long, with block `index` where there is one to read.
    pub fn read_block(&self, index: u64, bytes: &mut [u8]) -> Result<Block> {
        let block = self.block(index);
        if let Block::At(offset) = block {
            if let Some(reason) = self.failed.get(&index) {
                return Err(Error::new(crate::Kind::Io, reason.clone()).at(offset));
            }
            self.reader.fill(bytes, offset)?;
        }
        Ok(block)
    }

    /// The refcount of `cluster`; none where its block cannot be used.
    pub fn get(&self, cluster: u64) -> Option<u64> {
        let index = cluster >> self.block_bits;
        match self.block(index) {
            Block::Absent => Some(0),
            Block::Unaligned(_) | Block::Unreadable => None,
            Block::At(_) if self.failed.contains_key(&index) => None,
            Block::At(offset) => {
                let bit = (cluster & (self.block_entries() - 1)) << self.order.get();
                let mut around = [0; 8];
                self.reader.fill(&mut around, offset + bit / 64 * 8).ok()?;
                let within = (bit % 64) >> self.order.get();
                Some(self.order.get_count(&around, within as usize))
            }
        }
    }

    /// How many of `clusters` contradict COPIED, which is `copied` for all of them.
    pub fn contradictions(&self, clusters: Range<u64>, copied: bool) -> u64 {
        if self.any_unusable || clusters.end > self.exactly_one.len() as u64 * 64 {
            let contradicts = |cluster| self.get(cluster).is_some_and(|n| (n == 1) != copied);
            return clusters.filter(|&cluster| contradicts(cluster)).count() as u64;
        }
        let (first, last) = (clusters.start / 64, (clusters.end - 1) / 64);
        let expected = if copied { u64::MAX } else { 0 };
        let mut found = 0;
        for word in first..=last {
            let mut wrong = self.exactly_one[index(word)] ^ expected;
            if word == first {
                wrong &= u64::MAX << (clusters.start % 64);
            }
            if word == last {
                wrong &= u64::MAX >> (63 - (clusters.end - 1) % 64);
            }
            found += u64::from(wrong.count_ones());
        }
        found
    }
}

impl Counts for Stored<'_> {
    fn count(&self, cluster: u64) -> Option<u64> {
        self.get(cluster)
    }
}
