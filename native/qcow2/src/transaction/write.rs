//! Writing everything of a plan but the header.

use std::ops::Range;

use crate::error::Result;
use crate::format::header::Header;
use crate::format::mapping;
use crate::format::snapshot::SnapshotEntry;
use crate::image::Image;
use crate::plan::{Named, Plan, Row, Slot, TableContent, flagged};
use crate::storage::Storage;

use super::Committed;
use super::place::Layout;

/// Writes are collected up to this many bytes.
const WRITE_BYTES: usize = 1 << 18;

/// As soon as so many bytes are written that follow each other, the disk begins with them: the flush
/// at the end finds most of them done. With debug assertions each write is so many, so that all
/// tests of faults try it.
const WRITE_BACK_BYTES: u64 = if cfg!(debug_assertions) { 1 } else { 8 << 20 };

/// An L1 table, which may have 32 MiB, is encoded in pieces of this many entries.
const L1_PIECE_ENTRIES: usize = 8192;

/// The header after the commit.
pub(super) fn header_after(plan: &Plan, layout: Option<&Layout>) -> Header {
    let mut header = plan.header.clone();
    let bits = header.cluster_bits;
    let Some(layout) = layout else { return header };
    if let Some(l1) = &plan.active_l1 {
        header.l1_entries = u32::try_from(l1.len()).expect("at most 32 MiB of entries");
        header.l1_offset = layout.active_l1.start << bits;
    }
    if let Some(rows) = &plan.snapshots {
        header.snapshot_count = u32::try_from(rows.len()).expect("at most 65 536");
        header.snapshots_offset = if rows.is_empty() { 0 } else { layout.snapshots.start << bits };
    }
    header.refcount_table_offset = layout.table.start << bits;
    header.refcount_table_clusters =
        u32::try_from(layout.table.end - layout.table.start).expect("checked when placed");
    header
}

/// Collects what lies together into large sequential writes.
struct Writer<'a> {
    storage: &'a dyn Storage,
    cluster_bytes: u64,
    /// Not written yet; belongs to `offset`.
    buffer: Vec<u8>,
    offset: u64,
    /// Written last, and the disk was not told to begin with it.
    behind: Range<u64>,
    written: u64,
}

impl<'a> Writer<'a> {
    fn new(storage: &'a dyn Storage, cluster_bytes: u64) -> Self {
        Self { storage, cluster_bytes, buffer: Vec::new(), offset: 0, behind: 0..0, written: 0 }
    }

    /// Fills the last cluster up with zeros; a table follows at `cluster`.
    fn begin(&mut self, cluster: u64) -> Result<()> {
        let begin = cluster * self.cluster_bytes;
        let end = self.pad();
        if begin != end || self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
            self.offset = begin;
        }
        Ok(())
    }

    /// Room for so many bytes of the table, which are to be filled before anything else is asked.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.buffer.len();
        self.buffer.resize(start + bytes, 0);
        &mut self.buffer[start..]
    }

    /// A piece of the table.
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// The last table is complete. Returns how many bytes were written.
    fn finish(mut self) -> Result<u64> {
        self.pad();
        self.flush()?;
        Ok(self.written)
    }

    /// Fills the last cluster up. Returns where it ends.
    fn pad(&mut self) -> u64 {
        let end = (self.offset + self.buffer.len() as u64).next_multiple_of(self.cluster_bytes);
        let length = usize::try_from(end - self.offset).expect("bounded by a table's piece");
        self.buffer.resize(length, 0);
        end
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.storage.write_at(&self.buffer, self.offset)?;
        }
        if self.behind.end != self.offset {
            self.behind = self.offset..self.offset;
        }
        self.offset += self.buffer.len() as u64;
        self.behind.end = self.offset;
        if self.behind.end - self.behind.start >= WRITE_BACK_BYTES {
            self.storage.write_back(self.behind.clone())?;
            self.behind.start = self.behind.end;
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// An entry of a snapshot's L1 table, which names the mended table instead of the damaged one. COPIED
/// is the active disk's alone.
fn moved_entry(plan: &Plan, layout: &Layout, entry: u64) -> u64 {
    let Some(index) = plan.mended(entry & mapping::OFFSET_MASK) else { return entry };
    let rest = entry & !(mapping::OFFSET_MASK | mapping::COPIED);
    rest | layout.moved[index] << plan.header.cluster_bits
}

/// Writes the L2 tables that move, with the COPIED flags that they have to carry.
fn write_l2_tables(
    image: &Image,
    plan: &mut Plan,
    layout: &Layout,
    writer: &mut Writer<'_>,
) -> Result<()> {
    let header = &plan.header;
    let (bits, cluster_bytes) = (header.cluster_bits, header.cluster_bytes());
    let size = usize::try_from(cluster_bytes).expect("at most 2 MiB");
    let storage = image.storage();
    for (table, &cluster) in plan.moved.iter().zip(&layout.moved) {
        writer.begin(cluster)?;
        let bytes = writer.room(size);
        match &table.content {
            TableContent::Fresh(entries) => {
                bytes.copy_from_slice(&mapping::encode_table(entries, size));
            }
            TableContent::At(offset) | TableContent::Mended { offset, .. } => {
                image.ensure_inside(*offset, cluster_bytes, "L2 table")?;
                storage.read_at(bytes, *offset)?;
            }
        }
        let (is_private, is_mended) =
            (table.is_private(), matches!(table.content, TableContent::Mended { .. }));
        // The second word of an extended entry is about subclusters, and stays.
        let slots = bytes.as_chunks_mut::<8>().0.chunks_exact_mut(header.l2_entry_words());
        if !is_private && !is_mended {
            // All of a large disk, when a snapshot is taken.
            slots.for_each(|slot| mapping::clear_copied(&mut slot[0]));
            continue;
        }
        for slot in slots {
            let mut entry = u64::from_be_bytes(slot[0]);
            if is_mended {
                let subclusters = slot.get(1).map(|&bits| u64::from_be_bytes(bits));
                entry =
                    mapping::without_misplaced_cluster(entry, subclusters, bits).unwrap_or(entry);
            }
            // An operation's plan has asked the same, and was not refused; a repair's has counted.
            let entry = flagged(storage, &mut plan.refcounts, entry, bits, is_private)?;
            slot[0] = entry.to_be_bytes();
        }
    }
    Ok(())
}

/// Writes everything but the header.
pub(super) fn write_tables(
    image: &Image,
    plan: &mut Plan,
    layout: &Layout,
    header: &Header,
    done: &mut Committed,
) -> Result<()> {
    let bits = header.cluster_bits;
    let cluster_bytes = header.cluster_bytes();
    let storage = image.storage();
    let end = layout.end() << bits;
    if end > storage.len()? {
        storage.set_len(end)?;
    }
    let mut writer = Writer::new(storage, cluster_bytes);

    write_l2_tables(image, plan, layout, &mut writer)?;
    let l1_entry = |slot: &Slot| match slot.get() {
        Named::Entry(entry) => entry,
        Named::New(index) => {
            let is_private = plan.moved[index].is_private();
            layout.moved[index] << bits | if is_private { mapping::COPIED } else { 0 }
        }
    };
    let l1_tables =
        [(&plan.active_l1, &layout.active_l1), (&plan.snapshot_l1, &layout.snapshot_l1)];
    for (l1, place) in l1_tables {
        let Some(l1) = l1.as_ref().filter(|l1| !l1.is_empty()) else { continue };
        writer.begin(place.start)?;
        for piece in l1.chunks(L1_PIECE_ENTRIES) {
            let entries: Vec<u64> = piece.iter().map(l1_entry).collect();
            writer.push(&mapping::encode_table(&entries, 0))?;
        }
    }
    for (l1, place) in plan.moved_l1.iter().zip(&layout.moved_l1) {
        writer.begin(place.start)?;
        let mut piece = Vec::with_capacity(L1_PIECE_ENTRIES);
        image.for_l1_entries(l1.offset, l1.entries, |index, entry| {
            piece.push(moved_entry(plan, layout, entry));
            if piece.len() == L1_PIECE_ENTRIES || index + 1 == l1.entries as usize {
                writer.push(&mapping::encode_table(&piece, 0))?;
                piece.clear();
            }
            Ok(())
        })?;
    }
    if let Some(rows) = plan.snapshots.as_mut().filter(|rows| !rows.is_empty()) {
        if let Some(Row::Whole(entry)) = plan.new_snapshot.map(|index| &mut rows[index]) {
            // A disk of size 0 has an L1 table without entries: any place inside the file will do.
            entry.l1_offset = layout.snapshot_l1.start << bits;
            entry.l1_entries = header.l1_entries;
        }
        writer.begin(layout.snapshots.start)?;
        let moved_l1 = &plan.moved_l1;
        // Snapshots without a table may have any offset.
        let new_place = |entry: &SnapshotEntry| {
            let index = moved_l1.binary_search_by_key(&entry.l1_offset, |l1| l1.offset).ok()?;
            let is_same = moved_l1[index].entries == entry.l1_entries;
            is_same.then(|| layout.moved_l1[index].start << bits)
        };
        // The table may have 64 MiB.
        let mut bytes = Vec::new();
        for row in rows {
            bytes.clear();
            row.encode(image, new_place, &mut bytes)?;
            writer.push(&bytes)?;
        }
    }
    for &(index, cluster) in &layout.blocks {
        writer.begin(cluster)?;
        writer.push(&plan.refcounts.block_bytes(index))?;
    }
    let blocks: Vec<_> = layout.blocks.iter().map(|&(index, at)| (index, at << bits)).collect();
    let table = plan.refcounts.table_with(&blocks);
    let table_bytes = (layout.table.end - layout.table.start) * cluster_bytes;
    let table_bytes = usize::try_from(table_bytes).expect("at most 8 MiB");
    writer.begin(layout.table.start)?;
    writer.push(&mapping::encode_table(&table, table_bytes))?;
    done.written_bytes += writer.finish()?;
    Ok(())
}
