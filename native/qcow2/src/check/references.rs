//! How often each cluster is referenced, as the walk finds it.
//!
//! Two bytes a cluster of the file, whatever the image claims about itself. Counts from 65 535 up
//! live in a map; every one of them was earned by an entry that is really there.

use std::collections::HashMap;
use std::ops::Range;

/// Stands for "see the map".
const LARGE: u16 = u16::MAX;

/// Reference counts by cluster number.
pub(super) struct References {
    counts: Vec<u16>,
    large: HashMap<usize, u64>,
}

/// A cluster number, or what is counted by them, as an index.
#[expect(clippy::cast_possible_truncation, reason = "cluster numbers are below 2^31, `check` saw")]
pub(super) fn index(cluster: u64) -> usize {
    cluster as usize
}

impl References {
    /// All zero, for `clusters` clusters.
    pub fn new(clusters: u64) -> Self {
        Self { counts: vec![0; index(clusters)], large: HashMap::new() }
    }

    /// Clusters counted so far: those of the file, and one more where a table reaches past its end.
    pub fn len(&self) -> u64 {
        self.counts.len() as u64
    }

    /// Adds `times` to each of `clusters`, which lie at most one beyond the last of the file.
    pub fn add(&mut self, clusters: Range<u64>, times: u64) {
        let range = index(clusters.start)..index(clusters.end);
        if range.end > self.counts.len() {
            self.counts.resize(range.end, 0);
        }
        let counts = &mut self.counts[range.clone()];
        if let Some(times) = u16::try_from(times).ok().filter(|&times| times < LARGE) {
            let room = LARGE - times;
            if counts.iter().fold(0, |most, &count| most.max(count)) < room {
                for count in counts {
                    *count += times;
                }
                return;
            }
        }
        for cluster in range {
            self.add_slowly(cluster, times);
        }
    }

    #[cold]
    fn add_slowly(&mut self, cluster: usize, times: u64) {
        let sum = self.at(cluster).saturating_add(times);
        match u16::try_from(sum) {
            Ok(small) if small < LARGE => self.counts[cluster] = small,
            _ => {
                self.counts[cluster] = LARGE;
                self.large.insert(cluster, sum);
            }
        }
    }

    fn at(&self, cluster: usize) -> u64 {
        match self.counts[cluster] {
            LARGE => self.large[&cluster],
            small => u64::from(small),
        }
    }

    /// References to `cluster`, which is below [`len`](Self::len).
    pub fn get(&self, cluster: u64) -> u64 {
        self.at(index(cluster))
    }

    /// The counts of `clusters` where they are below 65 535, else 65 535.
    pub fn clamped(&self, clusters: Range<u64>) -> &[u16] {
        &self.counts[index(clusters.start)..index(clusters.end)]
    }

    /// By how much all counts together exceed `max`, each on its own.
    pub fn excess_over(&self, max: u64) -> u64 {
        if max >= u64::from(LARGE) {
            return self
                .large
                .values()
                .fold(0, |sum, count| sum.saturating_add(count.saturating_sub(max)));
        }
        if u64::from(self.counts.iter().fold(0, |most, &count| most.max(count))) <= max {
            return 0;
        }
        let over = |cluster| self.at(cluster).saturating_sub(max);
        (0..self.counts.len()).map(over).fold(0, u64::saturating_add)
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
        assert_eq!(references.clamped(2..5), [0, 1, 1]);
    }
}
