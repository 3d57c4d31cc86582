//! L1 entries in memory, before every table that they name has a place.

use crate::format::mapping::OFFSET_MASK;

/// An L1 entry. No larger than one: an L1 table may have four million.
///
/// Bit 0, which is zero in every entry, marks one whose table is still to be placed; the bits above
/// it are then the table's position in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u64);

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// An entry as it is: the table that stands there, or none (0).
    Entry(u64),
    /// Table `index` of [`Goal::fresh`](super::Goal::fresh) in a goal, of
    /// [`Plan::moved`](super::Plan::moved) in a plan.
    New(usize),
}

impl Slot {
    /// Names no table.
    pub const NONE: Self = Self(0);

    /// An entry as it is.
    pub fn entry(entry: u64) -> Self {
        Self(entry & !1)
    }

    /// A table without a place.
    pub fn new(index: usize) -> Self {
        Self((index as u64) << 1 | 1)
    }

    pub fn get(self) -> Named {
        if self.0 & 1 == 0 {
            Named::Entry(self.0)
        } else {
            Named::New(usize::try_from(self.0 >> 1).expect("was one"))
        }
    }
}

/// L1 entries without their flags.
pub(crate) fn slots(l1: Vec<u64>) -> Vec<Slot> {
    l1.into_iter().map(|entry| Slot::entry(entry & OFFSET_MASK)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::mapping::COPIED;

    #[test]
    fn a_slot_says_what_it_was_made_of() {
        for entry in [0, 512, COPIED | 65_536, COPIED | OFFSET_MASK] {
            assert_eq!(Slot::entry(entry).get(), Named::Entry(entry));
        }
        for index in [0, 1, 4_194_303] {
            assert_eq!(Slot::new(index).get(), Named::New(index));
        }
        assert_eq!(Slot::NONE.get(), Named::Entry(0));
        assert_eq!(slots(vec![COPIED | 512, 0]), [Slot::entry(512), Slot::NONE]);
    }
}
