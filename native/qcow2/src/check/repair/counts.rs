//! The counts as a repair will leave them.

use std::ops::Range;

use super::Repair;
use crate::check::entries::Geometry;
use crate::check::problem::Problem;
use crate::check::references::References;
use crate::check::stored::{Block, Counts, Stored};
use crate::error::Result;
use crate::format::header::Header;

/// What every cluster will be counted as.
pub(super) struct Intended<'a> {
    pub what: Repair,
    pub geometry: Geometry,
    pub stored: &'a Stored<'a>,
    /// References of the state to be, but for what the commit places.
    pub references: &'a References,
    /// Where damaged entries point past the end of the file, ascending.
    pub beyond_end: &'a [Range<u64>],
}

impl Intended<'_> {
    /// Count of a cluster that is counted as `stored` now. Nothing past the end of the file is, but
    /// where a damaged entry points: what was kept free for it stays so.
    pub fn of(&self, cluster: u64, stored: u64) -> u64 {
        if cluster >= self.references.len() {
            let next = self.beyond_end.partition_point(|place| place.end <= cluster);
            let is_named = self.beyond_end.get(next).is_some_and(|place| place.start <= cluster);
            return if is_named { stored } else { 0 };
        }
        let references = self.references.anywhere(cluster);
        match self.what {
            Repair::All => references.min(self.geometry.max_refcount),
            // Too high a count comes down; too low a one stays what it is.
            Repair::Leaks => references.min(stored),
        }
    }
}

impl Counts for Intended<'_> {
    fn count(&self, cluster: u64) -> Option<u64> {
        let is_inside = cluster < self.references.len();
        let stored = match self.what {
            Repair::All if is_inside => 0,
            Repair::All => self.stored.get(cluster).unwrap_or(0),
            Repair::Leaks => self.stored.get(cluster)?,
        };
        Some(self.of(cluster, stored))
    }
}

/// Clusters of a region, as far as it was counted.
pub(super) fn counted_clusters(geometry: Geometry, offset: u64, bytes: u64) -> Range<u64> {
    if bytes == 0 || geometry.is_beyond_end(offset, bytes) {
        return 0..0;
    }
    geometry.clusters(offset, bytes)
}

/// The clusters of the refcount table, and of all blocks where they are made anew, ascending, each
/// as often as it was counted.
pub(super) fn structure(
    geometry: Geometry,
    stored: &Stored<'_>,
    references: &References,
    header: &Header,
    anew: bool,
) -> Vec<u64> {
    let (offset, bytes) = (header.refcount_table_offset, header.refcount_table_bytes());
    let mut clusters: Vec<u64> = counted_clusters(geometry, offset, bytes).collect();
    if anew {
        let counted = |&entry: &u64| {
            let (offset, reserved) = Stored::split_table_entry(entry);
            let cluster = offset >> geometry.cluster_bits;
            let is_counted = reserved == 0
                && offset != 0
                && geometry.is_aligned(offset)
                && offset < geometry.file_bytes
                && cluster < references.len();
            is_counted.then_some(cluster)
        };
        clusters.extend(stored.table().iter().filter_map(counted));
    }
    clusters.sort_unstable();
    clusters
}

/// Takes what is replaced off the references. Returns, by cluster, what a count that is right now
/// would then be: too high.
pub(super) fn take_off(references: &mut References, clusters: &[u64], max: u64) -> Vec<Problem> {
    let mut too_high = Vec::new();
    for run in clusters.chunk_by(|a, b| a == b) {
        let cluster = run[0];
        let before = references.anywhere(cluster).min(max);
        references.take_off(cluster..cluster + 1, run.len() as u64);
        let after = references.anywhere(cluster).min(max);
        too_high.push(Problem::Leaked { cluster, refcount: before, references: after });
    }
    too_high
}

/// A refcount block of the state to be.
pub(super) struct NewBlock {
    pub index: u64,
    pub bytes: Vec<u8>,
    /// The same block as it stands; zeros where there is none to read.
    pub old: Vec<u8>,
}

impl NewBlock {
    /// Whether it counts nothing, and never did.
    pub fn is_empty(&self) -> bool {
        self.bytes.iter().chain(&self.old).all(|&byte| byte == 0)
    }
}

/// Shows refcount blocks to `visit`: those that change, or all where they are made `anew`.
pub(super) fn for_blocks(
    intended: &Intended<'_>,
    anew: bool,
    mut visit: impl FnMut(NewBlock) -> Result<()>,
) -> Result<()> {
    let stored = intended.stored;
    let (order, entries) = (stored.order, stored.block_entries());
    let count = intended.references.len().div_ceil(entries).max(stored.table().len() as u64);
    let mut old = vec![0; 1 << intended.geometry.cluster_bits];
    for index in 0..count {
        if !matches!(stored.read_block(index, &mut old), Ok(Block::At(_))) {
            old.fill(0);
        }
        let first = index * entries;
        // Most of a long table counts nothing.
        if first >= intended.references.len() && old.iter().all(|&byte| byte == 0) {
            continue;
        }
        let mut bytes = old.clone();
        for (entry, cluster) in (0..).zip(first..first + entries) {
            let was = order.get_count(&old, entry);
            let will = intended.of(cluster, was);
            if will != was {
                order.set_count(&mut bytes, entry, will);
            }
        }
        if anew || bytes != old {
            visit(NewBlock { index, bytes, old: old.clone() })?;
        }
    }
    Ok(())
}
