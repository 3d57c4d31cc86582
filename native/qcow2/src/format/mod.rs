//! On-disk codecs: bytes to values and back, without any I/O.
//!
//! Only `header` and `mapping` see bits of the format. All integers on disk are big endian.

pub mod bitmap;
pub mod encryption;
pub mod header;
pub mod mapping;
pub mod refcount;
pub mod snapshot;

/// A string of C: `bytes` up to the first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Big-endian `u16` at `at`. The caller has checked the bounds.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// Big-endian `u32` at `at`. The caller has checked the bounds.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Big-endian `u64` at `at`. The caller has checked the bounds.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
