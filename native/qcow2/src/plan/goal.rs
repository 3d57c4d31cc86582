//! What an operation wants: the state after the commit.

use crate::format::header::Header;
use crate::format::snapshot::SnapshotEntry;

use super::row::Row;
use super::slot::Slot;

/// A snapshot in the state after the commit.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotAfter {
    /// Entry `index` of the table before, its mapping untouched.
    Kept {
        /// Position in the table before.
        index: usize,
        /// What its row is from now on.
        row: Row,
    },
    /// A new snapshot of the active mapping; its L1 table is placed by the commit.
    New(Box<SnapshotEntry>),
}

/// What happens to L2 tables whose references stay the same, where the active L1 table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// They are read, and moved where their flags are wrong.
    Read,
    /// The same, while what they map can be counted at once; else they stay, unread. For goals that
    /// change no reference: then nothing depends on what a walk would show.
    ReadAtOnce,
    /// They stay, unread.
    Stay,
}

/// The active L1 table afterwards, without flags. It may have four million entries.
#[derive(Debug)]
pub(crate) enum ActiveL1 {
    /// Names what a table on disk names in so many entries, and then nothing up to a length. That
    /// table is read again when it is needed.
    At {
        /// Host offset.
        offset: u64,
        /// Entries that are read.
        entries: u32,
        /// Entries afterwards.
        len: usize,
    },
    /// Names these.
    Of(Vec<Slot>),
}

impl ActiveL1 {
    /// Names what it names now, and is written anew.
    pub fn same(header: &Header) -> Self {
        let entries = header.l1_entries;
        Self::At { offset: header.l1_offset, entries, len: entries as usize }
    }
}

/// The state that an operation wants.
#[derive(Debug)]
pub(crate) struct Goal {
    /// Virtual size in bytes.
    pub size: u64,
    /// The active L1 table; none: it is not touched.
    pub active: Option<ActiveL1>,
    /// L2 tables that do not exist yet; their data clusters were taken from [`Plan::refcounts`].
    pub fresh: Vec<Vec<u64>>,
    /// The snapshots; none: the table is not touched.
    pub snapshots: Option<Vec<SnapshotAfter>>,
    /// Frees the bitmaps and clears their autoclear bit.
    pub drop_bitmaps: bool,
    /// What happens to tables whose references stay the same.
    pub unchanged: Unchanged,
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
            unchanged: Unchanged::Read,
            recount: false,
        }
    }

    /// Position of the new snapshot, where the goal has one.
    pub fn takes_snapshot(&self) -> Option<usize> {
        self.snapshots.as_ref()?.iter().position(|s| matches!(s, SnapshotAfter::New(_)))
    }

    /// For each of the `count` snapshots of the table before, whether it stays.
    pub fn keeps(&self, count: usize) -> Vec<bool> {
        let Some(after) = &self.snapshots else { return vec![true; count] };
        let mut keeps = vec![false; count];
        for snapshot in after {
            if let SnapshotAfter::Kept { index, .. } = snapshot {
                keeps[*index] = true;
            }
        }
        keeps
    }
}
