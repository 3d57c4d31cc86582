//! The header: the first cluster of the file, and the 512 bytes that commit every change.
//!
//! A [`Header`] keeps the first sector as it was read, so that what it does not change, known or
//! unknown, survives to the byte. Nothing here trusts a number: every field is compared with the
//! format's limits (qcow2 specification, "Header" and "Header extensions") before it is used.
//! `read` does that, `new` makes the header of a new image.

mod extensions;
mod new;
mod read;

use std::ops::Range;

use super::mapping::Mapping;
use super::{be32, be64, until_nul};
use crate::error::Result;

pub use new::{NewHeader, encode_new};
pub use read::Purpose;
pub(crate) use read::SnapshotTableDefect;

/// The sector that a commit rewrites. 512 bytes are what a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// Those of its bytes that a commit may change: from the size to the autoclear features.
pub const CHANGING_BYTES: Range<u64> = 24..96;
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
/// Where QEMU lets a file end; to read beyond is an input/output error.
pub const MAX_FILE_BYTES: u64 = (i64::MAX as u64) & !((1 << 30) - 1);

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

/// The header of a version 2 or 3 image. How far its fields can be relied on says who made it:
/// [`Header::read`] or [`Header::parse`].
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
    /// The backing file's name up to its first NUL, not empty; data, never to be opened unasked.
    pub backing_file: Option<Vec<u8>>,
    /// All extensions, in the order of the file.
    pub extensions: Vec<Extension>,
}

impl Header {
    /// Whether L2 entries have 16 bytes.
    pub fn extended_l2(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Bytes of one L2 entry.
    pub fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2() { 16 } else { 8 }
    }

    /// Words of 64 bits that make one L2 entry.
    pub fn l2_entry_words(&self) -> usize {
        if self.extended_l2() { 2 } else { 1 }
    }

    /// The entries of an L2 table, each with its position in bytes. Of an extended entry it is the
    /// first word: the second one, about its subclusters, names nothing and has no flags.
    pub fn l2_words<'a>(&self, table: &'a [u8]) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let stride = self.l2_entry_words();
        let words = table.as_chunks::<8>().0.iter().step_by(stride);
        (0..).step_by(8 * stride).zip(words.map(|&word| u64::from_be_bytes(word)))
    }

    /// Decodes an L2 entry, whose host offset is `at`; of an extended one the first word.
    ///
    /// Fails on reserved bits and unaligned offsets; those are corruption.
    pub fn mapping(&self, entry: u64, at: u64) -> Result<Mapping> {
        if self.extended_l2() {
            Mapping::decode_extended(entry, self.cluster_bits, at)
        } else {
            Mapping::decode(entry, self.cluster_bits, self.version, at)
        }
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

    /// The disk's size in bytes as QEMU sees it: whole sectors of 512 bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.size & !511
    }

    /// Length of the active L1 table in bytes.
    pub fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_entries) * 8
    }

    /// Length of the refcount table in bytes.
    pub fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters) << self.cluster_bits
    }

    /// Width of a refcount in bits: 1, 2, 4, 8, 16, 32 or 64.
    pub fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// Data of the extension `kind`, where the image has one; of several, the last one counts.
    pub fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().rfind(|e| e.kind == kind).map(|e| e.data.as_slice())
    }

    /// Name of the backing file's format, where the image has a backing file and says it.
    pub fn backing_format(&self) -> Option<&[u8]> {
        self.backing_file.as_ref()?;
        self.extension(extension::BACKING_FORMAT).map(until_nul).filter(|name| !name.is_empty())
    }

    /// Offset and length of the backing file's name, as the header has them.
    fn stored_backing(&self) -> (u64, u32) {
        (be64(&self.raw_sector, 8), be32(&self.raw_sector, 16))
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

    /// What a longer or shorter backing file name changes in the file, as (offset, bytes): the name
    /// in its place, and its length. None where it does not fit.
    pub fn with_backing_file(&self, name: &[u8]) -> Option<[(u64, Vec<u8>); 2]> {
        let (offset, _) = self.stored_backing();
        let fits = name.len() <= MAX_BACKING_BYTES
            && offset + name.len() as u64 <= self.cluster_bytes()
            && self.backing_file.is_some();
        let length = u32::try_from(name.len()).ok()?.to_be_bytes().to_vec();
        fits.then(|| [(offset, name.to_vec()), (16, length)])
    }

    /// The first bytes of the file with this header, of version 2, in the form of version 3 and
    /// with `backing` as the backing file's name: no features, counts of 16 bits, the extensions
    /// and the name behind the longer header. Everything else keeps its place. None where that does
    /// not fit the first cluster.
    pub fn upgraded(&self, backing: Option<&[u8]>) -> Option<Vec<u8>> {
        let mut out = self.raw_sector[..VERSION_2_HEADER_BYTES as usize].to_vec();
        out[4..8].copy_from_slice(&3_u32.to_be_bytes());
        out.extend([0; 24]);
        out.extend(self.refcount_order.to_be_bytes());
        out.extend(VERSION_3_HEADER_BYTES.to_be_bytes());
        for Extension { kind, data } in &self.extensions {
            out.extend(kind.to_be_bytes());
            out.extend(u32::try_from(data.len()).expect("in a cluster").to_be_bytes());
            out.extend(data);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out.extend([0; 8]);
        let name = backing.unwrap_or_default();
        let place = if backing.is_some() { out.len() as u64 } else { 0 };
        out[8..16].copy_from_slice(&place.to_be_bytes());
        out[16..20].copy_from_slice(&u32::try_from(name.len()).ok()?.to_be_bytes());
        out.extend(name);
        let fits = name.len() <= MAX_BACKING_BYTES && out.len() as u64 <= self.cluster_bytes();
        fits.then_some(out)
    }

    /// The header after [`Header::sector`] was written.
    pub fn settle(&mut self) {
        self.raw_sector = self.sector();
    }
}
