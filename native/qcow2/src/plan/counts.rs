//! NEW counts, in one of two ways: by difference, or anew.
//!
//! | way | begins with | reads | when |
//! |---|---|---|---|
//! | difference | OLD | L2 tables whose references change | as a rule |
//! | anew | nothing | every L2 table that stays | the goal wants it, or something leaks |
//!
//! Both end with counts of everything but what the commit places; the refcount table and the blocks
//! that change are still counted where they stand, and taken off there when they are written
//! elsewhere.

use crate::error::{Error, Kind, Result};
use crate::format::mapping::OFFSET_MASK;

use super::goal::{ActiveL1, Goal};
use super::planner::Planner;
use super::proof::{Counting, Walked};
use super::tables;
use super::uses::{self, Names, Use, Uses};
use super::walk::reference_tables;

impl Planner<'_> {
    /// Counts by difference: a table that the goal names more often than the disk, or less, takes
    /// what it maps along; a table that goes loses the one reference that it has.
    pub(super) fn count_differences(&mut self, goal: &Goal, uses: &Uses) -> Result<Walked> {
        let walked = self.walk(goal, uses, Counting::Differences)?;
        let goes = tables::goes(goal, self.snapshots.len());
        for table in self.tables.iter().filter(|table| goes(table)) {
            self.refcounts.add(self.storage, table.clusters.clone(), -1)?;
        }
        Ok(walked)
    }

    /// Counts anew: the tables that stay, and what the goal references. Snapshots that go need not
    /// be read, and counts that were too high come down. That may be under the active tables too,
    /// whose flags must follow: so the goal rewrites the active L1 table.
    pub(super) fn count_anew(&mut self, goal: &mut Goal, uses: &mut Uses) -> Result<()> {
        if goal.active.is_none() {
            let header = &self.image.header;
            self.image.for_l1_entries(header.l1_offset, header.l1_entries, |_, entry| {
                let offset = entry & OFFSET_MASK;
                if offset == 0 {
                    return Ok(());
                }
                uses.add_movable(uses.find(offset).ok_or_else(changed)?)
            })?;
            goal.active = Some(ActiveL1::same(&self.image.header));
        }
        let header = &self.image.header;
        let (storage, refcounts) = (self.storage, &mut self.refcounts);
        refcounts.clear(storage)?;
        let goes = tables::goes(goal, self.snapshots.len());
        for table in self.tables.iter().filter(|table| !goes(table)) {
            refcounts.add(storage, table.clusters.clone(), 1)?;
        }
        for index in 0..refcounts.table_entries() {
            refcounts.add(storage, tables::block(header, refcounts, index), 1)?;
        }
        let stays = |u: &Use| u.names.after > 0;
        for u in uses.iter().filter(|u| stays(u)) {
            refcounts.add(storage, u.place(header), uses::signed(u.names.after))?;
        }
        let change = |names| Counting::Anew.change(names);
        reference_tables(self.image, refcounts, uses, stays, change, |_, _| ())?;
        self.reference_fresh(goal, change(Names { before: 0, after: 1, movable: 1 }))
    }
}

/// Somebody writes who does not respect locks: what was read twice was not the same.
pub(super) fn changed() -> Error {
    Error::new(Kind::Busy, "The image changed while it was read")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;
    use crate::storage::{RecordingStorage, Storage};
    use crate::{NewImage, create};

    #[test]
    fn a_mapping_that_changes_while_it_is_read_is_refused() {
        let storage = RecordingStorage::new();
        create(&storage, &NewImage { size: 1 << 20, ..NewImage::default() }).unwrap();
        let image = Image::open(Box::new(storage.clone())).unwrap();
        let mut planner = Planner::new(&image).unwrap();
        let mut goal = Goal::same(&image.header);
        let mut uses = uses::count(&image, planner.snapshots(), &goal).unwrap();
        storage.write_at(&(1_u64 << 20).to_be_bytes(), image.header.l1_offset).unwrap();
        let error = planner.count_anew(&mut goal, &mut uses).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert_eq!(error.reason(), "The image changed while it was read");
    }
}
