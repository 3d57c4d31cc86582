//! An open image: its storage, its validated header, and its tables on request.
//!
//! Opening reads the first cluster only. Whatever a table says is checked when the table is read;
//! names of other files in the image are data and are never opened.

use std::fmt;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{self, Header, SECTOR_BYTES, incompatible};
use crate::format::mapping;
use crate::format::snapshot::{self, SnapshotEntry};
use crate::storage::Storage;

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
    /// Reads and validates the header. Takes any lock that is wanted before: what is read here is
    /// trusted later.
    pub fn open(storage: Box<dyn Storage>) -> Result<Self> {
        let file_bytes = storage.len()?;
        let mut sector = vec![0; usize::try_from(file_bytes.min(512)).expect("at most 512")];
        storage.read_at(&mut sector, 0)?;
        let bits = Header::peek_cluster_bits(&sector)?;
        let first = usize::try_from(file_bytes.min(1 << bits)).expect("at most 2 MiB");
        let mut cluster = vec![0; first];
        storage.read_at(&mut cluster, 0)?;
        let header = Header::parse(&cluster, file_bytes)?;
        Ok(Self { storage, header, file_bytes })
    }

    /// The validated header.
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

    /// All snapshots, in the order of the table.
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        Ok(self.snapshot_table()?.0)
    }

    /// The snapshot table and its length in bytes, without padding.
    pub(crate) fn snapshot_table(&self) -> Result<(Vec<SnapshotEntry>, u64)> {
        if self.header.snapshot_count == 0 {
            return Ok((Vec::new(), 0));
        }
        snapshot::read_table(
            self.header.snapshot_count,
            self.header.snapshots_offset,
            self.file_bytes,
            |buf, at| Ok(self.storage.read_at(buf, at)?),
        )
    }

    /// Refuses what no operation that changes an image can keep intact: nothing is written.
    pub fn ensure_changeable(&self) -> Result<()> {
        let header = &self.header;
        if header.has(incompatible::CORRUPT) {
            return Err(Error::new(
                Kind::MarkedCorrupt,
                "qcow2: Image is corrupt; cannot be opened read/write",
            ));
        }
        if header.has(incompatible::DIRTY) {
            return Err(Error::new(
                Kind::MarkedDirty,
                "The image is marked dirty: its reference counts may be stale",
            )
            .with_hint("repair it first, for example with `qemu-img check -r all`"));
        }
        self.ensure_mapped_here()
    }

    /// Refuses features under which the mapping cannot be followed yet.
    pub(crate) fn ensure_mapped_here(&self) -> Result<()> {
        if self.header.has(incompatible::DATA_FILE) {
            return Err(Error::new(Kind::UnsupportedFeature, "Operation not supported")
                .with_hint("the image keeps its data in an external data file"));
        }
        if self.header.extended_l2() {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "Images with extended L2 entries are not supported yet",
            ));
        }
        Ok(())
    }

    /// Reads an L1 table of `entries` entries at `offset`, after checking that it is aligned, within
    /// QEMU's limit and inside the file.
    pub(crate) fn read_l1(&self, offset: u64, entries: u32) -> Result<Vec<u64>> {
        if u64::from(entries) * 8 > header::MAX_L1_BYTES {
            return Err(corrupt("L1 table too large", offset));
        }
        if entries == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.read_table_bytes(offset, u64::from(entries) * 8, "L1 table")?;
        Ok(mapping::decode_table(&bytes))
    }

    /// The active L1 table.
    pub(crate) fn active_l1(&self) -> Result<Vec<u64>> {
        self.read_l1(self.header.l1_offset, self.header.l1_entries)
    }

    /// Reads `length` bytes of a table that starts on a cluster and lies inside the file. `what` names
    /// it in the error. `length` is bounded by the file's length before anything is allocated.
    pub(crate) fn read_table_bytes(&self, offset: u64, length: u64, what: &str) -> Result<Vec<u8>> {
        self.ensure_inside(offset, length, what)?;
        let length =
            usize::try_from(length).map_err(|_| corrupt(format!("{what} too large"), offset))?;
        let mut bytes = vec![0; length];
        self.storage.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Checks that a table starts on a cluster and lies inside the file; its last cluster may be cut
    /// off by the end of the file.
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
        entries.iter().position(|e| e.id == selector).map_or_else(|| by_name(entries, selector), Ok)
    }

    /// The entry named `name` (as `snapshot -d`). An ambiguous name is refused with the ids listed.
    pub fn by_name(entries: &[SnapshotEntry], name: &[u8]) -> Result<usize> {
        let mut found = entries.iter().enumerate().filter(|(_, e)| e.name == name);
        match (found.next(), found.next()) {
            (None, _) => Err(Error::new(Kind::SnapshotNotFound, "snapshot not found")),
            (Some((index, _)), None) => Ok(index),
            (Some((_, first)), Some((_, second))) => {
                let ids: Vec<_> = [first, second]
                    .into_iter()
                    .chain(found.map(|(_, e)| e))
                    .map(|e| String::from_utf8_lossy(&e.id).into_owned())
                    .collect();
                Err(Error::new(Kind::SnapshotAmbiguous, "Several snapshots have that name")
                    .with_hint(format!("their ids are {}", ids.join(", "))))
            }
        }
    }
}
