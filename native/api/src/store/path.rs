//! From a store's root to one of its files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::system::{NOT_A_FILE, failure, readable, refusal, uninterrupted};
use crate::types::{Failure, FailureCode, Outcome};

/// A directory as a place to look names up in; what it contains need not be readable.
const PLACE: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a file is opened with besides reading or writing: no link is followed, and what is no
/// regular file neither blocks nor becomes our terminal.
const CAREFULLY: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Files are the owner's alone.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A store that is the caller's alone.
pub(super) struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// The store at `path`, which is absolute and real, as `store_open` reports it.
    pub fn open(path: impl AsRef<Path>) -> Outcome<Self> {
        let path = path.as_ref();
        ensure_absolute(path)?;
        let directory = directory_in(CWD, path).map_err(|errno| failure(path, errno))?;
        let root = Self { directory, path: path.to_owned() };
        root.ensure_ours()?;
        Ok(root)
    }

    fn ensure_ours(&self) -> Outcome<()> {
        let stat =
            rustix::fs::fstat(&self.directory).map_err(|errno| failure(&self.path, errno))?;
        let refuse = |reason| Err(refusal(&self.path, FailureCode::NotOurs, reason));
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return refuse("it belongs to another user");
        }
        if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
            return refuse("others can write to it");
        }
        Ok(())
    }

    /// The name that `path` ends with, in its directory.
    pub fn place(&self, path: &str) -> Outcome<Place> {
        let shown = self.path.join(path);
        let names: Vec<_> = path.split('/').collect();
        let is_name = |name: &&str| !matches!(*name, "" | "." | "..") && !name.contains('\0');
        if !names.iter().all(is_name) {
            let reason = "a path in the store consists of names, with one slash between two";
            return Err(refusal(&shown, FailureCode::InvalidArgument, reason));
        }
        let (name, directories) = names.split_last().expect("a split has a part");
        let directory = self.descend(directories).map_err(|error| failure(&shown, error))?;
        Ok(Place { directory, name: (*name).to_owned(), path: shown })
    }

    /// The directory below all these names, none of which is a symbolic link.
    fn descend(&self, names: &[&str]) -> io::Result<OwnedFd> {
        if names.len() > 1 {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let path = names.join("/");
            // All at once, where the system can (Linux 5.6). Whatever is in the way is found again,
            // and named, one by one.
            let opened = uninterrupted(|| {
                rustix::fs::openat2(&self.directory, &path, PLACE, Mode::empty(), beneath)
            });
            if let Ok(directory) = opened {
                return Ok(directory);
            }
        }
        let mut at = self.directory.try_clone()?;
        for name in names {
            at = directory_in(&at, name)?;
        }
        Ok(at)
    }

    /// As [`place`](Self::place); `.` is the root, as a name in itself.
    pub fn place_or_root(&self, path: &str) -> Outcome<Place> {
        if path != "." {
            return self.place(path);
        }
        let directory = self.directory.try_clone().map_err(|error| failure(&self.path, error))?;
        Ok(Place { directory, name: ".".to_owned(), path: self.path.clone() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root, open for reading.
    pub fn read(&self) -> Outcome<OwnedFd> {
        readable(&self.directory).map_err(|error| failure(&self.path, error))
    }
}

/// A name in a directory of the store. Whether there is something of that name is another question.
pub(super) struct Place {
    directory: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Place {
    /// The directory, as a place only.
    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// The name in it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole path, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another name in the same directory.
    pub fn beside(&self, name: String) -> Outcome<Self> {
        let directory = self.directory.try_clone().map_err(|error| self.failure(error))?;
        let path = self.path.with_file_name(&name);
        Ok(Self { directory, name, path })
    }

    /// Opens the regular file of that name.
    pub fn open(&self, flags: OFlags) -> Outcome<File> {
        let open = |flags| {
            uninterrupted(|| rustix::fs::openat(&self.directory, &self.name, flags, FILE_MODE))
        };
        let opened = match open(flags | CAREFULLY) {
            // Somebody has a lease on it, a file server say, and gives it back to who waits.
            Err(Errno::WOULDBLOCK) => open((flags | CAREFULLY) - OFlags::NONBLOCK),
            opened => opened,
        };
        let file = File::from(opened.map_err(|errno| self.failure(errno))?);
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.failure(errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            Ok(file)
        } else {
            Err(self.refusal(FailureCode::NotAFile, NOT_A_FILE))
        }
    }

    /// Opens the directory of that name for reading.
    pub fn open_directory(&self) -> Outcome<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | CAREFULLY;
        uninterrupted(|| rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty()))
            .map_err(|errno| match errno {
                Errno::NOTDIR => self.no_directory(),
                _ => self.failure(errno),
            })
    }

    /// A name that is in the way of a directory.
    fn no_directory(&self) -> Failure {
        let stat = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        let is_link = stat.is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Symlink);
        let hint = "move it away; what the store needs in its place is made anew";
        let failure = if is_link {
            self.refusal(FailureCode::NotADirectory, "it is a symbolic link")
        } else {
            self.failure(Errno::NOTDIR)
        };
        Failure { hint: Some(hint.to_owned()), ..failure }
    }

    /// What the system's error means here.
    pub fn failure(&self, error: impl Into<io::Error>) -> Failure {
        failure(&self.path, error)
    }

    /// A refusal of our own.
    pub fn refusal(&self, code: FailureCode, reason: &str) -> Failure {
        refusal(&self.path, code, reason)
    }
}

/// The directory `name` in `directory`, as a place; `ENOTDIR` for a symbolic link too.
pub(super) fn directory_in(
    directory: impl AsFd,
    name: impl AsRef<Path>,
) -> rustix::io::Result<OwnedFd> {
    uninterrupted(|| rustix::fs::openat(&directory, name.as_ref(), PLACE, Mode::empty()))
}

/// Refuses paths that mean something else from another directory.
pub(super) fn ensure_absolute(path: &Path) -> Outcome<()> {
    if path.is_absolute() {
        return Ok(());
    }
    let reason = "the path of a store begins with a slash";
    Err(refusal(path, FailureCode::InvalidArgument, reason))
}
