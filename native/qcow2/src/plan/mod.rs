//! From the state that an operation wants to everything that has to be written.
//!
//! An operation says what the image shall be afterwards: the active mapping, the snapshots, the
//! size. All the rest follows from comparing that with what is there. A table named by `b` L1
//! entries before and by `a` after changes its count, and the count of everything it maps, by
//! `a - b`; a table named from both sides alike need not be read. COPIED flags follow from the new
//! counts; an L2 table whose flags must change is moved, never edited.
//!
//! | file | knows |
//! |---|---|
//! | `goal` | what an operation wants |
//! | `row` | rows of the snapshot table that need not be in memory |
//! | `slot` | L1 entries whose tables may have no place yet |
//! | `tables` | every table but the L2 tables, and what a goal does without |
//! | `uses` | how often each L2 table is named, before and after |
//! | `walk` | how L2 tables are read |
//! | `proof` | the walk over all of them: what it did not see, nobody uses |
//! | `counts` | NEW counts, by difference or anew |
//! | `flags` | COPIED, and which tables have to be written because of it |
//! | `planner` | the order of these steps |
//!
//! Nothing here writes. What is wrong with the image is refused here, counts that are too low
//! included, wherever the operation would rely on them; what has no place or cannot be counted is
//! refused by `transaction`, to whom the plan goes, before its first write.

mod counts;
mod flags;
mod goal;
mod planner;
mod proof;
mod row;
mod slot;
mod tables;
mod uses;
mod walk;

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::format::header::Header;
use crate::image::Image;
use crate::refcounts::Refcounts;

pub(crate) use flags::flagged;
pub(crate) use goal::{ActiveL1, Goal, SnapshotAfter, Unchanged};
pub(crate) use planner::Planner;
pub(crate) use proof::knows_all_references;
pub(crate) use row::{Row, rows_bytes};
pub(crate) use slot::{Named, Slot};
pub(crate) use tables::check_snapshot_l1;

/// An L2 table that the commit writes anew.
#[derive(Debug)]
pub(crate) struct MovedTable {
    /// Where it comes from.
    pub content: TableContent,
    /// L1 entries that will name it: of the active disk, where it is not mended.
    pub names: u64,
}

impl MovedTable {
    /// Where it stands now; past every table, if it is new.
    pub fn old_offset(&self) -> u64 {
        match self.content {
            TableContent::At(offset) | TableContent::Mended { offset, .. } => offset,
            TableContent::Fresh(_) => u64::MAX,
        }
    }

    /// Whether the active disk names it once, and nobody else does.
    pub fn is_private(&self) -> bool {
        let is_active = !matches!(self.content, TableContent::Mended { is_active: false, .. });
        is_active && self.names == 1
    }
}

/// What a moved or new L2 table contains, before its COPIED flags are set.
#[derive(Debug)]
pub(crate) enum TableContent {
    /// The table that stands at this host offset.
    At(u64),
    /// The same, its entries without clusters that are misplaced and have no data. All who name it
    /// name the new one, snapshots too.
    Mended {
        /// Host offset.
        offset: u64,
        /// The active disk is one of them.
        is_active: bool,
    },
    /// A new table.
    Fresh(Vec<u64>),
}

/// An L1 table of snapshots that the commit writes anew, because tables that it names are
/// [mended](TableContent::Mended).
#[derive(Clone, Copy, Debug)]
pub(crate) struct MovedL1 {
    /// Host offset.
    pub offset: u64,
    /// Entries.
    pub entries: u32,
    /// Snapshots that have it.
    pub names: u64,
}

impl MovedL1 {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.entries) * 8
    }
}

/// Everything that a commit has to place and write.
#[derive(Debug)]
pub(crate) struct Plan {
    /// OLD and NEW counts. The tables to be placed are not counted yet; replaced ones are.
    pub refcounts: Refcounts,
    /// Whether the walk saw every reference in the image.
    pub proven: bool,
    /// Whether what becomes free is given back to the file system.
    pub gives_back: bool,
    /// L2 tables to write.
    pub moved: Vec<MovedTable>,
    /// The active L1 table, if it changes, with its flags.
    pub active_l1: Option<Arc<Vec<Slot>>>,
    /// The L1 table of the new snapshot, if there is one: the same entries.
    pub snapshot_l1: Option<Arc<Vec<Slot>>>,
    /// L1 tables of snapshots that stay, and change: ascending, none of them touches another. The
    /// rows in `snapshots` still have the old places.
    pub moved_l1: Vec<MovedL1>,
    /// The snapshot table, if it changes; the new snapshot's L1 offset is still open.
    pub snapshots: Option<Vec<Row>>,
    /// Position of the new snapshot.
    pub new_snapshot: Option<usize>,
    /// The header afterwards, table locations still as before.
    pub header: Header,
    /// Clusters in use that nobody references, as a repair found them; other plans do not say.
    pub leaks: Vec<Range<u64>>,
    /// The refcount table that is replaced, if it is still counted.
    pub counted_table: Range<u64>,
    /// Clusters where nothing may be placed, though nobody counts them: damaged entries name them.
    pub avoided: Vec<Range<u64>>,
}

impl Plan {
    /// Position in `moved` of the table that a snapshot's L1 entry has to name instead of the one at
    /// `offset`; none where that one stays.
    pub fn mended(&self, offset: u64) -> Option<usize> {
        let index = self.moved.binary_search_by_key(&offset, MovedTable::old_offset).ok()?;
        let is_mended = matches!(self.moved[index].content, TableContent::Mended { .. });
        is_mended.then_some(index)
    }

    /// First of `count` neighbouring clusters that the walk proved free and that own blocks of the
    /// file system; none without a proof.
    pub fn find_free_with_blocks(&mut self, image: &Image, count: u64) -> Result<Option<u64>> {
        if !self.proven {
            return Ok(None);
        }
        let bits = image.header.cluster_bits;
        let storage = image.storage();
        for data in storage.data_ranges(0..image.file_bytes)? {
            let within = data.start.div_ceil(1 << bits).max(1)..data.end >> bits;
            if let Some(first) = self.refcounts.find_free(storage, within, count, 1)? {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }
}
