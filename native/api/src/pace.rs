//! How often a long operation tells how far it is.

use std::time::{Duration, Instant};

/// At most this often, but for the end.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Pace {
    told: Option<Instant>,
}

impl Pace {
    /// Whether it is time to tell that `done` of `total` is done.
    pub(crate) fn is_due(&mut self, done: u64, total: u64) -> bool {
        let due = done == total || self.told.is_none_or(|at| at.elapsed() >= PAUSE);
        if due {
            self.told = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_and_the_end_are_told_and_not_all_between() {
        let mut pace = Pace::default();
        assert!(pace.is_due(0, 10));
        assert!(!pace.is_due(1, 10));
        assert!(pace.is_due(10, 10));
        pace.told = pace.told.and_then(|at| at.checked_sub(PAUSE));
        assert!(pace.is_due(2, 10));
    }
}
