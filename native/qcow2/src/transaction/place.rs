//! Where a commit puts what it writes: clusters that no state on disk references.
//!
//! Everything lies in one run, written from end to end, wherever there is such a run. A device that
//! is nearly full may have none: then each table that has to be contiguous lies by itself, and L2
//! tables and refcount blocks, which are one cluster each, take what is left. For a power cut that
//! makes no difference: in epoch 1 nobody looks at any of these clusters.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::format::header::MAX_REFCOUNT_TABLE_BYTES;
use crate::image::Image;
use crate::plan::{Plan, rows_bytes};
use crate::refcounts::Refcounts;
use crate::storage::Storage;

use super::space::{Space, no_space};

/// Where everything of a plan goes, in clusters.
pub(super) struct Layout {
    /// L2 tables, in the order of [`Plan::moved`].
    pub moved: Vec<u64>,
    pub active_l1: Range<u64>,
    pub snapshot_l1: Range<u64>,
    pub snapshots: Range<u64>,
    /// L1 tables of snapshots, in the order of [`Plan::moved_l1`].
    pub moved_l1: Vec<Range<u64>>,
    /// Index of each refcount block, and where it goes.
    pub blocks: Vec<(usize, u64)>,
    pub table: Range<u64>,
}

/// How many clusters a plan needs, by what they are for.
struct Needs {
    moved: u64,
    active_l1: u64,
    snapshot_l1: u64,
    snapshots: u64,
    /// Each of them.
    moved_l1: Vec<u64>,
    blocks: u64,
    table: u64,
}

impl Needs {
    /// What the plan says. How many blocks change, and so how long their table is, depends on where
    /// everything goes.
    fn of(plan: &Plan, cluster_bytes: u64) -> Self {
        let clusters = |bytes: usize| (bytes as u64).div_ceil(cluster_bytes);
        Self {
            moved: plan.moved.len() as u64,
            active_l1: plan.active_l1.as_ref().map_or(0, |l1| clusters(l1.len() * 8)),
            snapshot_l1: plan.snapshot_l1.as_ref().map_or(0, |l1| clusters(l1.len() * 8)),
            snapshots: plan
                .snapshots
                .as_ref()
                .map_or(0, |rows| rows_bytes(rows).div_ceil(cluster_bytes)),
            moved_l1: plan.moved_l1.iter().map(|l1| l1.bytes().div_ceil(cluster_bytes)).collect(),
            blocks: 0,
            table: 0,
        }
    }

    fn total(&self) -> u64 {
        let tables = self.active_l1 + self.snapshot_l1 + self.snapshots + self.table;
        self.moved + tables + self.moved_l1.iter().sum::<u64>() + self.blocks
    }
}

impl Layout {
    /// Finds a place for everything, `blocks` being the refcount blocks that change. Nothing is
    /// taken yet.
    fn find(
        space: &Space,
        storage: &dyn Storage,
        refcounts: &mut Refcounts,
        needs: &Needs,
        blocks: Vec<usize>,
    ) -> Result<Self> {
        match space.find_beside(storage, refcounts, &[], needs.total())? {
            Some(start) => Ok(Self::together(start, needs, blocks)),
            None => Self::apart(space, storage, refcounts, needs, blocks),
        }
    }

    /// One run from `start` on.
    fn together(start: u64, needs: &Needs, blocks: Vec<usize>) -> Self {
        let mut next = start;
        let mut take = |count| {
            let range = next..next + count;
            next = range.end;
            range
        };
        Self {
            moved: take(needs.moved).collect(),
            active_l1: take(needs.active_l1),
            snapshot_l1: take(needs.snapshot_l1),
            snapshots: take(needs.snapshots),
            moved_l1: needs.moved_l1.iter().map(|&count| take(count)).collect(),
            blocks: blocks.into_iter().zip(take(needs.blocks)).collect(),
            table: take(needs.table),
        }
    }

    /// Each table by itself, the longest first, because it fits in the fewest places.
    fn apart(
        space: &Space,
        storage: &dyn Storage,
        refcounts: &mut Refcounts,
        needs: &Needs,
        blocks: Vec<usize>,
    ) -> Result<Self> {
        let mut counts = vec![needs.active_l1, needs.snapshot_l1, needs.snapshots, needs.table];
        // Most L1 tables of snapshots have one cluster, and there may be very many.
        counts.extend(needs.moved_l1.iter().map(|&count| if count > 1 { count } else { 0 }));
        // Even a table without entries has a place.
        let mut order: Vec<usize> =
            (0..counts.len()).filter(|&it| it < 4 || counts[it] > 0).collect();
        order.sort_by_key(|&table| Reverse(counts[table]));
        let mut places = vec![0..0; counts.len()];
        let mut chosen = Vec::new();
        for table in order {
            let count = counts[table];
            let found = space.find_beside(storage, refcounts, &chosen, count)?;
            let start = found.ok_or_else(no_space)?;
            chosen.push(start..start + space.padded(count));
            places[table] = start..start + count;
        }
        let mut moved_l1 = places.split_off(4);
        let [active_l1, snapshot_l1, snapshots, table] =
            places.try_into().expect("those that remain");
        let short = needs.moved_l1.iter().filter(|&&count| count == 1).count() as u64;
        let count = needs.moved + short + needs.blocks;
        let singles = space.find_scattered(storage, refcounts, &chosen, count)?;
        let mut singles = singles.into_iter().flatten();
        let moved = (0..needs.moved).zip(&mut singles).map(|(_, cluster)| cluster).collect();
        let short = moved_l1.iter_mut().zip(&needs.moved_l1).filter(|it| *it.1 == 1);
        for ((place, _), cluster) in short.zip(&mut singles) {
            *place = cluster..cluster + 1;
        }
        let blocks = blocks.into_iter().zip(singles).collect();
        Ok(Self { moved, active_l1, snapshot_l1, snapshots, moved_l1, blocks, table })
    }

    /// Everything, as ascending runs.
    pub fn runs(&self) -> Vec<Range<u64>> {
        let tables = [&self.active_l1, &self.snapshot_l1, &self.snapshots, &self.table];
        let singles = self.moved.iter().chain(self.blocks.iter().map(|(_, cluster)| cluster));
        let singles = singles.map(|&cluster| cluster..cluster + 1);
        let tables = tables.into_iter().chain(&self.moved_l1).cloned();
        let mut runs: Vec<_> = tables.chain(singles).collect();
        runs.retain(|run| !run.is_empty());
        runs.sort_unstable_by_key(|run| run.start);
        runs.dedup_by(|next, run| {
            let is_neighbour = run.end == next.start;
            if is_neighbour {
                run.end = next.end;
            }
            is_neighbour
        });
        runs
    }

    /// What follows the last cluster.
    pub fn end(&self) -> u64 {
        self.runs().last().map_or(0, |run| run.end)
    }
}

/// Finds a place for everything, counts it, and takes the replaced refcount structures off. None
/// where only the header changes.
///
/// What is needed depends on how many refcount blocks change, and those on where everything goes:
/// both only grow until they agree.
pub(super) fn place(image: &Image, plan: &mut Plan) -> Result<Option<Layout>> {
    let header = &image.header;
    let storage = image.storage();
    let cluster_bytes = header.cluster_bytes();
    let mut needs = Needs::of(plan, cluster_bytes);
    if needs.total() == 0 && plan.refcounts.dirty_blocks().next().is_none() {
        return Ok(None);
    }
    let old_table = plan.counted_table.clone();
    let refcounts = &mut plan.refcounts;
    refcounts.add(storage, old_table.clone(), -1)?;

    let space = Space::of(image, plan.proven)?.without(&plan.avoided);
    let mut released = BTreeSet::new();
    let layout = loop {
        release_blocks(image, refcounts, &mut released)?;
        let blocks: Vec<_> = refcounts.dirty_blocks().collect();
        let entries = refcounts.table_entries();
        needs.blocks = blocks.len() as u64;
        needs.table = (entries as u64 * 8).div_ceil(cluster_bytes);
        needs.table = needs.table.max(old_table.end - old_table.start);
        let layout = Layout::find(&space, storage, refcounts, &needs, blocks)?;
        for run in layout.runs() {
            refcounts.cover(storage, run)?;
        }
        if refcounts.table_entries() == entries
            && refcounts.dirty_blocks().count() == layout.blocks.len()
        {
            break layout;
        }
    };
    if u32::try_from(needs.table).is_err() || needs.table * cluster_bytes > MAX_REFCOUNT_TABLE_BYTES
    {
        return Err(Error::new(Kind::TooLarge, "File too large"));
    }
    for run in layout.runs() {
        refcounts.take(storage, run)?;
    }
    for (&cluster, table) in layout.moved.iter().zip(&plan.moved) {
        let names = i64::try_from(table.names).expect("fewer than 2^38");
        refcounts.add(storage, cluster..cluster + 1, names)?;
    }
    for (place, l1) in layout.moved_l1.iter().zip(&plan.moved_l1) {
        let names = i64::try_from(l1.names).expect("at most 65 536 snapshots");
        refcounts.add(storage, place.clone(), names)?;
    }
    for &(_, cluster) in &layout.blocks {
        refcounts.add(storage, cluster..cluster + 1, 1)?;
    }
    for table in [&layout.active_l1, &layout.snapshot_l1, &layout.snapshots, &layout.table] {
        refcounts.add(storage, table.clone(), 1)?;
    }
    Ok(Some(layout))
}

/// Takes the references off the places of blocks that will be written elsewhere, until no further
/// block changes by that.
fn release_blocks(
    image: &Image,
    refcounts: &mut Refcounts,
    released: &mut BTreeSet<usize>,
) -> Result<()> {
    loop {
        let mut any = false;
        let dirty: Vec<_> = refcounts.dirty_blocks().collect();
        for index in dirty {
            let fresh = released.insert(index);
            if let Some(offset) = refcounts.block_offset(index).filter(|_| fresh)
                // One that a cut-off file has lost is counted nowhere.
                && offset < image.file_bytes
            {
                let cluster = offset >> image.header.cluster_bits;
                refcounts.add(image.storage(), cluster..cluster + 1, -1)?;
                any = true;
            }
        }
        if !any {
            return Ok(());
        }
    }
}

/// Gives back what a commit that did not come about wrote to these clusters. Nobody references
/// them; failing here costs only space.
pub(super) fn take_back(image: &Image, places: &[Range<u64>], old_bytes: u64) {
    if places.is_empty() {
        return;
    }
    let bits = image.header.cluster_bits;
    let _ = image.storage.set_len(old_bytes);
    for run in places {
        let (start, end) = (run.start << bits, (run.end << bits).min(old_bytes));
        if start < end {
            let _ = image.storage.punch(start..end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::space::tests::device;
    use super::*;

    #[test]
    fn what_fits_nowhere_together_lies_apart_where_everything_is_free() {
        let free = [16..24, 40..56, 72..80, 96..104, 112..120];
        let (image, mut refcounts) = device(&free);
        let space = Space::of(&image, true).unwrap();
        let needs = Needs {
            moved: 2,
            active_l1: 1,
            snapshot_l1: 0,
            snapshots: 9,
            moved_l1: vec![1, 2, 1],
            blocks: 1,
            table: 1,
        };
        let mut find =
            |needs: &Needs| Layout::find(&space, image.storage(), &mut refcounts, needs, vec![7]);
        let layout = find(&needs).unwrap();
        let lengths = layout.moved_l1.iter().map(|place| place.end - place.start);
        assert_eq!(lengths.collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!((layout.moved.len(), layout.blocks.len()), (2, 1));
        let runs = layout.runs();
        // Nothing lies on anything else, and nothing where somebody is.
        assert_eq!(runs.iter().map(|run| run.end - run.start).sum::<u64>(), needs.total());
        assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{runs:?}");
        let is_free =
            |run: &Range<u64>| free.iter().any(|it| it.start <= run.start && run.end <= it.end);
        assert!(runs.iter().all(is_free), "{runs:?}");
        let more = Needs { moved_l1: vec![2, 2], ..needs };
        assert_eq!(find(&more).err().map(|error| error.kind()), Some(Kind::NoSpace));
    }
}
