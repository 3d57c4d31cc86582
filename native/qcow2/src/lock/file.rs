//! Locks on files that are there to be locked, beside the images: only other [`FileLock`]s meet
//! them, and QEMU's bytes mean nothing in them.

use std::fs::File;
use std::io;
use std::time::Instant;

use super::LockPolicy;
use super::message::{self, means_no_locks};
use super::queue::{self, SILENCE};
use crate::error::{Error, Kind, Result};
use crate::os::identity::Identity;
use crate::os::ofd::{self, Mode};

/// The whole file, however long.
const EVERYTHING: std::ops::Range<u64> = 0..u64::MAX;

/// Beside whom a file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Alone. Needs a file open for writing.
    Exclusive,
    /// Beside other shared locks. A file open for reading will do.
    Shared,
}

/// A file that is ours, until this is dropped or the process ends.
///
/// The lock belongs to the open file description: two files opened by one process keep each other
/// out as those of two processes do.
#[derive(Debug)]
#[must_use = "the lock ends when this is dropped"]
pub struct FileLock(File);

impl FileLock {
    /// Locks `file`; none where somebody else has it and `policy` does not wait.
    ///
    /// Fails with [`Kind::LocksUnsupported`] where the file system has no such locks. Whether the
    /// file's name still means this file is for the caller to see.
    pub fn acquire(
        file: File,
        sharing: Sharing,
        mut policy: LockPolicy<'_>,
    ) -> Result<Option<Self>> {
        let mode = match sharing {
            Sharing::Exclusive => Mode::Exclusive,
            Sharing::Shared => Mode::Shared,
        };
        let began = Instant::now();
        while !ofd::try_lock(&file, mode, &EVERYTHING).map_err(refused)? {
            if !policy.wait {
                return Ok(None);
            }
            if began.elapsed() < SILENCE {
                queue::pause(1..10);
                continue;
            }
            if let Some(on_wait) = policy.on_wait.take() {
                let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
                on_wait(&message::locker(Identity::of(&stat)))?;
            }
            // From here on the kernel wakes us.
            ofd::lock(&file, mode, &EVERYTHING).map_err(refused)?;
            break;
        }
        Ok(Some(Self(file)))
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

fn refused(error: io::Error) -> Error {
    if means_no_locks(&error) {
        Error::new(Kind::LocksUnsupported, "the file system cannot hold locks")
    } else {
        Error::from(error)
    }
}
