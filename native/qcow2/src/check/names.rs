//! Which L2 tables the L1 tables name, and how often.
//!
//! One L1 table may name four million, and there may be 65 536 more of them. So names are gathered
//! for a range of the file at a time: as many as there is room for, from an offset on.

/// Names that are gathered before those of the same table are merged.
const MERGE_AT: usize = 1 << 16;
/// Names that are kept at most: 6 MiB.
const MOST: usize = 1 << 18;
/// As many stay when there are too many.
const STAYING: usize = MOST / 4 * 3;

/// An L2 table and how often it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub offset: u64,
    pub times: u64,
    /// By the active L1 table.
    pub active_times: u64,
}

/// The tables of a range of the file.
pub(super) struct Names {
    first: u64,
    /// What is beyond is not gathered any more.
    end: u64,
    gathered: Vec<Named>,
    merge_at: usize,
}

impl Names {
    /// None yet, of those from offset `first` on.
    pub fn from(first: u64) -> Self {
        Self { first, end: u64::MAX, gathered: Vec::new(), merge_at: MERGE_AT }
    }

    /// Notes a table, if it is inside the range.
    pub fn push(&mut self, named: Named) {
        if named.offset < self.first || named.offset >= self.end {
            return;
        }
        match self.gathered.last_mut() {
            Some(last) if last.offset == named.offset => {
                last.times += named.times;
                last.active_times += named.active_times;
            }
            _ => self.gathered.push(named),
        }
        if self.gathered.len() >= self.merge_at {
            self.merge();
            if let Some(next) = self.gathered.get(STAYING) {
                self.end = next.offset;
                self.gathered.truncate(STAYING);
            }
            self.merge_at = (self.gathered.len() * 2).clamp(MERGE_AT, MOST);
        }
    }

    fn merge(&mut self) {
        self.gathered.sort_unstable_by_key(|named| named.offset);
        self.gathered.dedup_by(|next, kept| {
            let same = next.offset == kept.offset;
            if same {
                kept.times += next.times;
                kept.active_times += next.active_times;
            }
            same
        });
    }

    /// All of the range, ascending, and where the next one begins, if there is one.
    pub fn finish(mut self) -> (Vec<Named>, Option<u64>) {
        self.merge();
        (self.gathered, (self.end < u64::MAX).then_some(self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_range_and_counted_as_often_as_it_was_pushed() {
        const TABLES: u64 = 1_000_003;
        let (mut first, mut ranges, mut found) = (0, 0, 0);
        loop {
            let mut names = Names::from(first);
            for nth in 0..2 * TABLES {
                let offset = nth * 0x9e37_79b1 % TABLES * 512;
                names.push(Named { offset, times: 3, active_times: nth % 2 });
            }
            let (tables, next) = names.finish();
            for table in &tables {
                let expected = Named { offset: found * 512, times: 6, active_times: 1 };
                assert_eq!(*table, expected);
                found += 1;
            }
            assert!(tables.len() <= MOST);
            ranges += 1;
            let Some(next) = next else { break };
            assert_eq!(next, found * 512);
            first = next;
        }
        assert_eq!(found, TABLES);
        assert!((4..8).contains(&ranges), "{ranges}");
    }
}
