//! Compressed clusters, packed as QEMU packs them: raw deflate with a window of 4 KiB, or one frame
//! of Zstandard.

use flate2::{Compress, Compression, FlushCompress, Status};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// QEMU decompresses with this window, and no more.
const WINDOW_BITS: u8 = 12;

/// The data of one cluster, packed; none where that makes it no shorter.
pub fn pack(data: &[u8], is_zstd: bool) -> Option<Vec<u8>> {
    let packed = if is_zstd {
        compress_to_vec(data, CompressionLevel::Fastest)
    } else {
        let mut packed = Vec::with_capacity(data.len() + 64);
        let mut deflate =
            Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS);
        let status = deflate.compress_vec(data, &mut packed, FlushCompress::Finish).unwrap();
        assert_eq!(status, Status::StreamEnd, "there was room for it");
        packed
    };
    (packed.len() < data.len()).then_some(packed)
}
