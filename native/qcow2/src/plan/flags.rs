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

use super::goal::Goal;
use super::planner::Planner;
use super::slot::{Named, Slot};
use super::tables;
use super::uses::{self, Marks, Use, Uses};
use super::walk::for_tables;

/// `entry` with the COPIED flag that it has to carry: set if and only if the table is `private` to
/// the active disk and the cluster is referenced once. Compressed entries never carry it.
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
    /// How many tables move.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Position of the table of use `index` among those to be written; none where it stays.
    fn place(&self, index: usize) -> Option<usize> {
        self.0.binary_search(&position(index)).ok()
    }

    /// The uses whose tables move.
    pub fn of<'a>(&'a self, uses: &'a Uses) -> impl Iterator<Item = Use> {
        self.0.iter().map(|&index| uses.get(index as usize))
    }
}

fn position(index: usize) -> u32 {
    u32::try_from(index).expect("fewer L2 tables than 2^32")
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

    /// The active L1 table, where it changes, and that of the new snapshot, where there is one.
    /// Takes the goal's: it is large.
    pub(super) fn link(&mut self, goal: &mut Goal, uses: &Uses, moves: &Moves) -> Result<Links> {
        let Some(mut l1) = goal.active.take() else { return Ok(Links::default()) };
        if l1.len() as u64 * 8 > MAX_L1_BYTES {
            return Err(Error::new(Kind::TooLarge, "Image is too big"));
        }
        let fresh_at = moves.count();
        for slot in &mut l1 {
            *slot = match slot.get() {
                Named::Entry(0) => continue,
                Named::New(index) => Slot::new(fresh_at + index),
                Named::Entry(offset) => {
                    let index = uses.find(offset).expect("every table was counted");
                    match moves.place(index) {
                        Some(place) => Slot::new(place),
                        None => Slot::entry(self.l1_entry(&uses.get(index))?),
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

    /// The entry for a table that stays where it is.
    fn l1_entry(&mut self, u: &Use) -> Result<u64> {
        let place = u.place(&self.image.header);
        let count = self.refcounts.count(self.storage, place.start)?;
        if count < u.names.after {
            return Err(too_low(u.offset));
        }
        Ok(u.offset | if count == 1 { COPIED } else { 0 })
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
