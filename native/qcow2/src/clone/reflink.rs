//! Clones that share the blocks of their source.

use std::fs::File;
use std::io;

use super::commit::commit_to;
use super::goal::GoalFor;
use super::{Draft, Strategy, Used};
use crate::error::{Error, Kind, Result};
use crate::image::Image;
use crate::os::tmpfile::Staged;
use crate::os::{filesystem, reflink};
use crate::storage::{FileStorage, Storage};

/// Makes a reflink of every draft that can be one. The others learn why not, and are as they were;
/// with [`Strategy::Reflink`] the first such draft is a refusal.
///
/// The metadata is changed in the first one, and the others share the result: whoever can share
/// with that one can share with the source, and has nothing to write.
pub(super) fn make(
    source: &FileStorage,
    image: &Image,
    goal: &GoalFor,
    drafts: &mut [Draft],
    strategy: Strategy,
) -> Result<()> {
    let mut finished: Option<&Draft> = None;
    for draft in drafts {
        let result = match finished {
            None => share(source, &draft.staged),
            Some(finished) => share_files(finished.staged.file(), &draft.staged),
        };
        if let Err(error) = result {
            let reason = explain(&error, source, &draft.staged)?;
            if strategy == Strategy::Reflink {
                let reason = format!("blocks cannot be shared: {reason}");
                return Err(Error::new(Kind::CannotShare, reason).about(draft.staged.target()));
            }
            draft.reason = Some(reason);
            continue;
        }
        draft.used = Used::Reflink;
        if finished.is_none() {
            if let Some(plan) = goal.plan(image)? {
                commit_to(&mut [&mut *draft], plan)?;
            }
            finished = Some(draft);
        }
    }
    Ok(())
}

/// Makes the empty target share the source's blocks.
fn share(source: &FileStorage, target: &Staged) -> io::Result<()> {
    if source.has_fixed_len() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    share_files(source.file(), target)
}

/// btrfs wants both to be excluded from copy-on-write, or neither, before the first block.
fn share_files(source: &File, target: &Staged) -> io::Result<()> {
    if reflink::is_nocow(source) {
        reflink::set_nocow(target.file())?;
    }
    reflink::clone(source, target.file())
}

/// Why blocks could not be shared, in words; errors that say something else than "cannot" pass.
pub(crate) fn explain(error: &io::Error, source: &FileStorage, target: &Staged) -> Result<String> {
    let there = filesystem::name(target.file());
    match error.raw_os_error() {
        _ if source.has_fixed_len() => Ok("a block device cannot share blocks".to_owned()),
        Some(libc::EXDEV) => {
            Ok(format!("source and target are on different file systems ({there})"))
        }
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS) => {
            let here = filesystem::name(source.file());
            Ok(if here == there {
                format!("{there} cannot share blocks between files")
            } else {
                format!("source and target are on different file systems ({here}, {there})")
            })
        }
        code => {
            let error = io::Error::from_raw_os_error(code.unwrap_or(libc::EIO));
            Err(Error::from(error).about(target.target()))
        }
    }
}
