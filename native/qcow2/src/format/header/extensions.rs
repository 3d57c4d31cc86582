//! The header extensions: a list between the header and the backing file's name, or the end of the
//! first cluster.

use super::{Extension, Header, extension};
use crate::error::{Error, Kind, Result};
use crate::format::{be32, bitmap, encryption, until_nul};

/// Bytes of a row of the feature name table: type, bit, name.
const FEATURE_ROW_BYTES: usize = 48;
/// The type of incompatible features there.
const INCOMPATIBLE: u8 = 0;
/// Room that QEMU has for the name of the backing file's format, its end included.
const BACKING_FORMAT_ROOM: usize = 16;

/// The extensions in the order of the file, up to the first mistake, and that mistake.
pub(super) fn read(header: &Header, cluster: &[u8]) -> (Vec<Extension>, Option<Error>) {
    let mut list = Vec::new();
    let error = collect(header, cluster, &mut list).err();
    (list, error)
}

fn collect(header: &Header, cluster: &[u8], list: &mut Vec<Extension>) -> Result<()> {
    let end = match header.stored_backing().0 {
        0 => cluster.len(),
        offset => usize::try_from(offset).expect("inside the first cluster"),
    };
    let mut at = header.header_bytes as usize;
    while at < end {
        let invalid = |reason: String| Err(Error::new(Kind::InvalidHeader, reason).at(at as u64));
        let too_large = || invalid("Header extension too large".to_owned());
        let Some(room) = end.checked_sub(at + 8) else { return too_large() };
        let (kind, length) = (be32(cluster, at), be32(cluster, at + 4) as usize);
        if length > room {
            return too_large();
        }
        let data = &cluster[at + 8..][..length];
        match kind {
            extension::END => return Ok(()),
            extension::BACKING_FORMAT if length >= BACKING_FORMAT_ROOM => {
                return invalid(format!(
                    "ERROR: ext_backing_format: len={length} too large (>={BACKING_FORMAT_ROOM})"
                ));
            }
            extension::ENCRYPTION => drop(encryption::read_place(header, data)?),
            extension::BITMAPS => drop(bitmap::read_directory(header, data)?),
            _ => {}
        }
        list.push(Extension { kind, data: data.to_vec() });
        at += 8 + length.next_multiple_of(8);
    }
    Ok(())
}

/// The names of those of the incompatible feature bits `unknown` that the feature name table has;
/// their bits are taken away. An empty name ends the table.
pub(super) fn feature_names(extensions: &[Extension], unknown: &mut u64) -> Vec<String> {
    let mut names = Vec::new();
    let table = extensions.iter().rfind(|e| e.kind == extension::FEATURE_NAMES);
    for row in table.iter().flat_map(|table| table.data.chunks(FEATURE_ROW_BYTES)) {
        let [kind, bit, name @ ..] = row else { break };
        let name = until_nul(name);
        if name.is_empty() {
            break;
        }
        let bit = 1_u64.checked_shl(u32::from(*bit)).unwrap_or(0);
        if *kind == INCOMPATIBLE && *unknown & bit != 0 {
            names.push(String::from_utf8_lossy(name).into_owned());
            *unknown &= !bit;
        }
    }
    names
}
