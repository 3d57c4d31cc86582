//! Which clusters the image counts exactly once: all that COPIED is compared with.
//!
//! One bit a cluster at most, and nothing where neighbours agree, which they do unless a disk was
//! written at random. Where that is more than there may be, only the first clusters are known; who
//! wants to know of the others asks again, from where these end.

use std::ops::Range;

use super::counted::{PAGE_CLUSTERS, PAGE_COUNTS};
use super::references::index;
use super::stored::{Block, Stored};
use crate::refcounts::Bits;

/// Words of 64 clusters that a page has.
const PAGE_WORDS: usize = PAGE_COUNTS / 64;

/// For each cluster of a window, whether it is counted exactly once.
pub(super) struct Ones {
    window: Range<u64>,
    pages: Vec<Bits>,
    /// Whether some block that counts them cannot be used.
    any_unusable: bool,
}

impl Ones {
    /// Of those of `clusters` clusters from `first` on, as many as `most_bytes` bytes will do for.
    /// `first` is a multiple of [`PAGE_CLUSTERS`].
    pub fn within(most_bytes: usize, stored: &Stored<'_>, first: u64, clusters: u64) -> Self {
        let mut ones = Self { window: first..first, pages: Vec::new(), any_unusable: false };
        let mut bytes = vec![0; stored.block_bytes()];
        let (mut read, mut is_usable) = (None, false);
        let mut taken = 0;
        while ones.window.end < clusters && (taken < most_bytes || ones.pages.is_empty()) {
            let page = ones.window.end..clusters.min(ones.window.end + PAGE_CLUSTERS);
            let mut words = [0; PAGE_WORDS];
            let mut at = page.start;
            while at < page.end {
                let (block, nth) = stored.locate(at);
                let end = page.end.min(at + stored.block_entries() - nth);
                if read != Some(block) {
                    read = Some(block);
                    let found = stored.read_block(block, &mut bytes);
                    is_usable = matches!(found, Ok(Block::At(_)));
                    ones.any_unusable |= !matches!(found, Ok(Block::At(_) | Block::Absent));
                }
                if is_usable {
                    let first = index(at - page.start) / 64;
                    for (word, from) in words[first..].iter_mut().zip((at..end).step_by(64)) {
                        *word = in_word(stored, &bytes, nth + (from - at), end - from);
                    }
                }
                at = end;
            }
            let page_bits = Bits::of(&words);
            taken += size_of::<Bits>() + page_bits.packed_bytes();
            ones.pages.push(page_bits);
            ones.window.end = page.end;
        }
        ones
    }

    /// The clusters of which this is known.
    pub fn window(&self) -> Range<u64> {
        self.window.clone()
    }

    /// How many of `clusters`, as far as they are inside the window, contradict COPIED, which is
    /// `copied` for all of them.
    pub fn contradictions(&self, stored: &Stored<'_>, clusters: Range<u64>, copied: bool) -> u64 {
        let start = clusters.start.max(self.window.start);
        let end = clusters.end.min(self.window.end);
        if start >= end {
            return 0;
        }
        let (first, last) = (start / 64, (end - 1) / 64);
        let expected = if copied { u64::MAX } else { 0 };
        let mut found = 0;
        for word in first..=last {
            // A count that cannot be read contradicts nothing. Blocks count whole words.
            if self.any_unusable && !stored.is_readable(word * 64) {
                continue;
            }
            let mut wrong = self.word(word) ^ expected;
            if word == first {
                wrong &= u64::MAX << (start % 64);
            }
            if word == last {
                wrong &= u64::MAX >> (63 - (end - 1) % 64);
            }
            found += u64::from(wrong.count_ones());
        }
        found
    }

    /// The 64 clusters from `64 * word` on.
    fn word(&self, word: u64) -> u64 {
        let nth = index(word - self.window.start / 64);
        self.pages[nth / PAGE_WORDS].word(nth % PAGE_WORDS)
    }
}

/// Which of the `count` counts from number `first` of a block on are one, of 64 at most.
fn in_word(stored: &Stored<'_>, block: &[u8], first: u64, count: u64) -> u64 {
    (0..count.min(64)).fold(0, |ones, bit| {
        let is_one = stored.order.get_count(block, index(first + bit)) == 1;
        ones | u64::from(is_one) << bit
    })
}
