//! The header as QEMU reads it, and what a writer asks on top.
//!
//! [`Header::read`] says what `qemu-img info` says of the same bytes: the same rules, the same
//! sentences, and where several rules are broken, the sentence of the one that QEMU looks at first.
//! What was read so is for showing and checking: tables may lie in the header or beyond the end of
//! the file. [`Header::ensure_sound`] is what a change or a copy asks in addition.

use std::collections::HashSet;

use super::{
    Compression, Encryption, Header, MAGIC, MAX_BACKING_BYTES, MAX_CLUSTER_BITS, MAX_FILE_BYTES,
    MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS, MIN_CLUSTER_BITS, SECTOR_BYTES,
    VERSION_2_HEADER_BYTES, VERSION_3_HEADER_BYTES, extension, extensions, incompatible,
};
use crate::error::{Error, Kind, Result};
use crate::format::{be32, be64, encryption, until_nul};

/// Where version 3 images have the compression type, should the header be long enough.
const COMPRESSION_AT: usize = 104;
/// The fixed part of an entry of the snapshot table.
const SNAPSHOT_ENTRY_BYTES: u64 = 40;
/// Parts of a cluster that an extended L2 entry tells apart.
const SUBCLUSTERS: u64 = 32;
const MIN_SUBCLUSTER_BYTES: u64 = 512;
/// The least offset that no L1 or L2 entry can name.
const OFFSET_LIMIT: u64 = 1 << 56;

/// What a header is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To use or to show what it describes.
    Use,
    /// To check the image: the check itself judges where the snapshot table lies, and an image
    /// without a refcount table.
    Check,
}

fn invalid(reason: impl Into<String>, offset: u64) -> Error {
    Error::new(Kind::InvalidHeader, reason).at(offset)
}

/// Whether a table, if there is one, cannot be read: it ends where no file reaches.
fn ends_beyond_files(offset: u64, bytes: u64) -> bool {
    bytes > 0 && offset.saturating_add(bytes) > MAX_FILE_BYTES
}

impl Header {
    /// Cluster bits of a file that starts with `sector`, after magic, version and range were
    /// checked: what has to be known before the whole first cluster can be read.
    pub fn peek_cluster_bits(sector: &[u8; SECTOR_BYTES]) -> Result<u32> {
        if be32(sector, 0) != MAGIC {
            return Err(Error::new(Kind::WrongFormat, "Image is not in qcow2 format"));
        }
        let version = be32(sector, 4);
        if version != 2 && version != 3 {
            return Err(Error::new(
                Kind::UnsupportedVersion,
                format!("Unsupported qcow2 version {version}"),
            )
            .at(4));
        }
        let bits = be32(sector, 20);
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&bits) {
            return Err(invalid(format!("Unsupported cluster size: 2^{bits}"), 20));
        }
        Ok(bits)
    }

    /// Parses the first cluster of a file of `file_bytes` bytes for a writer: as [`Header::read`],
    /// and [`Header::ensure_sound`].
    pub fn parse(cluster: &[u8], file_bytes: u64) -> Result<Self> {
        let header = Self::read(cluster, Purpose::Use)?;
        header.ensure_sound(file_bytes)?;
        Ok(header)
    }

    /// Parses `cluster`, the whole first cluster, with zeros where the file ends inside it.
    ///
    /// Guarantees afterwards: sizes are inside the format's and QEMU's limits; tables start on
    /// cluster boundaries and end before [`MAX_FILE_BYTES`], the snapshot table only if the purpose
    /// is not the check.
    pub fn read(cluster: &[u8], purpose: Purpose) -> Result<Self> {
        let sector = cluster.first_chunk().expect("a cluster has a sector or more");
        let cluster_bits = Self::peek_cluster_bits(sector)?;
        let mut header = Self {
            raw_sector: *sector,
            version: be32(cluster, 4),
            cluster_bits,
            size: be64(cluster, 24),
            encryption: Encryption::None,
            l1_entries: be32(cluster, 36),
            l1_offset: be64(cluster, 40),
            refcount_table_offset: be64(cluster, 48),
            refcount_table_clusters: be32(cluster, 56),
            snapshot_count: be32(cluster, 60),
            snapshots_offset: be64(cluster, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_bytes: VERSION_2_HEADER_BYTES,
            compression: Compression::Zlib,
            backing_file: None,
            extensions: Vec::new(),
        };
        if header.version == 3 {
            header.read_version_3(cluster)?;
        }
        if header.stored_backing().0 > header.cluster_bytes() {
            return Err(invalid("Invalid backing file offset", 8));
        }
        header.read_compression(cluster)?;
        header.check_features(cluster)?;
        header.check_refcount_table(purpose)?;
        if purpose == Purpose::Use {
            header.check_snapshot_table()?;
        }
        header.check_l1()?;
        header.encryption = match be32(cluster, 32) {
            0 => Encryption::None,
            1 => Encryption::Aes,
            2 => Encryption::Luks,
            other => {
                let method = other.cast_signed();
                return Err(invalid(format!("Unsupported encryption method {method}"), 32));
            }
        };
        if ends_beyond_files(header.refcount_table_offset, header.refcount_table_bytes()) {
            let reason = "Could not initialize refcount handling: Input/output error";
            return Err(invalid(reason, 48));
        }
        let (extensions, error) = extensions::read(&header, cluster);
        error.map_or(Ok(()), Err)?;
        header.extensions = extensions;
        encryption::luks_header(&header)?;
        header.read_backing(cluster)?;
        if header.size > MAX_FILE_BYTES {
            let reason = "Could not refresh total sector count: File too large";
            return Err(Error::new(Kind::TooLarge, reason).at(24));
        }
        Ok(header)
    }

    fn read_version_3(&mut self, cluster: &[u8]) -> Result<()> {
        self.incompatible = be64(cluster, 72);
        self.compatible = be64(cluster, 80);
        self.autoclear = be64(cluster, 88);
        self.refcount_order = be32(cluster, 96);
        self.header_bytes = be32(cluster, 100);
        if self.header_bytes < VERSION_3_HEADER_BYTES {
            return Err(invalid("qcow2 header too short", 100));
        }
        if u64::from(self.header_bytes) > self.cluster_bytes() {
            return Err(invalid("qcow2 header exceeds cluster size", 100));
        }
        Ok(())
    }

    fn read_compression(&mut self, cluster: &[u8]) -> Result<()> {
        let is_stored = self.header_bytes as usize > COMPRESSION_AT;
        let stored = if is_stored { cluster[COMPRESSION_AT] } else { 0 };
        let says = |what: &str| Err(invalid(format!("qcow2: {what}"), COMPRESSION_AT as u64));
        self.compression = match stored {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => return says(&format!("unknown compression type: {other}")),
        };
        match (self.compression, self.has(incompatible::COMPRESSION)) {
            (Compression::Zlib, true) => {
                says("Compression type incompatible feature bit must not be set")
            }
            (Compression::Zstd, false) => {
                says("Compression type incompatible feature bit must be set")
            }
            _ => Ok(()),
        }
    }

    /// Names unknown incompatible bits as qemu-img does: those in the feature name table by name,
    /// the rest as one hexadecimal mask.
    fn check_features(&self, cluster: &[u8]) -> Result<()> {
        let mut unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            // A mistake in the list ends it, and is not what is told.
            let (extensions, _) = extensions::read(self, cluster);
            let mut names = extensions::feature_names(&extensions, &mut unknown);
            if unknown != 0 {
                names.push(format!("Unknown incompatible feature: {unknown:x}"));
            }
            let reason = format!("Unsupported qcow2 feature(s): {}", names.join(", "));
            return Err(Error::new(Kind::UnsupportedFeature, reason).at(72));
        }
        let subcluster_bytes = self.cluster_bytes() / SUBCLUSTERS;
        if self.extended_l2() && subcluster_bytes < MIN_SUBCLUSTER_BYTES {
            return Err(invalid(format!("Unsupported subcluster size: {subcluster_bytes}"), 72));
        }
        Ok(())
    }

    fn check_refcount_table(&self, purpose: Purpose) -> Result<()> {
        if self.refcount_order > 6 {
            return Err(invalid(
                "Reference count entry width too large; may not exceed 64 bits",
                96,
            ));
        }
        if self.refcount_table_clusters == 0 && purpose == Purpose::Use {
            return Err(invalid("Image does not contain a reference count table", 56));
        }
        if self.refcount_table_bytes() > MAX_REFCOUNT_TABLE_BYTES {
            return Err(invalid("Reference count table too large", 56));
        }
        if !self.can_lie(self.refcount_table_offset, self.refcount_table_bytes()) {
            return Err(invalid("Reference count table offset invalid", 48));
        }
        Ok(())
    }

    /// The place and the length of the snapshot table, for everybody but a check.
    fn check_snapshot_table(&self) -> Result<()> {
        let refused = |reason, offset| {
            Err(Error::new(Kind::InvalidSnapshotTable, format!("Snapshot table {reason}"))
                .at(offset))
        };
        match self.snapshot_table_defect() {
            None => Ok(()),
            Some(SnapshotTableDefect::TooLarge) => refused("too large", 60),
            Some(SnapshotTableDefect::Misplaced) => refused("offset invalid", 64),
        }
    }

    /// What is wrong with the length or the place of the snapshot table, which has to have a place
    /// even without snapshots.
    pub(crate) fn snapshot_table_defect(&self) -> Option<SnapshotTableDefect> {
        let least_bytes = u64::from(self.snapshot_count) * SNAPSHOT_ENTRY_BYTES;
        if self.snapshot_count > MAX_SNAPSHOTS {
            Some(SnapshotTableDefect::TooLarge)
        } else if !self.can_lie(self.snapshots_offset, least_bytes) {
            Some(SnapshotTableDefect::Misplaced)
        } else {
            None
        }
    }

    fn check_l1(&self) -> Result<()> {
        if self.l1_bytes() > MAX_L1_BYTES {
            return Err(invalid("Active L1 table too large", 36));
        }
        if !self.can_lie(self.l1_offset, self.l1_bytes()) {
            return Err(invalid("Active L1 table offset invalid", 40));
        }
        // The last sizes that 64 bits can hold need no entries for QEMU, and fail later.
        let rounded = self.size.checked_add(self.l1_entry_span() - 1);
        let needed = rounded.map_or(0, |bytes| bytes / self.l1_entry_span());
        if needed > i32::MAX as u64 {
            return Err(Error::new(Kind::TooLarge, "Image is too big").at(24));
        }
        if u64::from(self.l1_entries) < needed {
            return Err(invalid("L1 table is too small", 36));
        }
        if ends_beyond_files(self.l1_offset, self.l1_bytes()) {
            return Err(invalid("Could not read L1 table: Input/output error", 40));
        }
        Ok(())
    }

    /// Whether a table of `bytes` bytes at `offset` starts on a cluster and has an end.
    fn can_lie(&self, offset: u64, bytes: u64) -> bool {
        offset.is_multiple_of(self.cluster_bytes()) && offset <= i64::MAX as u64 - bytes
    }

    fn read_backing(&mut self, cluster: &[u8]) -> Result<()> {
        let (offset, length) = self.stored_backing();
        if offset == 0 {
            return Ok(());
        }
        let start = usize::try_from(offset).expect("inside the first cluster");
        let room = cluster.len() - start;
        if length as usize > room.min(MAX_BACKING_BYTES) {
            return Err(invalid("Backing file name too long", 16));
        }
        let name = until_nul(&cluster[start..][..length as usize]);
        self.backing_file = Some(name.to_vec()).filter(|name| !name.is_empty());
        Ok(())
    }

    /// What has to be true on top of [`Header::read`] before anything is written, or copied to be
    /// written later: the header is inside the file of `file_bytes` bytes, what it names is behind
    /// it, and nothing in it is ambiguous. Whether the L1 and refcount tables are inside the file
    /// is found when they are read.
    pub fn ensure_sound(&self, file_bytes: u64) -> Result<()> {
        let has_place = |offset: u64| offset != 0 && offset < OFFSET_LIMIT;
        let header_bytes = u64::from(self.header_bytes);
        if !header_bytes.is_multiple_of(8) {
            return Err(invalid("Invalid qcow2 header length", 100));
        }
        if header_bytes > file_bytes {
            return Err(invalid("qcow2 header too short", 100));
        }
        let (backing_offset, backing_length) = self.stored_backing();
        let backing_end = backing_offset + u64::from(backing_length);
        if backing_offset != 0 && (backing_offset < header_bytes || backing_end > file_bytes) {
            return Err(invalid("Invalid backing file offset", 8));
        }
        let mut kinds = HashSet::new();
        let named_once = self.extensions.iter().map(|e| e.kind);
        if !named_once.filter(|&kind| kind != extension::FEATURE_NAMES).all(|k| kinds.insert(k)) {
            return Err(invalid("Duplicate header extension", header_bytes));
        }
        if self.refcount_table_clusters == 0 {
            return Err(invalid("Image does not contain a reference count table", 56));
        }
        if !has_place(self.refcount_table_offset) {
            return Err(invalid("Reference count table offset invalid", 48));
        }
        self.check_snapshot_table()?;
        let snapshots_lie = has_place(self.snapshots_offset) && self.snapshots_offset < file_bytes;
        if self.snapshot_count > 0 && !snapshots_lie {
            let reason = "Snapshot table offset invalid";
            return Err(Error::new(Kind::InvalidSnapshotTable, reason).at(64));
        }
        if self.l1_entries > 0 && !has_place(self.l1_offset) {
            return Err(invalid("Active L1 table offset invalid", 40));
        }
        Ok(())
    }
}

/// What can be wrong with a snapshot table before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotTableDefect {
    /// More than [`MAX_SNAPSHOTS`].
    TooLarge,
    /// It does not start on a cluster, or has no end.
    Misplaced,
}
