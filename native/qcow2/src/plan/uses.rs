//! Which L2 tables the L1 tables name, and how often: before the commit and after it.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::format::header::Header;
use crate::format::mapping::{self, OFFSET_MASK};
use crate::format::snapshot::SnapshotEntry;
use crate::image::Image;

use super::goal::{ActiveL1, Goal};
use super::slot::Named;
use super::tables;

/// Notes of tables that are not known yet are merged when they have doubled the others, and grown by
/// this many.
const MERGE_STEP: usize = 65_536;

/// A use is one word: the table's cluster above, below it which of the [`Names`] that occur.
const KIND_BITS: u32 = 17;

/// How many L1 entries name a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Names {
    /// In the state on disk.
    pub before: u64,
    /// In the state after the commit.
    pub after: u64,
    /// Of `after`: in L1 tables that this commit writes, and which can therefore name a copy.
    pub movable: u64,
}

impl Names {
    fn plus(self, more: Self) -> Self {
        Self {
            before: self.before + more.before,
            after: self.after + more.after,
            movable: self.movable + more.movable,
        }
    }
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

/// L2 tables, sorted by offset. Eight bytes each: there may be four million in one L1 table.
pub(super) struct Uses {
    cluster_bits: u32,
    words: Vec<u64>,
    /// So many of them are merged, behind which others wait; all, when the counting is done.
    merged: usize,
    /// Behind the one that was named last: a table names neighbours in their order.
    next: usize,
    /// Few differ.
    kinds: Vec<Names>,
    positions: HashMap<Names, u64>,
}

impl Uses {
    fn new(header: &Header) -> Self {
        let cluster_bits = header.cluster_bits;
        let (words, kinds, positions) = (Vec::new(), Vec::new(), HashMap::new());
        Self { cluster_bits, words, merged: 0, next: 0, kinds, positions }
    }

    pub fn len(&self) -> usize {
        self.words.len()
    }

    pub fn get(&self, index: usize) -> Use {
        self.decode(self.words[index])
    }

    pub fn iter(&self) -> impl Iterator<Item = Use> {
        self.words.iter().map(|&word| self.decode(word))
    }

    /// Position of the table at `offset`; none where nobody names it.
    pub fn find(&self, offset: u64) -> Option<usize> {
        let cluster = offset >> self.cluster_bits;
        self.words.binary_search_by_key(&cluster, |word| word >> KIND_BITS).ok()
    }

    /// Notes one more name of a table in an L1 table that the commit writes.
    pub fn add_movable(&mut self, index: usize) -> Result<()> {
        let Use { offset, mut names } = self.get(index);
        names.movable += 1;
        self.words[index] = self.encode(offset >> self.cluster_bits, names)?;
        Ok(())
    }

    /// No table that is named as often after the commit as before is moved.
    pub fn keep_in_place(&mut self) -> Result<()> {
        for index in 0..self.len() {
            let Use { offset, mut names } = self.get(index);
            if names.before == names.after && names.movable > 0 {
                names.movable = 0;
                self.words[index] = self.encode(offset >> self.cluster_bits, names)?;
            }
        }
        Ok(())
    }

    fn decode(&self, word: u64) -> Use {
        let kind = usize::try_from(word & ((1 << KIND_BITS) - 1)).expect("few bits");
        Use { offset: word >> KIND_BITS << self.cluster_bits, names: self.kinds[kind] }
    }

    fn encode(&mut self, cluster: u64, names: Names) -> Result<u64> {
        let next = self.kinds.len() as u64;
        let kind = *self.positions.entry(names).or_insert(next);
        if kind == next {
            // Each kind needs as many L1 entries as it says: no file of less than 64 GiB has these.
            if next >> KIND_BITS != 0 {
                return Err(Error::new(Kind::TooLarge, "File too large"));
            }
            self.kinds.push(names);
        }
        Ok(cluster << KIND_BITS | kind)
    }

    /// Notes the table that the L1 entry at host offset `at` names. Snapshots name the same tables
    /// again and again: those that are known take no more memory.
    fn add(&mut self, at: u64, entry: u64, names: Names) -> Result<()> {
        let Some(offset) = mapping::l2_offset(entry, self.cluster_bits, at)? else { return Ok(()) };
        let cluster = offset >> self.cluster_bits;
        let merged = &self.words[..self.merged];
        let is_next = merged.get(self.next).is_some_and(|word| word >> KIND_BITS == cluster);
        let known = if is_next {
            Some(self.next)
        } else {
            merged.binary_search_by_key(&cluster, |word| word >> KIND_BITS).ok()
        };
        let Some(index) = known else {
            let word = self.encode(cluster, names)?;
            self.words.push(word);
            return Ok(());
        };
        self.next = index + 1;
        let sum = self.get(index).names.plus(names);
        self.words[index] = self.encode(cluster, sum)?;
        Ok(())
    }

    /// Adds up what is noted for the same table; sorts by offset.
    fn merge(&mut self) -> Result<()> {
        self.words.sort_unstable();
        let mut merged = 0;
        let mut next = 0;
        while next < self.words.len() {
            let cluster = self.words[next] >> KIND_BITS;
            let mut names = self.get(next).names;
            next += 1;
            while next < self.words.len() && self.words[next] >> KIND_BITS == cluster {
                names = names.plus(self.get(next).names);
                next += 1;
            }
            self.words[merged] = self.encode(cluster, names)?;
            merged += 1;
        }
        self.words.truncate(merged);
        self.merged = merged;
        Ok(())
    }
}

/// One mark for each use.
pub(super) struct Marks(Vec<u64>);

impl Marks {
    /// None of `count` is set.
    pub fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    pub fn get(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 != 0
    }

    pub fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }
}

/// Every L2 table that is named before or after, sorted by offset.
///
/// Snapshots that a recount drops are left out: what they name is counted nowhere, and need not be
/// read.
pub(super) fn count(image: &Image, snapshots: &[SnapshotEntry], goal: &Goal) -> Result<Uses> {
    let header = &image.header;
    let mut uses = Uses::new(header);
    // The L1 table of a new snapshot is a second one with these entries.
    let tables = if goal.takes_snapshot().is_some() { 2 } else { 1 };
    let after = Names { before: 0, after: tables, movable: tables };
    let (mut same, mut slots, mut other) = (0, &[][..], None);
    match &goal.active {
        Some(ActiveL1::At { offset, entries, .. }) if *offset == header.l1_offset => {
            same = *entries as usize;
        }
        Some(ActiveL1::At { offset, entries, .. }) => other = Some((*offset, *entries)),
        Some(ActiveL1::Of(listed)) => slots = listed,
        None => {}
    }
    image.for_l1_entries(header.l1_offset, header.l1_entries, |index, entry| {
        let at = header.l1_offset + index as u64 * 8;
        let slot = slots.get(index).map(|slot| slot.get());
        // Nearly every slot names afterwards what it names before: noted once, not twice.
        if index < same || slot == Some(Named::Entry(entry & OFFSET_MASK)) {
            return uses.add(at, entry, Names { before: 1, ..after });
        }
        let stays = u64::from(goal.active.is_none());
        uses.add(at, entry, Names { before: 1, after: stays, movable: 0 })?;
        let Some(Named::Entry(entry)) = slot else { return Ok(()) };
        uses.add(index as u64 * 8, entry, after)
    })?;
    for (index, slot) in (0..).zip(slots).skip(header.l1_entries as usize) {
        if let Named::Entry(entry) = slot.get() {
            uses.add(index * 8, entry, after)?;
        }
    }
    uses.merge()?;
    if let Some((offset, entries)) = other {
        image.for_l1_entries(offset, entries, |index, entry| {
            uses.add(offset + index as u64 * 8, entry, after)
        })?;
    }
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
            uses.add(entry.l1_offset + index as u64 * 8, l1_entry, names)
        })?;
        if uses.len() > uses.merged * 2 + MERGE_STEP {
            uses.merge()?;
        }
    }
    uses.merge()?;
    Ok(uses)
}

/// A number of names, to be added to a count.
pub(super) fn signed(names: u64) -> i64 {
    i64::try_from(names).expect("fewer than 2^38")
}
