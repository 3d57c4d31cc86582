//! From a goal to its plan: the steps, in their order.

use crate::error::Result;
use crate::format::header::{Header, MAX_SNAPSHOT_TABLE_BYTES, MAX_SNAPSHOTS, autoclear};
use crate::format::snapshot::{SnapshotEntry, row_bytes, too_many};
use crate::image::Image;
use crate::refcounts::{Change, Refcounts};
use crate::storage::Storage;

use super::goal::{Goal, SnapshotAfter, Unchanged};
use super::proof::Counting;
use super::row::{Row, rows_bytes};
use super::slot::{Slot, slots};
use super::tables::{self, Table};
use super::uses::{self, Uses};
use super::{MovedTable, Plan, TableContent, walk};

/// An image whose tables were read and found not to overlap, ready for one goal.
pub(crate) struct Planner<'a> {
    pub(super) image: &'a Image,
    pub(super) storage: &'a dyn Storage,
    pub(super) refcounts: Refcounts,
    /// Every table but L2 tables and refcount blocks.
    pub(super) tables: Vec<Table>,
    /// The snapshots, without what makes their rows long.
    pub(super) snapshots: Vec<SnapshotEntry>,
    /// Where these begin in the file, and how many bytes they have when they are written again.
    rows: Vec<(u64, u64)>,
}

impl<'a> Planner<'a> {
    /// Reads the tables that every operation needs and makes sure that they do not overlap.
    pub fn new(image: &'a Image) -> Result<Self> {
        let (mut snapshots, mut rows) = (Vec::new(), Vec::new());
        let snapshot_table_bytes = image.for_snapshots(|at, mut entry| {
            snapshots.push(entry.bare());
            entry.widen(0);
            rows.push((at, row_bytes(&entry)));
            Ok(())
        })?;
        let storage = image.storage();
        let mut refcounts = Refcounts::load(image)?;
        let tables = tables::all(image, &snapshots, snapshot_table_bytes)?;
        let change = Change { delta: 0, after: 0, fresh: false };
        for table in &tables {
            refcounts.claim_table(storage, table.clusters.clone(), change)?;
        }
        for index in 0..refcounts.table_entries() {
            let block = tables::block(&image.header, &refcounts, index);
            refcounts.claim_table(storage, block, change)?;
        }
        Ok(Self { image, storage, refcounts, tables, snapshots, rows })
    }

    /// The snapshots as they are, without ids, names and extra data.
    pub fn snapshots(&self) -> &[SnapshotEntry] {
        &self.snapshots
    }

    /// The active L1 table as it is. It may be large, and is the caller's.
    pub fn active(&self) -> Result<Vec<Slot>> {
        Ok(slots(self.image.active_l1()?))
    }

    /// Every snapshot as a rewrite leaves it: widened to 24 bytes of extra data, as QEMU does, which
    /// states the size of its disk; those that do not state any mean `disk_size`.
    pub fn carried(&self, disk_size: u64) -> Vec<SnapshotAfter> {
        let kept = |(index, &(at, bytes)): (usize, &(u64, u64))| SnapshotAfter::Kept {
            index,
            row: Row::Standing { at, bytes, disk_size },
        };
        self.rows.iter().enumerate().map(kept).collect()
    }

    /// The counts, for operations that place data before they plan.
    pub fn refcounts(&mut self) -> &mut Refcounts {
        &mut self.refcounts
    }

    /// Works out what `goal` needs. Whatever is wrong with the image is refused here, before any
    /// write.
    pub fn plan(mut self, mut goal: Goal) -> Result<Plan> {
        // A recount would free what only an unknown extension refers to.
        goal.recount &= self.knows_all_references();
        let mut uses = uses::count(self.image, &self.snapshots, &goal)?;
        self.spare(&mut goal, &mut uses)?;
        let walked = if goal.recount {
            self.walk(&goal, &uses, Counting::Nothing)?
        } else {
            self.count_differences(&goal, &uses)?
        };
        // Leaks that an interrupted delete left, or anybody: count anew and they are gone.
        if goal.recount || walked.leaks {
            self.count_anew(&mut goal, &mut uses)?;
        }
        let moves = self.choose_moves(&uses, &walked.any_copied, &goal.fresh)?;
        self.ensure_counted(&goal, &uses, &moves)?;
        let standing = moves
            .of(&uses)
            .map(|u| MovedTable { content: TableContent::At(u.offset), names: u.names.movable });
        let mut written: Vec<_> = standing.collect();
        // Large, as the L1 table is that is made now.
        drop((uses, moves));
        let links = self.link(&mut goal, &written)?;
        let new_snapshot = goal.takes_snapshot();
        let header = header_after(&self.image.header, &goal);
        let snapshots = goal.snapshots.map(table_rows).transpose()?;
        let fresh = goal
            .fresh
            .into_iter()
            .map(|entries| MovedTable { content: TableContent::Fresh(entries), names: 1 });
        written.extend(fresh);
        let table = &self.image.header;
        let first = table.refcount_table_offset >> table.cluster_bits;
        Ok(Plan {
            counted_table: first..first + u64::from(table.refcount_table_clusters),
            avoided: Vec::new(),
            leaks: Vec::new(),
            moved: written,
            header,
            refcounts: self.refcounts,
            proven: walked.complete,
            gives_back: walked.complete,
            active_l1: links.active,
            snapshot_l1: links.snapshot,
            moved_l1: Vec::new(),
            snapshots,
            new_snapshot,
        })
    }
}

impl Planner<'_> {
    /// Decides whether tables whose references stay the same are read. A device has no holes and no
    /// end to grow at: there all have to be.
    fn spare(&self, goal: &mut Goal, uses: &mut Uses) -> Result<()> {
        if goal.unchanged == Unchanged::ReadAtOnce {
            let reads = self.storage.has_fixed_len() || walk::is_at_once(self.image, uses)?;
            goal.unchanged = if reads { Unchanged::Read } else { Unchanged::Stay };
        }
        if goal.unchanged == Unchanged::Stay { uses.keep_in_place() } else { Ok(()) }
    }
}

/// The header after the commit, table locations still as before.
fn header_after(header: &Header, goal: &Goal) -> Header {
    let mut header = header.clone();
    // The format's rule for writers that do not know an autoclear bit.
    header.autoclear &= autoclear::KNOWN;
    if goal.drop_bitmaps {
        header.autoclear &= !autoclear::BITMAPS;
    }
    header.size = goal.size;
    header
}

/// The rows of the snapshot table afterwards; fails where they are too many or too long.
fn table_rows(after: Vec<SnapshotAfter>) -> Result<Vec<Row>> {
    let rows: Vec<_> = after
        .into_iter()
        .map(|snapshot| match snapshot {
            SnapshotAfter::Kept { row, .. } => row,
            SnapshotAfter::New(entry) => Row::Whole(entry),
        })
        .collect();
    if rows.len() > MAX_SNAPSHOTS as usize || rows_bytes(&rows) > MAX_SNAPSHOT_TABLE_BYTES {
        return Err(too_many());
    }
    Ok(rows)
}
