//! References that wait until many of them are neighbours, and then go to what counts them.
//!
//! An L2 table of a disk that was written at random names clusters all over the file. Counting them
//! one by one waits for memory each time; counting place by place, a thousand references to each or
//! more, does not: they become a set of clusters, a bit for each. Long runs need not wait: the table
//! itself is in order there.

use std::ops::Range;

/// Parts of the file whose references wait together, at most.
const MOST_PLACES: u64 = 1024;
/// References that wait at most, all places together: 4 MiB.
const MOST: usize = 1 << 20;
/// And for one place: a set of so many takes about as long to hand over as they took to collect.
const MOST_OF_PLACE: usize = 4096;
/// From the references of one place to those of the next: a line of the cache more than they may
/// be, for lines that lie pages apart displace each other.
const APART: usize = 16;

/// Bits of a waiting reference: the first cluster within its place, how many there are, and what is
/// said of them.
const PLACE_BITS: u32 = 20;
/// A place has at least so many, so that there are few: the lines of the cache to which they are
/// added, and the bits of one of them, fit into the fastest cache.
const FEWEST_PLACE_BITS: u32 = 16;
const COUNT_BITS: u32 = 6;
/// Different things that are said of the waiting references at most.
const MOST_SAID: usize = 1 << (32 - PLACE_BITS - COUNT_BITS);
/// So many words a reference are worth looking through: with fewer references, they are handed over
/// one by one.
const SPARSEST: usize = 16;
/// A run as long as this is not kept waiting.
const LONG_RUN: u64 = 1 << COUNT_BITS;

/// Clusters that are handed over together: a reference to each.
#[derive(Debug)]
pub(crate) enum Clusters<'a> {
    Run(Range<u64>),
    /// Those of which a bit is set, from `first` on, a multiple of 64.
    Set {
        first: u64,
        words: &'a [u64],
    },
}

/// References to runs of clusters, each with something that is said of it.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    /// Clusters of a place are those that are the same without so many bits.
    place_bits: u32,
    /// How many may wait for a place.
    most: usize,
    /// So many for each place, and [`APART`]; none before the first.
    waiting: Vec<u32>,
    /// How many wait for each place.
    counts: Vec<u32>,
    said: Vec<T>,
    /// What was said last.
    saying: usize,
    /// A bit for each cluster of a place; all zero between two hand-overs that did not fail.
    set: Vec<u64>,
}

impl<T: Copy + PartialEq> Batch<T> {
    /// For references to about so many clusters.
    pub fn new(clusters: u64) -> Self {
        let place_bits = (clusters / MOST_PLACES + 1).next_power_of_two().ilog2();
        let place_bits = place_bits.clamp(FEWEST_PLACE_BITS, PLACE_BITS);
        let places = ((clusters >> place_bits) + 1).min(MOST_PLACES);
        let places = usize::try_from(places).expect("few");
        Self {
            place_bits,
            most: (MOST / places).min(MOST_OF_PLACE),
            waiting: Vec::new(),
            counts: vec![0; places],
            said: Vec::new(),
            saying: 0,
            set: Vec::new(),
        }
    }

    /// Hands `clusters` to `count`, now or later, and perhaps others that waited.
    #[inline]
    pub fn push<E>(
        &mut self,
        clusters: Range<u64>,
        say: T,
        count: &mut impl FnMut(Clusters<'_>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let place = usize::try_from(clusters.start >> self.place_bits).unwrap_or(usize::MAX);
        let run = clusters.end.wrapping_sub(clusters.start);
        let is_short = run.wrapping_sub(1) < LONG_RUN - 1;
        if let Some(waiting) = self.counts.get_mut(place)
            && is_short
            && clusters.start % 64 + run <= 64
            && self.said.get(self.saying) == Some(&say)
            && (*waiting as usize) < self.most
        {
            let within = clusters.start & ((1 << self.place_bits) - 1);
            let kind = (self.saying as u64) << (PLACE_BITS + COUNT_BITS);
            let reference = u32::try_from(within | run << PLACE_BITS | kind).expect("few bits");
            self.waiting[place * (self.most + APART) + *waiting as usize] = reference;
            *waiting += 1;
            return Ok(());
        }
        if is_short && place < self.counts.len() {
            return self.push_else(clusters, say, place, count);
        }
        if clusters.is_empty() { Ok(()) } else { count(Clusters::Run(clusters), say) }
    }

    /// The same, for a short run that cannot simply wait.
    #[cold]
    fn push_else<E>(
        &mut self,
        clusters: Range<u64>,
        say: T,
        place: usize,
        count: &mut impl FnMut(Clusters<'_>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.said.get(self.saying) != Some(&say) {
            self.say(say, count)?;
        }
        if self.counts[place] as usize == self.most {
            self.drain_place(place, count)?;
        }
        // What waits is in one word of a set.
        let border = (clusters.start + 1).next_multiple_of(64);
        if clusters.end <= border {
            return self.push(clusters, say, count);
        }
        self.push(clusters.start..border, say, count)?;
        self.push(border..clusters.end, say, count)
    }

    /// Hands everything that waits to `count`, place by place.
    pub fn drain<E>(
        &mut self,
        count: &mut impl FnMut(Clusters<'_>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        for place in 0..self.counts.len() {
            self.drain_place(place, count)?;
        }
        self.said.clear();
        Ok(())
    }

    /// From here on `say` is said of the references.
    #[cold]
    fn say<E>(
        &mut self,
        say: T,
        count: &mut impl FnMut(Clusters<'_>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.waiting.is_empty() {
            self.waiting = vec![0; self.counts.len() * (self.most + APART)];
            self.set = vec![0; 1 << (self.place_bits - 6)];
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
    #[inline(never)]
    fn drain_place<E>(
        &mut self,
        place: usize,
        count: &mut impl FnMut(Clusters<'_>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let waiting = std::mem::take(&mut self.counts[place]) as usize;
        if waiting == 0 {
            return Ok(());
        }
        let waiting = &self.waiting[place * (self.most + APART)..][..waiting];
        let said_of = |reference: u32| (reference >> (PLACE_BITS + COUNT_BITS)) as usize;
        let mut so_often = [0; MOST_SAID];
        match self.said.len() {
            1 => so_often[0] = waiting.len(),
            _ => waiting.iter().for_each(|&reference| so_often[said_of(reference)] += 1),
        }
        let start = (place as u64) << self.place_bits;
        for (kind, &times) in so_often.iter().enumerate().filter(|it| *it.1 > 0) {
            let is_set = times * SPARSEST >= self.set.len();
            for &reference in waiting.iter().filter(|&&reference| said_of(reference) == kind) {
                let first = reference & ((1 << PLACE_BITS) - 1);
                let run = reference >> PLACE_BITS & ((1 << COUNT_BITS) - 1);
                let mask = u64::MAX >> (64 - run) << (first % 64);
                let word = &mut self.set[first as usize / 64];
                // A set has each cluster once.
                if is_set && *word & mask == 0 {
                    *word |= mask;
                } else {
                    let first = start + u64::from(first);
                    count(Clusters::Run(first..first + u64::from(run)), self.said[kind])?;
                }
            }
            if is_set {
                count(Clusters::Set { first: start, words: &self.set }, self.said[kind])?;
                self.set.fill(0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// More than may wait, with more said than fits, short runs and long ones, some of them past
    /// what was expected.
    #[test]
    fn every_cluster_that_is_pushed_is_handed_over_as_often_and_in_sets_where_they_are_many() {
        let mut batch = Batch::new(0xf0_0000);
        batch.drain(&mut |_, _: u64| Err(())).unwrap();
        let (mut pushed, mut counted) = (Vec::new(), Vec::new());
        let (mut runs, mut sets) = (0, 0);
        let mut state = 1_u64;
        let mut count = |clusters: Clusters<'_>, say: u64| {
            match clusters {
                Clusters::Run(run) => {
                    runs += 1;
                    counted.extend(run.map(|cluster| (cluster, say)));
                }
                Clusters::Set { first, words } => {
                    sets += 1;
                    assert_eq!(first % 64, 0);
                    let bits = (first..).zip(
                        words.iter().flat_map(|&word| (0..64).map(move |bit| word >> bit & 1 != 0)),
                    );
                    counted.extend(bits.filter(|it| it.1).map(|(cluster, _)| (cluster, say)));
                }
            }
            Ok::<_, Infallible>(())
        };
        for step in 0..400_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (state >> 20) & 0xff_ffff;
            let run = if step % 1000 == 0 { 200 } else { state >> 61 };
            let say = if step < 300_000 { step / 100_000 } else { step / 100 % 80 };
            pushed.extend((start..start + run).map(|cluster| (cluster, say)));
            batch.push(start..start + run, say, &mut count).unwrap();
        }
        batch.drain(&mut count).unwrap();
        batch.drain(&mut |_, _| Err(())).unwrap();
        assert!((80_000..160_000).contains(&runs) && (700..3000).contains(&sets), "{runs} {sets}");
        pushed.sort_unstable();
        counted.sort_unstable();
        assert!(pushed == counted);
    }
}
