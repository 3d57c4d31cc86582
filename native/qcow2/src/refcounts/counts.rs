//! Counts of neighbouring clusters, each in as few bits as the largest of them needs.
//!
//! A disk has very many clusters and most of them are referenced once or twice, whatever width its
//! image counts with. So counts are kept apart from how they are stored: a number, while all are
//! alike; else packed into words, and packed anew, twice as wide, when one does not fit any more.
//! A whole word of them is added to at once.

use std::ops::Range;

use super::bits::masks;
use crate::format::refcount::RefcountOrder;

/// Counts are rarely above three: what is packed first gets two bits, where the image has as many.
const FIRST_ORDER: u32 = 1;

/// Order of 16-bit counts, which nearly all images have.
const SIXTEEN_BITS: u32 = 4;

/// Why a count cannot be what it would have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutOfRange {
    /// Below zero.
    Negative,
    /// Above the largest count of the image.
    TooLarge,
}

/// Counts by position. As many as were said when they were made.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    len: usize,
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Packed {
    /// All are this.
    Alike(u64),
    /// Count `i` takes `1 << order` bits, from bit `i << order` of the words on.
    Each { order: u32, words: Box<[u64]> },
}

/// The largest number of `1 << order` bits.
fn largest(order: u32) -> u64 {
    u64::MAX >> (64 - (1_u32 << order))
}

/// A one at the bottom of each number of a word.
fn ones(order: u32) -> u64 {
    const ONES: [u64; 7] = [
        u64::MAX,
        u64::MAX / 0x3,
        u64::MAX / 0xf,
        u64::MAX / 0xff,
        u64::MAX / 0xffff,
        u64::MAX / 0xffff_ffff,
        1,
    ];
    ONES[order as usize]
}

/// log2 of the fewest bits that hold `count`, no fewer than at first and no more than `most`, which
/// do hold it.
fn order_for(count: u64, most: u32) -> u32 {
    (FIRST_ORDER.min(most)..most).find(|&order| count <= largest(order)).unwrap_or(most)
}

/// The lowest bits, each moved to the bottom of a number of a word.
fn spread(mut bits: u64, order: u32) -> u64 {
    if bits.is_power_of_two() {
        return 1 << (bits.trailing_zeros() << order);
    }
    let gap = (1_u32 << order) - 1;
    for step in (0..6 - order).rev() {
        bits = (bits | bits << (gap << step)) & (largest(step) * ones(order + step));
    }
    bits
}

/// Adds number by number. Of those that do not fit, the top bit is set in the second word.
fn add_each(a: u64, b: u64, order: u32) -> (u64, u64) {
    let top = ones(order) << ((1_u32 << order) - 1);
    let sum = ((a & !top) + (b & !top)) ^ ((a ^ b) & top);
    (sum, ((a & b) | ((a | b) & !sum)) & top)
}

/// The same for differences.
fn subtract_each(a: u64, b: u64, order: u32) -> (u64, u64) {
    let top = ones(order) << ((1_u32 << order) - 1);
    let difference = ((a | top) - (b & !top)) ^ ((a ^ !b) & top);
    (difference, ((!a & b) | ((!a | b) & difference)) & top)
}

impl Counts {
    /// `len` times `count`.
    pub fn alike(len: usize, count: u64) -> Self {
        Self { len, packed: Packed::Alike(count) }
    }

    /// The first `len` counts of (a part of) a refcount block.
    pub fn decode(stored: RefcountOrder, bytes: &[u8], len: usize) -> Self {
        let first = stored.get_count(bytes, 0);
        if is_alike(stored, &bytes[..(len << stored.get()).div_ceil(8)]) {
            return Self::alike(len, first);
        }
        let most = (0..len).fold(0, |most, index| stored.get_count(bytes, index).max(most));
        let order = order_for(most, stored.get());
        let per_word = 64 >> order;
        let word = |word: usize| {
            let counts = word * per_word..((word + 1) * per_word).min(len);
            counts.rev().fold(0_u64, |word, index| {
                word.checked_shl(1 << order).unwrap_or(0) | stored.get_count(bytes, index)
            })
        };
        let words = (0..len.div_ceil(per_word)).map(word).collect();
        Self { len, packed: Packed::Each { order, words } }
    }

    /// Writes them as a refcount block has them. Each fits: `add` saw to it.
    pub fn encode(&self, stored: RefcountOrder, bytes: &mut [u8]) {
        assert!(self.encode_part(0..self.len, stored, bytes), "counts fit their image");
    }

    /// Writes those of `part` from the beginning of `bytes` on, and zeros up to their last byte.
    /// Returns whether each fits; if not, `bytes` may be anything.
    pub fn encode_part(&self, part: Range<usize>, stored: RefcountOrder, bytes: &mut [u8]) -> bool {
        let fits = self.at_most() <= stored.max()
            || part.clone().all(|index| self.get(index) <= stored.max());
        if !fits {
            return false;
        }
        if stored.get() == SIXTEEN_BITS {
            for (index, bytes) in part.zip(bytes.as_chunks_mut::<2>().0) {
                let [.., high, low] = self.get(index).to_be_bytes();
                *bytes = [high, low];
            }
            return true;
        }
        bytes.fill(0);
        for (index, at) in part.zip(0..) {
            stored.set_count(bytes, at, self.get(index));
        }
        true
    }

    /// Count `index`.
    #[inline]
    pub fn get(&self, index: usize) -> u64 {
        match &self.packed {
            Packed::Alike(count) => *count,
            Packed::Each { order, words } => {
                let bit = index << order;
                words[bit / 64] >> (bit % 64) & largest(*order)
            }
        }
    }

    /// One bit for each of the 64 counts from `64 * group` on that is not zero.
    pub fn non_zero(&self, group: usize) -> u64 {
        match &self.packed {
            Packed::Alike(0) => 0,
            Packed::Alike(_) => u64::MAX,
            Packed::Each { order, words } => {
                let ones = ones(*order);
                let mut bits = 0;
                for (nth, &word) in words[group << order..][..1 << order].iter().enumerate() {
                    let folded =
                        (0..*order).fold(word, |word, step| word | word >> (1_u32 << step));
                    let first = nth * (64 >> order);
                    if folded & ones == ones {
                        bits |= u64::MAX >> (64 - (64 >> order)) << first;
                        continue;
                    }
                    let mut rest = folded & ones;
                    while rest != 0 {
                        bits |= 1 << (first + (rest.trailing_zeros() >> order) as usize);
                        rest &= rest - 1;
                    }
                }
                bits
            }
        }
    }

    /// The count that all of the 64 from `64 * group` on have, if they are alike.
    pub fn alike_in(&self, group: usize) -> Option<u64> {
        match &self.packed {
            Packed::Alike(count) => Some(*count),
            Packed::Each { order, words } => {
                let words = &words[group << order..][..1 << order];
                let first = words[0] & largest(*order);
                words.iter().all(|&word| word == ones(*order) * first).then_some(first)
            }
        }
    }

    /// No count is above this.
    pub fn at_most(&self) -> u64 {
        match self.packed {
            Packed::Alike(count) => count,
            Packed::Each { order, .. } => largest(order),
        }
    }

    /// Counts that are all alike take no memory afterwards.
    pub fn squeeze(&mut self) {
        let Packed::Each { order, words } = &self.packed else { return };
        let first = words[0] & largest(*order);
        let is_whole = self.len.is_multiple_of(64 >> order);
        if is_whole && words.iter().all(|&word| word == ones(*order) * first) {
            self.packed = Packed::Alike(first);
        }
    }

    /// What is packed, in bytes.
    pub fn packed_bytes(&self) -> usize {
        match &self.packed {
            Packed::Alike(_) => 0,
            Packed::Each { words, .. } => size_of_val(&**words),
        }
    }

    /// Whether all are `count`, if that is known at once.
    pub fn are_all(&self, count: u64) -> bool {
        matches!(self.packed, Packed::Alike(all) if all == count)
    }

    /// Adds `delta` to each of `range`. Fails with the first that would not be within zero and the
    /// largest count of the image; those before it may have been changed, and none after it.
    pub fn add(
        &mut self,
        range: Range<usize>,
        delta: i64,
        image: RefcountOrder,
    ) -> Result<(), (usize, OutOfRange)> {
        if let Packed::Alike(count) = &mut self.packed
            && range.len() == self.len
        {
            let why = if delta < 0 { OutOfRange::Negative } else { OutOfRange::TooLarge };
            let sum = count.checked_add_signed(delta).filter(|&sum| sum <= image.max());
            *count = sum.ok_or((range.start, why))?;
            return Ok(());
        }
        for (group, mask) in masks(range) {
            self.add_where(group, mask, delta, image)?;
        }
        Ok(())
    }

    /// The same for those of the 64 counts from `64 * group` on whose bits are set in `mask`.
    pub fn add_where(
        &mut self,
        group: usize,
        mut mask: u64,
        delta: i64,
        image: RefcountOrder,
    ) -> Result<(), (usize, OutOfRange)> {
        if delta == 0 {
            return Ok(());
        }
        if let Packed::Alike(count) = self.packed {
            let order = order_for(count, image.get());
            let words = vec![ones(order) * count; (self.len << order).div_ceil(64)];
            self.packed = Packed::Each { order, words: words.into() };
        }
        let amount = delta.unsigned_abs();
        while mask != 0 {
            let Packed::Each { order, words } = &mut self.packed else { unreachable!("packed") };
            // Those of the group that one word holds.
            let nth = mask.trailing_zeros() >> (6 - *order);
            let from = nth << (6 - *order);
            let members = u64::MAX >> (64 - (64 >> *order)) << from;
            let word = &mut words[(group << *order) + nth as usize];
            let failed = if amount > largest(*order) {
                group * 64 + mask.trailing_zeros() as usize
            } else {
                let operand = spread((mask & members) >> from, *order) * amount;
                let each = if delta < 0 { subtract_each } else { add_each };
                let (sum, failed) = each(*word, operand, *order);
                if failed == 0 {
                    *word = sum;
                    mask &= !members;
                    continue;
                }
                group * 64 + (from + (failed.trailing_zeros() >> *order)) as usize
            };
            if delta < 0 {
                return Err((failed, OutOfRange::Negative));
            }
            if *order >= image.get() {
                return Err((failed, OutOfRange::TooLarge));
            }
            self.widen();
        }
        Ok(())
    }

    /// Packs them twice as wide.
    fn widen(&mut self) {
        let Packed::Each { order, words } = &self.packed else { return };
        let (old, new) = (*order, order + 1);
        let half = |bits: u64| {
            let mut wide = 0;
            for nth in 0..32_u32 >> old {
                wide |= (bits >> (nth << old) & largest(old)) << (nth << new);
            }
            wide
        };
        let wide = words.iter().flat_map(|&word| [half(word), half(word >> 32)]);
        let words = wide.take((self.len << new).div_ceil(64)).collect();
        self.packed = Packed::Each { order: new, words };
    }
}

/// Whether all counts of a part of a block are the same.
fn is_alike(order: RefcountOrder, bytes: &[u8]) -> bool {
    let width = (1_usize << order.get()) / 8;
    if width > 0 {
        return bytes[width..] == bytes[..bytes.len() - width];
    }
    let first = bytes[0];
    let counts = 8 >> order.get();
    let alike =
        (1..counts).all(|index| order.get_count(&[first], index) == order.get_count(&[first], 0));
    alike && bytes.iter().all(|&byte| byte == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers below a bound, the same each time.
    fn random(state: &mut u64, bound: u64) -> u64 {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % bound
    }

    /// Against counts that are kept plainly, over all widths, with runs and single ones, until some
    /// do not fit.
    #[test]
    fn packed_counts_are_what_plain_ones_are() {
        let mut state = 1;
        for order in (0..=6).map(RefcountOrder::new) {
            for len in [64, 256, 2048] {
                let mut plain = vec![0_u64; len];
                let mut packed = Counts::alike(len, 0);
                let mut refused = [0, 0];
                for step in 0..3000 {
                    let start = usize::try_from(random(&mut state, len as u64)).unwrap();
                    let count = match random(&mut state, 4) {
                        0 => len - start,
                        1 => 1 + usize::try_from(random(&mut state, 90)).unwrap(),
                        _ => 1,
                    };
                    let (start, count) = if step % 97 == 0 { (0, len) } else { (start, count) };
                    let range = start..(start + count).min(len);
                    let (group, mask) = (start / 64, random(&mut state, 1 << 31) << (step % 34));
                    let in_mask = |&i: &usize| i / 64 == group && mask >> (i % 64) & 1 != 0;
                    let by_mask = step % 3 == 0;
                    let chosen: Vec<_> = if by_mask {
                        (0..len).filter(in_mask).collect()
                    } else {
                        range.clone().collect()
                    };
                    let delta = match random(&mut state, 8) {
                        0..4 => 1,
                        4..7 => -1,
                        _ => i64::try_from(random(&mut state, 1 << (step % 40))).unwrap() - 3,
                    };
                    let fits = |&index: &usize| {
                        let sum = plain[index].checked_add_signed(delta);
                        sum.is_some_and(|sum| sum <= order.max())
                    };
                    let bad = chosen.iter().copied().find(|i| delta != 0 && !fits(i));
                    let mut after = packed.clone();
                    let result = if by_mask {
                        after.add_where(group, mask, delta, order)
                    } else {
                        after.add(range, delta, order)
                    };
                    if let Some(bad) = bad {
                        let negative = plain[bad].checked_add_signed(delta).is_none();
                        let why =
                            if negative { OutOfRange::Negative } else { OutOfRange::TooLarge };
                        assert_eq!(result, Err((bad, why)), "{order:?} {len} {step}");
                        refused[usize::from(negative)] += 1;
                    } else {
                        assert_eq!(result, Ok(()), "{order:?} {len} {step}");
                        packed = after;
                        for index in chosen {
                            plain[index] = plain[index].wrapping_add_signed(delta);
                        }
                    }
                    if step % 30 == 0 {
                        packed.squeeze();
                        let alike = plain.iter().all(|&count| count == plain[0]);
                        assert_eq!(matches!(packed.packed, Packed::Alike(_)), alike);
                    }
                    if step % 50 == 0 {
                        assert_same(&packed, &plain, order);
                    }
                }
                let too_large = order.get() > 4 || refused[0] > 10;
                assert!(refused[1] > 0 && too_large, "{refused:?}");
            }
        }
    }

    fn assert_same(packed: &Counts, plain: &[u64], order: RefcountOrder) {
        for (index, &count) in plain.iter().enumerate() {
            assert_eq!(packed.get(index), count, "{order:?} {index}");
            assert_eq!(packed.non_zero(index / 64) >> (index % 64) & 1 != 0, count != 0);
            assert!(packed.at_most() >= count);
        }
        let mut bytes = vec![0; (plain.len() << order.get()).div_ceil(8)];
        packed.encode(order, &mut bytes);
        let decoded = Counts::decode(order, &bytes, plain.len());
        for (index, &count) in plain.iter().enumerate() {
            assert_eq!(order.get_count(&bytes, index), count);
            assert_eq!(decoded.get(index), count, "{order:?} {index}");
        }
        let alike = plain.iter().all(|&count| count == plain[0]);
        assert_eq!(decoded.are_all(plain[0]), alike);
    }

    #[test]
    fn a_disk_that_is_counted_once_takes_two_bits_a_cluster_at_most() {
        let order = RefcountOrder::new(4);
        let mut counts = Counts::alike(2048, 1);
        counts.add(0..2048, 1, order).unwrap();
        assert!(counts.are_all(2));
        counts.add(7..8, -1, order).unwrap();
        let Packed::Each { words, .. } = &counts.packed else { panic!("not alike") };
        assert_eq!(words.len() * 64, 2048 * 2);
    }
}
