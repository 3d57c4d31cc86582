//! Rows of the snapshot table as a commit writes them.
//!
//! Those that are there already are read again when they are written: all together may have 64 MiB.

use super::counts::changed;
use crate::error::Result;
use crate::format::snapshot::{SnapshotEntry, encode_row, read_row, row_bytes};
use crate::image::Image;

/// A row of the table afterwards.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    /// What stands at a host offset of the image, with all the extra data that QEMU gives a row.
    Standing {
        /// Where.
        at: u64,
        /// As it will be, padding included.
        bytes: u64,
        /// What it means if it does not state the size of its disk.
        disk_size: u64,
    },
    Whole(Box<SnapshotEntry>),
}

impl Row {
    /// The row `entry`, which stands at a host offset.
    pub fn standing(at: u64, entry: &SnapshotEntry, disk_size: u64) -> Self {
        let mut entry = entry.clone();
        entry.widen(disk_size);
        Self::Standing { at, bytes: row_bytes(&entry), disk_size }
    }

    /// Length in the table, padding included.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Standing { bytes, .. } => *bytes,
            Self::Whole(entry) => row_bytes(entry),
        }
    }

    /// Encodes it behind `out`, of which the length is a multiple of 8; a standing one with the L1
    /// table at `new_place`, if that says one. Fails as busy where it is not what it was.
    pub fn encode(
        &self,
        image: &Image,
        new_place: impl Fn(&SnapshotEntry) -> Option<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        match self {
            Self::Whole(entry) => encode_row(entry, out),
            &Self::Standing { at, bytes, disk_size } => {
                let mut entry = read_row(at, |buf, at| image.reader().fill(buf, at))?;
                entry.widen(disk_size);
                if row_bytes(&entry) != bytes {
                    return Err(changed());
                }
                entry.l1_offset = new_place(&entry).unwrap_or(entry.l1_offset);
                encode_row(&entry, out);
            }
        }
        Ok(())
    }
}

/// Length of a table of these rows.
pub(crate) fn rows_bytes(rows: &[Row]) -> u64 {
    rows.iter().map(Row::bytes).sum()
}
