//! The system's calls and what it says, for operations that work on files themselves instead of
//! leaving it to the core.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::types::{Failure, FailureCode, Stage};

/// What is said of a directory, a FIFO or a device where a file should be.
pub(crate) const NOT_A_FILE: &str = "not a regular file";

/// Repeats a system call that a signal interrupted.
pub(crate) fn uninterrupted<T>(
    mut call: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// A directory that is open as a place, open for reading.
pub(crate) fn readable(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(uninterrupted(|| rustix::fs::openat(directory, ".", flags, Mode::empty()))?)
}

/// Makes the names in a directory durable. Where the file system does not synchronise single
/// directories (`EINVAL`), all of it is.
pub(crate) fn sync_directory(directory: &OwnedFd) -> io::Result<()> {
    let directory = readable(directory)?;
    match uninterrupted(|| rustix::fs::fsync(&directory)) {
        Err(Errno::INVAL) => Ok(uninterrupted(|| rustix::fs::syncfs(&directory))?),
        result => Ok(result?),
    }
}

/// The same for a directory that we may write and perhaps not read: then all of the file system is
/// synchronised, which `inside` lies on.
pub(crate) fn sync_foreign_directory(
    directory: &OwnedFd,
    inside: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<()> {
    match sync_directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let inside = inside()?;
            Ok(uninterrupted(|| rustix::fs::syncfs(&inside))?)
        }
        result => result,
    }
}

/// What the system's error about `path` means, in its own words where it has clear ones.
pub(crate) fn failure(path: &Path, error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let error = qcow2::Error::from(error);
    let (code, reason) = match errno {
        Some(Errno::NOTDIR) => (FailureCode::NotADirectory, error.reason()),
        Some(Errno::LOOP) => (FailureCode::NotAFile, "it is a symbolic link"),
        Some(Errno::ISDIR | Errno::NXIO) => (FailureCode::NotAFile, NOT_A_FILE),
        Some(Errno::BUSY) => (FailureCode::Mounted, "something is mounted on it"),
        Some(Errno::NAMETOOLONG) => (FailureCode::InvalidName, error.reason()),
        Some(Errno::NOTEMPTY) => (FailureCode::TargetExists, error.reason()),
        _ => (error.kind().into(), error.reason()),
    };
    refusal(path, code, reason)
}

/// A failure about `path`.
pub(crate) fn refusal(path: &Path, code: FailureCode, reason: &str) -> Failure {
    Failure {
        code,
        stage: Stage::Operation,
        reason: reason.to_owned(),
        preface: None,
        hint: None,
        path: Some(path.to_string_lossy().into_owned()),
        offset: None,
    }
}
