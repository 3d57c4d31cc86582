//! The snapshot table as a repair reads it: what the format has no place for is left out.

use super::Repair;
use super::line::Line;
use crate::format::header::{MAX_SNAPSHOTS, SnapshotTableDefect};
use crate::format::snapshot::{RowDefect, SnapshotEntry, for_rows};
use crate::image::Image;

/// The rows, and what becomes of them.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub entries: Vec<SnapshotEntry>,
    /// Where each of them begins, in the file.
    pub offsets: Vec<u64>,
    /// Of the table as it stands, in bytes.
    pub bytes: u64,
    /// What is left out, in the order in which it is told.
    pub discarded: Vec<Line>,
}

impl Rows {
    /// Reads the table; none where a check has to read it, and to say what is wrong with it.
    /// [`Repair::Leaks`] leaves nothing out.
    pub fn read(image: &Image, what: Repair) -> Option<Self> {
        let header = image.header();
        let is_cut = match header.snapshot_table_defect() {
            None => false,
            Some(SnapshotTableDefect::TooLarge) => true,
            Some(SnapshotTableDefect::Misplaced) => return None,
        };
        if what == Repair::Leaks {
            return None;
        }
        let mut discarded = Vec::new();
        let count = header.snapshot_count.min(MAX_SNAPSHOTS);
        if is_cut {
            discarded.push(Line::SnapshotsDiscarded { count: header.snapshot_count - count });
        }
        let reader = image.reader();
        let (mut entries, mut offsets) = (Vec::new(), Vec::new());
        let bytes = for_rows(
            count,
            header.snapshots_offset,
            u64::MAX,
            |buf, at| reader.fill(buf, at),
            |defect, _| {
                discarded.push(match defect {
                    RowDefect::TooMuchExtra { index, bytes } => {
                        Line::ExtraDiscarded { index, bytes }
                    }
                    RowDefect::TooBig { count } => Line::LongTableCut { count },
                });
                Ok(())
            },
            |row, entry| {
                offsets.push(row);
                entries.push(entry);
                Ok(())
            },
        );
        // What fails here too, a check has the words for.
        Some(Self { bytes: bytes.ok()?, entries, offsets, discarded })
    }

    /// As many corruptions as `qemu-img` counts for what is left out.
    pub fn discarded_count(&self) -> u64 {
        let count = |line: &Line| match line {
            Line::SnapshotsDiscarded { count } | Line::LongTableCut { count } => u64::from(*count),
            _ => 1,
        };
        self.discarded.iter().map(count).sum()
    }
}
