//! What a check returns, and who hears about problems while it runs.

use super::problem::Problem;

/// Problems that are told; further ones are only counted.
pub const MAX_PROBLEMS: u64 = 65_536;
/// The same, as a length.
const MOST_TOLD: usize = 65_536;

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

/// What is found while references are counted, and told after what is wrong with tables and entries.
/// No more is kept than will be told.
#[derive(Default)]
pub(super) struct Later {
    /// With positions in the refcount table.
    blocks: Vec<(u64, Problem)>,
    counts: Vec<Problem>,
}

impl Later {
    /// About the entry of the refcount table at this position. Those of one entry come in the order
    /// in which they are told.
    pub fn about_block(&mut self, index: u64, problem: Problem) {
        self.blocks.push((index, problem));
        if self.blocks.len() > MOST_TOLD / 4 * 5 {
            self.sort_blocks();
        }
    }

    fn sort_blocks(&mut self) {
        let comes_last = |problem: &Problem| matches!(problem, Problem::BlockShared { .. });
        self.blocks.sort_unstable_by_key(|(index, problem)| (*index, comes_last(problem)));
        self.blocks.truncate(MOST_TOLD);
    }

    /// About counts, in their order, which is also that of the calls.
    pub fn about_counts(&mut self, find: impl FnOnce(&mut Teller<'_>)) {
        let most = MOST_TOLD.saturating_sub(self.blocks.len());
        self.counts.truncate(most);
        let room = (most - self.counts.len()) as u64;
        let keep = &mut |problem: &Problem| self.counts.push(problem.clone());
        find(&mut Teller { tell: keep, told: 0, remarks: 0, most: room });
    }

    /// Tells all of it.
    pub fn tell(mut self, teller: &mut Teller<'_>) {
        self.sort_blocks();
        let blocks = self.blocks.iter().map(|(_, problem)| problem);
        blocks.chain(&self.counts).for_each(|problem| teller.tell(problem));
    }
}

/// Hands problems on, as long as they are not too many.
pub(super) struct Teller<'a> {
    tell: &'a mut dyn FnMut(&Problem),
    pub told: u64,
    /// Told lines that no number of the report counts.
    pub remarks: u64,
    most: u64,
}

impl<'a> Teller<'a> {
    pub fn new(tell: &'a mut dyn FnMut(&Problem)) -> Self {
        Self { tell, told: 0, remarks: 0, most: MAX_PROBLEMS }
    }

    pub fn is_full(&self) -> bool {
        self.told >= self.most
    }

    pub fn tell(&mut self, problem: &Problem) {
        if !self.is_full() {
            (self.tell)(problem);
            self.told += 1;
            self.remarks += u64::from(matches!(problem, Problem::BlockUnusable { .. }));
        }
    }
}
