//! Compares the references that were counted with the refcounts that are stored.

use std::ops::Range;

use super::entries::Geometry;
use super::problem::Problem;
use super::references::{References, index};
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

/// Counts the references to refcount blocks, which come last, and judges the table on the way; of
/// blocks that are counted in another window, nothing. Problems go to `tell`, with the position of
/// their entry in the table.
pub(super) fn count_blocks(
    geometry: Geometry,
    stored: &Stored<'_>,
    references: &mut References,
    report: &mut CheckReport,
    mut tell: impl FnMut(u64, Problem),
) -> BlockDamage {
    let mut damage = BlockDamage::default();
    let mut corruption = |index, problem| {
        report.corruptions += 1;
        let is_outside = matches!(problem, Problem::BlockOutside { .. });
        *(if is_outside { &mut damage.outside } else { &mut damage.unusable }) += 1;
        tell(index, problem);
    };
    let window = references.window();
    // What is no cluster is spoken of with the first ones.
    let is_first = window.start == 0;
    for (index, &entry) in (0..).zip(stored.table()) {
        let (offset, reserved) = Stored::split_table_entry(entry);
        let cluster = offset >> geometry.cluster_bits;
        if reserved != 0 {
            if is_first {
                corruption(index, Problem::TableEntryReserved { index });
            }
        } else if !geometry.is_aligned(offset) {
            if is_first {
                corruption(index, Problem::BlockUnaligned { index });
            }
        } else if cluster >= references.len() {
            if is_first {
                corruption(index, Problem::BlockOutside { index });
            }
        } else if offset != 0 && window.contains(&cluster) {
            let bytes = geometry.cluster_bytes();
            if geometry.is_beyond_end(offset, bytes) {
                corruption(index, Problem::BeyondEnd { offset, bytes });
            } else {
                references.add(cluster..cluster + 1, 1);
                if references.anywhere(cluster) > geometry.max_refcount {
                    corruption(index, Problem::Overflow { offset });
                }
            }
            let refcount = references.get(cluster).min(geometry.max_refcount);
            if refcount != 1 {
                corruption(index, Problem::BlockShared { index, refcount });
            }
        }
    }
    debug_assert_eq!(references.window(), window, "the walk made room for them");
    damage
}

/// Compares all clusters. Returns how many are referenced and counted free.
pub(super) fn compare(
    geometry: Geometry,
    stored: &Stored<'_>,
    references: &References,
    report: &mut CheckReport,
    teller: &mut Teller<'_>,
) -> u64 {
    let mut so_far = Compared::default();
    so_far.compare(geometry, stored, references, report, teller);
    so_far.counted_free
}

/// What was compared, window by window, ascending.
#[derive(Default)]
pub(super) struct Compared {
    /// Highest cluster with a refcount or a reference.
    highest: u64,
    /// Clusters that are referenced and counted free.
    counted_free: u64,
    /// The unaligned block was spoken of.
    warned: bool,
}

impl Compared {
    /// Compares cluster by cluster, block by block, and finds the end of the image on the way.
    pub fn compare(
        &mut self,
        geometry: Geometry,
        stored: &Stored<'_>,
        references: &References,
        report: &mut CheckReport,
        teller: &mut Teller<'_>,
    ) {
        let mut bytes = vec![0; stored.block_bytes()];
        let mut room = bytes.clone();
        let clusters = references.window();
        let mut comparison =
            Comparison { geometry, stored, references, report, teller, so_far: self };
        let mut at = clusters.start;
        while at < clusters.end {
            let (block, nth) = stored.locate(at);
            let range = at..clusters.end.min(at - nth + stored.block_entries());
            at = range.end;
            match stored.read_block(block, &mut bytes) {
                Ok(Block::At(_)) => comparison.block(range, &bytes, &mut room),
                Ok(Block::Absent) => comparison.absent(range),
                Ok(Block::Unaligned(offset)) => {
                    if !comparison.so_far.warned {
                        comparison.so_far.warned = true;
                        comparison.teller.tell(&Problem::BlockUnusable { index: block, offset });
                    }
                    comparison.unreadable(range, "Input/output error");
                }
                Ok(Block::Unreadable) => comparison.unreadable(range, "Input/output error"),
                Err(error) => comparison.unreadable(range, error.reason()),
            }
        }
        report.image_end_offset = (self.highest + 1) << geometry.cluster_bits;
    }
}

struct Comparison<'a, 'b> {
    geometry: Geometry,
    stored: &'a Stored<'a>,
    references: &'a References,
    report: &'a mut CheckReport,
    teller: &'a mut Teller<'b>,
    so_far: &'a mut Compared,
}

impl Comparison<'_, '_> {
    fn block(&mut self, clusters: Range<u64>, bytes: &[u8], room: &mut [u8]) {
        let order = self.stored.order;
        // A window that begins inside a block begins where a page does, and so where a byte does.
        let (_, first) = self.stored.locate(clusters.start);
        let bytes = &bytes[(index(first) << order.get()) / 8..];
        if self.references.agree(clusters.clone(), bytes, order, room) {
            let highest = &mut self.so_far.highest;
            *highest = self.references.last_used(clusters).unwrap_or(*highest);
            return;
        }
        for (index, cluster) in clusters.enumerate() {
            self.cluster(cluster, order.get_count(bytes, index));
        }
    }

    fn absent(&mut self, clusters: Range<u64>) {
        // They begin where a block or a page does, and end there or where the window does.
        for group in clusters.start / 64..clusters.end.div_ceil(64) {
            let mut used = self.references.used(group);
            while used != 0 {
                self.cluster(group * 64 + u64::from(used.trailing_zeros()), 0);
                used &= used - 1;
            }
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
            self.so_far.highest = cluster;
        }
        if refcount > references {
            self.report.leaks += 1;
            self.teller.tell(&Problem::Leaked { cluster, refcount, references });
        } else if refcount < references {
            self.report.corruptions += 1;
            self.so_far.counted_free += u64::from(refcount == 0);
            self.teller.tell(&Problem::Undercounted { cluster, refcount, references });
        }
    }
}
