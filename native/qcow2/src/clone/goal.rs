//! What a clone keeps of its source, as a plan for the copied metadata.

use std::ops::Range;

use super::{Selection, Version, upgrade};
use crate::content::Disk;
use crate::error::Result;
use crate::image::{Image, lookup};
use crate::plan::{ActiveL1, Goal, Plan, Planner};

/// What has to change in the copied metadata.
pub(super) enum GoalFor {
    /// Nothing: the clone is the source, cluster by cluster.
    Same,
    /// The rows of the snapshot table get what version 3 asks for.
    Widened,
    /// Only this content stays.
    Only(Disk),
}

/// What a copy is made of.
pub(super) struct Needed {
    /// Bytes of the source that the copy has to hold, ascending and disjoint.
    pub ranges: Vec<Range<u64>>,
    /// The change that makes it what is wanted, where there is one.
    pub plan: Option<Plan>,
}

impl GoalFor {
    pub(super) fn new(image: &Image, selection: Selection<'_>, version: Version) -> Result<Self> {
        let disk = match selection {
            Selection::Everything
                if version == Version::Upgraded && upgrade::has_short_rows(image)? =>
            {
                return Ok(Self::Widened);
            }
            Selection::Everything => return Ok(Self::Same),
            Selection::ActiveDisk if image.header.snapshot_count == 0 => return Ok(Self::Same),
            Selection::ActiveDisk => Disk::Active,
            Selection::Snapshot(selector) => {
                Disk::Snapshot(image.find_snapshot(selector, lookup::by_id_or_name)?)
            }
        };
        image.ensure_mapped_here()?;
        Ok(Self::Only(disk))
    }

    /// The change, made on `image`, for files that hold the same bytes; none where there is none.
    pub(super) fn plan(&self, image: &Image) -> Result<Option<Plan>> {
        match *self {
            Self::Same => Ok(None),
            Self::Widened => widened(image).map(Some),
            Self::Only(disk) => only(image, disk).map(Some),
        }
    }

    /// What a copy of `image` needs: what owns blocks, less what is neither used nor changed.
    pub(super) fn needed(&self, image: &Image) -> Result<Needed> {
        let data = image.storage().data_ranges(0..image.file_bytes)?;
        let mut plan = match *self {
            // A cluster that is counted free may be in use all the same; only a walk tells.
            Self::Same if image.ensure_mapped_here().is_err() => {
                return Ok(Needed { ranges: data, plan: None });
            }
            Self::Same => Planner::new(image)?.plan(Goal::same(&image.header))?,
            Self::Widened => widened(image)?,
            Self::Only(disk) => only(image, disk)?,
        };
        let ranges = if plan.proven {
            let bits = image.header.cluster_bits;
            let mut ranges = Vec::new();
            let mut data = data.as_slice();
            plan.refcounts.for_needed(image.storage(), |clusters| {
                let bytes = clusters.start << bits..clusters.end << bits;
                // What lies before it is behind us.
                data = &data[data.partition_point(|range| range.end <= bytes.start)..];
                ranges.extend(intersect(&[bytes], data));
                Ok(())
            })?;
            ranges
        } else {
            data
        };
        let plan = (!matches!(self, Self::Same)).then_some(plan);
        Ok(Needed { ranges, plan })
    }
}

/// The plan that changes nothing but the rows of the snapshot table. A row that does not state the
/// size of its disk means that of today.
fn widened(image: &Image) -> Result<Plan> {
    let planner = Planner::new(image)?;
    let snapshots = Some(planner.carried(image.header.size));
    planner.plan(Goal { snapshots, ..Goal::same(&image.header) })
}

/// The plan that leaves nothing but the content of `disk`.
fn only(image: &Image, disk: Disk) -> Result<Plan> {
    use crate::format::header::autoclear::BITMAPS;
    let planner = Planner::new(image)?;
    let same = Goal::same(&image.header);
    let goal = match disk {
        Disk::Active => Goal { active: Some(ActiveL1::same(&image.header)), ..same },
        Disk::Snapshot(index) => {
            let (size, active) = image.snapshot_disk(&image.snapshot(index)?)?;
            // Bitmaps describe the active disk.
            let drop_bitmaps = image.header.autoclear & BITMAPS != 0;
            Goal { size, active: Some(active), drop_bitmaps, ..same }
        }
    };
    planner.plan(Goal { snapshots: Some(Vec::new()), recount: true, ..goal })
}

/// The parts that lie in both lists; each is ascending and disjoint.
fn intersect(left: &[Range<u64>], right: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut both = Vec::new();
    let (mut l, mut r) = (0, 0);
    while let (Some(a), Some(b)) = (left.get(l), right.get(r)) {
        let part = a.start.max(b.start)..a.end.min(b.end);
        if !part.is_empty() {
            both.push(part);
        }
        if a.end < b.end {
            l += 1;
        } else {
            r += 1;
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::intersect;

    #[test]
    fn the_parts_in_both_lists_are_found() {
        assert_eq!(intersect(&[0..10, 20..30], &[5..25, 28..40]), [5..10, 20..25, 28..30]);
        assert_eq!(intersect(&[0..10], &[10..20]), []);
        assert_eq!(intersect(&[], &[10..20]), []);
    }
}
