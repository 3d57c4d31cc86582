//! The header of a new image, encoded.

use super::{
    Compression, MAGIC, NEW_HEADER_BYTES, SECTOR_BYTES, compatible, extension, incompatible,
};

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
    /// L2 entries have 16 bytes.
    pub extended_l2: bool,
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
    let (compression, stored) = match new.compression {
        Compression::Zlib => (0, 0),
        Compression::Zstd => (incompatible::COMPRESSION, 1),
    };
    let lazy = if new.lazy_refcounts { compatible::LAZY_REFCOUNTS } else { 0 };
    let extended = if new.extended_l2 { incompatible::EXTENDED_L2 } else { 0 };
    out.extend((compression | extended).to_be_bytes());
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
