//! From what is wrong to what has to be written.

use std::ops::Range;
use std::sync::Arc;

use super::Repair;
use super::counts::{Intended, counted_clusters, for_blocks, take_off};
use super::flags::Flags;
use super::rows::Rows;
use crate::check::entries::Geometry;
use crate::check::references::References;
use crate::check::stored::{Counts, Stored};
use crate::error::Result;
use crate::format::header::{MAX_SNAPSHOT_TABLE_BYTES, autoclear, incompatible};
use crate::format::mapping::{COPIED, OFFSET_MASK};
use crate::format::snapshot::too_many;
use crate::image::Image;
use crate::plan::{MovedTable, Plan, Row, Slot, TableContent, knows_all_references, rows_bytes};
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
    /// The snapshots, if their table is written anew.
    pub rows: Option<&'a Rows>,
    /// The dirty and the corrupt bit go.
    pub unmarks: bool,
    /// Every reference could be followed.
    pub is_sound: bool,
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
        self.counts || self.anew || self.flags.is_some() || self.rows.is_some() || self.unmarks
    }

    /// Whether more than the header changes.
    fn writes_tables(&self) -> bool {
        self.counts || self.anew || self.flags.is_some() || self.rows.is_some()
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
    wanted: Wanted<'_>,
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

    let mut given_up = wanted.given_up;
    let mut moved = Vec::new();
    let mut active_l1 = None;
    if let Some(flags) = &wanted.flags {
        let intended = Intended { what, geometry, stored, references, beyond_end };
        active_l1 = Some(Arc::new(l1_table(image, &intended, flags)?));
        let mut replaced: Vec<u64> =
            counted_clusters(geometry, header.l1_offset, header.l1_bytes()).collect();
        for table in &flags.tables {
            let names = usize::try_from(table.times).expect("at most 2^22 entries");
            replaced.extend(std::iter::repeat_n(table.offset >> bits, names));
            let content = TableContent::At(table.offset);
            moved.push(MovedTable { content, names: table.times });
        }
        replaced.sort_unstable();
        take_off(references, &replaced, u64::MAX);
        given_up.append(&mut replaced);
    }
    let mut snapshots = None;
    if let Some(Rows { entries, offsets, bytes, .. }) = wanted.rows {
        let standing = |(&at, entry): (&u64, &_)| Row::standing(at, entry, header.size);
        let rows: Vec<_> = offsets.iter().zip(entries).map(standing).collect();
        let mut replaced: Vec<u64> =
            counted_clusters(geometry, header.snapshots_offset, *bytes).collect();
        take_off(references, &replaced, u64::MAX);
        given_up.append(&mut replaced);
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
    let knows_all = wanted.is_sound && knows_all_references(image.header());
    let gives_back = knows_all && wanted.only_leaks;
    // A device has no holes and no end to grow at: there, what a sound mapping does not name and
    // nobody counts is free in any case.
    let proven = gives_back || knows_all && image.storage().has_fixed_len();
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
fn l1_table(image: &Image, intended: &Intended<'_>, flags: &Flags) -> Result<Vec<Slot>> {
    let header = image.header();
    let offsets = flags.offsets();
    let mut slots = Vec::new();
    image.for_l1_entries(header.l1_offset, header.l1_entries, |_, entry| {
        let offset = entry & OFFSET_MASK;
        slots.push(if let Ok(index) = offsets.binary_search(&offset) {
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
