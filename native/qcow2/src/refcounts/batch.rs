//! References that wait until many of them are neighbours, and then go to what counts them.
//!
//! An L2 table of a disk that was written at random names clusters all over the file. Counting them
//! one by one waits for memory each time; counting place by place, some hundreds of references to
//! each, does not. Long runs need not wait: the table itself is in order there.

use std::ops::Range;

/// Parts of the file whose references wait together.
const PLACES: usize = 1024;
/// References that wait for a place at most: 4 MiB for all.
const MOST: usize = 1024;
/// From the references of one place to those of the next: a line of the cache more than a page, for
/// lines that lie pages apart displace each other.
const STRIDE: usize = MOST + 16;

/// Bits of a waiting reference: the first cluster within its place, how many there are, and what is
/// said of them.
const PLACE_BITS: u32 = 20;
const COUNT_BITS: u32 = 6;
/// Different things that are said of the waiting references at most.
const MOST_SAID: usize = 1 << (32 - PLACE_BITS - COUNT_BITS);
/// A run as long as this is not kept waiting.
const LONG_RUN: u64 = 1 << COUNT_BITS;

/// References to runs of clusters, each with something that is said of it.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    /// Clusters of a place are those that are the same without so many bits.
    place_bits: u32,
    /// [`STRIDE`] for each place; none before the first.
    waiting: Vec<u32>,
    /// How many wait for each place.
    counts: Vec<usize>,
    said: Vec<T>,
    /// What was said last.
    saying: usize,
}

impl<T: Copy + PartialEq> Batch<T> {
    /// For references to about so many clusters.
    pub fn new(clusters: u64) -> Self {
        let place_bits = (clusters / PLACES as u64 + 1).next_power_of_two().ilog2();
        let place_bits = place_bits.min(PLACE_BITS);
        Self { place_bits, waiting: Vec::new(), counts: Vec::new(), said: Vec::new(), saying: 0 }
    }

    /// Hands `clusters` to `count`, now or later, and perhaps others that waited.
    #[inline]
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
        if run >= LONG_RUN || clusters.end > (PLACES as u64) << self.place_bits {
            return count(clusters, say);
        }
        if self.said.get(self.saying) != Some(&say) {
            self.say(say, &mut count)?;
        }
        let place = usize::try_from(clusters.start >> self.place_bits).expect("below the places");
        let within = clusters.start & ((1 << self.place_bits) - 1);
        let waiting = &mut self.counts[place];
        let reference =
            within | run << PLACE_BITS | (self.saying as u64) << (PLACE_BITS + COUNT_BITS);
        self.waiting[place * STRIDE + *waiting] = u32::try_from(reference).expect("few bits");
        *waiting += 1;
        if *waiting == MOST { self.drain_place(place, &mut count) } else { Ok(()) }
    }

    /// Hands everything that waits to `count`, neighbours soon after each other.
    pub fn drain<E>(
        &mut self,
        mut count: impl FnMut(Range<u64>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        for place in 0..self.counts.len() {
            self.drain_place(place, &mut count)?;
        }
        self.said.clear();
        Ok(())
    }

    /// From here on `say` is said of the references.
    #[cold]
    fn say<E>(
        &mut self,
        say: T,
        count: impl FnMut(Range<u64>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.counts.is_empty() {
            self.counts = vec![0; PLACES];
            self.waiting = vec![0; PLACES * STRIDE];
        }
        let known = self.said.iter().position(|&said| said == say);
        if known.is_none() {
            if self.said.len() == MOST_SAID {
                self.drain(count)?;
            }
            self.said.push(say);
        }
        self.saying = known.unwrap_or(self.said.len() - 1);
        Ok(())
    }

    /// Hands over what waits for a place: of each kind at once, for who counts them likes that.
    fn drain_place<E>(
        &mut self,
        place: usize,
        count: &mut impl FnMut(Range<u64>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let waiting = &self.waiting[place * STRIDE..][..std::mem::take(&mut self.counts[place])];
        let said_of = |reference: u32| (reference >> (PLACE_BITS + COUNT_BITS)) as usize;
        let mut kinds = match self.said.len() {
            1 => 1,
            _ => waiting.iter().fold(0_u64, |kinds, &reference| kinds | 1 << said_of(reference)),
        };
        let start = (place as u64) << self.place_bits;
        while kinds != 0 {
            let kind = kinds.trailing_zeros() as usize;
            kinds &= kinds - 1;
            for &reference in waiting.iter().filter(|&&reference| said_of(reference) == kind) {
                let first = start + u64::from(reference & ((1 << PLACE_BITS) - 1));
                let run = u64::from(reference >> PLACE_BITS) & (LONG_RUN - 1);
                count(first..first + run, self.said[kind])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// More than may wait, with more said than fits, short runs and long ones.
    #[test]
    fn everything_that_is_pushed_is_counted_once_and_neighbours_together() {
        let mut batch = Batch::new(0xf0_0000);
        let (mut pushed, mut counted) = (Vec::new(), Vec::new());
        let mut state = 1_u64;
        for step in 0..1_000_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (state >> 20) & 0xff_ffff;
            let run = if step % 1000 == 0 { 200 } else { state >> 60 };
            let say = step / 1000 % (2 + step / 10_000);
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
