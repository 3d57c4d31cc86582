//! Counts of a page of clusters, in as little as what was counted takes.
//!
//! Most pages of a disk are referenced everywhere, once or twice: a few bits a cluster. A page of a
//! sparse file may have one cluster that is referenced, and that a million times. There a list of those
//! that are counted is shorter, and whoever makes a file with very many such pages has to write an
//! entry for each. Whichever is shorter is kept.

use std::ops::Range;

use crate::format::refcount::RefcountOrder;
use crate::refcounts::{Counts, runs};

/// Clusters whose counts are kept together.
pub(super) const PAGE_CLUSTERS: u64 = 2048;

/// The same, as a number of counts.
#[expect(clippy::cast_possible_truncation, reason = "few")]
pub(super) const PAGE_COUNTS: usize = PAGE_CLUSTERS as usize;

/// A listed count has this many bits beneath it for its position.
const POSITION_BITS: u32 = PAGE_COUNTS.ilog2();
/// Larger ones are not listed.
const MOST_LISTED: u64 = u64::MAX >> POSITION_BITS;
/// Counts that a list has room for at first.
const FIRST_LISTED: usize = 2;
/// What an allocation takes besides, in bytes.
const ALLOCATION_BYTES: usize = 16;

/// How often each cluster of a page was counted. A count stays at the largest number that there is.
#[derive(Clone, Debug)]
pub(super) enum Counted {
    /// Those that are not zero, ascending: counts above their positions.
    Listed(Vec<u64>),
    Packed(Counts),
}

fn widest() -> RefcountOrder {
    RefcountOrder::new(6)
}

/// The narrowest width in which `count` is packed.
fn order_for(count: u64) -> u32 {
    (1..6).find(|&order| count <= RefcountOrder::new(order).max()).unwrap_or(6)
}

/// What a page packed with that width takes, in bytes.
fn packed_bytes(order: u32) -> usize {
    (PAGE_COUNTS << order) / 8
}

fn split(listed: u64) -> (usize, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "few bits")]
    let position = (listed & (PAGE_COUNTS as u64 - 1)) as usize;
    (position, listed >> POSITION_BITS)
}

fn join(position: usize, count: u64) -> u64 {
    position as u64 | count << POSITION_BITS
}

impl Counted {
    /// Nothing was counted.
    pub fn zero() -> Self {
        Self::Listed(Vec::new())
    }

    /// Adds `times` to each of `range`.
    pub fn add(&mut self, range: Range<usize>, times: u64) {
        if times == 0 {
            return;
        }
        let mut range = range;
        while !range.is_empty() {
            let done = match self {
                Self::Listed(_) if range.len() == PAGE_COUNTS => {
                    self.pack();
                    continue;
                }
                Self::Listed(_) => self.add_listed(range.start, times),
                Self::Packed(_) => self.add_packed(range.clone(), times),
            };
            range.start += done;
        }
    }

    /// The same, to those of the 64 counts from `64 * group` on whose bits are set in `mask`.
    pub fn add_where(&mut self, group: usize, mask: u64, times: u64) {
        let mut rest = mask;
        if let Self::Packed(counts) = self
            && let Ok(times) = i64::try_from(times)
        {
            let limit = RefcountOrder::new(order_for(counts.at_most()));
            let Err((full, _)) = counts.add_where(group, mask, times, limit) else { return };
            rest &= u64::MAX << (not_added_from(full, limit) % 64);
        }
        for run in runs(rest) {
            self.add(group * 64 + run.start as usize..group * 64 + run.end as usize, times);
        }
    }

    /// Adds to one count of a list. Returns how many were added to: none where it is not a list any
    /// more.
    fn add_listed(&mut self, position: usize, times: u64) -> usize {
        let Self::Listed(listed) = self else { return 0 };
        let place = listed.partition_point(|&it| split(it).0 < position);
        let before = listed.get(place).map(|&it| split(it)).filter(|it| it.0 == position);
        let sum = before.map_or(0, |it| it.1).checked_add(times);
        let Some(sum) = sum.filter(|&sum| sum <= MOST_LISTED) else {
            self.pack();
            return 0;
        };
        if before.is_some() {
            listed[place] = join(position, sum);
            return 1;
        }
        if listed.len() == listed.capacity() {
            let most = listed.iter().map(|&it| split(it).1).fold(sum, u64::max);
            if (listed.len() + 1) * 8 > packed_bytes(order_for(most)) {
                self.pack();
                return 0;
            }
            let more = if listed.is_empty() { FIRST_LISTED } else { listed.len().min(64) };
            listed.reserve_exact(more);
        }
        listed.insert(place, join(position, sum));
        1
    }

    /// Adds to counts that are packed. Returns to how many, from the first on: not to those for which
    /// all would have to be packed wider, where a list is shorter; it is one now.
    fn add_packed(&mut self, range: Range<usize>, times: u64) -> usize {
        let Self::Packed(counts) = self else { return 0 };
        // What all have in common is not packed.
        let narrow = (counts.packed_bytes() > 0).then(|| order_for(counts.at_most()));
        let limit = narrow.map_or(widest(), RefcountOrder::new);
        let Err(full) = add(counts, range.clone(), times, limit) else { return range.len() };
        let rest = not_added_from(full, limit).max(range.start)..range.end;
        let needed = counts.get(full).checked_add(times);
        let wider = needed.map_or(6, order_for);
        let count = (0..PAGE_COUNTS / 64).map(|group| counts.non_zero(group).count_ones() as usize);
        let new = rest.clone().filter(|&position| counts.get(position) == 0).count();
        let listed = count.sum::<usize>() + new;
        if listed * 8 < packed_bytes(wider) && needed.is_some_and(|needed| needed <= MOST_LISTED) {
            self.list(listed);
            return rest.start - range.start;
        }
        match add(counts, rest, times, widest()) {
            Ok(()) => range.len(),
            Err(full) => {
                // Those before it have grown.
                let missing =
                    i64::try_from(u64::MAX - counts.get(full)).expect("less than was added");
                counts.add(full..full + 1, missing, widest()).expect("there is room");
                full + 1 - range.start
            }
        }
    }

    fn pack(&mut self) {
        let Self::Listed(listed) = self else { return };
        let mut counts = Counts::alike(PAGE_COUNTS, 0);
        for (position, count) in listed.iter().map(|&it| split(it)) {
            add(&mut counts, position..position + 1, count, widest()).expect("few bits");
        }
        *self = Self::Packed(counts);
    }

    /// Makes it a list with room for so many counts.
    fn list(&mut self, most: usize) {
        let Self::Packed(counts) = self else { return };
        let all = (0..PAGE_COUNTS).map(|position| (position, counts.get(position)));
        let listed = all.filter(|it| it.1 > 0).map(|(position, count)| join(position, count));
        let mut list = Vec::with_capacity(most);
        list.extend(listed);
        *self = Self::Listed(list);
    }

    /// Takes one count down by `times`, or to zero.
    pub fn take_off(&mut self, position: usize, times: u64) {
        let less = self.get(position).min(times);
        match self {
            Self::Listed(listed) => {
                let place = listed.partition_point(|&it| split(it).0 < position);
                if let Some(it) = listed.get_mut(place).filter(|it| split(**it).0 == position) {
                    *it = join(position, split(*it).1 - less);
                }
            }
            Self::Packed(counts) => {
                let mut less = less;
                while less > 0 {
                    let some = i64::try_from(less).unwrap_or(i64::MAX);
                    counts.add(position..position + 1, -some, widest()).expect("there are as many");
                    less -= some.unsigned_abs();
                }
            }
        }
    }

    /// Count number `position`.
    #[inline]
    pub fn get(&self, position: usize) -> u64 {
        match self {
            Self::Packed(counts) => counts.get(position),
            Self::Listed(listed) => {
                let place = listed.partition_point(|&it| split(it).0 < position);
                let found = listed.get(place).map(|&it| split(it));
                found.filter(|it| it.0 == position).map_or(0, |it| it.1)
            }
        }
    }

    /// One bit for each of the 64 counts from `64 * group` on that is not zero.
    pub fn non_zero(&self, group: usize) -> u64 {
        match self {
            Self::Packed(counts) => counts.non_zero(group),
            Self::Listed(listed) => {
                let first = listed.partition_point(|&it| split(it).0 < group * 64);
                let these = listed[first..].iter().map(|&it| split(it));
                let these = these.take_while(|it| it.0 < (group + 1) * 64).filter(|it| it.1 > 0);
                these.fold(0, |bits, it| bits | 1 << (it.0 % 64))
            }
        }
    }

    /// By how much all counts together exceed `max`, each on its own.
    pub fn excess_over(&self, max: u64) -> u64 {
        let over = |sum: u64, count: u64| sum.saturating_add(count.saturating_sub(max));
        match self {
            Self::Packed(counts) if counts.at_most() <= max => 0,
            Self::Packed(counts) => (0..PAGE_COUNTS).map(|nth| counts.get(nth)).fold(0, over),
            Self::Listed(listed) => listed.iter().map(|&it| split(it).1).fold(0, over),
        }
    }

    /// Writes those of `part` as a refcount block has them, from the beginning of `bytes` on. Returns
    /// whether each fits; if not, `bytes` may be anything.
    pub fn encode_part(&self, part: Range<usize>, order: RefcountOrder, bytes: &mut [u8]) -> bool {
        let listed = match self {
            Self::Packed(counts) => return counts.encode_part(part, order, bytes),
            Self::Listed(listed) => listed,
        };
        bytes.fill(0);
        let first = listed.partition_point(|&it| split(it).0 < part.start);
        let these = listed[first..].iter().map(|&it| split(it));
        let mut these = these.take_while(|it| it.0 < part.end);
        these.all(|(position, count)| {
            let fits = count <= order.max();
            if fits {
                order.set_count(bytes, position - part.start, count);
            }
            fits
        })
    }

    /// What it keeps, itself apart, in bytes.
    pub fn bytes(&self) -> usize {
        let bytes = match self {
            Self::Packed(counts) => counts.packed_bytes(),
            Self::Listed(listed) => listed.capacity() * 8,
        };
        if bytes == 0 { 0 } else { bytes + ALLOCATION_BYTES }
    }
}

/// Adds to packed counts of at most that width; fails with the first that would not fit. Those before
/// it have grown.
fn add(
    counts: &mut Counts,
    range: Range<usize>,
    times: u64,
    limit: RefcountOrder,
) -> Result<(), usize> {
    let times = i64::try_from(times).unwrap_or(i64::MAX);
    counts.add(range, times, limit).map_err(|(full, _)| full)
}

/// The first count that was not added to, where `full` did not fit: it begins a word of `limit`.
fn not_added_from(full: usize, limit: RefcountOrder) -> usize {
    full & !((64 >> limit.get()) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refcounts::masks;

    /// Against counts that are kept plainly: few and many, small and huge, single ones and runs.
    #[test]
    fn counts_are_what_plain_ones_are_and_whatever_is_shorter_is_kept() {
        let mut state = 1_u64;
        let mut random = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        let (mut lists, mut packed) = (0, 0);
        for round in 0..60 {
            let mut plain = vec![0_u64; PAGE_COUNTS];
            // What there was, whatever was taken off again.
            let (mut used, mut most) = (vec![false; PAGE_COUNTS], 0);
            let mut counted = Counted::zero();
            for _ in 0..1 << (round % 12) {
                let start = usize::try_from(random(PAGE_COUNTS as u64)).unwrap();
                let runs = [[1, 1, 8, 300, 5000], [1; 5]][round / 12 % 2];
                let longest = runs[usize::try_from(random(5)).unwrap()];
                let end = start + 1 + usize::try_from(random(longest)).unwrap();
                let is_whole = longest > 1 && random(50) == 0;
                let range = if is_whole { 0..PAGE_COUNTS } else { start..end.min(2048) };
                let times = match random(1 << (round / 12 * 2 + 2)) {
                    0 => random(1 << 31) << random(32),
                    1..4 => {
                        let bits = random(20);
                        random(1 << bits)
                    }
                    _ => 1,
                };
                if random(7) == 0 {
                    counted.take_off(start, times);
                    plain[start] = plain[start].saturating_sub(times);
                } else {
                    if random(2) == 0 {
                        counted.add(range.clone(), times);
                    } else {
                        for (group, mask) in masks(range.clone()) {
                            counted.add_where(group, mask, times);
                        }
                    }
                    plain[range.clone()].iter_mut().for_each(|it| *it = it.saturating_add(times));
                    used[range.clone()].iter_mut().for_each(|used| *used |= times > 0);
                    most = plain[range].iter().fold(most, |most, &count| count.max(most));
                }
            }
            for (position, &count) in plain.iter().enumerate() {
                assert_eq!(counted.get(position), count, "round {round}, {position}");
                let is_set = counted.non_zero(position / 64) >> (position % 64) & 1 != 0;
                assert_eq!(is_set, count != 0, "round {round}, {position}");
            }
            for max in [0, 1, 3, 255, 1 << 40] {
                let over = plain.iter().map(|count| count.saturating_sub(max));
                assert_eq!(counted.excess_over(max), over.fold(0, u64::saturating_add));
            }
            for order in (0..=6).map(RefcountOrder::new) {
                let part = 192..1024;
                let mut bytes = vec![7; (part.len() << order.get()) / 8];
                let fits = plain[part.clone()].iter().all(|&count| count <= order.max());
                assert_eq!(counted.encode_part(part.clone(), order, &mut bytes), fits);
                for (nth, position) in part.enumerate().filter(|_| fits) {
                    assert_eq!(order.get_count(&bytes, nth), plain[position]);
                }
            }
            let used = used.iter().filter(|&&used| used).count();
            let listed = if most > MOST_LISTED { usize::MAX } else { used * 8 };
            let shorter = listed.min(packed_bytes(order_for(most)));
            assert!(counted.bytes() <= 3 * shorter + 64, "{} bytes for {used}", counted.bytes());
            *(if matches!(counted, Counted::Listed(_)) { &mut lists } else { &mut packed }) += 1;
        }
        assert!(lists > 10 && packed > 10, "{lists} lists, {packed} packed");
    }

    #[test]
    fn one_cluster_that_is_referenced_a_million_times_takes_little() {
        let mut counted = Counted::zero();
        counted.add(7..8, 1 << 20);
        assert!(counted.bytes() <= 32);
        for position in 100..1100 {
            counted.add(position..position + 1, 1);
        }
        assert!(counted.bytes() <= 9000);
        assert_eq!([counted.get(7), counted.get(1099), counted.get(1100)], [1 << 20, 1, 0]);
    }
}
