//! L1 and L2 entries: where a guest cluster is (qcow2 specification, "Cluster mapping").
//!
//! The one place that knows the bits of an entry. Offsets are bytes in the host file.

use crate::error::{Result, corrupt};

/// Bit 63: the cluster has a reference count of exactly one and may be written in place.
pub const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: the cluster is compressed.
pub const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of an L2 entry (version 3): the cluster reads as zeros.
pub const ZERO: u64 = 1;
/// Bits 9 to 55: the host offset.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an L1 entry that must be zero.
pub const L1_RESERVED: u64 = !(COPIED | OFFSET_MASK);
/// Bits of a standard L2 entry that must be zero.
pub const L2_RESERVED: u64 = !(COPIED | COMPRESSED | OFFSET_MASK | ZERO);

/// What an L2 entry says about one guest cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing here: the backing file shows through, or zeros.
    Unallocated,
    /// Reads as zeros. May keep a host cluster for later writes (`offset`), which it owns.
    Zero {
        /// The owned cluster, if any.
        offset: Option<u64>,
    },
    /// A host cluster of its own.
    Standard {
        /// Where it begins.
        offset: u64,
    },
    /// Compressed data that begins at any byte and may share host clusters with other entries.
    Compressed {
        /// Where it begins, in bytes.
        offset: u64,
        /// How many bytes it may take, to the end of its last 512-byte sector.
        length: u64,
    },
}

impl Mapping {
    /// Decodes an L2 entry.
    ///
    /// Fails on reserved bits and unaligned offsets; those are corruption, and `at` (the entry's
    /// own host offset) goes into the error.
    pub fn decode(entry: u64, cluster_bits: u32, version: u32, at: u64) -> Result<Self> {
        if entry & COMPRESSED != 0 {
            let (offset, length) = compressed_extent(entry, cluster_bits);
            return Ok(Self::Compressed { offset, length });
        }
        let zero_is_reserved = version < 3 && entry & ZERO != 0;
        if entry & L2_RESERVED != 0 || zero_is_reserved {
            return Err(corrupt(format!("L2 entry {entry:#x} has reserved bits set"), at));
        }
        let offset = entry & OFFSET_MASK;
        if offset & ((1 << cluster_bits) - 1) != 0 {
            return Err(corrupt(format!("Cluster offset {offset:#x} is not aligned"), at));
        }
        Ok(match (entry & ZERO != 0, offset) {
            (true, 0) => Self::Zero { offset: None },
            (true, offset) => Self::Zero { offset: Some(offset) },
            (false, 0) => Self::Unallocated,
            (false, offset) => Self::Standard { offset },
        })
    }

    /// Decodes the first word of an extended L2 entry: as in version 2, bit 0 is reserved.
    pub fn decode_extended(entry: u64, cluster_bits: u32, at: u64) -> Result<Self> {
        Self::decode(entry, cluster_bits, 2, at)
    }

    /// The bytes of the host file that this entry owns a reference to, as (offset, length); whole
    /// clusters that they touch are counted once each.
    pub fn owned(&self, cluster_bits: u32) -> Option<(u64, u64)> {
        match *self {
            Self::Unallocated | Self::Zero { offset: None } => None,
            Self::Zero { offset: Some(offset) } | Self::Standard { offset } => {
                Some((offset, 1 << cluster_bits))
            }
            Self::Compressed { offset, length } => Some((offset, length)),
        }
    }
}

/// Subclusters of a cluster with an extended L2 entry.
pub const SUBCLUSTERS: u64 = 32;

/// What an extended L2 entry says about one subcluster of a cluster that is not compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subcluster {
    /// Nothing here: the backing file shows through, or zeros.
    Unallocated,
    /// Reads as zeros.
    Zero,
    /// Its part of the host cluster.
    Allocated,
}

impl Subcluster {
    /// Decodes what the second word of an entry says about subcluster `index`: bit `index` is set
    /// where it is allocated, bit 32 above that where it reads as zeros, and never both.
    pub fn decode(bitmap: u64, index: u64, at: u64) -> Result<Self> {
        match (bitmap >> index & 1, bitmap >> (index + SUBCLUSTERS) & 1) {
            (0, 0) => Ok(Self::Unallocated),
            (0, _) => Ok(Self::Zero),
            (_, 0) => Ok(Self::Allocated),
            _ => Err(corrupt("A subcluster is both allocated and zero", at)),
        }
    }
}

/// Offset and length in bytes of a compressed cluster: with x = 62 - (cluster bits - 8), bits
/// below x are the byte offset, bits x to 61 the number of further 512-byte sectors.
pub fn compressed_extent(entry: u64, cluster_bits: u32) -> (u64, u64) {
    let x = 62 - (cluster_bits - 8);
    let offset = entry & ((1 << x) - 1);
    let sectors = ((entry & !(COPIED | COMPRESSED)) >> x) + 1;
    (offset, sectors * 512 - offset % 512)
}

/// The word that an L2 entry has without its host cluster: only where nothing is read from that, and
/// it does not start on a cluster. `subclusters` is the second word of an extended entry, which stays
/// as it is.
///
/// Such a cluster is kept for later writes and was to be one whole cluster; what the guest reads,
/// zeros or what is behind, is said by the bits that stay. Whatever may have data has no such word.
pub fn without_misplaced_cluster(
    entry: u64,
    subclusters: Option<u64>,
    cluster_bits: u32,
) -> Option<u64> {
    let allocated = |bits: u64| bits & ((1 << SUBCLUSTERS) - 1) != 0;
    let has_data = subclusters.map_or(entry & ZERO == 0, allocated);
    let is_misplaced = entry & OFFSET_MASK & ((1 << cluster_bits) - 1) != 0;
    let is_one = is_misplaced && !has_data && entry & COMPRESSED == 0;
    is_one.then_some(if subclusters.is_some() { 0 } else { ZERO })
}

/// The L2 table that an L1 entry names, or none. Fails on reserved bits or an unaligned offset.
pub fn l2_offset(entry: u64, cluster_bits: u32, at: u64) -> Result<Option<u64>> {
    if entry & L1_RESERVED != 0 {
        return Err(corrupt(format!("L1 entry {entry:#x} has reserved bits set"), at));
    }
    let offset = entry & OFFSET_MASK;
    if offset & ((1 << cluster_bits) - 1) != 0 {
        return Err(corrupt(format!("L2 table offset {offset:#x} is not aligned"), at));
    }
    Ok((offset != 0).then_some(offset))
}

/// Takes COPIED off an entry, as tables on disk have it.
#[inline]
pub fn clear_copied(entry: &mut [u8; 8]) {
    entry[0] &= !COPIED.to_be_bytes()[0];
}

/// Big-endian table of 64-bit entries to numbers.
pub fn decode_table(bytes: &[u8]) -> Vec<u64> {
    let (entries, _) = bytes.as_chunks::<8>();
    entries.iter().map(|&entry| u64::from_be_bytes(entry)).collect()
}

/// Numbers to a big-endian table, zero-padded to `padded_bytes`.
pub fn encode_table(entries: &[u64], padded_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(padded_bytes);
    for entry in entries {
        out.extend(entry.to_be_bytes());
    }
    out.resize(padded_bytes.max(out.len()), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_decode_to_what_the_specification_says() {
        let table = [
            (0, Mapping::Unallocated),
            (ZERO, Mapping::Zero { offset: None }),
            (0x5_0001, Mapping::Zero { offset: Some(0x5_0000) }),
            (COPIED | 0x5_0000, Mapping::Standard { offset: 0x5_0000 }),
            (0x5_0000, Mapping::Standard { offset: 0x5_0000 }),
            // 64 KiB clusters: x = 54; two sectors more than one, starting 100 bytes into one.
            (
                COMPRESSED | 2 << 54 | 0x5_0064,
                Mapping::Compressed { offset: 0x5_0064, length: 3 * 512 - 100 },
            ),
        ];
        for (entry, expected) in table {
            assert_eq!(Mapping::decode(entry, 16, 3, 0).unwrap(), expected, "{entry:#x}");
        }
    }

    #[test]
    fn a_subcluster_is_allocated_or_zero_or_neither() {
        let bitmap = 1 << 3 | 1 << (32 + 4) | 1 << 31 | 1 << 63;
        let decode = |index| Subcluster::decode(bitmap, index, 0);
        assert_eq!(decode(0).unwrap(), Subcluster::Unallocated);
        assert_eq!(decode(3).unwrap(), Subcluster::Allocated);
        assert_eq!(decode(4).unwrap(), Subcluster::Zero);
        assert!(decode(31).is_err());
        assert!(Mapping::decode_extended(0x5_0001, 16, 0).is_err(), "bit 0 is reserved");
    }

    #[test]
    fn nothing_but_copied_is_taken_off() {
        for entry in [u64::MAX, COPIED, COMPRESSED | 0x1234, 0] {
            let mut bytes = entry.to_be_bytes();
            clear_copied(&mut bytes);
            assert_eq!(u64::from_be_bytes(bytes), entry & !COPIED);
        }
    }

    #[test]
    fn only_a_misplaced_cluster_without_data_is_left_out() {
        let plain = [
            (0x5_0200 | ZERO, Some(ZERO)),
            (COPIED | 1 << 60 | 0x5_0200 | ZERO, Some(ZERO)),
            (0x5_0200, None),
            (0x5_0000 | ZERO, None),
            (COMPRESSED | 0x5_0200 | ZERO, None),
            (ZERO, None),
        ];
        for (entry, expected) in plain {
            assert_eq!(without_misplaced_cluster(entry, None, 16), expected, "{entry:#x}");
        }
        let extended = [
            (0x5_0200, 0, Some(0)),
            (COPIED | 0x5_0200, u64::MAX << 32, Some(0)),
            (0x5_0200, 1 << 31, None),
            (0x5_0200 | ZERO, 1 << 32 | 1, None),
            (0x5_0000, 0, None),
            (COMPRESSED | 0x5_0200, 0, None),
        ];
        for (entry, bits, expected) in extended {
            let without = without_misplaced_cluster(entry, Some(bits), 16);
            assert_eq!(without, expected, "{entry:#x} {bits:#x}");
        }
        assert_eq!(without_misplaced_cluster(0x200 | ZERO, None, 9), None);
    }

    #[test]
    fn reserved_bits_and_unaligned_offsets_are_corruption() {
        for entry in [0x5_0002, 0x5_0200, 1 << 56 | 0x5_0000, 1 << 61] {
            assert!(Mapping::decode(entry, 16, 3, 0).is_err(), "{entry:#x}");
        }
        assert!(Mapping::decode(ZERO, 16, 2, 0).is_err(), "version 2 has no zero flag");
        for entry in [1, 0x4_0200, 1 << 62 | 0x4_0000] {
            assert!(l2_offset(entry, 16, 0).is_err(), "{entry:#x}");
        }
    }
}
