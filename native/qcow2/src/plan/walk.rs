//! Reading L2 tables: each once, in the order of the file, however often it is named.

use std::ops::Range;

use crate::error::Result;
use crate::format::mapping::{COPIED, Mapping, OFFSET_MASK};
use crate::image::Image;
use crate::refcounts::{Batch, Change, Refcounts};

use super::uses::Use;

/// Neighbouring L2 tables are read together up to this many bytes.
const READ_BYTES: u64 = 1 << 20;
/// So far ahead the storage is told what will be read: the tables of a new disk lie far apart, where
/// no system would look for them by itself.
const AHEAD_BYTES: u64 = 4 << 20;

/// Reads the wanted tables in the order of the file, neighbours together, and shows each to
/// `visit`.
pub(super) fn for_tables(
    image: &Image,
    uses: &[Use],
    wanted: impl Fn(usize, &Use) -> bool,
    mut visit: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let cluster_bytes = image.header.cluster_bytes();
    let size = usize::try_from(cluster_bytes).expect("at most 2 MiB");
    let most = (READ_BYTES / cluster_bytes).max(1);
    let ahead = usize::try_from(AHEAD_BYTES / cluster_bytes).expect("few").max(2);
    let mut buffer = Vec::new();
    let reads = Neighbours { uses, wanted: &wanted, cluster_bytes, most, next: 0 };
    let mut expected = Neighbours { most: ahead as u64, ..reads };
    for tables in reads {
        while expected.next < (tables.end + ahead).min(uses.len()) {
            let Some(soon) = expected.next() else { break };
            let start = uses[soon.start].offset;
            image.storage.expect(start..start + soon.len() as u64 * cluster_bytes);
        }
        buffer.resize(tables.len() * size, 0);
        image.storage.read_at(&mut buffer, uses[tables.start].offset)?;
        for (index, table) in tables.zip(buffer.chunks_exact(size)) {
            visit(index, table)?;
        }
    }
    Ok(())
}

/// The wanted tables as runs of neighbours in the file, by their indices.
struct Neighbours<'a, W> {
    uses: &'a [Use],
    wanted: &'a W,
    cluster_bytes: u64,
    /// A run has so many tables at most.
    most: u64,
    /// The first that was not looked at.
    next: usize,
}

impl<W: Fn(usize, &Use) -> bool> Iterator for Neighbours<'_, W> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_wanted =
            |index: usize| self.uses.get(index).is_some_and(|u| (self.wanted)(index, u));
        let start = (self.next..self.uses.len()).find(|&index| is_wanted(index));
        let Some(start) = start else {
            self.next = self.uses.len();
            return None;
        };
        let mut end = start + 1;
        while ((end - start) as u64) < self.most
            && is_wanted(end)
            && self.uses[end].offset == self.uses[end - 1].offset + self.cluster_bytes
        {
            end += 1;
        }
        self.next = end;
        Some(start..end)
    }
}

/// Registers what L2 tables own.
pub(super) struct References<'a> {
    image: &'a Image,
    refcounts: &'a mut Refcounts,
    waiting: Batch<Change>,
}

impl<'a> References<'a> {
    pub fn new(image: &'a Image, refcounts: &'a mut Refcounts) -> Self {
        Self { image, refcounts, waiting: Batch::new() }
    }

    /// Registers everything that the entries of one L2 table own, consecutive clusters as one run,
    /// now or later. Returns whether any entry carries COPIED.
    pub fn table(&mut self, table: &[u8], table_offset: u64, change: Change) -> Result<bool> {
        let header = &self.image.header;
        let bits = header.cluster_bits;
        let cluster_mask = header.cluster_bytes() - 1;
        let mut any_copied = false;
        let mut run = 0..0;
        for (position, entry) in header.l2_words(table) {
            if entry == 0 {
                continue;
            }
            any_copied |= entry & COPIED != 0;
            let odd = entry & !(COPIED | OFFSET_MASK) | entry & cluster_mask;
            if odd == 0 && entry & OFFSET_MASK != 0 {
                // Nearly all are a whole cluster and nothing else.
                let cluster = (entry & OFFSET_MASK) >> bits;
                if cluster == run.end && !run.is_empty() {
                    run.end += 1;
                } else {
                    self.push(run, change)?;
                    run = cluster..cluster + 1;
                }
                continue;
            }
            let mapping = header.mapping(entry, table_offset + position)?;
            let Some((offset, length)) = mapping.owned(bits) else { continue };
            let clusters = offset >> bits..(offset + length).div_ceil(1 << bits);
            if clusters.start == run.end && matches!(mapping, Mapping::Standard { .. }) {
                run.end = clusters.end;
            } else {
                self.push(run, change)?;
                run = clusters;
            }
        }
        self.push(run, change)?;
        Ok(any_copied)
    }

    fn push(&mut self, run: Range<u64>, change: Change) -> Result<()> {
        let storage = self.image.storage();
        self.waiting
            .push(run, change, |run, change| self.refcounts.reference_data(storage, run, change))
    }

    /// Registers what still waits.
    pub fn finish(mut self) -> Result<()> {
        let storage = self.image.storage();
        self.waiting.drain(|run, change| self.refcounts.reference_data(storage, run, change))
    }
}
