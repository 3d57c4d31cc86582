//! From the state that an operation wants to everything that has to be written.
//!
//! An operation says what the image shall be afterwards: the active mapping, the snapshots, the
//! size. All the rest follows from comparing that with what is there. A table named by `b` L1
//! entries before and by `a` after changes its count, and the count of everything it maps, by
//! `a - b`; a table named from both sides alike need not be read. COPIED flags follow from the new
//! counts; an L2 table whose flags must change is moved, never edited.
//!
//! The walk that finds the references also proves, when it covers every L1 table, which clusters
//! nobody uses. Without that proof space is taken only from holes and past the end of the file, and
//! nothing is punched.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{
    Header, MAX_L1_BYTES, MAX_SNAPSHOT_TABLE_BYTES, MAX_SNAPSHOTS, autoclear, extension,
};
use crate::format::mapping::{self, COMPRESSED, COPIED, Mapping, OFFSET_MASK};
use crate::format::snapshot::{SnapshotEntry, encode_table};
use crate::image::Image;
use crate::refcounts::{Change, Refcounts};
use crate::storage::Storage;

/// Distinct L2 tables are all read, as a proof, while they take at most this many bytes.
const PROOF_BYTES: u64 = 256 << 20;
/// Neighbouring L2 tables are read together up to this many bytes.
const READ_BYTES: u64 = 1 << 20;

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
}

/// An L2 table that the commit writes anew.
#[derive(Debug)]
pub(crate) struct MovedTable {
    /// Where it comes from.
    pub content: TableContent,
    /// L1 entries that will name it; it is private to the active disk if and only if this is 1.
    pub names: u64,
}

/// What a moved or new L2 table contains, before its COPIED flags are set.
#[derive(Debug)]
pub(crate) enum TableContent {
    /// The table that stands at this host offset.
    At(u64),
    /// A new table.
    Fresh(Vec<u64>),
}

/// An L1 entry of a table to be written: COPIED is decided, the place of moved tables is not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum L1Slot {
    /// As it is.
    Entry(u64),
    /// Table `index` of [`Plan::moved`].
    Moved(usize),
}

/// Everything that a commit has to place and write.
#[derive(Debug)]
pub(crate) struct Plan {
    /// OLD and NEW counts. The tables to be placed are not counted yet; replaced ones are.
    pub refcounts: Refcounts,
    /// Whether the walk saw every reference in the image.
    pub proven: bool,
    /// L2 tables to write.
    pub moved: Vec<MovedTable>,
    /// The active L1 table, if it changes.
    pub active_l1: Option<Vec<L1Slot>>,
    /// The L1 table of the new snapshot, if there is one.
    pub snapshot_l1: Option<Vec<L1Slot>>,
    /// The snapshot table, if it changes; the new snapshot's L1 offset is still open.
    pub snapshots: Option<Vec<SnapshotEntry>>,
    /// Position of the new snapshot.
    pub new_snapshot: Option<usize>,
    /// The header afterwards, table locations still as before.
    pub header: Header,
    /// Clusters in use that nobody references, as the complete walk showed.
    pub leaks: Vec<Range<u64>>,
}

/// How often an L2 table is named, before and after.
#[derive(Clone, Copy, Debug)]
struct Use {
    offset: u64,
    before: u64,
    after: u64,
    /// Of `after`: by L1 tables that this commit writes, and which can therefore name a copy.
    movable: u64,
}

/// What one reading of a table showed.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    any_copied: bool,
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
        let change = Change { delta: 0, kept: false };
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
    fn knows_all_references(&self) -> bool {
        let header = &self.image.header;
        let known = [
            extension::BACKING_FORMAT,
            extension::FEATURE_NAMES,
            extension::ENCRYPTION,
            extension::DATA_FILE,
        ];
        header.autoclear & !autoclear::KNOWN == 0
            && header.extensions.iter().all(|e| {
                known.contains(&e.kind)
                    || e.kind == extension::BITMAPS && header.autoclear & autoclear::BITMAPS != 0
            })
    }

    /// Works out what `goal` needs. Everything that can be refused is refused here, before any write.
    pub fn plan(mut self, mut goal: Goal) -> Result<Plan> {
        let bits = self.image.header.cluster_bits;
        // A recount would free what only an unknown extension refers to.
        goal.recount &= self.knows_all_references();
        let mut header = self.image.header.clone();
        // The format's rule for writers that do not know an autoclear bit.
        header.autoclear &= autoclear::KNOWN;
        if goal.drop_bitmaps {
            header.autoclear &= !autoclear::BITMAPS;
        }
        header.size = goal.size;

        let mut uses = self.count_uses(&goal)?;
        self.claim_l2_tables(&uses, goal.recount)?;
        let distinct_bytes = uses.len() as u64 * header.cluster_bytes();
        let mut proven = distinct_bytes <= PROOF_BYTES && self.knows_all_references();
        let mut seen = vec![Seen::default(); uses.len()];
        let wanted = |u: &Use| proven || goal.recount || u.before != u.after || u.movable != 0;
        let refcounts = &mut self.refcounts;
        let storage = self.storage;
        for_tables(self.image, &uses, wanted, |index, table| {
            let change = change_of(&uses[index], goal.recount);
            seen[index].any_copied =
                reference_entries(storage, refcounts, table, &header, uses[index].offset, change)?;
            Ok(())
        })?;
        for table in &goal.fresh {
            let change = Change { delta: i64::from(!goal.recount), kept: true };
            let bytes = mapping::encode_table(table, 0);
            reference_entries(storage, refcounts, &bytes, &header, 0, change)?;
        }
        // Leaks that an interrupted delete left, or anybody: count anew and they are gone.
        let complete = proven || goal.recount;
        let leaks = if complete { self.refcounts.unseen(self.storage)? } else { Vec::new() };
        let recount = goal.recount || !leaks.is_empty();
        proven = complete;
        // A recount lowers counts under the active tables too, so that their flags must follow; and
        // what nobody references in the state on disk may be written, whatever its count says.
        if recount && goal.active.is_none() {
            let active = self.active_l1.iter().map(|entry| Slot::Table(entry & OFFSET_MASK));
            goal.active = Some(active.collect());
            uses = self.count_uses(&goal)?;
        }
        if complete && (!goal.recount || goal.snapshots.is_none()) {
            self.refcounts.trust_walk();
        }

        let gone = self.tables_that_go(&goal);
        if recount {
            self.recount(&goal, &uses, &gone)?;
        } else {
            for clusters in &gone {
                self.refcounts.add(self.storage, clusters.clone(), -1)?;
            }
        }

        let mut plan = Plan {
            refcounts: self.refcounts,
            proven,
            moved: Vec::new(),
            active_l1: None,
            snapshot_l1: None,
            snapshots: None,
            new_snapshot: None,
            header,
            leaks,
        };
        let moved = plan.choose_moves(self.image, &uses, &seen)?;
        let fresh_at = plan.moved.len();
        plan.moved.extend(
            goal.fresh
                .into_iter()
                .map(|entries| MovedTable { content: TableContent::Fresh(entries), names: 1 }),
        );
        if let Some(slots) = &goal.active {
            let mut l1 = Vec::with_capacity(slots.len());
            for slot in slots {
                l1.push(match *slot {
                    Slot::Table(0) => L1Slot::Entry(0),
                    Slot::Fresh(index) => L1Slot::Moved(fresh_at + index),
                    Slot::Table(offset) => {
                        let index = uses
                            .binary_search_by_key(&offset, |u| u.offset)
                            .expect("every table of the goal was counted");
                        if let Some(moved) = moved[index] {
                            L1Slot::Moved(moved)
                        } else {
                            let private = plan.refcounts.count(self.storage, offset >> bits)? == 1;
                            L1Slot::Entry(offset | if private { COPIED } else { 0 })
                        }
                    }
                });
            }
            let has_new = goal
                .snapshots
                .as_ref()
                .is_some_and(|s| s.iter().any(|s| matches!(s, SnapshotAfter::New(_))));
            plan.snapshot_l1 = has_new.then(|| l1.clone());
            let same = l1.len() == self.active_l1.len()
                && l1
                    .iter()
                    .zip(&self.active_l1)
                    .all(|(slot, &old)| matches!(slot, L1Slot::Entry(entry) if *entry == old));
            if same {
                // Nothing to write; what `tables_that_go` freed stays.
                let old = table_clusters(&self.image.header);
                plan.refcounts.add(self.storage, old.clone(), 1)?;
            } else {
                plan.active_l1 = Some(l1);
            }
        }
        if let Some(after) = goal.snapshots {
            plan.new_snapshot = after.iter().position(|s| matches!(s, SnapshotAfter::New(_)));
            let entries: Vec<_> = after
                .into_iter()
                .map(|s| match s {
                    SnapshotAfter::Kept { entry, .. } | SnapshotAfter::New(entry) => entry,
                })
                .collect();
            check_table_size(&entries)?;
            plan.snapshots = Some(entries);
        }
        let l1_len = plan.active_l1.as_ref().map_or(0, Vec::len) as u64;
        if l1_len * 8 > MAX_L1_BYTES {
            return Err(Error::new(Kind::TooLarge, "Image is too big"));
        }
        Ok(plan)
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
        for_tables(
            self.image,
            uses,
            |u| u.after > 0,
            |index, table| {
                let delta = i64::try_from(uses[index].after).expect("a number of tables");
                let change = Change { delta, kept: true };
                reference_entries(storage, refcounts, table, &header, uses[index].offset, change)?;
                Ok(())
            },
        )?;
        for table in &goal.fresh {
            let bytes = mapping::encode_table(table, 0);
            let change = Change { delta: 1, kept: true };
            reference_entries(storage, refcounts, &bytes, &header, 0, change)?;
        }
        Ok(())
    }

    /// Every L2 table, with how often it is named before and after. Sorted by offset.
    fn count_uses(&self, goal: &Goal) -> Result<Vec<Use>> {
        let header = &self.image.header;
        let mut uses: Vec<Use> = Vec::new();
        let mut add = |l1: &[u64], l1_offset: u64, before: u64, after: u64, movable: u64| {
            for (index, &entry) in l1.iter().enumerate() {
                let at = l1_offset + index as u64 * 8;
                if let Some(offset) = mapping::l2_offset(entry, header.cluster_bits, at)? {
                    uses.push(Use { offset, before, after, movable });
                }
            }
            Ok::<_, Error>(())
        };
        match &goal.active {
            None => add(&self.active_l1, header.l1_offset, 1, 1, 0)?,
            Some(slots) => {
                add(&self.active_l1, header.l1_offset, 1, 0, 0)?;
                let new = goal.snapshots.iter().flatten();
                let new = new.filter(|s| matches!(s, SnapshotAfter::New(_))).count() as u64;
                let l1: Vec<u64> = slots
                    .iter()
                    .map(|slot| match slot {
                        Slot::Table(offset) => *offset,
                        Slot::Fresh(_) => 0,
                    })
                    .collect();
                add(&l1, 0, 0, 1 + new, 1 + new)?;
            }
        }
        let kept: Option<BTreeSet<_>> = goal.snapshots.as_ref().map(|s| kept_indices(s).collect());
        for (index, entry) in self.before_snapshots.iter().enumerate() {
            let stays = kept.as_ref().is_none_or(|kept| kept.contains(&index));
            if !stays && goal.recount {
                continue;
            }
            let l1 = self.image.read_l1(entry.l1_offset, entry.l1_entries)?;
            add(&l1, entry.l1_offset, 1, u64::from(stays), 0)?;
        }
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
        Ok(uses)
    }

    fn claim_l2_tables(&mut self, uses: &[Use], recount: bool) -> Result<()> {
        let cluster_bytes = self.image.header.cluster_bytes();
        for u in uses {
            self.image.ensure_inside(u.offset, cluster_bytes, "L2 table")?;
            let clusters = self.clusters(u.offset, cluster_bytes);
            // Whether the place itself stays in use is known only when the moves are chosen.
            let change = Change { kept: false, ..change_of(u, recount) };
            self.refcounts.claim_table(self.storage, clusters, change)?;
        }
        Ok(())
    }
}

impl Plan {
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

    /// Decides which L2 tables have to be moved because their COPIED flags change, and takes their
    /// references off the old place. Returns, for each use, its index in `moved`.
    fn choose_moves(
        &mut self,
        image: &Image,
        uses: &[Use],
        seen: &[Seen],
    ) -> Result<Vec<Option<usize>>> {
        let bits = image.header.cluster_bits;
        let storage = image.storage();
        let mut must_move = vec![false; uses.len()];
        for (index, u) in uses.iter().enumerate() {
            must_move[index] = u.movable > 0 && u.after > 1 && seen[index].any_copied;
        }
        let refcounts = &mut self.refcounts;
        let private = |u: &Use| u.movable > 0 && u.after == 1;
        for_tables(image, uses, private, |index, table| {
            let entries = table.as_chunks::<8>().0.iter().map(|&e| u64::from_be_bytes(e));
            for entry in entries {
                if flagged(storage, refcounts, entry, bits, true)? != entry {
                    must_move[index] = true;
                    break;
                }
            }
            Ok(())
        })?;
        let mut moved = vec![None; uses.len()];
        for (index, u) in uses.iter().enumerate() {
            let place = u.offset >> bits..(u.offset >> bits) + 1;
            let leaving = if must_move[index] { u.movable } else { 0 };
            if u.after > leaving {
                self.refcounts.keep(storage, place.clone())?;
            }
            if leaving > 0 {
                let names = i64::try_from(leaving).expect("a number of tables");
                self.refcounts.add(storage, place, -names)?;
                moved[index] = Some(self.moved.len());
                let content = TableContent::At(u.offset);
                self.moved.push(MovedTable { content, names: leaving });
            }
        }
        Ok(moved)
    }
}

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
    let once = refcounts.count(storage, (bare & OFFSET_MASK) >> cluster_bits)? == 1;
    Ok(bare | if once { COPIED } else { 0 })
}

fn change_of(u: &Use, recount: bool) -> Change {
    let delta =
        i64::try_from(u.after).unwrap_or(i64::MAX) - i64::try_from(u.before).unwrap_or(i64::MAX);
    Change { delta: if recount { 0 } else { delta }, kept: u.after > 0 }
}

fn kept_indices(after: &[SnapshotAfter]) -> impl Iterator<Item = usize> {
    after.iter().filter_map(|s| match s {
        SnapshotAfter::Kept { index, .. } => Some(*index),
        SnapshotAfter::New(_) => None,
    })
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
        return Err(corrupt("Snapshot L1 table too large", entry.l1_offset));
    }
    if bytes > 0 && image.ensure_inside(entry.l1_offset, bytes, "Snapshot L1 table").is_err() {
        return Err(corrupt("Snapshot L1 table offset invalid", entry.l1_offset));
    }
    Ok(())
}

fn check_table_size(entries: &[SnapshotEntry]) -> Result<()> {
    let too_many = entries.len() > MAX_SNAPSHOTS as usize;
    if too_many || encode_table(entries).len() as u64 > MAX_SNAPSHOT_TABLE_BYTES {
        return Err(Error::new(Kind::TooManySnapshots, "File too large"));
    }
    Ok(())
}

/// Reads the wanted tables in the order of the file, neighbours together, and shows each to `visit`.
fn for_tables(
    image: &Image,
    uses: &[Use],
    wanted: impl Fn(&Use) -> bool,
    mut visit: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let cluster_bytes = image.header.cluster_bytes();
    let size = usize::try_from(cluster_bytes).expect("at most 2 MiB");
    let mut buffer = Vec::new();
    let mut index = 0;
    while index < uses.len() {
        if !wanted(&uses[index]) {
            index += 1;
            continue;
        }
        let start = uses[index].offset;
        let mut count = 1;
        while index + count < uses.len()
            && uses[index + count].offset == start + count as u64 * cluster_bytes
            && (count as u64 + 1) * cluster_bytes <= READ_BYTES
            && wanted(&uses[index + count])
        {
            count += 1;
        }
        buffer.resize(count * size, 0);
        image.storage.read_at(&mut buffer, start)?;
        for (nth, table) in buffer.chunks_exact(size).enumerate() {
            visit(index + nth, table)?;
        }
        index += count;
    }
    Ok(())
}

/// Registers everything that the entries of one L2 table own, consecutive clusters as one run.
/// Returns whether any entry carries COPIED.
fn reference_entries(
    storage: &dyn Storage,
    refcounts: &mut Refcounts,
    table: &[u8],
    header: &Header,
    table_offset: u64,
    change: Change,
) -> Result<bool> {
    let bits = header.cluster_bits;
    let mut any_copied = false;
    let mut run = 0..0;
    for (index, entry) in table.as_chunks::<8>().0.iter().enumerate() {
        let entry = u64::from_be_bytes(*entry);
        if entry == 0 {
            continue;
        }
        any_copied |= entry & COPIED != 0;
        let at = table_offset + index as u64 * 8;
        let mapping = Mapping::decode(entry, bits, header.version, at)?;
        let Some((offset, length)) = mapping.owned(bits) else { continue };
        let clusters = offset >> bits..(offset + length).div_ceil(1 << bits);
        if clusters.start == run.end && matches!(mapping, Mapping::Standard { .. }) {
            run.end = clusters.end;
        } else {
            refcounts.reference_data(storage, run, change)?;
            run = clusters;
        }
    }
    refcounts.reference_data(storage, run, change)?;
    Ok(any_copied)
}
