//! What a check returns, and who hears about problems while it runs.

use super::problem::Problem;

/// Problems that are told; further ones are only counted.
pub const MAX_PROBLEMS: u64 = 65_536;

/// The result of a check, with the numbers of `qemu-img check`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// End of the highest cluster in use, in bytes.
    pub image_end_offset: u64,
    /// Guest clusters of the disk.
    pub total_clusters: u64,
    /// Guest clusters with data of their own in the active state.
    pub allocated_clusters: u64,
    /// Of these, those that do not follow the one before.
    pub fragmented_clusters: u64,
    /// Of these, compressed ones, which all count as fragmented.
    pub compressed_clusters: u64,
    /// What may damage data.
    pub corruptions: u64,
    /// Clusters that are wasted.
    pub leaks: u64,
    /// What could not be looked at.
    pub check_errors: u64,
    /// Problems that were counted and not told: more than [`MAX_PROBLEMS`].
    pub problems_omitted: u64,
}

/// Hands problems on, as long as they are not too many.
pub(super) struct Teller<'a> {
    tell: &'a mut dyn FnMut(&Problem),
    pub told: u64,
    /// Told lines that no number of the report counts.
    pub remarks: u64,
}

impl<'a> Teller<'a> {
    pub fn new(tell: &'a mut dyn FnMut(&Problem)) -> Self {
        Self { tell, told: 0, remarks: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.told >= MAX_PROBLEMS
    }

    pub fn tell(&mut self, problem: &Problem) {
        if !self.is_full() {
            (self.tell)(problem);
            self.told += 1;
            self.remarks += u64::from(matches!(problem, Problem::BlockUnusable { .. }));
        }
    }
}
