//! Bits as runs of clusters, shown one after the other: an aged disk has too many for a list.

use std::ops::Range;

use super::bits::runs;
use crate::error::Result;

/// Joins what is pushed in ascending order and shows each run once it is complete.
pub(super) struct Runs<F> {
    open: Range<u64>,
    visit: F,
}

impl<F: FnMut(Range<u64>) -> Result<()>> Runs<F> {
    pub fn new(visit: F) -> Self {
        Self { open: 0..0, visit }
    }

    /// The clusters whose bits are set in `word`, which stands for 64 clusters from `first` on.
    pub fn push(&mut self, first: u64, word: u64) -> Result<()> {
        for run in runs(word) {
            let start = first + u64::from(run.start);
            if self.open.end != start {
                self.show()?;
                self.open.start = start;
            }
            self.open.end = first + u64::from(run.end);
        }
        Ok(())
    }

    /// There are no more.
    pub fn finish(mut self) -> Result<()> {
        self.show()
    }

    fn show(&mut self) -> Result<()> {
        if self.open.is_empty() { Ok(()) } else { (self.visit)(self.open.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run_across_words_too() {
        let mut found = Vec::new();
        let mut runs = Runs::new(|run| {
            found.push(run);
            Ok(())
        });
        runs.push(0, 1).unwrap();
        runs.push(64, 0b110 | 1 << 63).unwrap();
        runs.push(128, u64::MAX).unwrap();
        runs.push(192, 0b1011).unwrap();
        runs.push(320, 0).unwrap();
        runs.push(384, 1).unwrap();
        runs.finish().unwrap();
        assert_eq!(found, [0..1, 65..67, 127..194, 195..196, 384..385]);
    }
}
