//! References that wait until there are many, and then go to what counts them in its order.
//!
//! An L2 table of a disk that was written at random names clusters all over the file. Counting them
//! one by one waits for memory each time; counting half a million place by place does not. Long
//! runs need not wait: the table itself is in order there.

use std::ops::Range;

/// References that wait at most: 4 MiB, and as much while they are put in order.
const MOST: usize = 1 << 19;
/// Places that are told apart when they are put in order.
const PLACES: usize = 2048;

/// Bits of a waiting reference: the first cluster, how many there are, and what is said of them.
const CLUSTER_BITS: u32 = 47;
const COUNT_BITS: u32 = 6;
/// Different things that are said of the waiting references at most.
const MOST_SAID: usize = 1 << (64 - CLUSTER_BITS - COUNT_BITS);
/// A run as long as this is not kept waiting.
const LONG_RUN: u64 = 1 << COUNT_BITS;

/// References to runs of clusters, each with something that is said of it.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    waiting: Vec<u64>,
    sorted: Vec<u64>,
    said: Vec<T>,
}

impl<T: Copy + PartialEq> Batch<T> {
    pub fn new() -> Self {
        Self { waiting: Vec::new(), sorted: Vec::new(), said: Vec::new() }
    }

    /// Hands `clusters` to `count`, now or later, and perhaps others that waited.
    pub fn push<E>(
        &mut self,
        clusters: Range<u64>,
        say: T,
        mut count: impl FnMut(Range<u64>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let run = clusters.end.saturating_sub(clusters.start);
        if run == 0 {
            return Ok(());
        }
        if run >= LONG_RUN || clusters.end > 1 << CLUSTER_BITS {
            return count(clusters, say);
        }
        if self.said.last() != Some(&say) {
            if self.said.len() == MOST_SAID {
                self.drain(&mut count)?;
            }
            self.said.push(say);
        }
        let said = (self.said.len() - 1) as u64;
        self.waiting
            .push(clusters.start | run << CLUSTER_BITS | said << (CLUSTER_BITS + COUNT_BITS));
        if self.waiting.len() == MOST { self.drain(count) } else { Ok(()) }
    }

    /// Hands everything that waits to `count`, neighbours soon after each other.
    pub fn drain<E>(
        &mut self,
        mut count: impl FnMut(Range<u64>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.sort();
        for reference in self.sorted.drain(..) {
            let first = cluster(reference);
            let run = reference >> CLUSTER_BITS & (LONG_RUN - 1);
            let said = usize::try_from(reference >> (CLUSTER_BITS + COUNT_BITS)).expect("few bits");
            count(first..first + run, self.said[said])?;
        }
        self.said.clear();
        Ok(())
    }

    /// Moves what waits, place by place.
    fn sort(&mut self) {
        let clusters = || self.waiting.iter().map(|&reference| cluster(reference));
        let (Some(least), Some(most)) = (clusters().min(), clusters().max()) else { return };
        let shift = (64 - (most - least).leading_zeros()).saturating_sub(PLACES.ilog2());
        let place = |reference| {
            usize::try_from((cluster(reference) - least) >> shift).expect("below the places")
        };
        let mut next = vec![0; PLACES + 1];
        for &reference in &self.waiting {
            next[place(reference) + 1] += 1;
        }
        for index in 0..PLACES {
            next[index + 1] += next[index];
        }
        self.sorted.resize(self.waiting.len(), 0);
        for reference in self.waiting.drain(..) {
            let at = &mut next[place(reference)];
            self.sorted[*at] = reference;
            *at += 1;
        }
    }
}

fn cluster(reference: u64) -> u64 {
    reference & ((1 << CLUSTER_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// More than may wait, with more said than fits, short runs and long ones.
    #[test]
    fn everything_that_is_pushed_is_counted_once_and_neighbours_together() {
        let mut batch = Batch::new();
        let (mut pushed, mut counted) = (Vec::new(), Vec::new());
        let mut state = 1_u64;
        for step in 0..MOST as u64 * 3 / 2 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (state >> 20) & 0xff_ffff;
            let run = if step % 1000 == 0 { 200 } else { state >> 60 };
            let say = step / 300;
            if run > 0 {
                pushed.push((start, start + run, say));
            }
            let count = |run: Range<u64>, say| {
                counted.push((run.start, run.end, say));
                Ok::<_, Infallible>(())
            };
            batch.push(start..start + run, say, count).unwrap();
        }
        let mut last = 0;
        let mut jumps = 0;
        let drained = counted.len();
        batch
            .drain(|run, say| {
                jumps += usize::from(run.start.abs_diff(last) > 1 << 14);
                last = run.start;
                counted.push((run.start, run.end, say));
                Ok::<_, Infallible>(())
            })
            .unwrap();
        assert!(jumps < (counted.len() - drained) / 100, "{jumps} jumps");
        pushed.sort_unstable();
        counted.sort_unstable();
        assert!(pushed == counted);
    }
}
