//! One bit for each of the clusters that are looked at together, 64 of them in a word.

use std::ops::Range;

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
    pub(super) fn set(&mut self, index: usize, mask: u64, words: usize) {
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

/// The words that `range` touches, each with the bits that belong to it.
pub(crate) fn masks(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> + Clone {
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

/// The runs of bits that are set in a word, ascending.
pub(crate) fn runs(mut word: u64) -> impl Iterator<Item = Range<u32>> {
    std::iter::from_fn(move || {
        let start = word.trailing_zeros();
        let end = start + (!word.checked_shr(start)?).trailing_zeros();
        word &= u64::MAX.checked_shl(end).unwrap_or(0);
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_cut_into_runs() {
        let runs = |word| runs(word).collect::<Vec<_>>();
        assert_eq!(runs(0), []);
        assert_eq!(runs(u64::MAX), [0..64]);
        assert_eq!(runs(1 << 63 | 0b110), [1..3, 63..64]);
        assert_eq!(runs(!1), [1..64]);
    }

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
