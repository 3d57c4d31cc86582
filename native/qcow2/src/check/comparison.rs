//! Compares the references that were counted with the refcounts that are stored.

use std::ops::Range;

use super::entries::Geometry;
use super::problem::Problem;
use super::references::References;
use super::report::{CheckReport, Teller};
use super::stored::{Block, Stored};

/// What is wrong with the refcount table, and what that means for a repair.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BlockDamage {
    /// Blocks outside the file, which count nothing.
    pub outside: u64,
    /// Entries that cannot be kept: reserved bits, no place for a block, a place that is shared.
    pub unusable: u64,
}

/// Counts the references to refcount blocks, which come last, and judges the table on the way.
pub(super) fn count_blocks(
    geometry: Geometry,
    stored: &Stored<'_>,
    references: &mut References,
    report: &mut CheckReport,
    teller: &mut Teller<'_>,
) -> BlockDamage {
    let mut damage = BlockDamage::default();
    let mut corruption = |problem| {
        report.corruptions += 1;
        let is_outside = matches!(problem, Problem::BlockOutside { .. });
        *(if is_outside { &mut damage.outside } else { &mut damage.unusable }) += 1;
        teller.tell(&problem);
    };
    for (index, &entry) in (0..).zip(stored.table()) {
        let (offset, reserved) = Stored::split_table_entry(entry);
        let cluster = offset >> geometry.cluster_bits;
        if reserved != 0 {
            corruption(Problem::TableEntryReserved { index });
        } else if !geometry.is_aligned(offset) {
            corruption(Problem::BlockUnaligned { index });
        } else if cluster >= references.len() {
            corruption(Problem::BlockOutside { index });
        } else if offset != 0 {
            let bytes = geometry.cluster_bytes();
            if geometry.is_beyond_end(offset, bytes) {
                corruption(Problem::BeyondEnd { offset, bytes });
            } else {
                references.add(cluster..cluster + 1, 1);
                if references.get(cluster) > geometry.max_refcount {
                    corruption(Problem::Overflow { offset });
                }
            }
            let refcount = references.get(cluster).min(geometry.max_refcount);
            if refcount != 1 {
                corruption(Problem::BlockShared { index, refcount });
            }
        }
    }
    damage
}

/// Compares cluster by cluster, block by block, and finds the end of the image on the way. Returns
/// how many clusters are referenced and counted free.
pub(super) fn compare(
    geometry: Geometry,
    stored: &Stored<'_>,
    references: &References,
    report: &mut CheckReport,
    teller: &mut Teller<'_>,
) -> u64 {
    let mut comparison = Comparison {
        geometry,
        stored,
        references,
        report,
        teller,
        highest: 0,
        counted_free: 0,
        warned: false,
    };
    let mut bytes = vec![0; 1 << geometry.cluster_bits];
    let mut room = bytes.clone();
    let clusters = references.len();
    for block in 0..clusters.div_ceil(stored.block_entries()) {
        let first = block * stored.block_entries();
        let range = first..clusters.min(first + stored.block_entries());
        match stored.read_block(block, &mut bytes) {
            Ok(Block::At(_)) => comparison.block(range, &bytes, &mut room),
            Ok(Block::Absent) => comparison.absent(range),
            Ok(Block::Unaligned(offset)) => {
                if !comparison.warned {
                    comparison.warned = true;
                    comparison.teller.tell(&Problem::BlockUnusable { index: block, offset });
                }
                comparison.unreadable(range, "Input/output error");
            }
            Ok(Block::Unreadable) => comparison.unreadable(range, "Input/output error"),
            Err(error) => comparison.unreadable(range, error.reason()),
        }
    }
    let counted_free = comparison.counted_free;
    report.image_end_offset = (comparison.highest + 1) << geometry.cluster_bits;
    counted_free
}

struct Comparison<'a, 'b> {
    geometry: Geometry,
    stored: &'a Stored<'a>,
    references: &'a References,
    report: &'a mut CheckReport,
    teller: &'a mut Teller<'b>,
    /// Highest cluster with a refcount or a reference.
    highest: u64,
    /// Clusters that are referenced and counted free.
    counted_free: u64,
    /// The unaligned block was spoken of.
    warned: bool,
}

impl Comparison<'_, '_> {
    fn block(&mut self, clusters: Range<u64>, bytes: &[u8], room: &mut [u8]) {
        let order = self.stored.order;
        if self.references.agree(clusters.clone(), bytes, order, room) {
            self.highest = self.references.last_used(clusters).unwrap_or(self.highest);
            return;
        }
        for (index, cluster) in clusters.enumerate() {
            self.cluster(cluster, order.get_count(bytes, index));
        }
    }

    fn absent(&mut self, clusters: Range<u64>) {
        if self.references.last_used(clusters.clone()).is_some() {
            clusters.for_each(|cluster| self.cluster(cluster, 0));
        }
    }

    fn unreadable(&mut self, clusters: Range<u64>, reason: &str) {
        self.report.check_errors += clusters.end - clusters.start;
        for cluster in clusters {
            if self.teller.is_full() {
                return;
            }
            self.teller.tell(&Problem::Unreadable { cluster, reason: reason.to_owned() });
        }
    }

    fn cluster(&mut self, cluster: u64, refcount: u64) {
        let references = self.references.get(cluster).min(self.geometry.max_refcount);
        if refcount > 0 || references > 0 {
            self.highest = cluster;
        }
        if refcount > references {
            self.report.leaks += 1;
            self.teller.tell(&Problem::Leaked { cluster, refcount, references });
        } else if refcount < references {
            self.report.corruptions += 1;
            self.counted_free += u64::from(refcount == 0);
            self.teller.tell(&Problem::Undercounted { cluster, refcount, references });
        }
    }
}
