//! Copying the needed bytes of an image to the same offsets of new files.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::commit::commit_to;
use super::goal::{GoalFor, Needed};
use super::{Draft, Strategy};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::os::copy::Copier;
use crate::os::tmpfile::Staged;
use crate::storage::{FileStorage, Storage};

/// What passes through memory at a time.
const CHUNK_BYTES: u64 = 4 << 20;

/// Makes every draft a copy. The source's tables are walked once, for what has to be copied and for
/// what then has to change.
pub(super) fn make(
    source: &FileStorage,
    image: &Image,
    goal: &GoalFor,
    drafts: &mut [&mut Draft],
    strategy: Strategy,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let Needed { ranges, plan } = goal.needed(image)?;
    let staged: Vec<_> = drafts.iter().map(|draft| &draft.staged).collect();
    for target in &staged {
        let result = source.len().and_then(|length| target.file().set_len(length));
        result.map_err(|error| Error::from(error).about(target.target()))?;
    }
    match staged[..] {
        // As the kernel likes: on some file systems it shares blocks.
        [target] if strategy == Strategy::Auto => in_kernel(source, target, &ranges, progress)?,
        // Read and written, so that the copies have blocks of their own.
        _ => through_memory(source, &staged, &ranges, progress)?,
    }
    for draft in drafts.iter_mut() {
        draft.written_bytes += total(&ranges);
    }
    plan.map_or(Ok(()), |plan| commit_to(drafts, plan))
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

fn in_kernel(
    source: &FileStorage,
    target: &Staged,
    ranges: &[Range<u64>],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let (mut done, total) = (0, total(ranges));
    progress(0, total);
    let mut copier = Copier::default();
    for range in ranges {
        let result = copier.copy(source.file(), target.file(), range.clone(), |moved| {
            done += moved;
            progress(done, total);
        });
        result.map_err(|error| Error::from(error).about(target.target()))?;
    }
    Ok(())
}

/// Each byte is read once.
fn through_memory(
    source: &FileStorage,
    targets: &[&Staged],
    ranges: &[Range<u64>],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let (mut done, total) = (0, total(ranges) * targets.len() as u64);
    progress(0, total);
    let mut buffer = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let count = CHUNK_BYTES.min(range.end - at);
            buffer.resize(usize::try_from(count).expect("4 MiB"), 0);
            source.read_at(&mut buffer, at)?;
            for target in targets {
                let result = target.file().write_all_at(&buffer, at);
                result.map_err(|error| Error::from(error).about(target.target()))?;
                done += count;
                progress(done, total);
            }
            at += count;
        }
    }
    Ok(())
}
