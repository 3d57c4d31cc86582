//! L1 and L2 entries against a second decoder: what owns which host clusters.

use qcow2::format::mapping::{Mapping, SUBCLUSTERS, Subcluster, compressed_extent, l2_offset};

/// A byte of geometry, then the two words of an entry.
pub fn entries(bytes: &[u8]) {
    let Some((&geometry, rest)) = bytes.split_first() else { return };
    for words in rest.as_chunks::<16>().0 {
        let (entry, bitmap) = words.split_at(8);
        let word = |bytes: &[u8]| u64::from_be_bytes(*bytes.first_chunk().expect("8 bytes"));
        judge(
            9 + u32::from(geometry % 13),
            2 + u32::from(geometry >> 7),
            word(entry),
            word(bitmap),
        );
    }
}

fn judge(bits: u32, version: u32, entry: u64, bitmap: u64) {
    let cluster = 1_u64 << bits;
    let aligned = entry & 0x00ff_ffff_ffff_fe00;
    let is_aligned = aligned.is_multiple_of(cluster);
    match l2_offset(entry, bits, 0) {
        Ok(None) => assert_eq!(entry & !(1 << 63), 0),
        Ok(Some(offset)) => assert!(offset == entry & !(1 << 63) && is_aligned && offset > 0),
        Err(_) => assert!(entry & !(1 << 63) != aligned || !is_aligned),
    }
    let (offset, length) = compressed_extent(entry, bits);
    assert!(length > 0 && length <= 2 * cluster && offset < 1 << 62);
    let standard = Mapping::decode(entry, bits, version, 0);
    let extended = Mapping::decode_extended(entry, bits, 0);
    let reserved = (entry & 0x3f00_0000_0000_01fe, entry & 0x3f00_0000_0000_01ff);
    let zero_is_odd = version == 2 && entry & 1 != 0;
    let is_packed = entry & 1 << 62 != 0;
    assert_eq!(standard.is_ok(), is_packed || reserved.0 == 0 && !zero_is_odd && is_aligned);
    assert_eq!(extended.is_ok(), is_packed || reserved.1 == 0 && is_aligned);
    for mapping in standard.into_iter().chain(extended) {
        let owned = mapping.owned(bits);
        let expected = if is_packed {
            Some((offset, length))
        } else {
            (aligned != 0).then_some((aligned, cluster))
        };
        assert_eq!(owned, expected, "{entry:#x}, clusters of {cluster} bytes");
    }
    for index in 0..SUBCLUSTERS {
        let (allocated, zero) = (bitmap >> index & 1 != 0, bitmap >> (index + 32) & 1 != 0);
        let decoded = Subcluster::decode(bitmap, index, 0).ok();
        assert_eq!(decoded.is_none(), allocated && zero);
        assert_eq!(decoded == Some(Subcluster::Allocated), allocated && !zero);
    }
}
