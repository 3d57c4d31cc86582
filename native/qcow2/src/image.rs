//! An open image: its storage, its header, and its tables on request.
//!
//! There are two ways to open one. To change or to copy it, everything that the header names must
//! have a sound place. To show or to check it, QEMU's rules are enough, and what lies beyond the
//! end of the file is zeros, as for QEMU: who looks at a damaged image sees the same with both.
//! Whatever a table says is checked when the table is read; names of other files in the image are
//! data and are never opened.

mod reader;

use std::fmt;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::bitmap;
use crate::format::header::{self, Header, Purpose, SECTOR_BYTES, incompatible};
use crate::format::snapshot::{self, SnapshotEntry};
use crate::storage::Storage;

pub(crate) use reader::Reader;

/// The way out of what the marks say.
const REPAIR: &str = "repair it first, for example with `calque image check -r all`";

/// An open qcow2 image.
pub struct Image {
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) header: Header,
    /// Length of the file in bytes when it was opened.
    pub(crate) file_bytes: u64,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Image {
    /// Opens an image to change or to copy it: its header keeps all rules. Take any lock that is
    /// wanted before: what is read here is trusted later.
    pub fn open(storage: Box<dyn Storage>) -> Result<Self> {
        let image = Self::open_for(Purpose::Use, storage)?;
        image.header.ensure_sound(image.file_bytes)?;
        Ok(image)
    }

    /// Opens an image to show it, wherever `qemu-img info` shows it. Operations that change or copy
    /// refuse some of these.
    pub fn open_to_show(storage: Box<dyn Storage>) -> Result<Self> {
        let image = Self::open_for(Purpose::Use, storage)?;
        if let Err(error) = image.for_bitmaps(|_| Ok(())) {
            // QEMU reads the snapshots first, and says what is wrong with them.
            image.for_listed_snapshots(|_| Ok(()))?;
            return Err(error);
        }
        Ok(image)
    }

    /// Opens an image as [`Header::read`] reads its header.
    pub(crate) fn open_for(purpose: Purpose, storage: Box<dyn Storage>) -> Result<Self> {
        let file_bytes = storage.len()?;
        let mut sector = [0; SECTOR_BYTES];
        storage.read_at(&mut sector, 0)?;
        let mut cluster = vec![0; 1 << Header::peek_cluster_bits(&sector)?];
        storage.read_at(&mut cluster, 0)?;
        let header = Header::read(&cluster, purpose)?;
        Ok(Self { storage, header, file_bytes })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the bytes live.
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Length of the file in bytes when it was opened.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Whether the first sector on disk is still the one that was parsed. Readers without locks
    /// ask this after they have read everything that the sector names.
    pub fn is_current(&self) -> Result<bool> {
        let mut sector = [0; SECTOR_BYTES];
        self.storage.read_at(&mut sector, 0)?;
        Ok(self.header.same_sector(&sector))
    }

    /// The image's bytes as QEMU sees them.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader::new(self.storage.as_ref(), self.file_bytes)
    }

    /// Shows all persistent bitmaps to `visit`, in the order of their directory, once they are known
    /// to keep the rules: their names may have 64 MiB. Ends with the first error of `visit`.
    pub fn for_bitmaps(
        &self,
        mut visit: impl FnMut(bitmap::BitmapInfo) -> Result<()>,
    ) -> Result<()> {
        let read = &mut |buf: &mut [u8], at: u64| self.reader().fill(buf, at);
        bitmap::for_all(&self.header, self.file_bytes, read, &mut |_, bitmap| visit(bitmap))
    }

    /// How many there are.
    pub fn bitmap_count(&self) -> Result<u32> {
        Ok(bitmap::directory(&self.header)?.map_or(0, |directory| directory.count))
    }

    /// How many snapshots QEMU lists: where the data are in another file, none.
    pub fn listed_snapshot_count(&self) -> u32 {
        if self.header.has(incompatible::DATA_FILE) { 0 } else { self.header.snapshot_count }
    }

    /// The snapshots as QEMU lists them: of a table that the end of the file cuts off, the rest
    /// reads as zeros, and where the data are in another file, none is listed.
    pub fn listed_snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        let mut entries = Vec::new();
        self.for_listed_snapshots(|entry| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    /// Shows them to `visit`, one after the other: all together may have 64 MiB, most of which
    /// nobody shows. Ends with the first error of `visit`.
    pub fn for_listed_snapshots(
        &self,
        mut visit: impl FnMut(SnapshotEntry) -> Result<()>,
    ) -> Result<()> {
        let is_listed = self.listed_snapshot_count() > 0;
        let (count, offset) = (self.header.snapshot_count, self.header.snapshots_offset);
        let read = |buf: &mut [u8], at| {
            let read = self.reader().fill(buf, at);
            read.map_err(|error| error.context("Failed to read snapshot table"))
        };
        let visit = |_, entry| if is_listed { visit(entry) } else { Ok(()) };
        snapshot::for_rows(count, offset, u64::MAX, read, snapshot::refuse, visit).map(|_| ())
    }

    /// Shows each row of the snapshot table, with its host offset, to `visit`, with zeros beyond
    /// the end of the file. Returns the table's length in bytes.
    pub(crate) fn for_listed_rows(
        &self,
        visit: impl FnMut(u64, SnapshotEntry) -> Result<()>,
    ) -> Result<u64> {
        let (count, offset) = (self.header.snapshot_count, self.header.snapshots_offset);
        let read = |buf: &mut [u8], at| self.reader().fill(buf, at);
        snapshot::for_rows(count, offset, u64::MAX, read, snapshot::refuse, visit)
    }

    /// All snapshots, in the order of the table, which lies inside the file.
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        let mut entries = Vec::new();
        self.for_snapshots(|_, entry| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    /// Shows them to `visit` with the host offsets of their rows, one after the other. Returns the
    /// length of the table in bytes, without padding.
    pub(crate) fn for_snapshots(
        &self,
        visit: impl FnMut(u64, SnapshotEntry) -> Result<()>,
    ) -> Result<u64> {
        if self.header.snapshot_count == 0 {
            return Ok(0);
        }
        let (count, offset) = (self.header.snapshot_count, self.header.snapshots_offset);
        let read = |buf: &mut [u8], at| Ok(self.storage.read_at(buf, at)?);
        snapshot::for_rows(count, offset, self.file_bytes, read, snapshot::refuse, visit)
    }

    /// The snapshot at a position of the table.
    pub(crate) fn snapshot(&self, index: usize) -> Result<SnapshotEntry> {
        let (mut found, mut next) = (None, 0);
        self.for_snapshots(|_, entry| {
            if next == index {
                found = Some(entry);
            }
            next += 1;
            Ok(())
        })?;
        found.ok_or_else(|| Error::new(Kind::SnapshotNotFound, "snapshot not found"))
    }

    /// The position in the table of the snapshot that `selector` means, as `look`, of [`lookup`],
    /// finds it. Keeps no texts but those that it looks for.
    pub(crate) fn find_snapshot(
        &self,
        selector: &[u8],
        look: fn(&[SnapshotEntry], &[u8]) -> Result<usize>,
    ) -> Result<usize> {
        // Stands for all texts that are not meant.
        let other: &[u8] = if selector.is_empty() { b"-" } else { b"" };
        let mut entries = Vec::new();
        self.for_snapshots(|_, entry| {
            let [is_id, is_name] = [entry.id_text(), entry.name_text()].map(|it| it == selector);
            let mut kept = entry.bare();
            kept.id = if is_id || is_name { entry.id } else { other.to_vec() };
            kept.name = if is_name { entry.name } else { other.to_vec() };
            entries.push(kept);
            Ok(())
        })?;
        look(&entries, selector)
    }

    /// Refuses what no operation that changes an image can keep intact: nothing is written.
    pub fn ensure_changeable(&self) -> Result<()> {
        let header = &self.header;
        if header.has(incompatible::CORRUPT) {
            return Err(Error::new(
                Kind::MarkedCorrupt,
                "qcow2: Image is corrupt; cannot be opened read/write",
            )
            .with_hint(REPAIR));
        }
        if header.has(incompatible::DIRTY) {
            return Err(Error::new(
                Kind::MarkedDirty,
                "The image is marked dirty: its reference counts may be stale",
            )
            .with_hint(REPAIR));
        }
        self.ensure_mapped_here()
    }

    /// Refuses features under which the mapping cannot be followed yet.
    pub(crate) fn ensure_mapped_here(&self) -> Result<()> {
        if self.header.has(incompatible::DATA_FILE) {
            return Err(Error::new(Kind::UnsupportedFeature, "Operation not supported")
                .with_hint("the image keeps its data in an external data file"));
        }
        Ok(())
    }

    /// Reads an L1 table of `entries` entries at `offset`, after checking that it is aligned,
    /// within QEMU's limit and inside the file.
    pub(crate) fn read_l1(&self, offset: u64, entries: u32) -> Result<Vec<u64>> {
        let mut l1 = Vec::new();
        self.for_l1_entries(offset, entries, |index, entry| {
            if index == 0 {
                // Bounded now by the length of the file.
                l1.reserve_exact(entries as usize);
            }
            l1.push(entry);
            Ok(())
        })?;
        Ok(l1)
    }

    /// Shows every entry of an L1 table to `visit`, with its index, after the same checks. Reads it
    /// in pieces: it may have 32 MiB.
    pub(crate) fn for_l1_entries(
        &self,
        offset: u64,
        entries: u32,
        mut visit: impl FnMut(usize, u64) -> Result<()>,
    ) -> Result<()> {
        const PIECE_BYTES: usize = 256 << 10;
        self.ensure_l1(offset, entries)?;
        let length = entries as usize * 8;
        for at in (0..length).step_by(PIECE_BYTES) {
            let mut piece = vec![0; PIECE_BYTES.min(length - at)];
            self.storage.read_at(&mut piece, offset + at as u64)?;
            for (index, entry) in (at / 8..).zip(piece.as_chunks::<8>().0) {
                visit(index, u64::from_be_bytes(*entry))?;
            }
        }
        Ok(())
    }

    /// Checks where an L1 table is said to be, and how long.
    pub(crate) fn ensure_l1(&self, offset: u64, entries: u32) -> Result<()> {
        let length = u64::from(entries) * 8;
        if length > header::MAX_L1_BYTES {
            return Err(corrupt("L1 table too large", offset));
        }
        if length > 0 { self.ensure_inside(offset, length, "L1 table") } else { Ok(()) }
    }

    /// The active L1 table.
    pub(crate) fn active_l1(&self) -> Result<Vec<u64>> {
        self.read_l1(self.header.l1_offset, self.header.l1_entries)
    }

    /// Reads `length` bytes of a table that starts on a cluster and lies inside the file. `what`
    /// names it in the error. `length` is bounded by the file's length before anything is
    /// allocated.
    pub(crate) fn read_table_bytes(&self, offset: u64, length: u64, what: &str) -> Result<Vec<u8>> {
        self.ensure_inside(offset, length, what)?;
        let length =
            usize::try_from(length).map_err(|_| corrupt(format!("{what} too large"), offset))?;
        let mut bytes = vec![0; length];
        self.storage.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Checks that a table starts on a cluster and lies inside the file; its last cluster may be
    /// cut off by the end of the file.
    pub(crate) fn ensure_inside(&self, offset: u64, length: u64, what: &str) -> Result<()> {
        let cluster = self.header.cluster_bytes();
        if offset == 0 || !offset.is_multiple_of(cluster) {
            return Err(corrupt(format!("{what} offset {offset:#x} is not aligned"), offset));
        }
        let file_end = self.file_bytes.next_multiple_of(cluster);
        if offset >= self.file_bytes || offset.checked_add(length).is_none_or(|end| end > file_end)
        {
            return Err(corrupt(format!("{what} at {offset:#x} is outside the image"), offset));
        }
        Ok(())
    }
}

/// Finds snapshots the way QEMU does.
pub mod lookup {
    use super::{Error, Kind, Result, SnapshotEntry};

    /// The entry whose id is `selector`, else the first whose name is (as `snapshot -a`).
    pub fn by_id_or_name(entries: &[SnapshotEntry], selector: &[u8]) -> Result<usize> {
        let by_id = entries.iter().position(|entry| entry.id_text() == selector);
        by_id.map_or_else(|| by_name(entries, selector), Ok)
    }

    /// The entry whose id is `id`. A damaged table may have several.
    pub fn by_id(entries: &[SnapshotEntry], id: &[u8]) -> Result<usize> {
        let mut found = entries.iter().enumerate().filter(|(_, entry)| entry.id_text() == id);
        match (found.next(), found.next()) {
            (None, _) => Err(Error::new(Kind::SnapshotNotFound, "snapshot not found")),
            (Some((index, _)), None) => Ok(index),
            _ => Err(Error::new(Kind::SnapshotAmbiguous, "Several snapshots have that ID")),
        }
    }

    /// The entry named `name` (as `snapshot -d`). An ambiguous name is refused with the ids listed.
    pub fn by_name(entries: &[SnapshotEntry], name: &[u8]) -> Result<usize> {
        let mut found = entries.iter().enumerate().filter(|(_, e)| e.name_text() == name);
        match (found.next(), found.next()) {
            (None, _) => Err(not_found(entries, name)),
            (Some((index, _)), None) => Ok(index),
            (Some((_, first)), Some((_, second))) => {
                let ids: Vec<_> = [first, second]
                    .into_iter()
                    .chain(found.map(|(_, e)| e))
                    .map(|e| String::from_utf8_lossy(&e.id).escape_debug().to_string())
                    .collect();
                Err(Error::new(Kind::SnapshotAmbiguous, "Several snapshots have that name")
                    .with_hint(format!("their IDs are {}", ids.join(", "))))
            }
        }
    }

    fn not_found(entries: &[SnapshotEntry], name: &[u8]) -> Error {
        let error = Error::new(Kind::SnapshotNotFound, "snapshot not found");
        if entries.iter().any(|e| e.id_text() == name) {
            let id = String::from_utf8_lossy(name).escape_debug().to_string();
            return error.with_hint(format!("{id} is an ID, and snapshots are deleted by name"));
        }
        error
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn entries() -> Vec<SnapshotEntry> {
            [("1", "v1"), ("2", "twin"), ("3\n", "twin"), ("4", "1")]
                .map(|(id, name)| SnapshotEntry::disk_only(id.into(), name.into(), (0, 0), 0))
                .into()
        }

        #[test]
        fn an_id_comes_before_a_name_and_only_where_ids_count() {
            assert_eq!(by_id_or_name(&entries(), b"1").unwrap(), 0);
            assert_eq!(by_id_or_name(&entries(), b"v1").unwrap(), 0);
            assert_eq!(by_name(&entries(), b"1").unwrap(), 3);
        }

        #[test]
        fn an_id_means_one_snapshot_or_none() {
            assert_eq!(by_id(&entries(), b"3\n").unwrap(), 2);
            assert_eq!(by_id(&entries(), b"v1").unwrap_err().kind(), Kind::SnapshotNotFound);
            let twice = [entries(), entries()].concat();
            assert_eq!(by_id(&twice, b"4").unwrap_err().kind(), Kind::SnapshotAmbiguous);
        }

        #[test]
        fn a_name_of_several_is_refused_with_their_ids() {
            for look in [by_name, by_id_or_name] {
                let error = look(&entries(), b"twin").unwrap_err();
                assert_eq!(error.kind(), Kind::SnapshotAmbiguous);
                assert_eq!(error.hint.as_deref(), Some(r"their IDs are 2, 3\n"));
            }
        }

        #[test]
        fn an_id_where_a_name_belongs_is_called_one() {
            let error = by_name(&entries(), b"2").unwrap_err();
            assert_eq!(error.reason(), "snapshot not found");
            let hint = "2 is an ID, and snapshots are deleted by name";
            assert_eq!(error.hint.as_deref(), Some(hint));
            assert_eq!(by_name(&entries(), b"nope").unwrap_err().hint, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::extension;
    use crate::storage::RecordingStorage;
    use crate::{NewImage, create};

    /// QEMU reads the snapshots before the bitmaps; we read them only when they are asked for.
    #[test]
    fn of_two_mistakes_the_one_in_the_snapshot_table_is_told() {
        let storage = RecordingStorage::new();
        create(&storage, &NewImage { size: 1 << 20, ..NewImage::default() }).unwrap();
        let put = |bytes: &[u8], at| storage.write_at(bytes, at).unwrap();
        // A directory that is too short for one bitmap; the autoclear bit says that there is one.
        put(&[1], 95);
        let directory = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 5, 0, 0];
        put(&extension::BITMAPS.to_be_bytes(), 504);
        put(&[0, 0, 0, 24], 508);
        put(&directory, 512);
        let shown = || Image::open_to_show(Box::new(storage.clone())).unwrap_err();
        assert_eq!(shown().reason(), "Broken bitmap directory");
        // One snapshot, whose row has 2000 bytes of extra data.
        put(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 6, 0, 0], 60);
        put(&[0, 0, 7, 0xd0], 0x6_0000 + 36);
        assert_eq!(shown().reason(), "Too much extra metadata in snapshot table entry 0");
    }
}
