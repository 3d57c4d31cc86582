//! Where a commit puts what it writes: clusters that no state on disk references.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::format::header::{Header, MAX_REFCOUNT_TABLE_BYTES};
use crate::format::snapshot::encode_table;
use crate::image::Image;
use crate::plan::{L1Slot, Plan};
use crate::refcounts::Refcounts;
use crate::storage::Storage;

/// A sector that a disk writes at once may be this large; nothing of ours shares one with others.
const PAGE_BYTES: u64 = 4096;

/// Where everything of a plan goes, in clusters.
pub(super) struct Layout {
    pub run: Range<u64>,
    pub moved: Range<u64>,
    pub active_l1: Range<u64>,
    pub snapshot_l1: Range<u64>,
    pub snapshots: Range<u64>,
    /// Indices of the blocks, in the order of `block_clusters`.
    pub blocks: Vec<usize>,
    pub block_clusters: Range<u64>,
    pub table: Range<u64>,
}

/// Finds a place for everything, counts it, and takes the replaced refcount structures off. None
/// where only the header changes.
///
/// The length of the run depends on how many refcount blocks change, and those on where the run is:
/// both only grow until they agree.
pub(super) fn place(image: &Image, plan: &mut Plan) -> Result<Option<Layout>> {
    let header = &image.header;
    let storage = image.storage();
    let cluster_bytes = header.cluster_bytes();
    let clusters = |bytes: usize| (bytes as u64).div_ceil(cluster_bytes);
    let l1 = |l1: &Option<Vec<L1Slot>>| l1.as_ref().map_or(0, |l1| clusters(l1.len() * 8));
    let lengths = [
        plan.moved.len() as u64,
        l1(&plan.active_l1),
        l1(&plan.snapshot_l1),
        plan.snapshots.as_ref().map_or(0, |entries| clusters(encode_table(entries).len())),
    ];
    let fixed: u64 = lengths.iter().sum();
    if fixed == 0 && plan.refcounts.dirty_blocks().is_empty() {
        return Ok(None);
    }
    let table = header.refcount_table_offset >> header.cluster_bits;
    let table = table..table + u64::from(header.refcount_table_clusters);
    plan.refcounts.add(storage, table, -1)?;

    let space = Space::of(image, plan.proven)?;
    let mut released = BTreeSet::new();
    let (start, blocks, table_clusters) = loop {
        release_blocks(storage, header, &mut plan.refcounts, &mut released)?;
        let blocks = plan.refcounts.dirty_blocks();
        let entries = plan.refcounts.table_entries();
        let table_clusters = clusters(entries * 8).max(u64::from(header.refcount_table_clusters));
        let count = fixed + blocks.len() as u64 + table_clusters;
        let start = space.find(storage, &mut plan.refcounts, count)?;
        plan.refcounts.cover(storage, start..start + count)?;
        if plan.refcounts.table_entries() == entries
            && plan.refcounts.dirty_blocks().len() == blocks.len()
        {
            break (start, blocks, table_clusters);
        }
    };
    if u32::try_from(table_clusters).is_err()
        || table_clusters * cluster_bytes > MAX_REFCOUNT_TABLE_BYTES
    {
        return Err(Error::new(Kind::TooLarge, "File too large"));
    }

    let mut next = start;
    let mut take = |count: u64| {
        let range = next..next + count;
        next = range.end;
        range
    };
    let [moved, active_l1, snapshot_l1, snapshots] = lengths.map(&mut take);
    let block_clusters = take(blocks.len() as u64);
    let table = take(table_clusters);
    let layout = Layout {
        run: start..table.end,
        moved,
        active_l1,
        snapshot_l1,
        snapshots,
        blocks,
        block_clusters,
        table,
    };
    plan.refcounts.take(storage, layout.run.clone())?;
    for (cluster, table) in layout.moved.clone().zip(&plan.moved) {
        let names = i64::try_from(table.names).expect("a number of tables");
        plan.refcounts.add(storage, cluster..cluster + 1, names)?;
    }
    plan.refcounts.add(storage, layout.moved.end..layout.run.end, 1)?;
    Ok(Some(layout))
}

/// Takes the references off the places of blocks that will be written elsewhere, until no further
/// block changes by that.
fn release_blocks(
    storage: &dyn Storage,
    header: &Header,
    refcounts: &mut Refcounts,
    released: &mut BTreeSet<usize>,
) -> Result<()> {
    loop {
        let mut any = false;
        for index in refcounts.dirty_blocks() {
            let (_, offset) = refcounts.block_bytes(index);
            if released.insert(index) && offset != 0 {
                let cluster = offset >> header.cluster_bits;
                refcounts.add(storage, cluster..cluster + 1, -1)?;
                any = true;
            }
        }
        if !any {
            return Ok(());
        }
    }
}

/// Where new clusters may be placed.
pub(crate) struct Space {
    /// Cluster ranges that may be used, ascending.
    candidates: Vec<Range<u64>>,
    /// Clusters that share a page with each other.
    align: u64,
}

impl Space {
    /// With a proof, whatever is free; without, holes of the file and what lies past its end.
    pub fn of(image: &Image, proven: bool) -> Result<Self> {
        let header = &image.header;
        let bits = header.cluster_bits;
        let align = (PAGE_BYTES >> bits).max(1);
        let file_clusters = image.file_bytes.div_ceil(header.cluster_bytes());
        let end =
            if image.storage.has_fixed_len() { image.file_bytes >> bits } else { 1 << (56 - bits) };
        let candidates = if proven {
            std::iter::once(align..end).collect()
        } else {
            let mut holes = Vec::new();
            let mut at = align;
            for data in image.storage.data_ranges(0..image.file_bytes)? {
                let hole = at..data.start >> bits;
                if !hole.is_empty() {
                    holes.push(hole);
                }
                at = data.end.div_ceil(header.cluster_bytes()).max(align);
            }
            // A hole at the end of the file and what lies beyond are one.
            let tail = if image.storage.has_fixed_len() { at } else { at.min(file_clusters) };
            holes.push(tail..end);
            holes
        };
        Ok(Self { candidates, align })
    }

    /// First of `count` neighbouring clusters that may be written now.
    pub fn find(
        &self,
        storage: &dyn Storage,
        refcounts: &mut Refcounts,
        count: u64,
    ) -> Result<u64> {
        let padded = count.next_multiple_of(self.align);
        for candidate in &self.candidates {
            if let Some(start) =
                refcounts.find_free(storage, candidate.clone(), padded, self.align)?
            {
                return Ok(start);
            }
        }
        Err(no_space())
    }
}

fn no_space() -> Error {
    Error::from(io::Error::from_raw_os_error(libc::ENOSPC))
}

/// Gives back what a refused commit wrote. Nobody references it; failing here costs only space.
pub(super) fn take_back(image: &Image, layout: Option<&Layout>, old_bytes: u64) {
    let Some(layout) = layout else { return };
    let bits = image.header.cluster_bits;
    let _ = image.storage.set_len(old_bytes);
    let (start, end) = (layout.run.start << bits, (layout.run.end << bits).min(old_bytes));
    if start < end {
        let _ = image.storage.punch(start..end);
    }
}
