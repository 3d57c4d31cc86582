//! What is known of the clusters that one part of a refcount block counts: as many as memory is
//! worth being asked for at once.
//!
//! Whatever all clusters of a page have in common takes no memory. So a block takes some where it
//! says something, not where it is a hole in a sparse file.

use std::ops::Range;

use super::bits::{Bits, masks};
use super::{Change, Counts, OutOfRange};
use crate::format::refcount::RefcountOrder;

/// Clusters of a page; fewer where a block has fewer.
pub(crate) const PAGE_CLUSTERS: u64 = 2048;

/// What makes a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A table: nothing else may name the cluster.
    Table,
    /// An L2 entry that owns it as data.
    Data,
}

/// Something for each of the marks that a cluster may have: in use, metadata, seen, taken, kept, shared.
pub(super) type Marks<T> = [T; 6];

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
    /// References that none of this tells yet.
    waiting: Option<Waiting>,
}

/// References to data that are not registered yet, to each cluster one at most. All are of one
/// kind, so that a whole word of them is registered at once.
#[derive(Debug)]
struct Waiting {
    words: Box<[u64]>,
    change: Change,
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
            waiting: None,
        }
    }

    /// Which of the [`Marks`] says that a cluster is referenced more than once.
    pub const SHARED: usize = 5;

    /// The page of which this is known.
    pub fn of(len: usize, counts: Counts, marks: Marks<Bits>) -> Self {
        let [in_use, metadata, seen, taken, kept, shared] = marks;
        Self { metadata, seen, taken, kept, shared, ..Self::new(len, counts, in_use) }
    }

    /// All marks; none while something waits.
    pub fn marks(&self) -> Option<Marks<&Bits>> {
        let Self { in_use, metadata, seen, taken, kept, shared, .. } = self;
        self.waiting.is_none().then_some([in_use, metadata, seen, taken, kept, shared])
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
        self.reference_words(masks(range), role, change, order)
    }

    /// Registers references to data, to the clusters of these bits, no word twice: now or when the
    /// page is settled; at the latest when it waits for a second kind of them, or for all of its
    /// clusters.
    pub fn reference_later(
        &mut self,
        named: impl Iterator<Item = (usize, u64)> + Clone,
        change: Change,
        order: RefcountOrder,
    ) -> Result<(), (usize, Refusal)> {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.change != change) {
            self.settle(order)?;
        }
        let mut waiting = self
            .waiting
            .take()
            .unwrap_or_else(|| Waiting { words: vec![0; self.words].into(), change });
        // Those that wait already are registered at once.
        let again = named.clone().map(|(word, mask)| (word, waiting.words[word] & mask));
        let again = again.filter(|&(_, mask)| mask != 0);
        self.reference_words(again, Role::Data, change, order)?;
        let mut full = false;
        for (word, mask) in named {
            waiting.words[word] |= mask;
            full |= waiting.words[word] == u64::MAX;
        }
        full = full && waiting.words.iter().all(|&word| word == u64::MAX);
        self.waiting = Some(waiting);
        if full { self.settle(order) } else { Ok(()) }
    }

    /// Registers what waits.
    pub fn settle(&mut self, order: RefcountOrder) -> Result<(), (usize, Refusal)> {
        let Some(Waiting { words, change }) = self.waiting.take() else { return Ok(()) };
        let words = words.iter().copied().enumerate().filter(|&(_, mask)| mask != 0);
        self.reference_words(words, Role::Data, change, order)
    }

    /// References to the clusters of these bits, each in its word.
    fn reference_words(
        &mut self,
        words: impl Iterator<Item = (usize, u64)> + Clone,
        role: Role,
        change: Change,
        order: RefcountOrder,
    ) -> Result<(), (usize, Refusal)> {
        let refused = |(index, why)| (index, Refusal::Count(why));
        let mut whole = 0;
        for (word, mask) in words.clone() {
            whole += usize::from(mask == u64::MAX);
            let overlaps = self.metadata.word(word) & mask;
            let mut may_be_named = self.in_use.word(word);
            if change.fresh {
                may_be_named |= self.taken.word(word);
            }
            let bad = overlaps | mask & !may_be_named;
            if bad != 0 {
                let first = bad.trailing_zeros();
                for (before, mask) in words.take_while(|&(before, _)| before <= word) {
                    let mask = if before < word { mask } else { mask & !(u64::MAX << first) };
                    self.counts.add_where(before, mask, change.delta, order).map_err(refused)?;
                }
                let is_table = overlaps >> first & 1 != 0;
                let why = if is_table { Refusal::Overlap(role) } else { Refusal::CountedFree };
                return Err((word * 64 + first as usize, why));
            }
        }
        if whole == self.words {
            self.counts.add(0..self.words * 64, change.delta, order).map_err(refused)?;
        } else {
            for (word, mask) in words.clone() {
                self.counts.add_where(word, mask, change.delta, order).map_err(refused)?;
            }
        }
        for (word, mask) in words {
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

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 256;

    /// A page where some clusters are in use, some are tables, and some are taken.
    fn page(random: &mut impl FnMut(u64) -> u64) -> Page {
        let order = RefcountOrder::new(4);
        let mut bytes = [0; LEN * 2];
        for index in 0..LEN {
            order.set_count(&mut bytes, index, if random(400) == 0 { 0 } else { 1 + random(3) });
        }
        let mut page = Page::decode(order, &bytes, LEN).unwrap();
        for _ in 0..random(3) {
            let table = usize::try_from(random(LEN as u64)).unwrap();
            let change = Change { delta: 0, after: 1, fresh: false };
            let _ = page.reference(table..table + 1, Role::Table, change, order);
        }
        page.take(3..5);
        page
    }

    fn known(page: &Page) -> Vec<(u64, [bool; 5])> {
        let bits = [&page.in_use, &page.metadata, &page.seen, &page.kept, &page.shared];
        let is_set = |bits: &Bits, index| bits.word(index / 64) >> (index % 64) & 1 != 0;
        let known = |index| (page.counts.get(index), bits.map(|bits| is_set(bits, index)));
        (0..LEN).map(known).collect()
    }

    /// Whatever is registered, in whatever order and of however many kinds: when it is settled, the
    /// page knows what it would know had nothing waited, and has refused what it would have.
    #[test]
    fn what_waits_is_registered_as_if_it_had_not_waited() {
        let mut state = 7_u64;
        let mut random = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        let order = RefcountOrder::new(4);
        let (mut refused, mut waited) = (0, 0);
        for round in 0..2000 {
            let mut at_once = page(&mut random);
            let mut later = Page { counts: at_once.counts.clone(), ..Page::empty(LEN) };
            for (from, to) in [
                (&at_once.in_use, &mut later.in_use),
                (&at_once.metadata, &mut later.metadata),
                (&at_once.seen, &mut later.seen),
                (&at_once.taken, &mut later.taken),
                (&at_once.kept, &mut later.kept),
            ] {
                (0..LEN / 64).for_each(|word| to.set(word, from.word(word), LEN / 64));
            }
            // All of one direction: what is too low for a while is refused at once only.
            let delta = if round % 2 == 0 { 1 } else { -1 };
            let (mut refused_at_once, mut refused_later) = (false, false);
            for _ in 0..random(600) {
                let start = usize::try_from(random(LEN as u64)).unwrap();
                let run = if random(9) == 0 { random(100) } else { 1 };
                let range = start..(start + usize::try_from(run).unwrap()).min(LEN);
                let delta = if random(3) == 0 { delta } else { 0 };
                let change = Change { delta, after: random(3), fresh: random(50) == 0 };
                refused_at_once |=
                    at_once.reference(range.clone(), Role::Data, change, order).is_err();
                refused_later |= later.reference_later(masks(range), change, order).is_err();
                if refused_at_once {
                    break;
                }
                waited += usize::from(later.waiting.is_some());
            }
            refused_later |= later.settle(order).is_err();
            assert_eq!(refused_later, refused_at_once, "round {round}");
            refused += usize::from(refused_later);
            if !refused_later {
                assert!(known(&at_once) == known(&later), "round {round}");
            }
        }
        assert!((200..1800).contains(&refused) && waited > 10_000, "{refused} {waited}");
    }
}
