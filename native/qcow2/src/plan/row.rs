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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::snapshot::encode_table;
    use crate::image::lookup;
    use crate::storage::{RecordingStorage, Storage};
    use crate::{Kind, NewImage, create};

    const TABLE: u64 = 8 << 16;

    /// An image with these rows.
    fn image(rows: &[SnapshotEntry]) -> (RecordingStorage, Image) {
        let storage = RecordingStorage::new();
        create(&storage, &NewImage { size: 1 << 20, ..NewImage::default() }).unwrap();
        storage.write_at(&encode_table(rows), TABLE).unwrap();
        storage.write_at(&u32::try_from(rows.len()).unwrap().to_be_bytes(), 60).unwrap();
        storage.write_at(&TABLE.to_be_bytes(), 64).unwrap();
        (storage.clone(), Image::open(Box::new(storage)).unwrap())
    }

    fn row(id: &str, name: &str, extra_bytes: usize) -> SnapshotEntry {
        let mut row = SnapshotEntry::disk_only(id.into(), name.into(), (1, 2), 1 << 20);
        row.extra.resize(extra_bytes, 3);
        row
    }

    #[test]
    fn a_row_that_is_read_again_is_written_as_one_that_was_kept_and_refused_where_it_changed() {
        let rows = [row("1", "one", 0), row("22", "another", 24), row("3", "x", 1000)];
        let (storage, image) = image(&rows);
        let (mut kept, mut standing, mut bytes, mut offsets) =
            (Vec::new(), Vec::new(), 0, Vec::new());
        image
            .for_snapshots(|at, mut entry| {
                let row = Row::standing(at, &entry, 7 << 20);
                row.encode(&image, |_| None, &mut standing)?;
                bytes += row.bytes();
                offsets.push((at, row));
                entry.widen(7 << 20);
                Row::Whole(Box::new(entry)).encode(&image, |_| None, &mut kept)
            })
            .unwrap();
        assert!(kept == standing && kept.len() as u64 == bytes);
        for (at, row) in offsets {
            // The length of its name.
            storage.write_at(&200_u16.to_be_bytes(), at + 14).unwrap();
            assert_eq!(
                row.encode(&image, |_| None, &mut Vec::new()).unwrap_err().kind(),
                Kind::Busy
            );
        }
    }

    /// Names may have 64 KiB.
    #[test]
    fn a_snapshot_is_found_without_keeping_the_texts_of_others_as_with_them() {
        let rows = [("1", "one"), ("2", "twin"), ("3", "twin"), ("one", ""), ("", "-"), ("-", "9")];
        let rows = [&rows[..], &[("2", "2")]].concat();
        let rows: Vec<_> = rows.into_iter().map(|(id, name)| row(id, name, 24)).collect();
        let (_, image) = image(&rows);
        for look in [lookup::by_id, lookup::by_name, lookup::by_id_or_name] {
            for selector in ["1", "one", "2", "twin", "3", "", "-", "9", "none"] {
                let found = image.find_snapshot(selector.as_bytes(), look);
                let expected = look(&rows, selector.as_bytes());
                assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{selector:?}");
            }
        }
    }
}
