//! What a repair says while it works, in `qemu-img check -r`'s lines.

use std::fmt;

use crate::check::Problem;

/// One line. Its [`Display`](fmt::Display) form has no newline at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A problem, as a check tells it.
    Found(Problem),
    /// A problem that is being repaired.
    Repairing(Problem),
    /// The refcount table and all blocks are made anew.
    Rebuilding,
    /// They would have to be, and that was not asked for.
    MustRebuild,
    /// A snapshot's row is cut to the extra data that the format allows.
    ExtraDiscarded {
        /// Position of the row.
        index: u32,
        /// What it said that it has.
        bytes: u32,
    },
    /// More snapshots are listed than there can be.
    SnapshotsDiscarded {
        /// How many are dropped.
        count: u32,
    },
    /// The table of snapshots is longer than it can be.
    LongTableCut {
        /// How many snapshots are dropped.
        count: u32,
    },
}

impl Line {
    /// The same in lines, as [`Problem::lines`].
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Found(problem) => problem.lines(),
            _ => vec![self.to_string()],
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(problem) => write!(f, "{problem}"),
            Self::Repairing(problem) => {
                let found = problem.to_string();
                let what = found.split_once(' ').map_or(found.as_str(), |(_, what)| what);
                write!(f, "Repairing {what}")
            }
            Self::Rebuilding => write!(f, "Rebuilding refcount structure"),
            Self::MustRebuild => write!(f, "ERROR need to rebuild refcount structures"),
            Self::ExtraDiscarded { index, bytes } => write!(
                f,
                "Discarding too much extra metadata in snapshot table entry {index} ({bytes} > \
                 1024)"
            ),
            Self::SnapshotsDiscarded { count } => {
                write!(f, "Discarding {count} overhanging snapshots")
            }
            Self::LongTableCut { count } => {
                write!(f, "Discarding {count} overhanging snapshots (snapshot table is too big)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repaired_is_named_as_it_was_found() {
        let lines = [
            (
                Problem::Leaked { cluster: 7, refcount: 1, references: 0 },
                "Repairing cluster 7 refcount=1 reference=0",
            ),
            (
                Problem::Undercounted { cluster: 5, refcount: 1, references: 3 },
                "Repairing cluster 5 refcount=1 reference=3",
            ),
            (
                Problem::CopiedL2 { l1_index: 0, entry: 0xa_0000, refcount: 1 },
                "Repairing OFLAG_COPIED L2 cluster: l1_index=0 l1_entry=a0000 refcount=1",
            ),
            (Problem::BlockOutside { index: 1 }, "Repairing refcount block 1 is outside image"),
            (
                Problem::SnapshotIncomplete { index: 0 },
                "Repairing snapshot table entry 0 is incomplete",
            ),
        ];
        for (problem, line) in lines {
            assert_eq!(Line::Repairing(problem).to_string(), line);
        }
    }
}
