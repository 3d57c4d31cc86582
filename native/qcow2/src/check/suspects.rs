//! Offsets of L2 tables in which something is wrong, for those who tell what it is.

/// Kept at most: more than problems are told.
const MOST: usize = 1 << 17;

/// A list, or all tables where it would be too long.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Ascending once it was asked for.
    offsets: Vec<u64>,
    are_all: bool,
}

impl Suspects {
    pub fn push(&mut self, offset: u64) {
        if self.are_all || self.offsets.last() == Some(&offset) {
            return;
        }
        self.offsets.push(offset);
        if self.offsets.len() > MOST {
            self.sort();
            if self.offsets.len() > MOST / 2 {
                *self = Self { offsets: Vec::new(), are_all: true };
            }
        }
    }

    /// These as well.
    pub fn append(&mut self, others: Self) {
        if others.are_all {
            *self = others;
        } else {
            others.offsets.into_iter().for_each(|offset| self.push(offset));
        }
    }

    /// Puts them in order. Before, nothing may be asked.
    pub fn sort(&mut self) {
        self.offsets.sort_unstable();
        self.offsets.dedup();
    }

    /// Whether something is wrong in the table at `offset`, or may be.
    pub fn contains(&self, offset: u64) -> bool {
        self.are_all || self.offsets.binary_search(&offset).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_contained_and_nothing_else_as_long_as_it_can_be_listed() {
        let mut few = Suspects::default();
        for offset in [7, 3, 3, 9, 7] {
            few.push(offset);
        }
        let mut more = Suspects::default();
        more.push(4);
        few.append(more);
        few.sort();
        let contained: Vec<_> = (0..10).filter(|&offset| few.contains(offset)).collect();
        assert_eq!(contained, [3, 4, 7, 9]);
        let mut many = Suspects::default();
        (0..=MOST as u64).for_each(|offset| many.push(offset));
        assert!(many.contains(u64::MAX));
        few.append(many);
        assert!(few.contains(5));
    }
}
