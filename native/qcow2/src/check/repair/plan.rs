//! From what is wrong to what has to be written.

use std::ops::Range;
use std::sync::Arc;

use super::Repair;
use super::counts::{Intended, counted_clusters, for_blocks};
use super::flags::{Flags, Miscopied};
use super::rows::Rows;
use crate::check::entries::Geometry;
use crate::check::names::Named;
use crate::check::references::References;
use crate::check::stored::{Counts, Stored};
use crate::error::Result;
use crate::format::header::{MAX_SNAPSHOT_TABLE_BYTES, autoclear, incompatible};
use crate::format::mapping::{COPIED, OFFSET_MASK};
use crate::format::snapshot::too_many;
use crate::image::Image;
use crate::plan::{
    MovedL1, MovedTable, Plan, Row, Slot, TableContent, knows_all_references, rows_bytes,
};
use crate::refcounts::Refcounts;

/// What the commit has to do.
#[expect(clippy::struct_excessive_bools, reason = "each is a thing to do, or is known, by itself")]
pub(super) struct Wanted<'a> {
    /// Some counts change.
    pub counts: bool,
    /// The refcount table and all blocks are written anew, without the old ones.
    pub anew: bool,
    /// Wrong flags; none: they stay as they are.
    pub flags: Option<Flags>,
    /// The snapshots.
    pub rows: Option<&'a Rows>,
    /// Their rows are widened, or some of them left out.
    pub mends_rows: bool,
    /// L2 tables that are mended.
    pub mended: Vec<Named>,
    /// L1 tables of snapshots that name some of them.
    pub moved_l1: Vec<MovedL1>,
    /// The dirty and the corrupt bit go.
    pub unmarks: bool,
    /// Every reference could be followed, and nothing was wrong with any.
    pub is_sound: bool,
    /// Every reference could be followed, but for those that are dropped because nothing can be read
    /// there.
    pub is_followed: bool,
    /// No count was too low, no refcount block damaged, and QEMU found nothing wrong before.
    pub only_leaks: bool,
    /// Clusters of the refcount structures that are replaced: they are referenced until the commit.
    pub given_up: Vec<u64>,
    /// Where damaged entries point past the end of the file.
    pub beyond_end: Vec<Range<u64>>,
    /// All such places, and what may be one.
    pub avoided: Vec<Range<u64>>,
}

impl Wanted<'_> {
    pub fn is_anything(&self) -> bool {
        self.writes_tables() || self.unmarks
    }

    /// Whether more than the header changes.
    fn writes_tables(&self) -> bool {
        self.counts || self.anew || self.flags.is_some() || self.writes_rows() || self.mends()
    }

    /// Whether the snapshot table changes.
    fn writes_rows(&self) -> bool {
        self.mends_rows || !self.moved_l1.is_empty()
    }

    fn mends(&self) -> bool {
        !self.mended.is_empty()
    }

    /// Whether the active L1 table changes.
    fn writes_active_l1(&self) -> bool {
        self.flags.is_some() || self.mended.iter().any(|table| table.active_times > 0)
    }

    /// The L2 tables that are written anew, ascending: those that are mended, and those of the active
    /// disk with wrong flags, which snapshots go on naming where they are.
    fn moved(&self) -> Vec<MovedTable> {
        let mended = self.mended.iter().map(|table| MovedTable {
            content: TableContent::Mended {
                offset: table.offset,
                is_active: table.active_times > 0,
            },
            names: table.times,
        });
        let flagged = self.flags.iter().flat_map(|flags| &flags.tables);
        let is_mended = |table: &Miscopied| {
            self.mended.binary_search_by_key(&table.offset, |it| it.offset).is_ok()
        };
        let flagged = flagged.filter(|table| !is_mended(table)).map(|table| MovedTable {
            content: TableContent::At(table.offset),
            names: table.times,
        });
        let mut moved: Vec<MovedTable> = mended.chain(flagged).collect();
        moved.sort_unstable_by_key(MovedTable::old_offset);
        moved
    }
}

/// Plans the commit. `references` are those of everything but the refcount table, and but the
/// blocks where they are made anew; what else is replaced is taken off here.
pub(super) fn plan(
    image: &Image,
    what: Repair,
    geometry: Geometry,
    stored: &Stored<'_>,
    references: &mut References,
    mut wanted: Wanted<'_>,
) -> Result<Plan> {
    let bits = geometry.cluster_bits;
    let writes_tables = wanted.writes_tables();
    let beyond_end = &wanted.beyond_end[..];
    let mut header = image.header().clone();
    // The format's rule for writers that do not know an autoclear bit.
    header.autoclear &= autoclear::KNOWN;
    if wanted.unmarks {
        header.incompatible &= !(incompatible::DIRTY | incompatible::CORRUPT);
    }

    let moved = wanted.moved();
    let mut active_l1 = None;
    if wanted.writes_active_l1() {
        let intended = Intended { what, geometry, stored, references, beyond_end };
        active_l1 = Some(Arc::new(l1_table(image, &intended, &moved)?));
    }
    let mut given_up = std::mem::take(&mut wanted.given_up);
    let mut replace = |clusters: Range<u64>, names: u64| {
        references.take_off(clusters.clone(), names);
        given_up.extend(clusters);
    };
    if active_l1.is_some() {
        replace(counted_clusters(geometry, header.l1_offset, header.l1_bytes()), 1);
    }
    for table in &moved {
        let cluster = table.old_offset() >> bits;
        replace(cluster..cluster + 1, table.names);
    }
    for table in &wanted.moved_l1 {
        replace(counted_clusters(geometry, table.offset, table.bytes()), table.names);
    }
    let mut snapshots = None;
    if let Some(rows) = wanted.rows.filter(|_| wanted.writes_rows()) {
        let Rows { entries, offsets, bytes, .. } = rows;
        let standing = |(&at, entry): (&u64, &_)| Row::standing(at, entry, header.size);
        let rows: Vec<_> = offsets.iter().zip(entries).map(standing).collect();
        replace(counted_clusters(geometry, header.snapshots_offset, *bytes), 1);
        if rows_bytes(&rows) > MAX_SNAPSHOT_TABLE_BYTES {
            return Err(too_many());
        }
        snapshots = Some(rows);
    }
    given_up.sort_unstable();

    let table = if wanted.anew { Vec::new() } else { stored.table().to_vec() };
    let mut refcounts = Refcounts::standing(image, table);
    let mut leaks: Vec<Range<u64>> = Vec::new();
    if writes_tables {
        let order = stored.order;
        let intended = Intended { what, geometry, stored, references, beyond_end };
        for_blocks(&intended, wanted.anew, |block| {
            let first = block.index * stored.block_entries();
            let next = given_up.partition_point(|&cluster| cluster < first);
            let holds_replaced =
                given_up.get(next).is_some_and(|&it| it < first + stored.block_entries());
            // A sparse file may have very many of these.
            if block.is_empty() && !holds_replaced {
                return Ok(());
            }
            let is_given_up = |cluster: u64| given_up.binary_search(&cluster).is_ok();
            let in_use = |entry: usize| {
                order.get_count(&block.old, entry) != 0 || is_given_up(first + entry as u64)
            };
            for (entry, cluster) in (0..).zip(first..first + stored.block_entries()) {
                let is_referenced = references.anywhere(cluster) > 0 || is_given_up(cluster);
                if !is_referenced && order.get_count(&block.old, entry) != 0 {
                    push(&mut leaks, cluster);
                }
            }
            let index = usize::try_from(block.index).expect("at most 2^31 blocks");
            refcounts.replace(index, &block.bytes, in_use)
        })?;
    }
    let knows_all = knows_all_references(image.header());
    let gives_back = knows_all && wanted.is_sound && wanted.only_leaks;
    // A device has no holes and no end to grow at: there, what a sound mapping does not name and
    // nobody counts is free in any case.
    let proven = gives_back || knows_all && wanted.is_followed && image.storage().has_fixed_len();
    let file_end = image.file_bytes().div_ceil(geometry.cluster_bytes());
    let mut avoided = wanted.avoided;
    // Until the commit, what is written there would be read as counts.
    let blocks = stored.table().iter().map(|&entry| Stored::split_table_entry(entry).0 >> bits);
    avoided.extend(blocks.filter(|&block| block >= file_end).map(|block| block..block + 2));
    Ok(Plan {
        refcounts,
        proven,
        gives_back,
        moved,
        active_l1,
        snapshot_l1: None,
        moved_l1: wanted.moved_l1,
        snapshots,
        new_snapshot: None,
        header,
        leaks,
        counted_table: 0..0,
        avoided,
    })
}

fn push(runs: &mut Vec<Range<u64>>, cluster: u64) {
    match runs.last_mut() {
        Some(run) if run.end == cluster => run.end += 1,
        _ => runs.push(cluster..cluster + 1),
    }
}

/// The active L1 table with the flags that it has to carry, naming the tables that move.
fn l1_table(image: &Image, intended: &Intended<'_>, moved: &[MovedTable]) -> Result<Vec<Slot>> {
    let header = image.header();
    let mut slots = Vec::new();
    image.for_l1_entries(header.l1_offset, header.l1_entries, |_, entry| {
        let offset = entry & OFFSET_MASK;
        let found = moved.binary_search_by_key(&offset, MovedTable::old_offset);
        slots.push(if let Ok(index) = found {
            Slot::new(index)
        } else if offset == 0 {
            Slot::entry(entry)
        } else {
            let once = intended.count(offset >> header.cluster_bits) == Some(1);
            Slot::entry(entry & !COPIED | if once { COPIED } else { 0 })
        });
        Ok(())
    })?;
    Ok(slots)
}
