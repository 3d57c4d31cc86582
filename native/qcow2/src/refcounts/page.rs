//! What is known of the clusters that one part of a refcount block counts: as many as memory is
//! worth being asked for at once.
//!
//! Whatever all clusters of a page have in common takes no memory. So a block takes some where it
//! says something, not where it is a hole in a sparse file.

use std::ops::Range;

use super::{Change, Counts, OutOfRange};
use crate::format::refcount::RefcountOrder;

/// Clusters of a page; fewer where a block has fewer.
pub(crate) const PAGE_CLUSTERS: u64 = 2048;

/// One bit for each cluster of a page.
#[derive(Debug, Default)]
pub(crate) enum Bits {
    /// None is set.
    #[default]
    None,
    All,
    Some(Box<[u64]>),
}

impl Bits {
    /// These words of 64 clusters.
    pub fn of(words: &[u64]) -> Self {
        match words.first() {
            Some(0) | None if words.iter().all(|&word| word == 0) => Self::None,
            Some(&u64::MAX) if words.iter().all(|&word| word == u64::MAX) => Self::All,
            _ => Self::Some(words.into()),
        }
    }

    /// What the words take, in bytes.
    pub fn packed_bytes(&self) -> usize {
        match self {
            Self::None | Self::All => 0,
            Self::Some(words) => size_of_val(&**words),
        }
    }

    /// The bits of the 64 clusters from `64 * index` on.
    #[inline]
    pub fn word(&self, index: usize) -> u64 {
        match self {
            Self::None => 0,
            Self::All => u64::MAX,
            Self::Some(words) => words[index],
        }
    }

    /// Sets those of `mask` in a word, of `words` in all.
    #[inline]
    fn set(&mut self, index: usize, mask: u64, words: usize) {
        if mask == 0 {
            return;
        }
        if matches!(self, Self::None) {
            *self = Self::Some(vec![0; words].into());
        }
        let Self::Some(bits) = self else { return };
        bits[index] |= mask;
        if bits[index] == u64::MAX && bits.iter().all(|&word| word == u64::MAX) {
            *self = Self::All;
        }
    }
}

/// What makes a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A table: nothing else may name the cluster.
    Table,
    /// An L2 entry that owns it as data.
    Data,
}

/// Why a reference is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A table is there, where something of this role would be.
    Overlap(Role),
    /// Its count says that nobody uses it.
    CountedFree,
    Count(OutOfRange),
}

/// What is known of some clusters.
#[derive(Debug)]
pub(super) struct Page {
    words: usize,
    /// NEW counts as they will be written.
    pub counts: Counts,
    /// OLD count is not zero.
    pub in_use: Bits,
    /// A table of the image; nothing else may name the cluster.
    pub metadata: Bits,
    /// Referenced by something in the image that this command saw.
    pub seen: Bits,
    /// Placed by this command; nothing in the image may reference it.
    pub taken: Bits,
    /// Referenced by the state after the commit.
    pub kept: Bits,
    /// And more than once.
    pub shared: Bits,
}

impl Page {
    /// A page of `len` clusters that nobody uses.
    pub fn empty(len: usize) -> Self {
        Self::new(len, Counts::alike(len, 0), Bits::None)
    }

    /// The page that this part of a refcount block describes; none where all counts are zero.
    pub fn decode(order: RefcountOrder, bytes: &[u8], len: usize) -> Option<Self> {
        let counts = Counts::decode(order, bytes, len);
        if counts.are_all(0) {
            return None;
        }
        let mut in_use = Bits::None;
        for word in 0..len / 64 {
            in_use.set(word, counts.non_zero(word), len / 64);
        }
        Some(Self::new(len, counts, in_use))
    }

    fn new(len: usize, counts: Counts, in_use: Bits) -> Self {
        Self {
            words: len / 64,
            counts,
            in_use,
            metadata: Bits::None,
            seen: Bits::None,
            taken: Bits::None,
            kept: Bits::None,
            shared: Bits::None,
        }
    }

    /// Notes which clusters are in use, besides those that are counted.
    pub fn use_where(&mut self, in_use: impl Fn(usize) -> bool) {
        for word in 0..self.words {
            let bits = (0..64).map(|bit| u64::from(in_use(word * 64 + bit)) << bit);
            self.in_use.set(word, bits.fold(0, |all, bit| all | bit), self.words);
        }
    }

    /// Words of 64 clusters.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Registers a reference to each of `range` and changes its count. Fails with the first that
    /// cannot be referenced; what is registered then is of no use any more.
    pub fn reference(
        &mut self,
        range: Range<usize>,
        role: Role,
        change: Change,
        order: RefcountOrder,
    ) -> Result<(), (usize, Refusal)> {
        let refused = |(index, why)| (index, Refusal::Count(why));
        for (word, mask) in masks(range.clone()) {
            let overlaps = self.metadata.word(word) & mask;
            let mut may_be_named = self.in_use.word(word);
            if change.fresh {
                may_be_named |= self.taken.word(word);
            }
            let bad = overlaps | mask & !may_be_named;
            if bad != 0 {
                let index = word * 64 + bad.trailing_zeros() as usize;
                self.counts.add(range.start..index, change.delta, order).map_err(refused)?;
                let is_table = overlaps >> bad.trailing_zeros() & 1 != 0;
                let why = if is_table { Refusal::Overlap(role) } else { Refusal::CountedFree };
                return Err((index, why));
            }
        }
        self.counts.add(range.clone(), change.delta, order).map_err(refused)?;
        for (word, mask) in masks(range) {
            if role == Role::Table {
                self.metadata.set(word, mask, self.words);
            }
            self.seen.set(word, mask, self.words);
            match change.after {
                0 => {}
                1 => {
                    let again = self.kept.word(word) & !self.taken.word(word) & mask;
                    self.shared.set(word, again, self.words);
                }
                _ => self.shared.set(word, mask, self.words),
            }
            if change.after > 0 {
                self.kept.set(word, mask, self.words);
            }
        }
        Ok(())
    }

    /// Notes that the state after the commit references `range`.
    pub fn keep(&mut self, range: Range<usize>) {
        for (word, mask) in masks(range) {
            self.kept.set(word, mask, self.words);
        }
    }

    /// Notes that this command places something at `range`.
    pub fn take(&mut self, range: Range<usize>) {
        for (word, mask) in masks(range) {
            self.taken.set(word, mask, self.words);
            self.kept.set(word, mask, self.words);
        }
    }

    /// Every NEW count becomes zero, and with it goes who is referenced afterwards.
    pub fn clear(&mut self) {
        self.counts = Counts::alike(self.words * 64, 0);
        self.kept = Bits::None;
        self.shared = Bits::None;
    }

    pub fn is_shared(&self, index: usize) -> bool {
        self.shared.word(index / 64) >> (index % 64) & 1 != 0
    }
}

/// The words that `range` touches, each with the bits that belong to it.
fn masks(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let first = range.start / 64;
    let end = if range.is_empty() { first } else { range.end.div_ceil(64) };
    (first..end).map(move |word| {
        let mut mask = u64::MAX;
        if word == first {
            mask <<= range.start % 64;
        }
        if word + 1 == end {
            mask &= u64::MAX >> (end * 64 - range.end);
        }
        (word, mask)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_into_words() {
        assert_eq!(masks(5..5).collect::<Vec<_>>(), []);
        assert_eq!(masks(64..64).collect::<Vec<_>>(), []);
        assert_eq!(masks(3..5).collect::<Vec<_>>(), [(0, 0b1_1000)]);
        assert_eq!(masks(63..65).collect::<Vec<_>>(), [(0, 1 << 63), (1, 1)]);
        assert_eq!(masks(64..192).collect::<Vec<_>>(), [(1, u64::MAX), (2, u64::MAX)]);
    }

    #[test]
    fn bits_that_are_all_set_take_no_memory() {
        let mut bits = Bits::None;
        for word in 0..4 {
            assert_eq!(bits.word(word), 0);
            bits.set(word, u64::MAX - 1, 4);
        }
        for word in 0..4 {
            bits.set(word, 1, 4);
        }
        assert!(matches!(bits, Bits::All));
        bits.set(2, 7, 4);
        assert_eq!(bits.word(2), u64::MAX);
    }
}
