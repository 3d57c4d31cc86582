//! Where the LUKS header is (qcow2 specification, "Full disk encryption header pointer").
//!
//! Only the place matters here: the key material is never read, and the mapping needs no key.

use std::ops::Range;

use super::be64;
use super::header::{Encryption, Header, extension};
use crate::error::{Error, Kind, Result, corrupt};

/// Length of the extension: offset and length of the header.
const EXTENSION_BYTES: usize = 16;

/// Where the LUKS header lies, as the extension has it; compared with nothing but the format's own
/// rules yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LuksHeader {
    /// Host offset, a multiple of the cluster size.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(Kind::InvalidHeader, reason)
}

/// The LUKS header's place; none in images without LUKS.
///
/// Fails with [`Kind::InvalidHeader`] where the extension is missing, is not expected, has another
/// length or names an unaligned offset.
pub fn luks_header(header: &Header) -> Result<Option<LuksHeader>> {
    match (header.encryption, header.extension(extension::ENCRYPTION)) {
        (_, Some(data)) => read_place(header, data).map(Some),
        (Encryption::Luks, None) => Err(invalid("Missing CRYPTO header for crypt method 2")),
        (_, None) => Ok(None),
    }
}

/// The place that the data of the extension name.
pub(super) fn read_place(header: &Header, data: &[u8]) -> Result<LuksHeader> {
    if header.encryption != Encryption::Luks {
        return Err(invalid("CRYPTO header extension only expected with LUKS encryption method"));
    }
    if data.len() != EXTENSION_BYTES {
        return Err(invalid(format!(
            "CRYPTO header extension size {}, but expected size {EXTENSION_BYTES}",
            data.len()
        )));
    }
    let place = LuksHeader { offset: be64(data, 0), bytes: be64(data, 8) };
    let cluster_bytes = header.cluster_bytes();
    if !place.offset.is_multiple_of(cluster_bytes) {
        return Err(invalid(format!(
            "Encryption header offset '{}' is not a multiple of cluster size '{cluster_bytes}'",
            place.offset
        )));
    }
    Ok(place)
}

/// The byte range that the LUKS header owns, inside a file of `file_bytes` bytes; none without
/// LUKS.
pub fn owned_ranges(header: &Header, file_bytes: u64) -> Result<Option<Range<u64>>> {
    let Some(LuksHeader { offset, bytes }) = luks_header(header)? else { return Ok(None) };
    match offset.checked_add(bytes) {
        Some(end) if offset > 0 && end <= file_bytes.next_multiple_of(header.cluster_bytes()) => {
            Ok(Some(offset..end))
        }
        _ => Err(corrupt(format!("The LUKS header at {offset:#x} is outside the image"), offset)),
    }
}
