//! Writing the run: everything of a plan but the header.

use crate::error::Result;
use crate::format::header::Header;
use crate::format::mapping;
use crate::format::snapshot::encode_table;
use crate::image::Image;
use crate::plan::{L1Slot, Plan, TableContent, flagged};
use crate::storage::Storage;

use super::Committed;
use super::place::Layout;

/// The run is written in pieces of this many bytes.
const WRITE_BYTES: usize = 1 << 20;

/// The header after the commit.
pub(super) fn header_after(plan: &Plan, layout: Option<&Layout>) -> Header {
    let mut header = plan.header.clone();
    let bits = header.cluster_bits;
    let Some(layout) = layout else { return header };
    if let Some(l1) = &plan.active_l1 {
        header.l1_entries = u32::try_from(l1.len()).expect("at most 32 MiB of entries");
        header.l1_offset = layout.active_l1.start << bits;
    }
    if let Some(entries) = &plan.snapshots {
        header.snapshot_count = u32::try_from(entries.len()).expect("at most 65 536");
        header.snapshots_offset =
            if entries.is_empty() { 0 } else { layout.snapshots.start << bits };
    }
    header.refcount_table_offset = layout.table.start << bits;
    header.refcount_table_clusters =
        u32::try_from(layout.table.end - layout.table.start).expect("checked when placed");
    header
}

/// Collects small pieces into large sequential writes.
struct Writer<'a> {
    storage: &'a dyn Storage,
    buffer: Vec<u8>,
    offset: u64,
    written: u64,
}

impl Writer<'_> {
    fn push(&mut self, bytes: &[u8], cluster_bytes: u64) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        let padded = (self.buffer.len() as u64).next_multiple_of(cluster_bytes);
        self.buffer.resize(usize::try_from(padded).expect("bounded"), 0);
        if self.buffer.len() >= WRITE_BYTES { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<()> {
        self.storage.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Writes everything but the header.
pub(super) fn write_run(
    image: &Image,
    plan: &mut Plan,
    layout: &Layout,
    header: &Header,
    done: &mut Committed,
) -> Result<()> {
    let bits = header.cluster_bits;
    let cluster_bytes = header.cluster_bytes();
    let storage = image.storage();
    let end = layout.run.end << bits;
    if end > storage.len()? {
        storage.set_len(end)?;
    }
    let mut writer =
        Writer { storage, buffer: Vec::new(), offset: layout.run.start << bits, written: 0 };

    for table in &plan.moved {
        let mut bytes = match &table.content {
            TableContent::Fresh(entries) => mapping::encode_table(entries, 0),
            TableContent::At(offset) => {
                image.read_table_bytes(*offset, cluster_bytes, "L2 table")?
            }
        };
        for slot in bytes.as_chunks_mut::<8>().0 {
            let entry = u64::from_be_bytes(*slot);
            let entry = flagged(storage, &mut plan.refcounts, entry, bits, table.names == 1)?;
            *slot = entry.to_be_bytes();
        }
        writer.push(&bytes, cluster_bytes)?;
    }
    for l1 in [&plan.active_l1, &plan.snapshot_l1].into_iter().flatten() {
        let entries: Vec<u64> = l1
            .iter()
            .map(|slot| match *slot {
                L1Slot::Entry(entry) => entry,
                L1Slot::Moved(index) => {
                    let private = plan.moved[index].names == 1;
                    let offset = (layout.moved.start + index as u64) << bits;
                    offset | if private { mapping::COPIED } else { 0 }
                }
            })
            .collect();
        writer.push(&mapping::encode_table(&entries, 0), cluster_bytes)?;
    }
    if let Some(entries) = &mut plan.snapshots {
        if let Some(index) = plan.new_snapshot {
            // A disk of size 0 has an L1 table without entries: any place inside the file will do.
            entries[index].l1_offset = layout.snapshot_l1.start << bits;
            entries[index].l1_entries = header.l1_entries;
        }
        writer.push(&encode_table(entries), cluster_bytes)?;
    }
    let moved: Vec<(usize, u64)> = layout
        .blocks
        .iter()
        .zip(layout.block_clusters.clone())
        .map(|(&index, cluster)| (index, cluster << bits))
        .collect();
    for &(index, _) in &moved {
        writer.push(plan.refcounts.block_bytes(index).0, cluster_bytes)?;
    }
    let table = plan.refcounts.table_with(&moved);
    let table_bytes = (layout.table.end - layout.table.start) * cluster_bytes;
    let table_bytes = usize::try_from(table_bytes).expect("at most 8 MiB");
    writer.push(&mapping::encode_table(&table, table_bytes), cluster_bytes)?;
    writer.finish()?;
    done.written_bytes += writer.written;
    Ok(())
}
