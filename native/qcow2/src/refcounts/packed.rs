//! Pages in as little as there is to say of them, for disks that have very many.
//!
//! The clusters of a page are of few kinds: what is known of one is what is known of most others. So
//! a packed page names the kinds that most of its clusters have, says of each cluster in no, one or
//! a few bits which of them it has, and lists those that have another one. Such a page can be asked;
//! to be changed it has to be a [`Page`] again.

use std::collections::HashMap;

use super::bits::Bits;
use super::counts::Counts;
use super::page::{Marks, PAGE_CLUSTERS, Page};
use crate::format::refcount::RefcountOrder;

/// Clusters of the largest page.
#[expect(clippy::cast_possible_truncation, reason = "few")]
const MOST_CLUSTERS: usize = PAGE_CLUSTERS as usize;

/// What is known of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    count: u64,
    /// One bit for each of [`Marks`].
    marks: u8,
}

/// The kinds that occur, by numbers that fit in a word of a packed page.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    kinds: Vec<Kind>,
    numbers: HashMap<Kind, u16>,
}

impl Kinds {
    fn get(&self, number: u16) -> Kind {
        self.kinds[usize::from(number)]
    }

    /// The number of `kind`; none where there are no more.
    fn number(&mut self, kind: Kind) -> Option<u16> {
        if let Some(&number) = self.numbers.get(&kind) {
            return Some(number);
        }
        // It is added to counts as a difference.
        i64::try_from(kind.count).ok()?;
        let number = u16::try_from(self.kinds.len()).ok()?;
        self.kinds.push(kind);
        self.numbers.insert(kind, number);
        Some(number)
    }
}

/// A page: how many bits say which kind a cluster has, how many clusters are listed; so many kinds as
/// these bits tell apart, the list (cluster and kind, ascending), and the bits.
#[derive(Debug)]
pub(super) struct Packed(Box<[u16]>);

/// Words before the kinds.
const HEAD: usize = 2;

impl Packed {
    /// Packs a page in which nothing waits; none where its kinds cannot be numbered.
    pub fn of(page: &Page, kinds: &mut Kinds) -> Option<Self> {
        let mut census = Census { kinds, found: Vec::new(), of: [0; MOST_CLUSTERS] };
        let marks = page.marks()?;
        for word in 0..page.words() {
            let marks = marks.map(|bits| bits.word(word));
            let is_alike = marks.iter().all(|&word| word == 0 || word == u64::MAX);
            if let Some(count) = page.counts.alike_in(word).filter(|_| is_alike) {
                census.note(word * 64, 64, kind(count, marks, 0))?;
                continue;
            }
            for bit in 0..64 {
                let at = word * 64 + bit;
                census.note(at, 1, kind(page.counts.get(at), marks, bit))?;
            }
        }
        Some(Self(census.encode(page.words() * 64)))
    }

    /// The page as it was.
    pub fn unpack(&self, kinds: &Kinds, order: RefcountOrder, len: usize) -> Page {
        let words = len / 64;
        let mut marks: Marks<[u64; MOST_CLUSTERS / 64]> = Default::default();
        let first = kinds.get(self.0[HEAD]).count;
        let mut counts = Counts::alike(len, first);
        let mut listed = self.listed().chunks_exact(2).peekable();
        let mut parts: Vec<(u16, u64)> = Vec::new();
        for word in 0..words {
            self.parts(word, &mut parts);
            while let Some(pair) = listed.next_if(|pair| usize::from(pair[0]) / 64 == word) {
                let bit = 1 << (pair[0] % 64);
                for part in &mut parts {
                    part.1 &= !bit;
                }
                join(&mut parts, pair[1], bit);
            }
            for (kind, mask) in parts.drain(..).map(|(number, mask)| (kinds.get(number), mask)) {
                for (nth, words) in marks.iter_mut().enumerate() {
                    words[word] |= if kind.marks >> nth & 1 == 0 { 0 } else { mask };
                }
                let difference = kind.count.cast_signed() - first.cast_signed();
                counts.add_where(word, mask, difference, order).expect("it was such a count");
            }
        }
        Page::of(len, counts, marks.map(|all| Bits::of(&all[..words])))
    }

    /// NEW count of cluster `index`, and whether the state after the commit references it more than
    /// once.
    pub fn count(&self, kinds: &Kinds, index: usize) -> (u64, bool) {
        let place = self.listed().chunks_exact(2);
        let place = place.map(|pair| usize::from(pair[0]));
        let number = match place.clone().position(|listed| listed == index) {
            Some(nth) => self.listed()[nth * 2 + 1],
            None => self.0[HEAD + self.code(index)],
        };
        let kind = kinds.get(number);
        (kind.count, kind.marks >> Page::SHARED & 1 != 0)
    }

    fn bits(&self) -> usize {
        self.0[0].into()
    }

    fn listed(&self) -> &[u16] {
        let first = HEAD + (1 << self.bits());
        &self.0[first..first + usize::from(self.0[1]) * 2]
    }

    fn codes(&self) -> &[u16] {
        &self.0[HEAD + (1 << self.bits()) + usize::from(self.0[1]) * 2..]
    }

    /// Which of the kinds cluster `index` has, unless it is listed.
    fn code(&self, index: usize) -> usize {
        let bits = self.bits();
        if bits == 0 {
            return 0;
        }
        let (word, shift) = (index * bits / 16, index * bits % 16);
        usize::from(self.codes()[word]) >> shift & ((1 << bits) - 1)
    }

    /// The kinds of the 64 clusters from `64 * word` on, those that are listed left aside.
    fn parts(&self, word: usize, parts: &mut Vec<(u16, u64)>) {
        match self.bits() {
            0 => parts.push((self.0[HEAD], u64::MAX)),
            1 => {
                let words = self.codes()[word * 4..][..4].iter().rev();
                let second = words.fold(0, |all, &word| all << 16 | u64::from(word));
                parts.extend([(self.0[HEAD], !second), (self.0[HEAD + 1], second)]);
            }
            _ => (0..64).for_each(|bit| {
                join(parts, self.0[HEAD + self.code(word * 64 + bit)], 1 << bit);
            }),
        }
    }

    /// What it keeps, in bytes.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// Says that the clusters of `mask` have the kind of that number.
fn join(parts: &mut Vec<(u16, u64)>, number: u16, mask: u64) {
    match parts.iter_mut().find(|part| part.0 == number) {
        Some(part) => part.1 |= mask,
        None => parts.push((number, mask)),
    }
}

fn kind(count: u64, marks: Marks<u64>, bit: usize) -> Kind {
    let marks = marks.iter().rev().fold(0, |all, word| all << 1 | (word >> bit & 1) as u8);
    Kind { count, marks }
}

/// Which kinds a page has.
struct Census<'a> {
    kinds: &'a mut Kinds,
    /// Each with its number, and how often it was found.
    found: Vec<(Kind, u16, usize)>,
    /// Position in it, by cluster.
    of: [u16; MOST_CLUSTERS],
}

impl Census<'_> {
    fn note(&mut self, at: usize, count: usize, kind: Kind) -> Option<()> {
        let known = self.found.iter().position(|found| found.0 == kind);
        let nth = if let Some(nth) = known {
            nth
        } else {
            self.found.push((kind, self.kinds.number(kind)?, 0));
            self.found.len() - 1
        };
        self.found[nth].2 += count;
        self.of[at..at + count].fill(u16::try_from(nth).expect("at most one a cluster"));
        Some(())
    }

    fn encode(self, len: usize) -> Box<[u16]> {
        // The most frequent ones first.
        let mut order: Vec<usize> = (0..self.found.len()).collect();
        order.sort_by_key(|&nth| std::cmp::Reverse(self.found[nth].2));
        let listed = |bits: usize| -> usize {
            order.iter().skip(1 << bits).map(|&nth| self.found[nth].2).sum()
        };
        let words = |bits: usize| (1 << bits) + listed(bits) * 2 + len * bits / 16;
        let bits = [0, 1, 2, 4, 8].into_iter().min_by_key(|&bits| words(bits)).expect("some");
        let mut rank = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, &nth)| rank[nth] = place);
        let mut packed = Vec::with_capacity(HEAD + words(bits));
        let short = |number: usize| u16::try_from(number).expect("at most one a cluster");
        packed.extend([short(bits), short(listed(bits))]);
        let kinds =
            (0..1 << bits).map(|place| order.get(place).map_or(0, |&nth| self.found[nth].1));
        packed.extend(kinds);
        let mut codes = vec![0; len * bits / 16];
        for (at, &nth) in self.of[..len].iter().enumerate() {
            let place = rank[usize::from(nth)];
            if place >> bits != 0 {
                packed.extend([short(at), self.found[usize::from(nth)].1]);
            } else if bits > 0 {
                codes[at * bits / 16] |= short(place) << (at * bits % 16);
            }
        }
        packed.append(&mut codes);
        packed.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refcounts::Change;
    use crate::refcounts::page::Role;

    type Known = Vec<(u64, [bool; 6])>;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % bound
        }

        /// Mostly few, rarely `1 << bits`.
        fn skewed(&mut self, bits: u64) -> u64 {
            let bits = self.below(bits);
            self.below(1 << bits)
        }
    }

    fn index(number: u64) -> usize {
        usize::try_from(number).unwrap()
    }

    fn known(page: &Page, len: usize) -> Known {
        let marks = page.marks().expect("nothing waits");
        let is_set = |bits: &Bits, at: usize| bits.word(at / 64) >> (at % 64) & 1 != 0;
        let of = |at| (page.counts.get(at), marks.map(|bits| is_set(bits, at)));
        (0..len).map(of).collect()
    }

    /// Pages of one kind of clusters and of hundreds, with runs and without; and again when they were
    /// changed in between.
    #[test]
    fn a_page_that_was_packed_is_the_same_and_takes_no_more_than_its_kinds_need() {
        let mut random = Random(3);
        for round in 0..400 {
            let order = RefcountOrder::new(u32::try_from(round % 7).unwrap());
            let len = [64, 512, 2048][round % 3];
            let mut kinds = Kinds::default();
            let mut bytes = vec![0; (len << order.get()) / 8];
            let (every, most) = (1 + random.skewed(9), 1 + random.skewed(9));
            for at in 0..len {
                let count = (1 + random.below(most)).min(order.max());
                if random.below(every) == 0 {
                    order.set_count(&mut bytes, at, count);
                }
            }
            let mut page = Page::decode(order, &bytes, len).unwrap_or_else(|| Page::empty(len));
            for _ in 0..3 {
                for _ in 0..random.skewed(8) {
                    let start = index(random.below(len as u64));
                    let end = (start + 1 + index(random.skewed(11))).min(len);
                    let mut changed = page.pack_and_unpack(&mut kinds, order, len);
                    let after = random.below(4);
                    let change = Change {
                        delta: random.below(3).cast_signed() - 1,
                        after,
                        fresh: after == 3,
                    };
                    let role = if random.below(9) == 0 { Role::Table } else { Role::Data };
                    match random.below(4) {
                        0 => changed.take(start..end),
                        1 => changed.keep(start..end),
                        _ if changed.reference(start..end, role, change, order).is_err() => {
                            continue;
                        }
                        _ => {}
                    }
                    page = changed;
                }
                let all = known(&page, len);
                let packed = Packed::of(&page, &mut kinds).unwrap();
                assert!(known(&packed.unpack(&kinds, order, len), len) == all, "round {round}");
                for (at, &(count, marks)) in all.iter().enumerate() {
                    assert_eq!(packed.count(&kinds, at), (count, marks[Page::SHARED]));
                }
                let mut different = all.clone();
                different.sort_unstable();
                different.dedup();
                let bits = [0, 1, 2, 4, 8].into_iter().find(|bits| different.len() <= 1 << bits);
                let most = bits.map_or(usize::MAX, |bits| 4 + (2 << bits) + len * bits / 8);
                assert!(
                    packed.bytes() <= most,
                    "{} bytes for {} kinds",
                    packed.bytes(),
                    different.len()
                );
            }
        }
    }

    impl Page {
        fn pack_and_unpack(&self, kinds: &mut Kinds, order: RefcountOrder, len: usize) -> Self {
            Packed::of(self, kinds).unwrap().unpack(kinds, order, len)
        }
    }

    /// One cluster in a page that is like no other, which is what a large disk of small clusters has.
    #[test]
    fn a_page_of_one_cluster_takes_a_few_bytes() {
        let mut kinds = Kinds::default();
        let mut page = Page::empty(MOST_CLUSTERS);
        page.use_where(|at| at == 7);
        let change = Change { delta: 1, after: 1, fresh: false };
        page.reference(7..8, Role::Data, change, RefcountOrder::new(4)).unwrap();
        let packed = Packed::of(&page, &mut kinds).unwrap();
        assert_eq!(packed.bytes(), 10);
        assert_eq!((packed.count(&kinds, 6), packed.count(&kinds, 7)), ((0, false), (1, false)));
    }
}
