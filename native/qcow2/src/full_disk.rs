//! Deleting a snapshot when the file system has no space for a shadow commit.
//!
//! Space comes back in steps, each of them a state that is safe to stop in:
//!
//! 1. A header that no longer lists the snapshot: the last one needs the header sector alone; else
//!    the shorter table goes into free clusters that already own blocks. From here there are leaks,
//!    no errors, and guests may write.
//! 2. What a walk over every remaining table proved unused is punched. Counts still say "in use".
//! 3. The ordinary commit, which now has space: a recount, after which nothing leaks.
//!
//! Stopped between 1 and 3, the next changing command meets the leaks and counts anew by itself.

use crate::error::{Error, Kind, Result};
use crate::format::snapshot::encode_table;
use crate::image::Image;
use crate::plan::{Goal, Planner, SnapshotAfter};
use crate::snapshot::{carried, slots};
use crate::transaction::{CommitOptions, Committed, commit, commit_listing, punch};

/// Deletes snapshot `index`. `refused` is what the ordinary way said.
pub(crate) fn delete(
    image: &mut Image,
    index: usize,
    options: &mut CommitOptions<'_>,
    refused: Error,
) -> Result<Committed> {
    let mut after = carried(&image.snapshots()?, image.header.size);
    after.remove(index);
    let entries: Vec<_> = after
        .into_iter()
        .map(|s| match s {
            SnapshotAfter::Kept { entry, .. } | SnapshotAfter::New(entry) => entry,
        })
        .collect();
    let length = encode_table(&entries).len() as u64;
    let place = match length.div_ceil(image.header.cluster_bytes()) {
        0 => None,
        count => {
            let mut walked = Planner::new(image)?.plan(Goal::same(&image.header))?;
            let Some(first) = walked.find_free_with_blocks(image, count)? else {
                return Err(refused);
            };
            Some(first..first + count)
        }
    };
    let mut done = commit_listing(image, &entries, place, options)?;

    // The snapshot is gone, so from here on nothing may claim that nothing happened: what fails now
    // only keeps the space for the next change.
    match reclaim(image, &mut done, options) {
        Err(error) if error.kind() == Kind::Unsettled => Err(error),
        Err(error) => {
            done.punch_failure = Some(std::io::Error::other(error));
            Ok(done)
        }
        Ok(()) => Ok(done),
    }
}

/// Steps 2 and 3.
fn reclaim(image: &mut Image, done: &mut Committed, options: &mut CommitOptions<'_>) -> Result<()> {
    let planner = Planner::new(image)?;
    let goal = Goal {
        active: Some(slots(planner.active_l1())),
        recount: true,
        ..Goal::same(&image.header)
    };
    let plan = planner.plan(goal)?;
    punch(image, &plan.leaks, done);
    let last = commit(image, plan, options)?;
    done.written_bytes += last.written_bytes;
    done.flushes += last.flushes;
    done.punched_bytes += last.punched_bytes;
    done.punch_failure = done.punch_failure.take().or(last.punch_failure);
    Ok(())
}
