//! Which L2 tables the L1 tables name, and how often: before the commit and after it.

use std::ops::Range;

use crate::error::Result;
use crate::format::header::Header;
use crate::format::mapping::{self, OFFSET_MASK};
use crate::format::snapshot::SnapshotEntry;
use crate::image::Image;

use super::goal::Goal;
use super::slot::Named;
use super::tables;

/// Notes of tables are merged when they have doubled and grown by this many: snapshots name the
/// same tables again and again.
const MERGE_STEP: usize = 65_536;

/// How many L1 entries name a table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Names {
    /// In the state on disk.
    pub before: u64,
    /// In the state after the commit.
    pub after: u64,
    /// Of `after`: in L1 tables that this commit writes, and which can therefore name a copy.
    pub movable: u64,
}

/// An L2 table that stands in the image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// Host offset.
    pub offset: u64,
    pub names: Names,
}

impl Use {
    /// The cluster that it is.
    pub fn place(&self, header: &Header) -> Range<u64> {
        tables::clusters(header, self.offset, header.cluster_bytes())
    }
}

/// Every L2 table that is named before or after, sorted by offset.
///
/// Snapshots that a recount drops are left out: what they name is counted nowhere, and need not be
/// read.
pub(super) fn count(image: &Image, snapshots: &[SnapshotEntry], goal: &Goal) -> Result<Vec<Use>> {
    let header = &image.header;
    let mut uses = Vec::new();
    // The L1 table of a new snapshot is a second one with these entries.
    let tables = if goal.takes_snapshot().is_some() { 2 } else { 1 };
    let after = Names { before: 0, after: tables, movable: tables };
    let slots = goal.active.as_deref().unwrap_or_default();
    image.for_l1_entries(header.l1_offset, header.l1_entries, |index, entry| {
        let at = header.l1_offset + index as u64 * 8;
        let slot = slots.get(index).map(|slot| slot.get());
        // Nearly every slot names afterwards what it names before: noted once, not twice.
        if slot == Some(Named::Entry(entry & OFFSET_MASK)) {
            return add(&mut uses, header, at, entry, Names { before: 1, ..after });
        }
        let stays = u64::from(goal.active.is_none());
        add(&mut uses, header, at, entry, Names { before: 1, after: stays, movable: 0 })?;
        let Some(Named::Entry(entry)) = slot else { return Ok(()) };
        add(&mut uses, header, index as u64 * 8, entry, after)
    })?;
    for (index, slot) in (0..).zip(slots).skip(header.l1_entries as usize) {
        if let Named::Entry(entry) = slot.get() {
            add(&mut uses, header, index * 8, entry, after)?;
        }
    }
    let mut merged = 0;
    for (entry, stays) in snapshots.iter().zip(goal.keeps(snapshots.len())) {
        if !stays && goal.recount {
            continue;
        }
        let place = entry.l1_offset..entry.l1_offset + u64::from(entry.l1_entries) * 8;
        if image.storage.data_ranges(place)?.is_empty() {
            continue;
        }
        let names = Names { before: 1, after: u64::from(stays), movable: 0 };
        image.for_l1_entries(entry.l1_offset, entry.l1_entries, |index, l1_entry| {
            add(&mut uses, header, entry.l1_offset + index as u64 * 8, l1_entry, names)
        })?;
        if uses.len() > merged * 2 + MERGE_STEP {
            merge(&mut uses);
            merged = uses.len();
        }
    }
    merge(&mut uses);
    Ok(uses)
}

/// A number of names, to be added to a count.
pub(super) fn signed(names: u64) -> i64 {
    i64::try_from(names).expect("fewer than 2^38")
}

/// Position of the table at `offset`; none where nobody names it.
pub(super) fn find(uses: &[Use], offset: u64) -> Option<usize> {
    uses.binary_search_by_key(&offset, |u| u.offset).ok()
}

/// Notes the table that the L1 entry at host offset `at` names.
fn add(uses: &mut Vec<Use>, header: &Header, at: u64, entry: u64, names: Names) -> Result<()> {
    if let Some(offset) = mapping::l2_offset(entry, header.cluster_bits, at)? {
        uses.push(Use { offset, names });
    }
    Ok(())
}

/// Adds up what is noted for the same table; sorts by offset.
fn merge(uses: &mut Vec<Use>) {
    uses.sort_unstable_by_key(|u| u.offset);
    uses.dedup_by(|from, into| {
        let same = from.offset == into.offset;
        if same {
            into.names.before += from.names.before;
            into.names.after += from.names.after;
            into.names.movable += from.names.movable;
        }
        same
    });
}
