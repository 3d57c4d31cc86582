//! How often each cluster is referenced, as the walk finds it.
//!
//! A few bits for each cluster of the file, whatever the image claims about itself, and more where
//! a count needs more; every one of them was earned by an entry that is really there.

use std::ops::Range;

use crate::format::refcount::RefcountOrder;
use crate::refcounts::{Batch, Counts};

/// Clusters whose counts are kept together. One that is referenced very often makes those beside it
/// as wide.
const PAGE_CLUSTERS: usize = 2048;

/// Reference counts by cluster number.
pub(super) struct References {
    len: u64,
    pages: Vec<Counts>,
    waiting: Batch<u64>,
}

/// A cluster number, or what is counted by them, as an index.
#[expect(clippy::cast_possible_truncation, reason = "cluster numbers are below 2^31, `check` saw")]
pub(super) fn index(cluster: u64) -> usize {
    cluster as usize
}

impl References {
    /// All zero, for `clusters` clusters.
    pub fn new(clusters: u64) -> Self {
        let mut references = Self { len: 0, pages: Vec::new(), waiting: Batch::new() };
        references.reach(clusters);
        references
    }

    /// Clusters counted so far: those of the file, and one more where a table reaches past its end.
    pub fn len(&self) -> u64 {
        self.len
    }

    fn reach(&mut self, clusters: u64) {
        if clusters > self.len {
            self.len = clusters;
            let pages = index(clusters).div_ceil(PAGE_CLUSTERS);
            self.pages.resize_with(pages, || Counts::alike(PAGE_CLUSTERS, 0));
        }
    }

    /// Adds `times` to each of `clusters`, which lie at most one beyond the last of the file.
    pub fn add(&mut self, clusters: Range<u64>, times: u64) {
        self.reach(clusters.end);
        add(&mut self.pages, clusters, times);
    }

    /// The same, as soon as it is worth it: see [`settle`](Self::settle).
    pub fn add_later(&mut self, clusters: Range<u64>, times: u64) {
        self.reach(clusters.end);
        let pages = &mut self.pages;
        let Ok(()) = self.waiting.push(clusters, times, |clusters, times| {
            add(pages, clusters, times);
            Ok::<_, std::convert::Infallible>(())
        });
    }

    /// Adds what waits. Before, nothing may be asked.
    pub fn settle(&mut self) {
        let pages = &mut self.pages;
        let Ok(()) = std::mem::replace(&mut self.waiting, Batch::new()).drain(|clusters, times| {
            add(pages, clusters, times);
            Ok::<_, std::convert::Infallible>(())
        });
    }

    /// Takes `times` references off each of `clusters`, as far as they were counted: what lies past
    /// the end of the file was not.
    pub fn take_off(&mut self, clusters: Range<u64>, times: u64) {
        for cluster in clusters.start.min(self.len)..clusters.end.min(self.len) {
            let less = i64::try_from(self.get(cluster).min(times)).unwrap_or(i64::MAX);
            let (page, nth) = (index(cluster) / PAGE_CLUSTERS, index(cluster) % PAGE_CLUSTERS);
            let widest = RefcountOrder::new(6);
            self.pages[page].add(nth..nth + 1, -less, widest).expect("not more than there is");
        }
    }

    /// References to `cluster`, which may be anywhere.
    pub fn anywhere(&self, cluster: u64) -> u64 {
        if cluster < self.len { self.get(cluster) } else { 0 }
    }

    /// References to `cluster`, which is below [`len`](Self::len).
    pub fn get(&self, cluster: u64) -> u64 {
        self.pages[index(cluster) / PAGE_CLUSTERS].get(index(cluster) % PAGE_CLUSTERS)
    }

    /// Whether `bytes`, (a part of) a refcount block, say the same of `clusters`, which begin where
    /// a block does. `room` is as long, and may hold anything.
    pub fn agree(
        &self,
        clusters: Range<u64>,
        bytes: &[u8],
        order: RefcountOrder,
        room: &mut [u8],
    ) -> bool {
        let mut first = index(clusters.start);
        while first < index(clusters.end) {
            let (page, nth) = (&self.pages[first / PAGE_CLUSTERS], first % PAGE_CLUSTERS);
            let count = (PAGE_CLUSTERS - nth).min(index(clusters.end) - first);
            // Blocks begin and end where words of 64 counts do.
            let at = ((first - index(clusters.start)) << order.get()) / 8;
            let part = at..at + (count << order.get()).div_ceil(8);
            if !page.encode_part(nth..nth + count, order, &mut room[part.clone()])
                || room[part.clone()] != bytes[part]
            {
                return false;
            }
            first += count;
        }
        true
    }

    /// The last of `clusters` that is referenced, if any is. They begin where a block does.
    pub fn last_used(&self, clusters: Range<u64>) -> Option<u64> {
        let groups = clusters.start / 64..clusters.end.div_ceil(64);
        groups.rev().find_map(|group| {
            let page = &self.pages[index(group * 64) / PAGE_CLUSTERS];
            let used = page.non_zero(index(group * 64) % PAGE_CLUSTERS / 64);
            used.checked_ilog2().map(|last| group * 64 + u64::from(last))
        })
    }

    /// By how much all counts together exceed `max`, each on its own.
    pub fn excess_over(&self, max: u64) -> u64 {
        let pages = self.pages.iter().filter(|page| page.at_most() > max);
        let counts = pages.flat_map(|page| (0..PAGE_CLUSTERS).map(|nth| page.get(nth)));
        counts.map(|count| count.saturating_sub(max)).fold(0, u64::saturating_add)
    }
}

/// Adds `times` to each of `clusters`; a count stays at the largest number that there is.
fn add(pages: &mut [Counts], clusters: Range<u64>, times: u64) {
    let widest = RefcountOrder::new(6);
    let delta = i64::try_from(times).unwrap_or(i64::MAX);
    let (mut first, end) = (index(clusters.start), index(clusters.end));
    while first < end {
        let (page, nth) = (&mut pages[first / PAGE_CLUSTERS], first % PAGE_CLUSTERS);
        let count = (PAGE_CLUSTERS - nth).min(end - first);
        let range = nth..nth + count;
        match page.add(range.clone(), delta, widest) {
            Ok(()) => first += count,
            Err((full, _)) => {
                // Those before it have grown.
                let rest = i64::try_from(u64::MAX - page.get(full)).expect("less than delta");
                page.add(full..full + 1, rest, widest).expect("there is room");
                first += full + 1 - nth;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_below_and_above_two_bytes() {
        let mut references = References::new(8);
        references.add(1..4, 1);
        references.add(2..3, 65_532);
        assert_eq!(references.get(2), 65_533);
        references.add(2..3, 1);
        references.add(2..4, 1);
        references.add(2..4, 1 << 40);
        let all: Vec<_> = (0..8).map(|cluster| references.get(cluster)).collect();
        assert_eq!(all, [0, 1, 65_535 + (1 << 40), 2 + (1 << 40), 0, 0, 0, 0]);
        assert_eq!(references.excess_over(65_535), (1 << 40) + 2 + (1 << 40) - 65_535);
        assert_eq!(references.excess_over(u64::MAX), 0);
    }

    #[test]
    fn what_was_added_can_be_taken_off() {
        let mut references = References::new(4);
        references.add(0..3, 70_000);
        references.add(1..2, 3);
        references.take_off(0..9, 65_000);
        let all: Vec<_> = (0..6).map(|cluster| references.anywhere(cluster)).collect();
        assert_eq!(all, [5000, 5003, 5000, 0, 0, 0]);
        references.take_off(1..2, 70_000);
        assert_eq!(references.get(1), 0);
    }

    #[test]
    fn a_count_that_is_full_stays_full_and_its_neighbours_count_on() {
        let mut references = References::new(4000);
        for _ in 0..2 {
            references.add(5..6, i64::MAX.unsigned_abs());
            references.add(2047..2048, i64::MAX.unsigned_abs());
        }
        references.add(4..3000, 7);
        references.add(4..3000, 7);
        let of = |cluster| references.get(cluster);
        assert_eq!([of(4), of(6), of(2048), of(2999), of(3000)], [14, 14, 14, 14, 0]);
        assert_eq!([of(5), of(2047)], [u64::MAX; 2]);
    }

    #[test]
    fn narrow_widths_overflow_where_a_count_exceeds_them() {
        let mut references = References::new(4);
        references.add(0..3, 1);
        references.add(1..2, 2);
        assert_eq!(references.excess_over(1), 2);
        assert_eq!(references.excess_over(3), 0);
    }

    #[test]
    fn a_table_that_ends_past_the_file_adds_its_cluster() {
        let mut references = References::new(4);
        references.add(3..5, 1);
        assert_eq!(references.len(), 5);
        assert_eq!([2, 3, 4].map(|cluster| references.get(cluster)), [0, 1, 1]);
        references.add(2048..2049, 1);
        assert_eq!((references.len(), references.get(2048)), (2049, 1));
    }

    #[test]
    fn what_was_added_later_is_there_when_it_is_settled() {
        let mut references = References::new(10_000);
        for cluster in (0..10_000).rev().step_by(3) {
            references.add_later(cluster..cluster + 1, cluster % 5);
        }
        references.add_later(500..9000, 1);
        references.settle();
        for cluster in 0..10_000 {
            let once = if cluster % 3 == 0 { cluster % 5 } else { 0 };
            let run = u64::from((500..9000).contains(&cluster));
            assert_eq!(references.get(cluster), once + run, "{cluster}");
        }
    }

    #[test]
    fn a_block_agrees_if_and_only_if_every_count_of_it_is_the_same() {
        for order in (0..=6).map(RefcountOrder::new) {
            let mut references = References::new(5000);
            references.add(0..4500, 1);
            if order.max() > 1 {
                references.add(4100..4101, 2);
            }
            let clusters = 4096..5000;
            assert_eq!(references.last_used(clusters.clone()), Some(4499));
            assert_eq!(references.last_used(4544..5000), None);
            let mut bytes = vec![0; (1024 << order.get()) / 8];
            for cluster in clusters.clone() {
                order.set_count(&mut bytes, index(cluster - 4096), references.get(cluster));
            }
            let mut room = vec![7; bytes.len()];
            assert!(references.agree(clusters.clone(), &bytes, order, &mut room));
            for cluster in [4096, 4100, 4499, 4500, 4999] {
                let mut other = bytes.clone();
                let count = references.get(cluster) ^ 1;
                order.set_count(&mut other, index(cluster - 4096), count);
                assert!(!references.agree(clusters.clone(), &other, order, &mut room));
            }
            references.add(4200..4201, order.max());
            assert!(!references.agree(clusters, &bytes, order, &mut room));
        }
    }
}
