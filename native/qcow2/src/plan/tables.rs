//! The tables of an image, L2 tables apart: where each lies, and what a goal does without.
//!
//! There is one list, made once, and everybody reads it: nothing else may lie on a table, a goal
//! gives tables up, a recount begins with those that stay. A table that one of them did not know
//! would be overwritten, or leak. Refcount blocks are not in it, because a small file may name a
//! million of them: they are asked for one by one.

use std::ops::Range;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{Header, MAX_L1_BYTES};
use crate::format::snapshot::SnapshotEntry;
use crate::format::{bitmap, encryption};
use crate::image::Image;
use crate::refcounts::Refcounts;

use super::goal::Goal;

/// What a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The first cluster, with everything that it contains.
    Header,
    RefcountTable,
    ActiveL1,
    SnapshotTable,
    /// The L1 table of the snapshot at this position.
    SnapshotL1(u32),
    /// What encryption keeps beside the data.
    Encryption,
    /// Directory, table or data of persistent bitmaps.
    Bitmap,
}

/// A table of the image as it is.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub role: Role,
    /// Never empty.
    pub clusters: Range<u64>,
}

/// The clusters of refcount block `index`; none where there is no such block.
pub(super) fn block(header: &Header, refcounts: &Refcounts, index: usize) -> Range<u64> {
    let offset = refcounts.block_offset(index);
    offset.map_or(0..0, |offset| clusters(header, offset, header.cluster_bytes()))
}

/// Every table of the image but L2 tables and refcount blocks. Fails where one cannot be what its
/// place says; that they do not overlap is for the caller to find out.
pub(super) fn all(
    image: &Image,
    snapshots: &[SnapshotEntry],
    snapshot_table_bytes: u64,
) -> Result<Vec<Table>> {
    let header = &image.header;
    let cluster_bytes = header.cluster_bytes();
    let mut tables = Vec::new();
    let mut push = |role, offset, length| {
        let clusters = clusters(header, offset, length);
        if !clusters.is_empty() {
            tables.push(Table { role, clusters });
        }
    };
    push(Role::Header, 0, cluster_bytes);
    let refcount_table_bytes = u64::from(header.refcount_table_clusters) * cluster_bytes;
    push(Role::RefcountTable, header.refcount_table_offset, refcount_table_bytes);
    let l1_bytes = u64::from(header.l1_entries) * 8;
    if l1_bytes > 0 {
        image.ensure_inside(header.l1_offset, l1_bytes, "L1 table")?;
    }
    push(Role::ActiveL1, header.l1_offset, l1_bytes);
    push(Role::SnapshotTable, header.snapshots_offset, snapshot_table_bytes);
    for (index, entry) in (0..).zip(snapshots) {
        check_snapshot_l1(image, entry)?;
        push(Role::SnapshotL1(index), entry.l1_offset, u64::from(entry.l1_entries) * 8);
    }
    if let Some(range) = encryption::owned_ranges(header, image.file_bytes)? {
        push(Role::Encryption, range.start, range.end - range.start);
    }
    let read = &mut |buf: &mut [u8], at: u64| Ok(image.storage.read_at(buf, at)?);
    for range in bitmap::owned_ranges(header, image.file_bytes, read)? {
        push(Role::Bitmap, range.start, range.end - range.start);
    }
    Ok(tables)
}

/// Tells the tables that `goal` replaces or drops. What every commit replaces it takes off itself,
/// because it alone knows: the refcount table, and the blocks that change.
pub(super) fn goes(goal: &Goal, snapshot_count: usize) -> impl Fn(&Table) -> bool {
    let keeps = goal.keeps(snapshot_count);
    move |table| match table.role {
        Role::Header | Role::RefcountTable | Role::Encryption => false,
        Role::ActiveL1 => goal.active.is_some(),
        Role::SnapshotTable => goal.snapshots.is_some(),
        Role::SnapshotL1(index) => !keeps[index as usize],
        Role::Bitmap => goal.drop_bitmaps,
    }
}

/// The clusters that `length` bytes from `offset` touch: none where there is nothing, wherever that
/// is said to be.
pub(super) fn clusters(header: &Header, offset: u64, length: u64) -> Range<u64> {
    let first = offset >> header.cluster_bits;
    let end = offset.saturating_add(length).div_ceil(header.cluster_bytes());
    first..if length == 0 { first } else { end }
}

/// Checks a snapshot's L1 table with the words that qemu-img has for it.
pub(crate) fn check_snapshot_l1(image: &Image, entry: &SnapshotEntry) -> Result<()> {
    let bytes = u64::from(entry.l1_entries) * 8;
    if bytes > MAX_L1_BYTES {
        return Err(Error::new(Kind::TooLarge, "Snapshot L1 table too large").at(entry.l1_offset));
    }
    if bytes > 0 && image.ensure_inside(entry.l1_offset, bytes, "Snapshot L1 table").is_err() {
        return Err(corrupt("Snapshot L1 table offset invalid", entry.l1_offset));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RecordingStorage;
    use crate::{NewImage, create};

    #[test]
    fn an_empty_table_lies_nowhere_wherever_the_header_says_it_does() {
        let storage = RecordingStorage::new();
        create(&storage, &NewImage::default()).unwrap();
        let header = Image::open(Box::new(storage)).unwrap().header;
        assert_eq!(clusters(&header, 65_537, 2), 1..2);
        assert_eq!(clusters(&header, 65_537, 65_536), 1..3);
        for offset in [0, 5, 65_536, 65_537, u64::MAX] {
            assert!(clusters(&header, offset, 0).is_empty(), "{offset:#x}");
        }
    }
}
