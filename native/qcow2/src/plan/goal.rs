//! What an operation wants: the state after the commit.

use crate::format::header::Header;
use crate::format::mapping::OFFSET_MASK;
use crate::format::snapshot::SnapshotEntry;

/// A snapshot in the state after the commit.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotAfter {
    /// Entry `index` of the table before, its mapping untouched.
    Kept {
        /// Position in the table before.
        index: usize,
        /// What its row says from now on.
        entry: SnapshotEntry,
    },
    /// A new snapshot of the active mapping; its L1 table is placed by the commit.
    New(SnapshotEntry),
}

/// What an L1 entry shall name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// An L2 table that exists, or none (0).
    Table(u64),
    /// Table `index` of [`Goal::fresh`].
    Fresh(usize),
}

/// The state that an operation wants.
#[derive(Debug)]
pub(crate) struct Goal {
    /// Virtual size in bytes.
    pub size: u64,
    /// The active L1 table; none: the active mapping is not touched.
    pub active: Option<Vec<Slot>>,
    /// L2 tables that do not exist yet; their data clusters were taken from [`Plan::refcounts`].
    pub fresh: Vec<Vec<u64>>,
    /// The snapshots; none: the table is not touched.
    pub snapshots: Option<Vec<SnapshotAfter>>,
    /// Frees the bitmaps and clears their autoclear bit.
    pub drop_bitmaps: bool,
    /// Counts anew from the state after instead of adding differences: snapshots that go need not
    /// be read, and counts that were too high are put right.
    pub recount: bool,
}

impl Goal {
    /// Nothing changes.
    pub fn same(header: &Header) -> Self {
        Self {
            size: header.size,
            active: None,
            fresh: Vec::new(),
            snapshots: None,
            drop_bitmaps: false,
            recount: false,
        }
    }

    /// Position of the new snapshot, where the goal has one.
    pub fn takes_snapshot(&self) -> Option<usize> {
        self.snapshots.as_ref()?.iter().position(|s| matches!(s, SnapshotAfter::New(_)))
    }
}

/// L1 entries without their flags.
pub(crate) fn slots(l1: &[u64]) -> Vec<Slot> {
    l1.iter().map(|entry| Slot::Table(entry & OFFSET_MASK)).collect()
}

/// Every entry as a rewrite leaves it: widened to 24 bytes of extra data, as QEMU does.
pub(crate) fn carried(entries: &[SnapshotEntry], disk_size: u64) -> Vec<SnapshotAfter> {
    let widened = |(index, entry): (usize, &SnapshotEntry)| {
        let mut entry = entry.clone();
        entry.widen(disk_size);
        SnapshotAfter::Kept { index, entry }
    };
    entries.iter().enumerate().map(widened).collect()
}

/// Positions, in the table before, of the snapshots that stay.
pub(super) fn kept_indices(after: &[SnapshotAfter]) -> impl Iterator<Item = usize> {
    after.iter().filter_map(|s| match s {
        SnapshotAfter::Kept { index, .. } => Some(*index),
        SnapshotAfter::New(_) => None,
    })
}
