//! `check -r`: what a check found, put right in one commit.
//!
//! The verdict, the numbers and the lines are `qemu-img check -r`'s. The way is another one.
//! `qemu-img` edits counts and tables where they stand, one after the other; here the whole state
//! to be is worked out first, everything that differs is written where nobody looks, and the first
//! sector makes it so. A crash leaves the damaged image or the repaired one.
//!
//! | level | counts | refcount table and blocks | COPIED | zeros that are unaligned |
//! |---|---|---|---|---|
//! | [`Repair::Leaks`] | too high ones come down | kept | if no count and entry stays wrong | kept |
//! | [`Repair::All`] | become the references | made anew if they have to be | always | mended |
//!
//! If nothing is wrong afterwards, the dirty and the corrupt bit go in the same sector.
//!
//! What cannot be put right without guessing is left as it is, and stays an error: entries that
//! lead nowhere, and everything that would have to become zeros. A zero cluster that keeps an
//! unaligned place is none of that: it reads as zeros without it. Its table is written anew, for the
//! active disk and for all snapshots that name it, and their L1 tables with it.
//!
//! An L1 entry may take the header for a table. What the commit itself changes there is no reference
//! for a repair: else each one would leave the next something to do.
//!
//! While entries are damaged, or clusters were counted free that are in use, nobody can say what
//! else was lost; then nothing is punched, and new tables go only into holes and past the end of
//! the file, but not where a damaged entry points. Where the file grows over such a place, a second
//! commit counts it. A device has neither holes nor an end to grow at: there, if every reference can be
//! followed, what nobody names and nobody counts is written.

mod counts;
mod examine;
mod flags;
mod l1;
mod line;
mod plan;
mod rows;

pub use line::Line;

use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::format::header::incompatible;
use crate::image::Image;
use crate::plan::Plan;
use crate::transaction::{CommitOptions, Committed, Punch, commit};

use super::CheckReport;
use examine::{Examination, Verdict};

/// Commits of one repair: nearly always one is enough.
const MAX_COMMITS: usize = 4;

/// What is to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Space that is counted and unused; no count is raised.
    Leaks,
    /// Everything that can be.
    All,
}

/// What a repair found and did.
#[derive(Debug)]
pub struct Repaired {
    /// What was found and not repaired, with the numbers of a check.
    pub found: CheckReport,
    /// Clusters whose counts were too high.
    pub leaks_fixed: u64,
    /// Everything else that was put right.
    pub corruptions_fixed: u64,
    /// Clusters that tables name, and that lay past the end of the file before it grew: what was in
    /// them had been lost, and no later check can tell.
    pub lost_clusters: u64,
    /// The refcount structures have to be made anew, which is more than [`Repair::Leaks`]: nothing
    /// was written, and the check is not complete.
    pub must_rebuild: bool,
    /// The commit, if there was something to write.
    pub committed: Option<Committed>,
}

/// Checks the image and repairs it. Each line goes to `tell`, in `qemu-img`'s order.
///
/// The image was opened with [`open`](super::open), is locked, and is nobody else's. On any error
/// but [`Kind::Unsettled`] it is as it was; or, where a second commit was to follow, as the first
/// one left it. On a full disk what leaks may have become holes. Fails with [`Kind::UnsupportedFeature`] where data are
/// in another file.
pub fn repair(
    image: &mut Image,
    what: Repair,
    options: &mut CommitOptions<'_>,
    tell: &mut dyn FnMut(&Line),
) -> Result<Repaired> {
    if image.header().has(incompatible::DATA_FILE) {
        return Err(Error::new(Kind::UnsupportedFeature, "Operation not supported")
            .with_hint("the image keeps its data in an external data file"));
    }
    let mut verdict = examine(image, what, tell)?;
    let mut repaired = Repaired {
        found: verdict.found,
        leaks_fixed: verdict.leaks_fixed,
        corruptions_fixed: verdict.corruptions_fixed,
        lost_clusters: 0,
        must_rebuild: verdict.must_rebuild,
        committed: None,
    };
    for _ in 0..MAX_COMMITS {
        let Some(plan) = verdict.plan else { break };
        let file_end = |image: &Image| image.file_bytes().div_ceil(image.header().cluster_bytes());
        let old_end = file_end(image);
        let done = carry_out(image, what, plan, options).map_err(with_way_out)?;
        let end = file_end(image);
        let grown_over =
            |place: &Range<u64>| end.min(place.end).saturating_sub(place.start.max(old_end));
        repaired.lost_clusters += verdict.beyond_end.iter().map(grown_over).sum::<u64>();
        let so_far = repaired.committed.take().unwrap_or_default();
        repaired.committed = Some(both(&so_far, done));
        // The file has grown over a place that a damaged entry names: now it names a cluster, which
        // has to be counted.
        if what == Repair::Leaks || verdict.beyond_end.iter().all(|place| place.start >= end) {
            break;
        }
        verdict = examine(image, what, tell)?;
        repaired.found = verdict.found;
        repaired.leaks_fixed += verdict.leaks_fixed;
        repaired.corruptions_fixed += verdict.corruptions_fixed;
    }
    Ok(repaired)
}

/// One commit.
fn carry_out(
    image: &mut Image,
    what: Repair,
    plan: Plan,
    options: &mut CommitOptions<'_>,
) -> Result<Committed> {
    let leaks = if plan.gives_back { plan.leaks.clone() } else { Vec::new() };
    match commit(image, plan, options) {
        // The blocks that leak are space, too. They are nobody's, whatever their counts say, so
        // they may become holes before the commit as well as after it.
        Err(error)
            if error.kind() == Kind::NoSpace && !options.was_refused && !leaks.is_empty() =>
        {
            let mut spent = Committed::default();
            let mut punch = Punch::new(image, &mut spent);
            leaks.into_iter().try_for_each(|run| punch.run(run))?;
            let plan = examine(image, what, &mut |_| {})?.plan.ok_or(error)?;
            Ok(both(&spent, commit(image, plan, options)?))
        }
        result => result,
    }
}

fn with_way_out(error: Error) -> Error {
    if error.kind() != Kind::NoSpace || error.hint.is_some() {
        return error;
    }
    error.with_hint("a repair is written beside what it replaces: make some space first")
}

/// What two commits did.
fn both(first: &Committed, last: Committed) -> Committed {
    Committed {
        written_bytes: first.written_bytes + last.written_bytes,
        flushes: first.flushes + last.flushes,
        punched_bytes: first.punched_bytes + last.punched_bytes,
        ..last
    }
}

fn examine(image: &Image, what: Repair, tell: &mut dyn FnMut(&Line)) -> Result<Verdict> {
    Examination::new(image, what)?.run(tell)
}
