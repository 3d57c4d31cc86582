//! The walk: who references what, before and after, as the tables themselves say it.
//!
//! A walk that covers every L1 table is a proof: what it did not see is nobody's, whatever its
//! count says. Without that proof space is taken only from holes and past the end of the file, and
//! nothing is punched.

use crate::error::{Error, Kind, Result};
use crate::format::header::{NEW_HEADER_BYTES, autoclear, compatible, extension};
use crate::format::mapping;
use crate::refcounts::Change;

use super::goal::Goal;
use super::planner::Planner;
use super::uses::{Names, Use, signed};
use super::walk::{References, for_tables};

/// All L2 tables are read, as a proof, while those that nothing else asks for take at most this many
/// bytes.
const PROOF_BYTES: u64 = 256 << 20;

/// What the walk does to NEW counts on its way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counting {
    /// Adds what changes between before and after.
    Differences,
    /// Nothing: they will be counted anew.
    Nothing,
}

impl Counting {
    fn change(self, names: Names) -> Change {
        let delta = match self {
            Self::Differences => signed(names.after) - signed(names.before),
            Self::Nothing => 0,
        };
        Change { delta, after: names.after, fresh: false }
    }
}

/// What the walk showed.
pub(super) struct Walked {
    /// For each use, whether an entry of the table carries COPIED.
    pub any_copied: Vec<bool>,
    /// Whether every reference of the state on disk was seen that could matter.
    pub complete: bool,
    /// Whether clusters are in use that nobody references, as far as a complete walk showed.
    pub leaks: bool,
}

impl Planner<'_> {
    /// Whether nothing in the image could refer to clusters in ways that the walk does not know.
    pub fn knows_all_references(&self) -> bool {
        let header = &self.image.header;
        let known = [
            extension::BACKING_FORMAT,
            extension::FEATURE_NAMES,
            extension::ENCRYPTION,
            extension::DATA_FILE,
        ];
        header.autoclear & !autoclear::KNOWN == 0
            && header.compatible & !compatible::LAZY_REFCOUNTS == 0
            && header.header_bytes <= NEW_HEADER_BYTES
            && header.extensions.iter().all(|e| {
                known.contains(&e.kind)
                    || e.kind == extension::BITMAPS && header.autoclear & autoclear::BITMAPS != 0
            })
    }

    /// Registers every L2 table, reads those whose references change, and all of them as long as
    /// they are few enough, and registers what they map.
    pub(super) fn walk(&mut self, goal: &Goal, uses: &[Use], counting: Counting) -> Result<Walked> {
        let header = &self.image.header;
        let (storage, refcounts) = (self.storage, &mut self.refcounts);
        for u in uses {
            self.image.ensure_inside(u.offset, header.cluster_bytes(), "L2 table")?;
            // Whether the place itself stays in use is known only when the moves are chosen.
            let change = Change { after: 0, ..counting.change(u.names) };
            refcounts.claim_table(storage, u.place(header), change)?;
        }
        let needed = |u: &Use| u.names.before != u.names.after || u.names.movable != 0;
        let rest = uses.iter().filter(|u| !needed(u)).count() as u64;
        // A device has no holes and no end to grow at: only what is proven free can be written.
        let worth_it = rest * header.cluster_bytes() <= PROOF_BYTES || storage.has_fixed_len();
        let complete = worth_it && self.knows_all_references() || goal.recount;
        if self.storage.has_fixed_len() && !complete {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "The image has features that Calque does not know, and lies on a block device",
            ));
        }
        let wanted = |u: &Use| complete || needed(u);
        let mut any_copied = vec![false; uses.len()];
        let mut references = References::new(self.image, &mut self.refcounts);
        for_tables(self.image, uses, wanted, |index, table| {
            let u = &uses[index];
            any_copied[index] = references.table(table, u.offset, counting.change(u.names))?;
            Ok(())
        })?;
        references.finish()?;
        let fresh = Names { before: 0, after: 1, movable: 1 };
        self.reference_fresh(goal, counting.change(fresh))?;
        let leaks = complete && self.refcounts.has_unseen(storage)?;
        // What nobody references in the state on disk may be written, whatever its count says.
        // Snapshots that a recount drops belong to that state, and were not walked.
        if complete && (!goal.recount || goal.snapshots.is_none()) {
            self.refcounts.trust_walk();
        }
        Ok(Walked { any_copied, complete, leaks })
    }

    /// Registers what the L2 tables map that do not exist yet.
    pub(super) fn reference_fresh(&mut self, goal: &Goal, change: Change) -> Result<()> {
        let change = Change { fresh: true, ..change };
        let mut references = References::new(self.image, &mut self.refcounts);
        for table in &goal.fresh {
            references.table(&mapping::encode_table(table, 0), 0, change)?;
        }
        references.finish()
    }
}
