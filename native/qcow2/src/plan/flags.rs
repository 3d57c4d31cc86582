//! COPIED flags: what they must say after the commit, and which tables have to be written for it.
//!
//! The format's rule: in the active mapping COPIED is set if and only if the count is exactly one.
//! A guest writes in place wherever it is set, so a flag that is wrong by one writes into a
//! snapshot. Tables that only snapshots name may say anything.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::format::header::MAX_L1_BYTES;
use crate::format::mapping::{COMPRESSED, COPIED, OFFSET_MASK};
use crate::refcounts::{Refcounts, too_low};
use crate::storage::Storage;

use super::MovedTable;
use super::goal::{ActiveL1, Goal, Unchanged};
use super::planner::Planner;
use super::slot::{Named, Slot, slots};
use super::tables;
use super::uses::{self, Marks, Use, Uses};
use super::walk::for_tables;

/// `entry` with the COPIED flag that it has to carry: set if and only if the table is `private` to
/// the active disk and the cluster is referenced once. Compressed entries never carry it.
#[inline]
pub(crate) fn flagged(
    storage: &dyn Storage,
    refcounts: &mut Refcounts,
    entry: u64,
    cluster_bits: u32,
    private: bool,
) -> Result<u64> {
    let bare = entry & !COPIED;
    if entry & COMPRESSED != 0 || bare & OFFSET_MASK == 0 || !private {
        return Ok(bare);
    }
    let once = refcounts.is_private(storage, (bare & OFFSET_MASK) >> cluster_bits)?;
    Ok(bare | if once { COPIED } else { 0 })
}

/// Which L2 tables move, in the order in which they are written: ascending positions among the uses.
/// Small clusters have very many tables.
pub(super) struct Moves(Vec<u32>);

impl Moves {
    /// The uses whose tables move.
    pub fn of<'a>(&'a self, uses: &'a Uses) -> impl Iterator<Item = Use> {
        self.0.iter().map(|&index| uses.get(index as usize))
    }
}

fn position(index: usize) -> u32 {
    u32::try_from(index).expect("fewer L2 tables than 2^32")
}

/// Position of the table at `offset` among those that are written anew; none where it stays.
fn place(moved: &[MovedTable], offset: u64) -> Option<usize> {
    moved.binary_search_by_key(&offset, MovedTable::old_offset).ok()
}

/// The L1 tables that a commit writes.
#[derive(Default)]
pub(super) struct Links {
    pub active: Option<Arc<Vec<Slot>>>,
    pub snapshot: Option<Arc<Vec<Slot>>>,
}

impl Planner<'_> {
    /// Decides which L2 tables have to be written elsewhere because their flags change, and takes
    /// their references off the old place. NEW counts are final but for tables.
    ///
    /// Sets flags in every table that will be the active disk's alone, `fresh` ones included, as
    /// the commit will: a count that is too low is met here, before any write.
    pub(super) fn choose_moves(
        &mut self,
        uses: &Uses,
        any_copied: &Marks,
        fresh: &[Vec<u64>],
    ) -> Result<Moves> {
        let header = &self.image.header;
        let (storage, refcounts) = (self.storage, &mut self.refcounts);
        let mut must_move = Marks::none(uses.len());
        for (index, u) in uses.iter().enumerate() {
            if u.names.movable > 0 && u.names.after > 1 && any_copied.get(index) {
                must_move.set(index);
            }
        }
        // One that others name too becomes the active disk's alone where it moves without them.
        let private = |index: usize, u: &Use| {
            u.names.movable == 1 && (u.names.after == 1 || any_copied.get(index))
        };
        for_tables(self.image, uses, private, |index, table| {
            for (_, entry) in header.l2_words(table) {
                let flagged = flagged(storage, refcounts, entry, header.cluster_bits, true)?;
                if flagged != entry {
                    must_move.set(index);
                }
            }
            Ok(())
        })?;
        for &entry in fresh.iter().flatten() {
            flagged(storage, refcounts, entry, header.cluster_bits, true)?;
        }
        let mut moves = Vec::new();
        for (index, u) in uses.iter().enumerate() {
            let leaving = if must_move.get(index) { u.names.movable } else { 0 };
            if u.names.after > leaving {
                refcounts.keep(storage, u.place(header))?;
            }
            if leaving > 0 {
                refcounts.add(storage, u.place(header), -uses::signed(leaving))?;
                moves.push(position(index));
            }
        }
        Ok(Moves(moves))
    }

    /// Fails as corrupt where a table that the active disk names stays where it is, and its count is
    /// too low; where such tables are not told apart, of any table.
    pub(super) fn ensure_counted(&mut self, goal: &Goal, uses: &Uses, moves: &Moves) -> Result<()> {
        let is_any = goal.unchanged == Unchanged::Stay;
        let mut leaving = moves.0.iter().peekable();
        for (index, u) in uses.iter().enumerate() {
            let leaves = leaving.next_if_eq(&&position(index)).is_some();
            if (u.names.movable > 0 || is_any) && !leaves && self.count(u.offset)? < u.names.after {
                return Err(too_low(u.offset));
            }
        }
        Ok(())
    }

    fn count(&mut self, offset: u64) -> Result<u64> {
        self.refcounts.count(self.storage, offset >> self.image.header.cluster_bits)
    }

    /// The active L1 table, where it changes, and that of the new snapshot, where there is one.
    /// `moved` are the tables that are written anew, by their offset; those of the goal follow.
    /// Takes the goal's: it is large.
    pub(super) fn link(&mut self, goal: &mut Goal, moved: &[MovedTable]) -> Result<Links> {
        let Some(active) = goal.active.take() else { return Ok(Links::default()) };
        let mut l1 = match active {
            ActiveL1::At { offset, entries, len } => {
                let mut l1 = slots(self.image.read_l1(offset, entries)?);
                l1.resize(len, Slot::NONE);
                l1
            }
            ActiveL1::Of(l1) => l1,
        };
        if l1.len() as u64 * 8 > MAX_L1_BYTES {
            return Err(Error::new(Kind::TooLarge, "Image is too big"));
        }
        for slot in &mut l1 {
            *slot = match slot.get() {
                Named::Entry(0) => continue,
                Named::New(index) => Slot::new(moved.len() + index),
                Named::Entry(offset) => {
                    if let Some(place) = place(moved, offset) {
                        Slot::new(place)
                    } else {
                        let is_private = self.count(offset)? == 1;
                        Slot::entry(offset | if is_private { COPIED } else { 0 })
                    }
                }
            };
        }
        let is_as_before = self.is_active(&l1)?;
        let l1 = Arc::new(l1);
        let snapshot = goal.takes_snapshot().map(|_| Arc::clone(&l1));
        if is_as_before {
            // It was given up as replaced, and stays.
            let header = &self.image.header;
            let length = u64::from(header.l1_entries) * 8;
            let clusters = tables::clusters(header, header.l1_offset, length);
            self.refcounts.add(self.storage, clusters, 1)?;
            return Ok(Links { active: None, snapshot });
        }
        Ok(Links { active: Some(l1), snapshot })
    }

    /// Whether this is the active L1 table as it is on disk, entry by entry.
    fn is_active(&self, l1: &[Slot]) -> Result<bool> {
        let header = &self.image.header;
        let mut same = l1.len() == header.l1_entries as usize;
        if same {
            self.image.for_l1_entries(header.l1_offset, header.l1_entries, |index, entry| {
                same &= l1[index] == Slot::entry(entry);
                Ok(())
            })?;
        }
        Ok(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RecordingStorage;
    use crate::{CommitOptions, Image, NewImage, NewSnapshot, create};

    /// A disk and a snapshot of it, which name one L2 table; and where that is.
    fn shared() -> (RecordingStorage, u64) {
        let storage = RecordingStorage::new();
        create(&storage, &NewImage { size: 1 << 20, ..NewImage::default() }).unwrap();
        let mut image = Image::open(Box::new(storage.clone())).unwrap();
        let disk = RecordingStorage::new();
        disk.write_at(&[7; 4096], 0).unwrap();
        image.write_content(&disk, &mut CommitOptions::default()).unwrap();
        let new = NewSnapshot { name: b"one", least_id: 0, date_sec: 0, date_nsec: 0 };
        image.create_snapshot(&new, &mut CommitOptions::default()).unwrap();
        let table = image.active_l1().unwrap()[0] & OFFSET_MASK;
        (storage, table)
    }

    fn plan(storage: &RecordingStorage, unchanged: Unchanged) -> Result<super::super::Plan> {
        let image = Image::open(Box::new(storage.clone())).unwrap();
        let active = Some(ActiveL1::same(&image.header));
        let goal = Goal { size: 2 << 20, active, unchanged, ..Goal::same(&image.header) };
        Planner::new(&image)?.plan(goal)
    }

    /// A guest that finds COPIED writes into the table.
    #[test]
    fn a_shared_table_that_is_counted_once_is_refused_also_where_tables_are_not_read() {
        let (storage, table) = shared();
        assert!(plan(&storage, Unchanged::Stay).unwrap().moved.is_empty());
        let image = Image::open(Box::new(storage.clone())).unwrap();
        let mut block = [0; 8];
        storage.read_at(&mut block, image.header.refcount_table_offset).unwrap();
        let count = u64::from_be_bytes(block) + (table >> image.header.cluster_bits) * 2;
        storage.write_at(&1_u16.to_be_bytes(), count).unwrap();
        for unchanged in [Unchanged::Stay, Unchanged::Read] {
            let error = plan(&storage, unchanged).unwrap_err();
            assert_eq!(error.reason(), format!("The reference count at {table:#x} is too low"));
        }
    }

    /// What a walk finds is put right; who does not walk leaves it.
    #[test]
    fn tables_that_stay_are_moved_for_their_flags_only_where_they_are_read() {
        let (storage, table) = shared();
        let mut entry = [0; 8];
        storage.read_at(&mut entry, table).unwrap();
        let copied = u64::from_be_bytes(entry) | COPIED;
        storage.write_at(&copied.to_be_bytes(), table).unwrap();
        let moved = |unchanged| plan(&storage, unchanged).unwrap().moved.len();
        let all = [Unchanged::Read, Unchanged::ReadAtOnce, Unchanged::Stay];
        assert_eq!(all.map(moved), [1, 1, 0]);
    }
}
