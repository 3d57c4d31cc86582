//! What is left alone where nobody can say who uses which cluster.
//!
//! An extension or a feature that nobody here knows may own clusters that no table names; an entry
//! that leads nowhere once led somewhere; where a count was too low, what else was lost is anybody's
//! guess. Then new tables go only into holes and past the end of the file, and nothing is punched: of
//! what the file has, the first sector alone may change.

use qcow2::storage::SparseImage;

use super::layout::{Layout, be32, be64};
use super::oracle;

/// What a commit replaces.
const SECTOR: u64 = 512;

const COMPATIBLE_AT: u64 = 80;
const AUTOCLEAR_AT: u64 = 88;
const HEADER_BYTES_AT: u64 = 100;

/// Lazy refcounts. Bitmaps; raw data files.
const KNOWN_COMPATIBLE: u64 = 1;
const KNOWN_AUTOCLEAR: u64 = 3;
/// A header with the compression type, padded.
const KNOWN_HEADER_BYTES: u32 = 112;
/// Backing format, names of features, LUKS header, data file.
const KNOWN_EXTENSIONS: [u32; 4] = [0xe279_2aca, 0x6803_f857, 0x0537_be77, 0x4441_5441];
const BITMAPS: u32 = 0x2385_2875;

/// How long something unknown may own clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Until somebody writes who does not know it.
    Now,
    /// Whoever writes.
    Good,
}

/// Whether something in the image may own clusters that nobody here finds.
pub fn hides_references(image: &SparseImage, how_long: For) -> bool {
    let layout = Layout::read(image).unwrap();
    let is_known = |&(kind, _, _): &(u32, u64, u64)| {
        KNOWN_EXTENSIONS.contains(&kind) || kind == BITMAPS && layout.autoclear & 1 != 0
    };
    if !layout.extensions.iter().all(is_known) {
        return true;
    }
    let is_cleared = how_long == For::Now && be64(image, AUTOCLEAR_AT) & !KNOWN_AUTOCLEAR != 0;
    layout.version == 3
        && (be64(image, COMPATIBLE_AT) & !KNOWN_COMPATIBLE != 0
            || be32(image, HEADER_BYTES_AT) > KNOWN_HEADER_BYTES
            || is_cleared)
}

/// Whether a repair may write where nobody was seen, and punch. On a device it has to, if every
/// reference can be followed.
pub fn is_repair_proven(image: &SparseImage, is_device: bool) -> bool {
    let corrupt = Layout::read(image).unwrap().version == 3 && be64(image, 72) & 2 != 0;
    let errors = oracle::audit(image).unwrap().errors;
    let only_flags = errors.iter().all(|error| error.ends_with("COPIED is wrong"));
    !hides_references(image, For::Now) && (is_device || only_flags && !corrupt)
}

/// The first byte that `before` has, its first sector apart, and that `after` does not have.
pub fn first_touched(before: &SparseImage, after: &SparseImage) -> Option<u64> {
    let page = SparseImage::page_bytes();
    if after.len() < before.len() {
        return Some(after.len());
    }
    for data in before.data_ranges(SECTOR..before.len()) {
        let pages = data.start / page..data.end.div_ceil(page);
        for at in pages.map(|index| index * page) {
            let part = at.max(data.start)..(at + page).min(data.end);
            if before.shares(after, part.clone()) {
                continue;
            }
            let bytes = |image: &SparseImage| {
                let mut bytes = vec![0; usize::try_from(part.end - part.start).unwrap()];
                image.read(&mut bytes, part.start);
                bytes
            };
            let (was, is) = (bytes(before), bytes(after));
            if let Some(nth) = was.iter().zip(&is).position(|(was, is)| was != is) {
                return Some(part.start + nth as u64);
            }
        }
    }
    None
}
