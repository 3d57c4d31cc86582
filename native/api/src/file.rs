//! Files outside of the store that are about to move into it: recognised again, and removed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use qcow2::lock::{ImageLock, Intent, LockPolicy};
use qcow2::storage::{Access, FileStorage};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

use crate::system::{NOT_A_FILE, failure, refusal, sync_foreign_directory};
use crate::types::{
    Done, Failure, FailureCode, FilePathRequest, FileRemoveRequest, FileStampReport, Outcome, Stage,
};

/// What tells whether a file is still the same and has not been written to. Another name for it
/// changes nothing.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn file_stamp(request: FilePathRequest) -> Outcome<FileStampReport> {
    let path = real(Path::new(&request.path))?;
    let stat = rustix::fs::stat(&path).map_err(|errno| failure(&path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refusal(&path, FailureCode::NotAFile, NOT_A_FILE));
    }
    Ok(FileStampReport { path: path.to_string_lossy().into_owned(), stamp: stamp(&stat) })
}

fn stamp(it: &Stat) -> String {
    let (device, inode, bytes) = (it.st_dev, it.st_ino, it.st_size);
    format!("{device}:{inode}:{bytes}:{}.{:09}", it.st_mtime, it.st_mtime_nsec)
}

/// Removes a name of an image, durably, unless the image has changed since its stamp was taken or
/// somebody uses it. Where the path leads through symbolic links, the name at their end goes.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn file_remove(request: FileRemoveRequest) -> Outcome<Done> {
    let path = real(Path::new(&request.path))?;
    let from_core = |error| Failure::new(Stage::Operation, &request.path, &error);
    let from_system = |errno| failure(&path, errno);
    let file = FileStorage::open(&path, Access::Write).map_err(from_core)?;
    let policy = LockPolicy { wait: false, on_wait: None };
    let _lock = ImageLock::acquire(&file, Intent::Change, policy).map_err(from_core)?;
    let held = rustix::fs::fstat(file.file()).map_err(from_system)?;

    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refusal(&path, FailureCode::NotAFile, NOT_A_FILE));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::openat(CWD, directory, flags, Mode::empty()).map_err(from_system)?;
    let named = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
    let named = named.map_err(from_system)?;
    let is_same = (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino);
    if !is_same || stamp(&held) != request.stamp {
        return Err(refusal(&path, FailureCode::Busy, "it has changed meanwhile"));
    }
    rustix::fs::unlinkat(&directory, name, AtFlags::empty()).map_err(from_system)?;
    let inside = || file.file().try_clone().map(OwnedFd::from);
    sync_foreign_directory(&directory, inside).map(|()| Done {}).map_err(|error| {
        let reason = failure(&path, error).reason;
        let reason = format!("{reason}, and a power cut may bring the name back");
        refusal(&path, FailureCode::Unsettled, &reason)
    })
}

/// The path without symbolic links.
fn real(path: &Path) -> Outcome<PathBuf> {
    path.canonicalize().map_err(|error| failure(path, error))
}
