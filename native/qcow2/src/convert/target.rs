//! The file that a disk goes into: where its bytes belong, and what else has to be written.

use std::fs::File;
use std::ops::Range;

use crate::create::{NewImage, write_metadata};
use crate::error::Result;
use crate::format::mapping::{self, COPIED, OFFSET_MASK};
use crate::storage::{FileStorage, Storage};

/// Bytes of the disk that are stored or left out together, and the clusters of a new image.
pub(super) const BLOCK_BYTES: u64 = 65_536;
const BLOCK_BITS: u32 = BLOCK_BYTES.trailing_zeros();
/// Entries of an L2 table.
const TABLE_ENTRIES: u64 = BLOCK_BYTES / 8;

/// A disk in the making. Its bytes come in ascending order.
pub(super) trait Target {
    /// Where in the file the bytes at `guest` belong: the range for the first of them, and for as
    /// many more as follow it there. Nothing is decided yet.
    fn place(&self, guest: Range<u64>) -> Range<u64>;

    /// Notes that the bytes at `guest`, for which there is a place, are there or will be.
    fn enter(&mut self, guest: Range<u64>) -> Result<()>;

    /// Writes everything that is not the disk's own bytes. Returns how many bytes those were in
    /// all.
    fn finish(&mut self) -> Result<u64>;
}

/// A raw disk: every byte has its own place.
#[derive(Debug)]
pub(super) struct RawDisk;

impl RawDisk {
    /// One of `size` bytes in the empty `file`.
    pub(super) fn new(file: &File, size: u64) -> Result<Self> {
        file.set_len(size)?;
        Ok(Self)
    }
}

impl Target for RawDisk {
    fn place(&self, guest: Range<u64>) -> Range<u64> {
        guest
    }

    fn enter(&mut self, _: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<u64> {
        Ok(0)
    }
}

/// An image: clusters in the order of the disk, each L2 table before its own; all other metadata
/// behind them. Every cluster is referenced once.
#[derive(Debug)]
pub(super) struct NewDisk {
    storage: FileStorage,
    new: NewImage,
    /// As far as it is known.
    l1: Vec<u64>,
    /// The L2 table that is being filled, where there is one.
    table: Option<Table>,
    /// The next free cluster of the file.
    next: u64,
    written_bytes: u64,
}

#[derive(Debug)]
struct Table {
    /// Its position in the L1 table.
    slot: u64,
    /// The cluster it lies in.
    cluster: u64,
    entries: Vec<u64>,
}

impl NewDisk {
    /// One of `size` bytes in the empty `file`.
    ///
    /// Fails with [`Kind::TooLarge`](crate::Kind::TooLarge) if an image cannot be so large.
    pub(super) fn new(file: &File, size: u64) -> Result<Self> {
        let new = NewImage { size, ..NewImage::default() };
        new.validate()?;
        debug_assert_eq!(new.cluster_bytes, BLOCK_BYTES);
        let storage = FileStorage::from_file(file.try_clone()?)?;
        Ok(Self { storage, new, l1: Vec::new(), table: None, next: 1, written_bytes: 0 })
    }

    /// The table that is being filled, if it is the one for `block`.
    fn table_of(&self, block: u64) -> Option<&Table> {
        self.table.as_ref().filter(|table| table.slot == block / TABLE_ENTRIES)
    }

    /// The table for `block`; the one before is written.
    fn enter_table(&mut self, block: u64) -> Result<&mut Table> {
        if self.table_of(block).is_none() {
            self.write_table()?;
            let (slot, cluster) = (block / TABLE_ENTRIES, self.next);
            self.next += 1;
            self.l1.resize(index(slot), 0);
            self.l1.push(cluster << BLOCK_BITS | COPIED);
            let entries = vec![0; index(TABLE_ENTRIES)];
            self.table = Some(Table { slot, cluster, entries });
        }
        Ok(self.table.as_mut().expect("just made"))
    }

    fn write_table(&mut self) -> Result<()> {
        if let Some(table) = self.table.take() {
            let bytes = mapping::encode_table(&table.entries, 0);
            self.storage.write_at(&bytes, table.cluster << BLOCK_BITS)?;
            self.written_bytes += bytes.len() as u64;
        }
        Ok(())
    }
}

impl Target for NewDisk {
    fn place(&self, guest: Range<u64>) -> Range<u64> {
        let (block, inside) = (guest.start >> BLOCK_BITS, guest.start % BLOCK_BYTES);
        let bytes = guest.end - guest.start;
        let table = self.table_of(block);
        let entry = table.map_or(0, |table| table.entries[index(block % TABLE_ENTRIES)]);
        let (start, available) = if entry == 0 {
            let first = if table.is_some() { self.next } else { self.next + 1 };
            let blocks = TABLE_ENTRIES - block % TABLE_ENTRIES;
            (first << BLOCK_BITS, (blocks << BLOCK_BITS) - inside)
        } else {
            (entry & OFFSET_MASK, BLOCK_BYTES - inside)
        };
        start + inside..start + inside + bytes.min(available)
    }

    fn enter(&mut self, guest: Range<u64>) -> Result<()> {
        for block in guest.start >> BLOCK_BITS..guest.end.div_ceil(BLOCK_BYTES) {
            let next = self.next;
            let table = self.enter_table(block)?;
            let entry = &mut table.entries[index(block % TABLE_ENTRIES)];
            if *entry == 0 {
                // A new table has taken a cluster itself.
                let cluster = next.max(table.cluster + 1);
                *entry = cluster << BLOCK_BITS | COPIED;
                self.next = cluster + 1;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<u64> {
        self.write_table()?;
        let metadata = write_metadata(&self.storage, &self.new, self.next, &self.l1)?;
        Ok(self.written_bytes + metadata)
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("an index in memory")
}
