//! A file from outside, under a second name in the store.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::path::Root;
use crate::system::{NOT_A_FILE, failure, refusal};
use crate::types::{Done, FailureCode, Outcome, StoreLinkRequest};

/// Gives a regular file that belongs to the caller a name in the store too, which nothing has;
/// symbolic links to the file are followed. Nothing of the file changes.
///
/// `cannot-share` where it lies on another file system, or on one without hard links, or where it
/// has other names already: the store's files are nobody else's.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_link(request: StoreLinkRequest) -> Outcome<Done> {
    let source = Path::new(&request.source);
    let target = Root::open(&request.root)?.place(&request.target)?;
    let meant = rustix::fs::stat(source).map_err(|errno| failure(source, errno))?;
    if FileType::from_raw_mode(meant.st_mode) != FileType::RegularFile {
        return Err(refusal(source, FailureCode::NotAFile, NOT_A_FILE));
    }
    if meant.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refusal(source, FailureCode::NotOurs, "it belongs to another user"));
    }
    let (directory, name) = (target.directory(), target.name());
    rustix::fs::linkat(CWD, source, directory, name, AtFlags::SYMLINK_FOLLOW).map_err(|errno| {
        match errno {
            Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP => {
                let reason = failure(source, errno).reason;
                refusal(source, FailureCode::CannotShare, &reason)
            }
            Errno::EXIST => target.failure(errno),
            _ => failure(source, errno),
        }
    })?;
    // The path may have come to mean another file since we looked.
    let linked = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| target.failure(errno))?;
    let is_same = (linked.st_dev, linked.st_ino) == (meant.st_dev, meant.st_ino);
    if is_same && linked.st_nlink == 2 {
        return Ok(Done {});
    }
    let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
    Err(if is_same {
        refusal(source, FailureCode::CannotShare, "it has other names")
    } else {
        refusal(source, FailureCode::Busy, "another file has taken its place")
    })
}
