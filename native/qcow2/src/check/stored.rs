//! The refcounts that the image has on disk.
//!
//! Blocks are streamed, not kept: what stays in memory is the refcount table.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

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

/// Whether a block can be read. Whoever can read a part of it knows no more: all of it counts, or
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tried {
    #[default]
    NotYet,
    Read,
    Failed,
}

/// The refcount structures of an image.
pub(super) struct Stored<'a> {
    reader: Reader<'a>,
    pub order: RefcountOrder,
    cluster_bits: u32,
    block_bits: u32,
    /// As far as the file has it; what follows is zeros.
    table: Vec<u64>,
    /// Of each block, whether it was read as a whole.
    tried: Box<[Cell<Tried>]>,
    /// Reasons of blocks that could not be read, and are not tried again.
    failed: RefCell<BTreeMap<u64, String>>,
}

impl<'a> Stored<'a> {
    /// Reads the table; fails where it cannot be read.
    pub fn load(header: &Header, reader: Reader<'a>) -> Result<Self> {
        let claimed = header.refcount_table_bytes();
        let present = reader.file_bytes.saturating_sub(header.refcount_table_offset);
        let bytes = claimed.min(present.next_multiple_of(8));
        // At most 8 MiB: the header was checked.
        let mut table = vec![0; usize::try_from(bytes).unwrap_or(0)];
        reader
            .fill(&mut table, header.refcount_table_offset)
            .map_err(|error| error.context("Could not initialize refcount handling"))?;
        let order = RefcountOrder::new(header.refcount_order);
        let table = decode_table(&table);
        Ok(Self {
            reader,
            order,
            cluster_bits: header.cluster_bits,
            block_bits: order.block_bits(header.cluster_bits),
            tried: table.iter().map(|_| Cell::default()).collect(),
            table,
            failed: RefCell::default(),
        })
    }

    /// The block that counts `cluster`, by its index, and which of its counts that is.
    pub fn locate(&self, cluster: u64) -> (u64, u64) {
        (cluster >> self.block_bits, cluster & (self.block_entries() - 1))
    }

    /// Length of a block in bytes.
    pub fn block_bytes(&self) -> usize {
        1 << self.cluster_bits
    }

    /// Memory that is kept, in bytes.
    pub fn table_bytes(&self) -> usize {
        size_of_val(&self.table[..]) + size_of_val(&self.tried[..])
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

    /// The clusters that entries name as places of blocks.
    pub fn places(&self) -> impl Iterator<Item = u64> + Clone {
        self.table().iter().filter_map(|&entry| {
            let (offset, reserved) = Self::split_table_entry(entry);
            let is_place =
                offset != 0 && reserved == 0 && offset.is_multiple_of(1 << self.cluster_bits);
            is_place.then_some(offset >> self.cluster_bits)
        })
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
            let failed = self.failed.borrow().get(&index).cloned();
            if let Some(reason) = failed {
                return Err(Error::new(crate::Kind::Io, reason).at(offset));
            }
            let tried = &self.tried[usize::try_from(index).expect("it is in the table")];
            tried.set(Tried::Read);
            self.reader.fill(bytes, offset).inspect_err(|error| {
                tried.set(Tried::Failed);
                self.failed.borrow_mut().insert(index, error.reason().to_owned());
            })?;
        }
        Ok(block)
    }

    /// Whether the count of `cluster` can be read.
    pub fn is_readable(&self, cluster: u64) -> bool {
        let (index, _) = self.locate(cluster);
        let tried = |index: u64| self.tried[usize::try_from(index).expect("in the table")].get();
        match self.block(index) {
            Block::Absent => true,
            Block::Unaligned(_) | Block::Unreadable => false,
            Block::At(_) if tried(index) == Tried::NotYet => {
                self.read_block(index, &mut vec![0; self.block_bytes()]).is_ok()
            }
            Block::At(_) => tried(index) == Tried::Read,
        }
    }

    /// The refcount of `cluster`; none where its block cannot be used.
    pub fn get(&self, cluster: u64) -> Option<u64> {
        if !self.is_readable(cluster) {
            return None;
        }
        let (index, nth) = self.locate(cluster);
        match self.block(index) {
            Block::Absent => Some(0),
            Block::Unaligned(_) | Block::Unreadable => None,
            Block::At(offset) => {
                let bit = nth << self.order.get();
                let mut around = [0; 8];
                self.reader.fill(&mut around, offset + bit / 64 * 8).ok()?;
                let within = (bit % 64) >> self.order.get();
                Some(self.order.get_count(&around, within as usize))
            }
        }
    }
}

impl Counts for Stored<'_> {
    fn count(&self, cluster: u64) -> Option<u64> {
        self.get(cluster)
    }
}
