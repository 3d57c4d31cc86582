//! Copying the needed bytes of an image to the same offsets of new files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::at_target;
use crate::error::Result;
use crate::os::copy::Copier;
use crate::os::tmpfile::Staged;
use crate::storage::{FileStorage, Storage};

/// What passes through memory at a time.
const CHUNK_BYTES: u64 = 4 << 20;

/// How bytes get from one file to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As the kernel likes; on some file systems it shares blocks.
    InKernel,
    /// Read and written, so that the copy has blocks of its own.
    ThroughMemory,
}

/// Copies `ranges` of `source` to every target, which gets the source's length. Each byte is read
/// once. Returns the bytes written to each target.
pub(super) fn copy(
    source: &FileStorage,
    targets: &[Staged],
    ranges: &[Range<u64>],
    way: Way,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64> {
    let each: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let total = each * targets.len() as u64;
    for target in targets {
        let length = source.len()?;
        target.file().set_len(length).map_err(|e| at_target(e.into(), target.target()))?;
    }
    let mut done = 0;
    progress(0, total);
    if let ([target], Way::InKernel) = (targets, way) {
        let mut copier = Copier::default();
        for range in ranges {
            copier
                .copy(source.file(), target.file(), range.clone(), |moved| {
                    done += moved;
                    progress(done, total);
                })
                .map_err(|e| at_target(e.into(), target.target()))?;
        }
        return Ok(each);
    }
    let mut buffer = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let count = CHUNK_BYTES.min(range.end - at);
            buffer.resize(usize::try_from(count).expect("4 MiB"), 0);
            source.read_at(&mut buffer, at)?;
            for target in targets {
                write(target.file(), &buffer, at)
                    .map_err(|e| at_target(e.into(), target.target()))?;
                done += count;
                progress(done, total);
            }
            at += count;
        }
    }
    Ok(each)
}

fn write(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)
}

/// The parts that lie in both lists; each is ascending and disjoint.
pub(super) fn intersect(left: &[Range<u64>], right: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut both = Vec::new();
    let (mut l, mut r) = (0, 0);
    while let (Some(a), Some(b)) = (left.get(l), right.get(r)) {
        let part = a.start.max(b.start)..a.end.min(b.end);
        if !part.is_empty() {
            both.push(part);
        }
        if a.end < b.end {
            l += 1;
        } else {
            r += 1;
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::intersect;

    #[test]
    fn the_parts_in_both_lists_are_found() {
        assert_eq!(intersect(&[0..10, 20..30], &[5..25, 28..40]), [5..10, 20..25, 28..30]);
        assert_eq!(intersect(&[0..10], &[10..20]), []);
        assert_eq!(intersect(&[], &[10..20]), []);
    }
}
