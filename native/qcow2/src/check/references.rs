//! How often each cluster is referenced, as the walk finds it.
//!
//! A few bits for each cluster of a page, or eight bytes for each that is referenced (`counted`),
//! whatever the image claims about itself: every one of them was earned by an entry that is really
//! there. Where that is more than there may be, the last clusters are given up: they are counted by
//! another walk, which begins where this one had to end.

use std::convert::Infallible;
use std::ops::Range;

use super::counted::{Counted, PAGE_CLUSTERS, PAGE_COUNTS};
use crate::format::refcount::RefcountOrder;
use crate::refcounts::{Batch, Clusters};

/// Reference counts by cluster number, of the clusters from a first one on.
pub(super) struct References {
    /// Clusters that are known of, counted or not.
    known: u64,
    counted: Pages,
    waiting: Batch<u64>,
}

/// The counts.
struct Pages {
    /// The first cluster that is counted; a page begins there.
    first: u64,
    /// What follows the last that may be counted; a page begins there, or it is past every cluster.
    end: u64,
    counts: Vec<Counted>,
    /// What they take, and what they may take at most.
    bytes: usize,
    most_bytes: usize,
}

/// A cluster number, or what is counted by them, as an index.
#[expect(clippy::cast_possible_truncation, reason = "cluster numbers are below 2^31, `check` saw")]
pub(super) fn index(cluster: u64) -> usize {
    cluster as usize
}

impl References {
    /// All zero, for `clusters` clusters, whatever memory that takes.
    pub fn new(clusters: u64) -> Self {
        Self::within(usize::MAX, 0, clusters)
    }

    /// All zero, for those of `clusters` clusters from `first` on, as many as `most_bytes` bytes
    /// will do for. `first` is a multiple of [`PAGE_CLUSTERS`], or past them all.
    pub fn within(most_bytes: usize, first: u64, clusters: u64) -> Self {
        // Pages of which nothing is known yet may take half of it at most.
        let most_pages = (most_bytes / 2 / size_of::<Counted>()).max(1) as u64;
        let end = first.saturating_add(most_pages.saturating_mul(PAGE_CLUSTERS));
        // Where all are counted already, nothing is, whatever the file becomes meanwhile.
        let end = if first >= clusters {
            first
        } else if end < clusters {
            end
        } else {
            u64::MAX
        };
        let counted = Pages { first, end, counts: Vec::new(), bytes: 0, most_bytes };
        let mut references = Self { known: first, counted, waiting: Batch::new(clusters) };
        references.reach(clusters);
        references
    }

    /// Clusters known so far: those of the file, and one more where a table reaches past its end.
    pub fn len(&self) -> u64 {
        self.known
    }

    /// Those of them that are counted.
    pub fn window(&self) -> Range<u64> {
        self.counted.first..self.counted.end.min(self.known)
    }

    fn reach(&mut self, clusters: u64) {
        if clusters > self.known {
            self.known = clusters;
            self.counted.reach(self.window().end);
        }
    }

    /// Adds `times` to each of `clusters`, which lie at most one beyond the last of the file.
    pub fn add(&mut self, clusters: Range<u64>, times: u64) {
        self.reach(clusters.end);
        self.counted.add(clusters, times);
    }

    /// The same, as soon as it is worth it: see [`settle`](Self::settle).
    pub fn add_later(&mut self, clusters: Range<u64>, times: u64) {
        self.reach(clusters.end);
        let counted = &mut self.counted;
        if clusters.start >= counted.end || clusters.end <= counted.first {
            return;
        }
        let Ok(()) = self.waiting.push(clusters, times, &mut |clusters, times| {
            counted.add_each(clusters, times);
            Ok::<_, Infallible>(())
        });
    }

    /// Adds what waits. Before, nothing may be asked.
    pub fn settle(&mut self) {
        let counted = &mut self.counted;
        let Ok(()) = self.waiting.drain(&mut |clusters, times| {
            counted.add_each(clusters, times);
            Ok::<_, Infallible>(())
        });
    }

    /// Makes room for one more reference to each of these clusters, each time it is named: `add`
    /// will not give up any cluster for them. Those past the last known are left out.
    pub fn expect(&mut self, clusters: impl Iterator<Item = u64> + Clone) {
        let known = self.known;
        let inside = clusters.filter(|&cluster| cluster < known);
        for cluster in inside.clone() {
            self.add(cluster..cluster + 1, 1);
        }
        // A page that has been widened stays as wide.
        for cluster in inside {
            self.take_off(cluster..cluster + 1, 1);
        }
    }

    /// Takes `times` references off each of `clusters`, as far as they were counted: what lies past
    /// the end of the file was not.
    pub fn take_off(&mut self, clusters: Range<u64>, times: u64) {
        let window = self.window();
        for cluster in clusters.start.max(window.start)..clusters.end.min(window.end) {
            let (page, nth) = self.counted.place(cluster);
            self.counted.counts[page].take_off(nth, times);
        }
    }

    /// References to `cluster`, which may be anywhere; 0 where it is not counted.
    pub fn anywhere(&self, cluster: u64) -> u64 {
        if self.window().contains(&cluster) { self.get(cluster) } else { 0 }
    }

    /// References to `cluster`, which is inside the [`window`](Self::window).
    pub fn get(&self, cluster: u64) -> u64 {
        let (page, nth) = self.counted.place(cluster);
        self.counted.counts[page].get(nth)
    }

    /// Whether `bytes`, (a part of) a refcount block, say the same of `clusters`, which begin where
    /// a block or a page does and are inside the window. `room` is as long, and may hold anything.
    pub fn agree(
        &self,
        clusters: Range<u64>,
        bytes: &[u8],
        order: RefcountOrder,
        room: &mut [u8],
    ) -> bool {
        let mut first = clusters.start;
        while first < clusters.end {
            let (page, nth) = self.counted.place(first);
            let count = (PAGE_COUNTS - nth).min(index(clusters.end - first));
            // Blocks begin and end where words of 64 counts do.
            let at = (index(first - clusters.start) << order.get()) / 8;
            let part = at..at + (count << order.get()).div_ceil(8);
            let page = &self.counted.counts[page];
            if !page.encode_part(nth..nth + count, order, &mut room[part.clone()])
                || room[part.clone()] != bytes[part]
            {
                return false;
            }
            first += count as u64;
        }
        true
    }

    /// The last of `clusters` that is referenced, if any is. They begin where a block or a page
    /// does, and are inside the window.
    pub fn last_used(&self, clusters: Range<u64>) -> Option<u64> {
        let groups = clusters.start / 64..clusters.end.div_ceil(64);
        groups.rev().find_map(|group| {
            self.used(group).checked_ilog2().map(|last| group * 64 + u64::from(last))
        })
    }

    /// One bit for each of the 64 clusters from `64 * group` on that is referenced. They are inside the
    /// window, or past its end and not counted.
    pub fn used(&self, group: u64) -> u64 {
        let (page, nth) = self.counted.place(group * 64);
        self.counted.counts[page].non_zero(nth / 64)
    }

    /// By how much all counts together exceed `max`, each on its own.
    pub fn excess_over(&self, max: u64) -> u64 {
        self.counted.counts.iter().map(|page| page.excess_over(max)).fold(0, u64::saturating_add)
    }
}

impl Pages {
    /// Counts every cluster before `end`, from zero on.
    fn reach(&mut self, end: u64) {
        let count = index(end - self.first).div_ceil(PAGE_COUNTS);
        self.bytes += count.saturating_sub(self.counts.len()) * size_of::<Counted>();
        self.counts.resize_with(count, Counted::zero);
    }

    /// Adds `times` to those of `clusters` that are counted; a count stays at the largest number
    /// that there is.
    fn add(&mut self, clusters: Range<u64>, times: u64) {
        let mut at = clusters.start.max(self.first);
        while at < clusters.end.min(self.end) {
            let (page, nth) = self.place(at);
            let page = &mut self.counts[page];
            let count = (PAGE_COUNTS - nth).min(index(clusters.end.min(self.end) - at));
            let before = page.bytes();
            page.add(nth..nth + count, times);
            at += count as u64;
            let after = page.bytes();
            self.has_changed(before, after);
        }
    }

    /// The same, to clusters that waited.
    fn add_each(&mut self, clusters: Clusters<'_>, times: u64) {
        match clusters {
            Clusters::Run(run) => self.add(run, times),
            Clusters::Set { first, words } => {
                for (&word, first) in words.iter().zip((first..).step_by(64)) {
                    self.add_word(first, word, times);
                }
            }
        }
    }

    /// The same, to those of 64 clusters from `first` on whose bits are set: they are of one page.
    fn add_word(&mut self, first: u64, word: u64, times: u64) {
        if word == 0 || first >= self.end || first < self.first {
            return;
        }
        let (page, nth) = self.place(first);
        let page = &mut self.counts[page];
        let before = page.bytes();
        page.add_where(nth / 64, word, times);
        let after = page.bytes();
        self.has_changed(before, after);
    }

    /// A page takes `after` bytes instead of `before`. Wide counts may have become a shorter list.
    fn has_changed(&mut self, before: usize, after: usize) {
        if after != before {
            self.bytes = self.bytes - before + after;
            self.give_up();
        }
    }

    /// Gives up the last clusters until the others take as little as they may. One page stays, and
    /// so do the places of those that were given up.
    fn give_up(&mut self) {
        while self.bytes > self.most_bytes && self.counts.len() > 1 {
            let page = self.counts.pop().expect("more than one");
            self.bytes -= page.bytes();
            self.end = self.first + self.counts.len() as u64 * PAGE_CLUSTERS;
        }
    }

    /// The page of a cluster that is counted, and which one of it that is.
    fn place(&self, cluster: u64) -> (usize, usize) {
        let nth = index(cluster - self.first);
        (nth / PAGE_COUNTS, nth % PAGE_COUNTS)
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

    /// Whatever the order, what is counted is counted right, and the rest is given up.
    #[test]
    fn what_takes_too_much_is_given_up_from_the_end_and_the_rest_is_exact() {
        const CLUSTERS: u64 = 100 * PAGE_CLUSTERS;
        let mut whole = References::new(CLUSTERS);
        let (mut windows, mut first) = (0, 0);
        let mut parts = Vec::new();
        while first < CLUSTERS {
            let mut part = References::within(20_000, first, CLUSTERS);
            for nth in 0..CLUSTERS / 8 {
                let cluster = nth * 0x9e37_79b1 % CLUSTERS;
                let times = if u64::is_multiple_of(cluster, 30_011) { 1 << 40 } else { 1 };
                part.add_later(cluster..cluster + 1, times);
                if windows == 0 {
                    whole.add(cluster..cluster + 1, times);
                }
            }
            part.add(PAGE_CLUSTERS - 3..CLUSTERS, 1);
            part.settle();
            assert!(part.counted.bytes <= 20_000 || part.counted.counts.len() == 1);
            let window = part.window();
            assert_eq!((part.len(), window.start), (CLUSTERS, first));
            first = window.end;
            windows += 1;
            parts.push(part);
        }
        whole.add(PAGE_CLUSTERS - 3..CLUSTERS, 1);
        assert!((4..20).contains(&windows), "{windows}");
        for part in &parts {
            for cluster in part.window() {
                assert_eq!(part.get(cluster), whole.get(cluster), "{cluster}");
            }
            assert_eq!(part.anywhere(part.window().end), 0);
        }
        let excess = parts.iter().map(|part| part.excess_over(1)).sum::<u64>();
        assert_eq!(excess, whole.excess_over(1));
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
