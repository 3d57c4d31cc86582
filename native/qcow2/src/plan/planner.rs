//! The work between a goal and its plan: what is there, what changes, what has to be written.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{
    Header, MAX_L1_BYTES, MAX_SNAPSHOT_TABLE_BYTES, MAX_SNAPSHOTS, NEW_HEADER_BYTES, autoclear,
    compatible, extension,
};
use crate::format::mapping::{self, COPIED, OFFSET_MASK};
use crate::format::snapshot::{SnapshotEntry, encode_table};
use crate::image::Image;
use crate::refcounts::{Change, Refcounts, too_low};
use crate::storage::Storage;

use super::goal::{Goal, Slot, SnapshotAfter, kept_indices, slots};
use super::walk::{Use, flagged, for_tables, reference_entries};
use super::{L1Slot, MovedTable, Plan, TableContent};

/// Distinct L2 tables are all read, as a proof, while they take at most this many bytes.
const PROOF_BYTES: u64 = 256 << 20;

/// Notes of tables are merged when they have doubled and grown by this many.
const MERGE_STEP: usize = 65_536;

/// What the walk over the L2 tables showed.
struct Walked {
    /// For each use, whether an entry of the table carries COPIED.
    any_copied: Vec<bool>,
    /// Whether every reference of the state on disk was seen that could matter.
    complete: bool,
    /// Clusters in use that nobody references; none without a complete walk.
    leaks: Vec<Range<u64>>,
}

/// A planner: the image, its tables, and the counts.
pub(crate) struct Planner<'a> {
    image: &'a Image,
    storage: &'a dyn Storage,
    refcounts: Refcounts,
    before_snapshots: Vec<SnapshotEntry>,
    table_bytes: u64,
    /// Metadata that stays whatever the operation does, for a recount.
    standing: Vec<Range<u64>>,
    bitmaps: Vec<Range<u64>>,
    active_l1: Vec<u64>,
}

impl<'a> Planner<'a> {
    /// Reads the tables that every operation needs and makes sure that they do not overlap.
    pub fn new(image: &'a Image) -> Result<Self> {
        let (before_snapshots, table_bytes) = image.snapshot_table()?;
        let mut planner = Self {
            image,
            storage: image.storage(),
            refcounts: Refcounts::load(image)?,
            before_snapshots,
            table_bytes,
            standing: Vec::new(),
            bitmaps: Vec::new(),
            active_l1: image.active_l1()?,
        };
        planner.claim_tables()?;
        Ok(planner)
    }

    /// The snapshots as they are.
    pub fn snapshots(&self) -> &[SnapshotEntry] {
        &self.before_snapshots
    }

    /// The active L1 table as it is.
    pub fn active_l1(&self) -> &[u64] {
        &self.active_l1
    }

    /// The counts, for operations that place data before they plan.
    pub fn refcounts(&mut self) -> &mut Refcounts {
        &mut self.refcounts
    }

    fn clusters(&self, offset: u64, length: u64) -> Range<u64> {
        let bits = self.image.header.cluster_bits;
        offset >> bits..offset.saturating_add(length).div_ceil(1 << bits)
    }

    fn claim(&mut self, clusters: Range<u64>) -> Result<()> {
        let change = Change { delta: 0, after: 0, fresh: false };
        self.refcounts.claim_table(self.storage, clusters, change)
    }

    fn claim_tables(&mut self) -> Result<()> {
        let header = self.image.header.clone();
        let cluster_bytes = header.cluster_bytes();
        self.claim(0..1)?;
        self.standing.push(0..1);
        let table_clusters = u64::from(header.refcount_table_clusters);
        self.claim(self.clusters(header.refcount_table_offset, table_clusters * cluster_bytes))?;
        for offset in self.refcounts.block_offsets().collect::<Vec<_>>() {
            self.claim(self.clusters(offset, cluster_bytes))?;
        }
        self.claim(self.clusters(header.l1_offset, u64::from(header.l1_entries) * 8))?;
        self.claim(self.clusters(header.snapshots_offset, self.table_bytes))?;
        for entry in self.before_snapshots.clone() {
            let length = u64::from(entry.l1_entries) * 8;
            check_snapshot_l1(self.image, &entry)?;
            self.claim(self.clusters(entry.l1_offset, length))?;
        }
        let read = &mut |buf: &mut [u8], at: u64| Ok(self.storage.read_at(buf, at)?);
        let encryption = crate::format::encryption::owned_ranges(&header, self.image.file_bytes)?;
        self.bitmaps = crate::format::bitmap::owned_ranges(&header, self.image.file_bytes, read)?;
        if let Some(range) = encryption {
            let clusters = self.clusters(range.start, range.end - range.start);
            self.claim(clusters.clone())?;
            self.standing.push(clusters);
        }
        for range in self.bitmaps.clone() {
            self.claim(self.clusters(range.start, range.end - range.start))?;
        }
        Ok(())
    }

    /// Whether nothing in the image could refer to clusters in ways that the walk does not know.
    pub fn knows_all_references(&self) -> bool {
        let header = &self.image.header;
        let known = [
            extension::BACKING_FORMAT,
            extension::FEATURE_NAMES,
            extension::ENCRYPTION,
            extension::DATA_FILE,
        ];
        header.autoclear & !autoclear::KNOWN == 0
            && header.compatible & !compatible::LAZY_REFCOUNTS == 0
            && header.header_bytes <= NEW_HEADER_BYTES
            && header.extensions.iter().all(|e| {
                known.contains(&e.kind)
                    || e.kind == extension::BITMAPS && header.autoclear & autoclear::BITMAPS != 0
            })
    }

    /// Works out what `goal` needs. Everything that can be refused is refused here, before any write.
    pub fn plan(mut self, mut goal: Goal) -> Result<Plan> {
        // A recount would free what only an unknown extension refers to.
        goal.recount &= self.knows_all_references();
        let mut uses = self.count_uses(&goal)?;
        self.claim_l2_tables(&uses, goal.recount)?;
        let walked = self.walk(&goal, &uses)?;
        // Leaks that an interrupted delete left, or anybody: count anew and they are gone. That lowers
        // counts under the active tables too, so that their flags must follow.
        let recount = goal.recount || !walked.leaks.is_empty();
        if recount && goal.active.is_none() {
            goal.active = Some(slots(&self.active_l1));
            for offset in self.active_l1.iter().map(|entry| entry & OFFSET_MASK) {
                if let Ok(index) = uses.binary_search_by_key(&offset, |u| u.offset) {
                    uses[index].movable += 1;
                }
            }
        }
        let gone = self.tables_that_go(&goal);
        if recount {
            self.recount(&goal, &uses, &gone)?;
        } else {
            for clusters in &gone {
                self.refcounts.add(self.storage, clusters.clone(), -1)?;
            }
        }
        let places = self.choose_moves(&uses, &walked.any_copied)?;
        let (active_l1, snapshot_l1) = self.link_active(&goal, &uses, &places)?;
        let new_snapshot = goal.takes_snapshot();
        let snapshots = goal.snapshots.take().map(table_entries).transpose()?;
        let moved = uses
            .iter()
            .zip(&places)
            .filter(|(_, place)| place.is_some())
            .map(|(u, _)| MovedTable { content: TableContent::At(u.offset), names: u.movable });
        let fresh = goal
            .fresh
            .iter()
            .map(|entries| MovedTable { content: TableContent::Fresh(entries.clone()), names: 1 });
        Ok(Plan {
            moved: moved.chain(fresh).collect(),
            header: self.header_after(&goal),
            refcounts: self.refcounts,
            proven: walked.complete,
            active_l1,
            snapshot_l1,
            snapshots,
            new_snapshot,
            leaks: walked.leaks,
        })
    }

    /// The header after the commit, table locations still as before.
    fn header_after(&self, goal: &Goal) -> Header {
        let mut header = self.image.header.clone();
        // The format's rule for writers that do not know an autoclear bit.
        header.autoclear &= autoclear::KNOWN;
        if goal.drop_bitmaps {
            header.autoclear &= !autoclear::BITMAPS;
        }
        header.size = goal.size;
        header
    }

    /// Reads the L2 tables whose references change, and all of them as long as they are few enough;
    /// changes the counts of what they map.
    fn walk(&mut self, goal: &Goal, uses: &[Use]) -> Result<Walked> {
        let header = &self.image.header;
        // A device has no holes and no end to grow at: only what is proven free can be written.
        let few = uses.len() as u64 * header.cluster_bytes() <= PROOF_BYTES;
        let worth_it = few || self.storage.has_fixed_len();
        let complete = worth_it && self.knows_all_references() || goal.recount;
        if self.storage.has_fixed_len() && !complete {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "The image has features that Calque does not know, and lies on a block device",
            ));
        }
        let wanted = |u: &Use| complete || u.before != u.after || u.movable != 0;
        let (storage, refcounts) = (self.storage, &mut self.refcounts);
        let mut any_copied = vec![false; uses.len()];
        for_tables(self.image, uses, wanted, |index, table| {
            let u = &uses[index];
            let change = change_now(u, goal.recount);
            any_copied[index] =
                reference_entries(storage, refcounts, table, header, u.offset, change)?;
            Ok(())
        })?;
        self.reference_fresh(goal, i64::from(!goal.recount))?;
        let leaks = if complete { self.refcounts.unseen(storage)? } else { Vec::new() };
        // What nobody references in the state on disk may be written, whatever its count says. Dropped
        // snapshots are not walked for a recount, and belong to that state.
        if complete && (!goal.recount || goal.snapshots.is_none()) {
            self.refcounts.trust_walk();
        }
        Ok(Walked { any_copied, complete, leaks })
    }

    /// References of the L2 tables that do not exist yet.
    fn reference_fresh(&mut self, goal: &Goal, delta: i64) -> Result<()> {
        for table in &goal.fresh {
            let bytes = mapping::encode_table(table, 0);
            let (change, header) = (Change { delta, after: 1, fresh: true }, &self.image.header);
            reference_entries(self.storage, &mut self.refcounts, &bytes, header, 0, change)?;
        }
        Ok(())
    }

    /// Decides which L2 tables have to be moved because their COPIED flags change, and takes their
    /// references off the old place. Returns, for each use, its position among the moved tables.
    fn choose_moves(&mut self, uses: &[Use], any_copied: &[bool]) -> Result<Vec<Option<usize>>> {
        let bits = self.image.header.cluster_bits;
        let storage = self.storage;
        let mut must_move: Vec<bool> = uses
            .iter()
            .zip(any_copied)
            .map(|(u, any_copied)| u.movable > 0 && u.after > 1 && *any_copied)
            .collect();
        let refcounts = &mut self.refcounts;
        let private = |u: &Use| u.movable > 0 && u.after == 1;
        for_tables(self.image, uses, private, |index, table| {
            // Every entry is looked at: a count that is too low has to be refused before any write.
            for entry in table.as_chunks::<8>().0 {
                let entry = u64::from_be_bytes(*entry);
                must_move[index] |= flagged(storage, refcounts, entry, bits, true)? != entry;
            }
            Ok(())
        })?;
        let mut count = 0;
        let mut moves = vec![None; uses.len()];
        for (index, u) in uses.iter().enumerate() {
            let place = u.offset >> bits..(u.offset >> bits) + 1;
            let leaving = if must_move[index] { u.movable } else { 0 };
            if u.after > leaving {
                self.refcounts.keep(storage, place.clone())?;
            }
            if leaving > 0 {
                let names = i64::try_from(leaving).expect("a number of tables");
                self.refcounts.add(storage, place, -names)?;
                moves[index] = Some(count);
                count += 1;
            }
        }
        Ok(moves)
    }

    /// The active L1 table, where it changes, and that of the new snapshot, where there is one.
    #[allow(clippy::type_complexity, reason = "two tables of one kind")]
    fn link_active(
        &mut self,
        goal: &Goal,
        uses: &[Use],
        moves: &[Option<usize>],
    ) -> Result<(Option<Vec<L1Slot>>, Option<Vec<L1Slot>>)> {
        let Some(slots) = &goal.active else { return Ok((None, None)) };
        if slots.len() as u64 * 8 > MAX_L1_BYTES {
            return Err(Error::new(Kind::TooLarge, "Image is too big"));
        }
        let bits = self.image.header.cluster_bits;
        let fresh_at = moves.iter().flatten().count();
        let mut l1 = Vec::with_capacity(slots.len());
        for slot in slots {
            l1.push(match *slot {
                Slot::Table(0) => L1Slot::Entry(0),
                Slot::Fresh(index) => L1Slot::Moved(fresh_at + index),
                Slot::Table(offset) => {
                    let index = uses
                        .binary_search_by_key(&offset, |u| u.offset)
                        .expect("every table of the goal was counted");
                    if let Some(moved) = moves[index] {
                        L1Slot::Moved(moved)
                    } else {
                        let count = self.refcounts.count(self.storage, offset >> bits)?;
                        if count < uses[index].after {
                            return Err(too_low(offset));
                        }
                        L1Slot::Entry(offset | if count == 1 { COPIED } else { 0 })
                    }
                }
            });
        }
        let snapshot_l1 = goal.takes_snapshot().map(|_| l1.clone());
        let unchanged = l1.len() == self.active_l1.len()
            && l1
                .iter()
                .zip(&self.active_l1)
                .all(|(slot, old)| matches!(slot, L1Slot::Entry(entry) if entry == old));
        if unchanged {
            // It was taken for replaced, and stays.
            self.refcounts.add(self.storage, table_clusters(&self.image.header), 1)?;
            return Ok((None, snapshot_l1));
        }
        Ok((Some(l1), snapshot_l1))
    }

    /// Tables that the goal replaces or drops.
    fn tables_that_go(&self, goal: &Goal) -> Vec<Range<u64>> {
        let header = &self.image.header;
        let mut gone = Vec::new();
        if goal.active.is_some() {
            gone.push(table_clusters(header));
        }
        if let Some(after) = &goal.snapshots {
            gone.push(self.clusters(header.snapshots_offset, self.table_bytes));
            let kept: BTreeSet<_> = kept_indices(after).collect();
            for (index, entry) in self.before_snapshots.iter().enumerate() {
                if !kept.contains(&index) {
                    gone.push(self.clusters(entry.l1_offset, u64::from(entry.l1_entries) * 8));
                }
            }
        }
        if goal.drop_bitmaps {
            for range in &self.bitmaps {
                gone.push(self.clusters(range.start, range.end - range.start));
            }
        }
        gone.retain(|range| !range.is_empty());
        gone
    }

    /// NEW counts from nothing: standing metadata, and what the goal references.
    fn recount(&mut self, goal: &Goal, uses: &[Use], gone: &[Range<u64>]) -> Result<()> {
        let header = self.image.header.clone();
        let storage = self.storage;
        let mut standing = self.standing.clone();
        let table_bytes = u64::from(header.refcount_table_clusters) * header.cluster_bytes();
        standing.push(self.clusters(header.refcount_table_offset, table_bytes));
        for offset in self.refcounts.block_offsets().collect::<Vec<_>>() {
            standing.push(self.clusters(offset, header.cluster_bytes()));
        }
        standing.push(table_clusters(&header));
        standing.push(self.clusters(header.snapshots_offset, self.table_bytes));
        for entry in &self.before_snapshots {
            standing.push(self.clusters(entry.l1_offset, u64::from(entry.l1_entries) * 8));
        }
        for range in &self.bitmaps {
            standing.push(self.clusters(range.start, range.end - range.start));
        }
        let gone: BTreeSet<_> = gone.iter().map(|range| range.start).collect();
        standing.retain(|range| !range.is_empty() && !gone.contains(&range.start));

        self.refcounts.clear(storage)?;
        // What a commit replaces in any case (refcount table, changed blocks) is taken off again by it.
        for clusters in standing {
            self.refcounts.add(storage, clusters, 1)?;
        }
        for u in uses.iter().filter(|u| u.after > 0) {
            let clusters = self.clusters(u.offset, header.cluster_bytes());
            let names = i64::try_from(u.after).expect("a number of tables");
            self.refcounts.add(storage, clusters, names)?;
        }
        let refcounts = &mut self.refcounts;
        let named = |u: &Use| u.after > 0;
        for_tables(self.image, uses, named, |index, table| {
            let u = &uses[index];
            let delta = i64::try_from(u.after).expect("a number of tables");
            let change = Change { delta, after: u.after, fresh: false };
            reference_entries(storage, refcounts, table, &header, u.offset, change)?;
            Ok(())
        })?;
        self.reference_fresh(goal, 1)
    }

    /// Every L2 table, with how often it is named before and after. Sorted by offset.
    fn count_uses(&self, goal: &Goal) -> Result<Vec<Use>> {
        let header = &self.image.header;
        let mut uses: Vec<Use> = Vec::new();
        let mut merged = 0;
        match &goal.active {
            None => add_uses(&mut uses, header, &self.active_l1, header.l1_offset, [1, 1, 0])?,
            Some(slots) => {
                add_uses(&mut uses, header, &self.active_l1, header.l1_offset, [1, 0, 0])?;
                let new = u64::from(goal.takes_snapshot().is_some());
                let l1: Vec<u64> = slots
                    .iter()
                    .map(|slot| match slot {
                        Slot::Table(offset) => *offset,
                        Slot::Fresh(_) => 0,
                    })
                    .collect();
                add_uses(&mut uses, header, &l1, 0, [0, 1 + new, 1 + new])?;
            }
        }
        let kept: Option<BTreeSet<_>> = goal.snapshots.as_ref().map(|s| kept_indices(s).collect());
        for (index, entry) in self.before_snapshots.iter().enumerate() {
            let stays = kept.as_ref().is_none_or(|kept| kept.contains(&index));
            if !stays && goal.recount {
                continue;
            }
            let place = entry.l1_offset..entry.l1_offset + u64::from(entry.l1_entries) * 8;
            if self.storage.data_ranges(place)?.is_empty() {
                continue;
            }
            let l1 = self.image.read_l1(entry.l1_offset, entry.l1_entries)?;
            add_uses(&mut uses, header, &l1, entry.l1_offset, [1, u64::from(stays), 0])?;
            // Snapshots name the same tables again and again.
            if uses.len() > merged * 2 + MERGE_STEP {
                merge(&mut uses);
                merged = uses.len();
            }
        }
        merge(&mut uses);
        Ok(uses)
    }

    fn claim_l2_tables(&mut self, uses: &[Use], recount: bool) -> Result<()> {
        let cluster_bytes = self.image.header.cluster_bytes();
        for u in uses {
            self.image.ensure_inside(u.offset, cluster_bytes, "L2 table")?;
            let clusters = self.clusters(u.offset, cluster_bytes);
            // Whether the place itself stays in use is known only when the moves are chosen.
            let change = Change { after: 0, ..change_now(u, recount) };
            self.refcounts.claim_table(self.storage, clusters, change)?;
        }
        Ok(())
    }
}

/// Notes each table that an L1 table at `l1_offset` names, with how often it counts before, after,
/// and movably.
fn add_uses(
    uses: &mut Vec<Use>,
    header: &Header,
    l1: &[u64],
    l1_offset: u64,
    [before, after, movable]: [u64; 3],
) -> Result<()> {
    for (index, &entry) in l1.iter().enumerate() {
        let at = l1_offset + index as u64 * 8;
        if let Some(offset) = mapping::l2_offset(entry, header.cluster_bits, at)? {
            uses.push(Use { offset, before, after, movable });
        }
    }
    Ok(())
}

/// Adds up what is noted for the same table; sorts by offset.
fn merge(uses: &mut Vec<Use>) {
    uses.sort_unstable_by_key(|u| u.offset);
    uses.dedup_by(|from, into| {
        let same = from.offset == into.offset;
        if same {
            into.before += from.before;
            into.after += from.after;
            into.movable += from.movable;
        }
        same
    });
}

/// How a table's references change in the first pass: a recount changes nothing before its own.
fn change_now(u: &Use, recount: bool) -> Change {
    if recount { Change { delta: 0, ..u.change() } } else { u.change() }
}

/// The rows of the snapshot table afterwards; fails where they are too many or too long.
fn table_entries(after: Vec<SnapshotAfter>) -> Result<Vec<SnapshotEntry>> {
    let entries: Vec<_> = after
        .into_iter()
        .map(|s| match s {
            SnapshotAfter::Kept { entry, .. } | SnapshotAfter::New(entry) => entry,
        })
        .collect();
    let too_many = entries.len() > MAX_SNAPSHOTS as usize;
    if too_many || encode_table(&entries).len() as u64 > MAX_SNAPSHOT_TABLE_BYTES {
        return Err(Error::new(Kind::TooManySnapshots, "File too large"));
    }
    Ok(entries)
}

/// Clusters of the active L1 table.
fn table_clusters(header: &Header) -> Range<u64> {
    let first = header.l1_offset >> header.cluster_bits;
    first..first + (u64::from(header.l1_entries) * 8).div_ceil(header.cluster_bytes())
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
