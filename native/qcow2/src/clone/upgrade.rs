//! A clone of a version 2 image as one of version 3, before anybody sees it.
//!
//! The header becomes longer, so that what stands behind it in the first cluster moves: extensions
//! and the backing file's name. Clusters, tables and counts are the same in both versions. Rows of
//! the snapshot table that do not state the size of their disk, which version 3 asks for, are a
//! matter of the goal.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;

use super::Draft;
use crate::error::{Error, Kind, Result};
use crate::format::header::Header;
use crate::format::mapping::{self, Mapping};
use crate::image::Image;
use crate::plan::Planner;
use crate::storage::FileStorage;

/// Extra data of a row that version 3 asks for: up to the size of the disk.
const ROW_EXTRA_BYTES: usize = 16;

/// Whether rows of the snapshot table lack what version 3 asks for.
pub(super) fn has_short_rows(image: &Image) -> Result<bool> {
    let mut any = false;
    image.for_snapshots(|_, row| {
        any |= row.extra.len() < ROW_EXTRA_BYTES;
        Ok(())
    })?;
    Ok(any)
}

/// Refuses, before anything is copied, drafts whose longer header would not fit.
pub(super) fn ensure_fits(image: &Image, drafts: &[Draft]) -> Result<()> {
    for draft in drafts {
        let own = image.header.backing_file.as_ref();
        let name = draft.backing_file.as_ref().or(own).filter(|name| !name.is_empty());
        if image.header.upgraded(name.map(Vec::as_slice)).is_none() {
            return Err(too_long().about(draft.staged.target()));
        }
    }
    Ok(())
}

/// Makes every draft an image of version 3. They hold the same but for the backing file's name.
///
/// Fails with [`Kind::Corrupt`] if an entry has the bit that has a meaning only there: content
/// would change without a word.
pub(super) fn upgrade(drafts: &mut [Draft]) -> Result<()> {
    for (index, draft) in drafts.iter_mut().enumerate() {
        let upgraded = (|| {
            let file = draft.staged.file();
            let image = Image::open(Box::new(FileStorage::from_file(file.try_clone()?)?))?;
            if index == 0 {
                ensure_valid_entries(&image)?;
            }
            let bytes = header_bytes(&image.header)?;
            file.write_all_at(&bytes, 0)?;
            Ok(bytes.len() as u64)
        })();
        draft.written_bytes +=
            upgraded.map_err(|error: Error| error.about(draft.staged.target()))?;
        draft.upgraded = true;
    }
    Ok(())
}

/// The new first cluster.
fn header_bytes(header: &Header) -> Result<Vec<u8>> {
    let name = header.backing_file.as_deref().filter(|name| !name.is_empty());
    let mut bytes = header.upgraded(name).ok_or_else(too_long)?;
    let first = usize::try_from(header.cluster_bytes()).expect("at most 2 MiB");
    bytes.resize(first, 0);
    Ok(bytes)
}

fn too_long() -> Error {
    Error::new(Kind::UnsupportedFeature, "the header of version 3 does not fit the first cluster")
}

/// Checks every L2 entry that the image names, each table once.
fn ensure_valid_entries(image: &Image) -> Result<()> {
    let header = &image.header;
    let (bits, cluster_bytes) = (header.cluster_bits, header.cluster_bytes());
    // L1 tables that overlap are refused here: a small file could name endlessly many.
    let planner = Planner::new(image)?;
    let snapshots = planner.snapshots().iter().map(|row| (row.l1_offset, row.l1_entries));
    let mut seen = HashSet::new();
    for (offset, count) in [(header.l1_offset, header.l1_entries)].into_iter().chain(snapshots) {
        for (slot, entry) in image.read_l1(offset, count)?.into_iter().enumerate() {
            let table = mapping::l2_offset(entry, bits, offset + slot as u64 * 8)?;
            let Some(table) = table.filter(|&table| seen.insert(table)) else { continue };
            let entries = image.read_table_bytes(table, cluster_bytes, "L2 table")?;
            for (index, entry) in mapping::decode_table(&entries).into_iter().enumerate() {
                Mapping::decode(entry, bits, header.version, table + index as u64 * 8)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, Used, Version, Wanted, clone_image};
    use crate::format::mapping::{OFFSET_MASK, ZERO};
    use crate::os::mounted::Mounted;
    use crate::storage::{Access, FileStorage, RecordingStorage, Storage};
    use crate::{CommitOptions, Image, Kind, NewImage};

    /// A copy reads all tables anyway; a clone that shares its blocks reads none for itself.
    #[test]
    fn an_entry_that_only_version_3_knows_is_refused_where_blocks_are_shared_too() {
        for kind in ["xfs", "btrfs"] {
            let Some(mounted) = Mounted::new(kind) else { continue };
            let storage = FileStorage::from_file(mounted.file("image")).unwrap();
            let new = NewImage { size: 1 << 20, version: 2, ..NewImage::default() };
            crate::create(&storage, &new).unwrap();
            let disk = RecordingStorage::new();
            disk.write_at(&vec![7; 100_000], 0).unwrap();
            let mut image = Image::open(Box::new(storage.try_clone().unwrap())).unwrap();
            let options = &mut CommitOptions { staged: true, ..CommitOptions::default() };
            image.write_content(&disk, options).unwrap();

            let source = FileStorage::open(mounted.path().join("image"), Access::Read).unwrap();
            let clone = |name| {
                let (strategy, version) = (Strategy::Reflink, Version::Upgraded);
                let wanted = Wanted { strategy, version, ..Wanted::default() };
                clone_image(&source, &[mounted.path().join(name)], wanted, &mut |_, _| {})
            };
            let made = clone("good").unwrap();
            assert_eq!((made[0].used, made[0].upgraded), (Used::Reflink, true), "{kind}");
            let good = FileStorage::open(mounted.path().join("good"), Access::Read).unwrap();
            assert_eq!(Image::open(Box::new(good)).unwrap().header().version, 3);

            let table = image.active_l1().unwrap()[0] & OFFSET_MASK;
            let mut entry = [0; 8];
            storage.read_at(&mut entry, table).unwrap();
            let entry = u64::from_be_bytes(entry) | ZERO;
            storage.write_at(&entry.to_be_bytes(), table).unwrap();
            let error = clone("bad").unwrap_err();
            assert_eq!((error.kind(), error.offset), (Kind::Corrupt, Some(table)), "{kind}");
            assert!(!mounted.path().join("bad").exists());
        }
    }
}
