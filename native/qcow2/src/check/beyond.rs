//! Which clusters past the end of the file are named: where a repair, which makes the file longer,
//! must not put anything.

use std::ops::Range;

use super::entries::Geometry;

/// Clusters past the end of the file that are told apart. What lies further is not looked for: a
/// repair that needs more room than that does not find it.
const CLUSTERS: u64 = 1 << 20;

/// The clusters from the end of the file on, as far as they are told apart.
#[derive(Default)]
pub(super) struct Beyond {
    /// One bit for each; none while nothing was named.
    words: Vec<u64>,
}

impl Beyond {
    /// Notes that something names `clusters` of a file that ends before cluster `end`.
    pub fn name(&mut self, end: u64, clusters: Range<u64>) {
        let first = clusters.start.max(end) - end;
        for nth in first..clusters.end.saturating_sub(end).min(CLUSTERS) {
            self.words.resize(index(CLUSTERS / 64), 0);
            self.words[index(nth / 64)] |= 1 << (nth % 64);
        }
    }

    /// The same of bytes that are past the end.
    pub fn name_bytes(&mut self, geometry: &Geometry, offset: u64, bytes: u64) {
        let cluster = geometry.cluster_bytes();
        let end = geometry.file_bytes.div_ceil(cluster);
        self.name(end, offset / cluster..offset.saturating_add(bytes).div_ceil(cluster));
    }

    /// Whether nothing was named.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// What was named, ascending, and everything that is not told apart.
    pub fn avoided(&self, end: u64) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for nth in 0..self.words.len() as u64 * 64 {
            if self.words[index(nth / 64)] >> (nth % 64) & 1 == 0 {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == end + nth => run.end += 1,
                _ => runs.push(end + nth..end + nth + 1),
            }
        }
        runs.push(end + CLUSTERS..u64::MAX);
        runs
    }
}

fn index(nth: u64) -> usize {
    usize::try_from(nth).expect("below 2^20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_past_the_end_is_avoided_and_so_is_what_is_too_far_to_know() {
        let mut beyond = Beyond::default();
        assert_eq!(beyond.avoided(10), [10 + CLUSTERS..u64::MAX]);
        beyond.name(10, 3..5);
        beyond.name(10, 9..12);
        beyond.name(10, 11..13);
        beyond.name(10, 90..91);
        beyond.name(10, 9 + CLUSTERS..u64::MAX);
        let expected = [10..13, 90..91, 9 + CLUSTERS..10 + CLUSTERS, 10 + CLUSTERS..u64::MAX];
        assert_eq!(beyond.avoided(10), expected);
    }
}
