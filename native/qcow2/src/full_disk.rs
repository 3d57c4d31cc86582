//! Deleting a snapshot when the file system has no space for a shadow commit.
//!
//! Space comes back in steps, each of them a state that is safe to stop in:
//!
//! 1. A header that no longer lists the snapshot ([`Listing`] says how without a new block). From
//!    here there are leaks, no errors, and guests may write.
//! 2. What a walk over every remaining table proved unused is punched. Counts still say "in use".
//! 3. The ordinary commit, which now has space: a recount, after which nothing leaks.
//!
//! Stopped between 1 and 3, the next changing command meets the leaks and counts anew by itself.

use crate::error::{Error, Kind, Result};
use crate::format::header::SECTOR_BYTES;
use crate::format::snapshot::{SnapshotEntry, encode_table};
use crate::image::Image;
use crate::plan::{ActiveL1, Goal, Planner};
use crate::refcounts::{EditedSector, Refcounts};
use crate::transaction::{CommitOptions, Committed, Listing, Punch, commit, commit_listing};

/// Deletes snapshot `index`. `refused` is what the ordinary way said.
pub(crate) fn delete(
    image: &mut Image,
    index: usize,
    options: &mut CommitOptions<'_>,
    refused: Error,
) -> Result<Committed> {
    if !Planner::new(image)?.knows_all_references() {
        // What it frees could never be counted anew.
        return Err(refused);
    }
    let Some(listing) = shorter_listing(image, index)? else {
        return Err(refused.with_hint(
            "not even the list of snapshots can be rewritten; deleting the newest one needs \
             no space",
        ));
    };
    let mut done = commit_listing(image, &listing, options)?;

    // The snapshot is gone: from here on no error may claim that nothing happened. What fails now
    // leaves the space to the next change, and that is what is said.
    match reclaim(image, &mut done) {
        Err(error) if error.kind() == Kind::Unsettled => return Err(error),
        Err(error) => done.recount_failure = Some(error),
        Ok(()) => {}
    }
    Ok(done)
}

/// Steps 2 and 3: holes for what leaks, then counts that agree.
fn reclaim(image: &mut Image, done: &mut Committed) -> Result<()> {
    let planner = Planner::new(image)?;
    let goal = Goal {
        active: Some(ActiveL1::same(&image.header)),
        recount: true,
        ..Goal::same(&image.header)
    };
    let mut plan = planner.plan(goal)?;
    if plan.proven {
        let mut punch = Punch::new(image, done);
        plan.refcounts.for_unseen(image.storage(), |run| punch.run(run))?;
    }
    // The caller has been told of the commit that counts.
    let last = commit(image, plan, &mut CommitOptions::default())?;
    done.written_bytes += last.written_bytes;
    done.flushes += last.flushes;
    done.punched_bytes += last.punched_bytes;
    done.punch_failure = done.punch_failure.take().or(last.punch_failure);
    Ok(())
}

/// How the list without entry `index` can be committed on blocks that the file owns already; none
/// where it cannot.
fn shorter_listing(image: &Image, index: usize) -> Result<Option<Listing>> {
    let entries = image.snapshots()?;
    if index + 1 == entries.len() {
        return Ok(Some(Listing::Shorter { count: index }));
    }
    if let Some(listing) = moved_last(image, &entries, index)? {
        return Ok(Some(listing));
    }
    let mut rest = entries;
    rest.remove(index);
    let table = encode_table(&rest);
    let count = (table.len() as u64).div_ceil(image.header.cluster_bytes());
    let mut walked = Planner::new(image)?.plan(Goal::same(&image.header))?;
    let Some(first) = walked.find_free_with_blocks(image, count)? else { return Ok(None) };
    let clusters = first..first + count;
    let edits = Refcounts::load(image)?.raised_sectors(image.storage(), clusters.clone())?;
    Ok(Some(Listing::Elsewhere { count: rest.len(), table, clusters, edits }))
}

/// The table with entry `index` moved to its end, where that changes one sector: the same snapshots
/// in another order, and then a shorter list.
fn moved_last(image: &Image, entries: &[SnapshotEntry], index: usize) -> Result<Option<Listing>> {
    let mut old = encode_table(entries);
    old.resize(old.len().next_multiple_of(SECTOR_BYTES), 0);
    let mut stored = vec![0; old.len()];
    image.storage().read_at(&mut stored, image.header.snapshots_offset)?;
    let mut moved = entries.to_vec();
    let doomed = moved.remove(index);
    moved.push(doomed);
    let mut new = encode_table(&moved);
    new.resize(old.len(), 0);
    let sectors = |bytes: &[u8]| bytes.as_chunks::<SECTOR_BYTES>().0.to_vec();
    let (old_sectors, new_sectors) = (sectors(&old), sectors(&new));
    let mut changed = (0..old_sectors.len()).filter(|&n| old_sectors[n] != new_sectors[n]);
    let (Some(only), None) = (changed.next(), changed.next()) else { return Ok(None) };
    // Where the table has something in its padding, nothing is edited.
    let edit = EditedSector {
        offset: image.header.snapshots_offset + (only * SECTOR_BYTES) as u64,
        old: old_sectors[only],
        new: new_sectors[only],
    };
    let listing = Listing::Reordered { count: entries.len() - 1, edit: Box::new(edit) };
    Ok((stored == old).then_some(listing))
}
