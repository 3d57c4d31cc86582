//! The header: the first cluster of the file, and the 512 bytes that commit every change.
//!
//! A [`Header`] keeps the first sector as it was read, so that what it does not change, known or
//! unknown, survives to the byte. Nothing here trusts a number: every field is compared with the
//! format's limits (qcow2 specification, "Header" and "Header extensions") before it is used.

use super::{be32, be64};
use crate::error::{Error, Kind, Result};

/// The sector that a commit rewrites. 512 bytes are what a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// Largest cluster that the format allows: 2 MiB.
pub const MAX_CLUSTER_BITS: u32 = 21;
/// Smallest cluster that the format allows: 512 bytes.
pub const MIN_CLUSTER_BITS: u32 = 9;
/// QEMU's limit for one L1 table: 32 MiB.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// QEMU's limit for the refcount table: 8 MiB.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// QEMU's limit for the number of snapshots.
pub const MAX_SNAPSHOTS: u32 = 65_536;
/// QEMU's limit for the snapshot table: 64 MiB.
pub const MAX_SNAPSHOT_TABLE_BYTES: u64 = 64 << 20;

/// Longest name of a backing file that QEMU reads.
const MAX_BACKING_BYTES: usize = 1023;
const MAGIC: u32 = 0x5146_49fb;
const VERSION_2_HEADER_BYTES: u32 = 72;
const VERSION_3_HEADER_BYTES: u32 = 104;
/// What new version 3 images get: 104 bytes, the compression type, padding to 8.
pub const NEW_HEADER_BYTES: u32 = 112;

/// Incompatible feature bits: who does not know one must not open the image.
pub mod incompatible {
    /// Refcounts may be stale.
    pub const DIRTY: u64 = 1;
    /// Tables are known to be damaged.
    pub const CORRUPT: u64 = 1 << 1;
    /// Guest data lives in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// Compressed clusters use the type at byte 104.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries have 16 bytes.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// All bits that have a meaning.
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Compatible feature bits: who does not know one may ignore it.
pub mod compatible {
    /// Refcount updates may be postponed by writers that set the dirty bit.
    pub const LAZY_REFCOUNTS: u64 = 1;
}

/// Autoclear feature bits: a writer that does not know one clears it.
pub mod autoclear {
    /// The bitmaps extension is consistent.
    pub const BITMAPS: u64 = 1;
    /// The external data file can be read as raw.
    pub const RAW_DATA_FILE: u64 = 1 << 1;
    /// All bits that have a meaning.
    pub const KNOWN: u64 = BITMAPS | RAW_DATA_FILE;
}

/// Header extension types.
pub mod extension {
    /// Ends the list.
    pub const END: u32 = 0;
    /// Name of the backing file's format.
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// Names of feature bits.
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    /// Where the persistent bitmaps are.
    pub const BITMAPS: u32 = 0x2385_2875;
    /// Where the LUKS header is.
    pub const ENCRYPTION: u32 = 0x0537_be77;
    /// Name of the external data file.
    pub const DATA_FILE: u32 = 0x4441_5441;
}

/// How guest data is encrypted. Metadata never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// The old AES-CBC mode; the tweak is the guest offset.
    Aes,
    /// LUKS; the tweak is the host offset, so data clusters must not move.
    Luks,
}

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// One header extension, its data as stored (without padding).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Type of the extension.
    pub kind: u32,
    /// Its data.
    pub data: Vec<u8>,
}

/// The validated header of a version 2 or 3 image.
#[derive(Clone, Debug)]
pub struct Header {
    /// The first sector as read; [`Header::sector`] puts the changeable fields over it.
    raw_sector: [u8; SECTOR_BYTES],
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size in bytes, 9 to 21.
    pub cluster_bits: u32,
    /// Virtual disk size in bytes.
    pub size: u64,
    /// How guest data is encrypted.
    pub encryption: Encryption,
    /// Entries in the active L1 table.
    pub l1_entries: u32,
    /// Host offset of the active L1 table.
    pub l1_offset: u64,
    /// Host offset of the refcount table.
    pub refcount_table_offset: u64,
    /// Clusters that the refcount table spans.
    pub refcount_table_clusters: u32,
    /// Snapshots in the table.
    pub snapshot_count: u32,
    /// Host offset of the snapshot table; without snapshots, meaningless.
    pub snapshots_offset: u64,
    /// See [`incompatible`].
    pub incompatible: u64,
    /// See [`compatible`].
    pub compatible: u64,
    /// See [`autoclear`].
    pub autoclear: u64,
    /// log2 of the refcount width in bits, 0 to 6.
    pub refcount_order: u32,
    /// Length of the header in bytes, without extensions.
    pub header_bytes: u32,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// The backing file's name as stored; data, never to be opened unasked.
    pub backing_file: Option<Vec<u8>>,
    /// All extensions, in the order of the file.
    pub extensions: Vec<Extension>,
}

fn invalid(reason: impl Into<String>, offset: u64) -> Error {
    Error::new(Kind::InvalidHeader, reason).at(offset)
}

impl Header {
    /// Cluster bits of a file that starts with `sector`, after magic, version and range were
    /// checked: what has to be known before the whole first cluster can be read.
    pub fn peek_cluster_bits(sector: &[u8]) -> Result<u32> {
        if sector.len() < 4 || be32(sector, 0) != MAGIC {
            return Err(Error::new(Kind::WrongFormat, "Image is not in qcow2 format"));
        }
        if sector.len() < VERSION_2_HEADER_BYTES as usize {
            return Err(invalid("qcow2 header too short", 0));
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

    /// Parses the first cluster of a file of `file_bytes` bytes. `cluster` holds the first cluster,
    /// or less where the file ends inside it.
    ///
    /// Guarantees afterwards: every field is inside the format's and QEMU's limits; tables start on
    /// cluster boundaries. Whether tables lie inside the file is for [`crate::Image`] to check.
    pub fn parse(cluster: &[u8], file_bytes: u64) -> Result<Self> {
        let cluster_bits = Self::peek_cluster_bits(cluster)?;
        let cluster_bytes = 1_u64 << cluster_bits;
        let version = be32(cluster, 4);
        let mut raw_sector = [0; SECTOR_BYTES];
        let available = cluster.len().min(SECTOR_BYTES);
        raw_sector[..available].copy_from_slice(&cluster[..available]);

        let mut header = Self {
            raw_sector,
            version,
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
        if version == 3 {
            header.parse_version_3(cluster)?;
        }
        header.encryption = match be32(cluster, 32) {
            0 => Encryption::None,
            1 => Encryption::Aes,
            2 => Encryption::Luks,
            other => return Err(invalid(format!("Unsupported encryption method {other}"), 32)),
        };
        let end = header.parse_backing(cluster)?;
        header.parse_extensions(cluster, end)?;
        header.refuse_unknown_features()?;
        header.check_limits(cluster_bytes, file_bytes)?;
        Ok(header)
    }

    fn parse_version_3(&mut self, cluster: &[u8]) -> Result<()> {
        if cluster.len() < VERSION_3_HEADER_BYTES as usize {
            return Err(invalid("qcow2 header too short", 100));
        }
        self.incompatible = be64(cluster, 72);
        self.compatible = be64(cluster, 80);
        self.autoclear = be64(cluster, 88);
        self.refcount_order = be32(cluster, 96);
        self.header_bytes = be32(cluster, 100);
        if self.header_bytes < VERSION_3_HEADER_BYTES {
            return Err(invalid("qcow2 header too short", 100));
        }
        if u64::from(self.header_bytes) > 1 << self.cluster_bits {
            return Err(invalid("qcow2 header exceeds cluster size", 100));
        }
        if self.header_bytes as usize > cluster.len() || !self.header_bytes.is_multiple_of(8) {
            return Err(invalid("Invalid qcow2 header length", 100));
        }
        if self.refcount_order > 6 {
            return Err(invalid(
                "Reference count entry width too large; may not exceed 64 bits",
                96,
            ));
        }
        let stored = if self.header_bytes > VERSION_3_HEADER_BYTES { cluster[104] } else { 0 };
        self.compression = match stored {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            _ => return Err(invalid("Unknown compression type", 104)),
        };
        if (stored != 0) != (self.incompatible & incompatible::COMPRESSION != 0) {
            return Err(invalid("Compression type does not match the feature bit", 104));
        }
        Ok(())
    }

    /// Reads the backing file's name; returns where the extensions must end.
    fn parse_backing(&mut self, cluster: &[u8]) -> Result<usize> {
        let offset = be64(cluster, 8);
        if offset == 0 {
            return Ok(cluster.len());
        }
        let length = be32(cluster, 16);
        if length as usize > MAX_BACKING_BYTES {
            return Err(invalid("Backing file name too long", 16));
        }
        let end = offset.checked_add(u64::from(length));
        if offset < u64::from(self.header_bytes) || end.is_none_or(|end| end > cluster.len() as u64)
        {
            return Err(invalid("Invalid backing file offset", 8));
        }
        // Both fit: they are at most the length of `cluster`.
        let start = usize::try_from(offset).expect("inside the first cluster");
        self.backing_file = Some(cluster[start..start + length as usize].to_vec());
        Ok(start)
    }

    fn parse_extensions(&mut self, cluster: &[u8], end: usize) -> Result<()> {
        let mut at = self.header_bytes as usize;
        while at + 8 <= end {
            let kind = be32(cluster, at);
            let length = be32(cluster, at + 4) as usize;
            if kind == extension::END {
                return Ok(());
            }
            if length > end - at - 8 {
                return Err(invalid("Header extension too large", at as u64));
            }
            if kind != extension::FEATURE_NAMES && self.extension(kind).is_some() {
                return Err(invalid("Duplicate header extension", at as u64));
            }
            let data = cluster[at + 8..at + 8 + length].to_vec();
            self.extensions.push(Extension { kind, data });
            at += 8 + length.next_multiple_of(8);
        }
        Ok(())
    }

    /// Names unknown incompatible bits as qemu-img does: those in the feature name table by name,
    /// the rest as one hexadecimal mask.
    fn refuse_unknown_features(&self) -> Result<()> {
        let mut unknown = self.incompatible & !incompatible::KNOWN;
        if unknown == 0 {
            return Ok(());
        }
        let mut names = Vec::new();
        if let Some(table) = self.extension(extension::FEATURE_NAMES) {
            for row in table.chunks_exact(48).filter(|row| row[0] == 0 && row[1] < 64) {
                let bit = 1_u64 << row[1];
                if unknown & bit != 0 {
                    let name = row[2..].split(|&b| b == 0).next().unwrap_or_default();
                    names.push(String::from_utf8_lossy(name).into_owned());
                    unknown &= !bit;
                }
            }
        }
        if unknown != 0 {
            names.push(format!("Unknown incompatible feature: {unknown:x}"));
        }
        Err(Error::new(
            Kind::UnsupportedFeature,
            format!("Unsupported qcow2 feature(s): {}", names.join(", ")),
        )
        .at(72))
    }

    fn check_limits(&self, cluster_bytes: u64, file_bytes: u64) -> Result<()> {
        let aligned = |offset: u64| offset.is_multiple_of(cluster_bytes) && offset < 1 << 56;
        if self.extended_l2() && self.cluster_bits < 14 {
            return Err(invalid("Extended L2 entries need clusters of at least 16384 bytes", 72));
        }
        let table_bytes = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        if table_bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(invalid("Reference count table too large", 56));
        }
        if self.refcount_table_clusters == 0 {
            return Err(invalid("Image does not contain a reference count table", 56));
        }
        if self.refcount_table_offset == 0 || !aligned(self.refcount_table_offset) {
            return Err(invalid("Reference count table offset invalid", 48));
        }
        if self.snapshot_count > MAX_SNAPSHOTS {
            return Err(Error::new(Kind::InvalidSnapshotTable, "Snapshot table too large").at(60));
        }
        if self.snapshot_count > 0
            && (self.snapshots_offset == 0
                || !aligned(self.snapshots_offset)
                || self.snapshots_offset >= file_bytes)
        {
            return Err(
                Error::new(Kind::InvalidSnapshotTable, "Snapshot table offset invalid").at(64)
            );
        }
        if u64::from(self.l1_entries) * 8 > MAX_L1_BYTES {
            return Err(invalid("Active L1 table too large", 36));
        }
        let needed = self.l1_entries_for(self.size);
        if needed > u64::from(u32::MAX) || needed * 8 > MAX_L1_BYTES {
            return Err(Error::new(Kind::TooLarge, "Image is too big").at(24));
        }
        if u64::from(self.l1_entries) < needed {
            return Err(invalid("L1 table is too small", 36));
        }
        if self.l1_entries > 0 && (self.l1_offset == 0 || !aligned(self.l1_offset)) {
            return Err(invalid("Active L1 table offset invalid", 40));
        }
        Ok(())
    }

    /// Whether L2 entries have 16 bytes.
    pub fn extended_l2(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Bytes of one L2 entry.
    pub fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2() { 16 } else { 8 }
    }

    /// Cluster size in bytes.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries in one L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / self.l2_entry_bytes()
    }

    /// Guest bytes that one L1 entry maps.
    pub fn l1_entry_span(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub fn l1_entries_for(&self, size: u64) -> u64 {
        size.div_ceil(self.l1_entry_span())
    }

    /// Width of a refcount in bits: 1, 2, 4, 8, 16, 32 or 64.
    pub fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// Data of the extension `kind`, where the image has one.
    pub fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().find(|e| e.kind == kind).map(|e| e.data.as_slice())
    }

    /// Whether incompatible `bit` is set.
    pub fn has(&self, bit: u64) -> bool {
        self.incompatible & bit != 0
    }

    /// Whether the first sector is the same, byte for byte.
    pub fn same_sector(&self, sector: &[u8; SECTOR_BYTES]) -> bool {
        self.raw_sector == *sector
    }

    /// The first sector as it was read.
    pub fn raw_sector(&self) -> &[u8; SECTOR_BYTES] {
        &self.raw_sector
    }

    /// The first sector with the fields that commits change put over what was read. In version 2
    /// nothing at or beyond byte 72 is touched: extensions or a name may start there.
    pub fn sector(&self) -> [u8; SECTOR_BYTES] {
        let mut sector = self.raw_sector;
        sector[24..32].copy_from_slice(&self.size.to_be_bytes());
        sector[36..40].copy_from_slice(&self.l1_entries.to_be_bytes());
        sector[40..48].copy_from_slice(&self.l1_offset.to_be_bytes());
        sector[48..56].copy_from_slice(&self.refcount_table_offset.to_be_bytes());
        sector[56..60].copy_from_slice(&self.refcount_table_clusters.to_be_bytes());
        sector[60..64].copy_from_slice(&self.snapshot_count.to_be_bytes());
        sector[64..72].copy_from_slice(&self.snapshots_offset.to_be_bytes());
        if self.version >= 3 {
            sector[72..80].copy_from_slice(&self.incompatible.to_be_bytes());
            sector[80..88].copy_from_slice(&self.compatible.to_be_bytes());
            sector[88..96].copy_from_slice(&self.autoclear.to_be_bytes());
        }
        sector
    }

    /// Bytes 24 to 71 as [`Header::sector`] has them: size, L1, refcount table, snapshot table.
    pub fn commit_fields(&self) -> [u8; 48] {
        self.sector()[24..72].try_into().expect("48 bytes")
    }

    /// What a longer or shorter backing file name changes in the file, as (offset, bytes): the name in
    /// its place, and its length. None where it does not fit.
    pub fn with_backing_file(&self, name: &[u8]) -> Option<[(u64, Vec<u8>); 2]> {
        let offset = be64(&self.raw_sector, 8);
        let fits = name.len() <= MAX_BACKING_BYTES
            && offset + name.len() as u64 <= self.cluster_bytes()
            && self.backing_file.is_some();
        let length = u32::try_from(name.len()).ok()?.to_be_bytes().to_vec();
        fits.then(|| [(offset, name.to_vec()), (16, length)])
    }

    /// The header after [`Header::sector`] was written.
    pub fn settle(&mut self) {
        self.raw_sector = self.sector();
    }
}

/// What a new image is made with.
#[derive(Clone, Copy, Debug)]
pub struct NewHeader {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// Virtual size in bytes, a multiple of 512.
    pub size: u64,
    /// log2 of the refcount width in bits.
    pub refcount_order: u32,
    /// Sets the lazy-refcounts bit.
    pub lazy_refcounts: bool,
    /// How compressed clusters will be compressed.
    pub compression: Compression,
    /// Entries in the active L1 table.
    pub l1_entries: u32,
    /// Host offset of the active L1 table.
    pub l1_offset: u64,
    /// Host offset of the refcount table.
    pub refcount_table_offset: u64,
    /// Clusters that the refcount table spans.
    pub refcount_table_clusters: u32,
}

/// Names of the feature bits that qemu-img writes into version 3 images: type, bit, name.
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// Encodes the head of the first cluster of a new image, feature name table included where the
/// cluster has room for it.
pub fn encode_new(new: &NewHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(SECTOR_BYTES);
    out.extend(MAGIC.to_be_bytes());
    out.extend(new.version.to_be_bytes());
    out.extend([0; 12]);
    out.extend(new.cluster_bits.to_be_bytes());
    out.extend(new.size.to_be_bytes());
    out.extend([0; 4]);
    out.extend(new.l1_entries.to_be_bytes());
    out.extend(new.l1_offset.to_be_bytes());
    out.extend(new.refcount_table_offset.to_be_bytes());
    out.extend(new.refcount_table_clusters.to_be_bytes());
    out.extend([0; 12]);
    if new.version == 2 {
        return out;
    }
    let (bit, stored) = match new.compression {
        Compression::Zlib => (0, 0),
        Compression::Zstd => (incompatible::COMPRESSION, 1),
    };
    let lazy = if new.lazy_refcounts { compatible::LAZY_REFCOUNTS } else { 0 };
    out.extend(bit.to_be_bytes());
    out.extend(lazy.to_be_bytes());
    out.extend(0_u64.to_be_bytes());
    out.extend(new.refcount_order.to_be_bytes());
    out.extend(NEW_HEADER_BYTES.to_be_bytes());
    out.extend([stored, 0, 0, 0, 0, 0, 0, 0]);
    let table_bytes = FEATURE_NAMES.len() * 48;
    if out.len() + 8 + table_bytes + 8 <= 1 << new.cluster_bits {
        out.extend(extension::FEATURE_NAMES.to_be_bytes());
        out.extend(u32::try_from(table_bytes).expect("small").to_be_bytes());
        for (kind, bit, name) in FEATURE_NAMES {
            let mut row = [0_u8; 48];
            row[0] = kind;
            row[1] = bit;
            row[2..2 + name.len()].copy_from_slice(name.as_bytes());
            out.extend(row);
        }
    }
    out.extend([0; 8]);
    out
}
