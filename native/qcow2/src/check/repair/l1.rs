//! The L1 tables of snapshots, where L2 tables that they name are mended and move.
//!
//! Each is written anew as a whole, once, however many snapshots have it. Tables that overlap in part
//! cannot be, nor one that is not inside the file: then no L2 table of a snapshot moves.

use crate::check::census;
use crate::check::entries::Geometry;
use crate::check::mending::Mended;
use crate::check::steps::{L1, Step};
use crate::error::Result;
use crate::format::mapping::OFFSET_MASK;
use crate::image::{Image, Reader};
use crate::plan::MovedL1;

/// The L1 tables of snapshots that name something, ascending; none where some of them cannot be
/// written anew.
pub(super) fn of_snapshots(
    image: &Image,
    geometry: Geometry,
    steps: &[Step],
) -> Option<Vec<MovedL1>> {
    let l1 = |step: &Step| if let Step::Table(l1) = step { Some(*l1) } else { None };
    // The first is the active one.
    let named = steps.iter().filter_map(l1).skip(1);
    let is_followed = |l1: &L1| l1.entries > 0 && l1.offset < geometry.file_bytes;
    let one = |l1: L1| MovedL1 { offset: l1.offset, entries: l1.entries, names: 1 };
    let mut tables: Vec<MovedL1> = named.filter(is_followed).map(one).collect();
    tables.sort_unstable_by_key(|table| (table.offset, table.entries));
    tables.dedup_by(|next, kept| {
        let is_same = next.offset == kept.offset && next.entries == kept.entries;
        kept.names += u64::from(is_same);
        is_same
    });
    let end =
        |table: &MovedL1| table.offset + table.bytes().next_multiple_of(geometry.cluster_bytes());
    let is_sound = |table: &MovedL1| {
        table.names <= geometry.max_refcount && image.ensure_l1(table.offset, table.entries).is_ok()
    };
    let are_sound = tables.iter().all(is_sound);
    let touch = |pair: &[MovedL1]| end(&pair[0]) > pair[1].offset;
    (are_sound && !tables.windows(2).any(touch)).then_some(tables)
}

/// Those of them that name a table that is mended.
pub(super) fn that_move(
    reader: Reader<'_>,
    tables: &[MovedL1],
    mended: &Mended,
) -> Result<Vec<MovedL1>> {
    if mended.tables.iter().all(|table| table.times == table.active_times) {
        return Ok(Vec::new());
    }
    let places: Vec<L1> =
        tables.iter().map(|it| L1 { offset: it.offset, entries: it.entries }).collect();
    let mut moves = vec![false; tables.len()];
    census::sweep(reader, &places, |at, entry, _, _| {
        if mended.table(entry & OFFSET_MASK).is_some() {
            moves[tables.partition_point(|table| table.offset <= at) - 1] = true;
        }
        Ok(())
    })?;
    let moving = tables.iter().zip(moves).filter(|it| it.1);
    Ok(moving.map(|it| *it.0).collect())
}
