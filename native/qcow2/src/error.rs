//! The one error type of the core: a closed list of kinds, a sentence, and where it happened.
//!
//! The sentence is the *reason* only, in qemu-img's words where qemu-img has some; what was being
//! done to which file is known to the caller, who puts it in front. It begins with a capital
//! letter, as qemu-img's and the system's do, unless it only ever follows a colon of ours: reasons
//! of clones begin with a small one, and so do hints. An error says whether anything was written:
//! every kind but [`Kind::Unsettled`] means that the image is as it was before the call.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a program would ask. The list is closed: a new kind does not build until
/// somebody decided what to tell the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No file of that name.
    NotFound,
    /// The system refuses access to the file.
    PermissionDenied,
    /// The file, or the file system under it, cannot be written.
    ReadOnly,
    /// Neither a regular file nor a block device.
    NotAFile,
    /// The file does not begin with qcow2's magic. Formats are never guessed.
    WrongFormat,
    /// A qcow2 version other than 2 and 3.
    UnsupportedVersion,
    /// A feature that this operation cannot keep intact; nothing was written.
    UnsupportedFeature,
    /// A header field, extension or table location breaks the format's rules.
    InvalidHeader,
    /// The snapshot table breaks the format's rules.
    InvalidSnapshotTable,
    /// The image carries the corrupt bit.
    MarkedCorrupt,
    /// The image carries the dirty bit: its refcounts may be stale.
    MarkedDirty,
    /// Tables contradict each other; going on could lose data.
    Corrupt,
    /// Somebody else uses the image.
    InUse,
    /// The file system cannot hold byte-range locks.
    LocksUnsupported,
    /// The image kept changing while it was read without locks.
    Busy,
    /// Cache and disk disagree about the header; nobody may change the image until they agree.
    Unsettled,
    /// No space for the change; the image is as it was.
    NoSpace,
    /// An input or output error; the image is as it was.
    Io,
    /// No snapshot matches.
    SnapshotNotFound,
    /// A snapshot of that name exists.
    SnapshotExists,
    /// Several snapshots match; the hint lists their ids.
    SnapshotAmbiguous,
    /// The name cannot be stored (empty, too long, or containing NUL).
    InvalidName,
    /// 65 536 snapshots exist, or the table would exceed 64 MiB.
    TooManySnapshots,
    /// A reference count would exceed its width.
    RefcountOverflow,
    /// The format cannot describe an image of that size.
    TooLarge,
    /// The image has persistent bitmaps, which this operation would invalidate.
    HasBitmaps,
    /// Version 2 images with snapshots cannot change their size.
    HasSnapshots,
    /// Shrinking is not offered.
    CannotShrink,
    /// A target of a clone exists, or is named twice.
    TargetExists,
    /// Blocks cannot be shared between source and target, and sharing was asked for.
    CannotShare,
    /// A request that makes no sense, whatever the image.
    InvalidArgument,
}

/// An error of the core.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    reason: String,
    /// A line that belongs before the sentence (qemu-img prints some causes on their own line).
    pub preface: Option<String>,
    /// The way out, on a line of its own after the sentence.
    pub hint: Option<String>,
    /// Byte offset in the image, where there is one.
    pub offset: Option<u64>,
    /// The file that it is about, where that is not the one that was asked for.
    pub path: Option<PathBuf>,
    source: Option<io::Error>,
}

impl Error {
    /// An error of `kind` whose sentence is `reason`: no full stop, no file name.
    pub fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            preface: None,
            hint: None,
            offset: None,
            path: None,
            source: None,
        }
    }

    /// Adds the way out.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the line that stands before the sentence.
    #[must_use]
    pub fn with_preface(mut self, preface: impl Into<String>) -> Self {
        self.preface = Some(preface.into());
        self
    }

    /// Adds the byte offset in the image.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Says which file it is about.
    #[must_use]
    pub fn about(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// The sentence, with `reason` before what the system said.
    #[must_use]
    pub fn context(mut self, reason: &str) -> Self {
        self.reason = format!("{reason}: {}", self.reason);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Tables contradict each other at `offset`.
pub fn corrupt(reason: impl Into<String>, offset: u64) -> Error {
    Error::new(Kind::Corrupt, reason).at(offset)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

impl From<io::Error> for Error {
    /// Classifies by errno; the sentence is the C library's (`No space left on device`).
    fn from(source: io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Kind::NotFound,
            Some(libc::EACCES | libc::EPERM) => Kind::PermissionDenied,
            Some(libc::EROFS) => Kind::ReadOnly,
            Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
            Some(libc::EEXIST) => Kind::TargetExists,
            _ => Kind::Io,
        };
        let text = source.to_string();
        // std appends " (os error 28)"; qemu-img and people do not want it.
        let reason = text.split(" (os error").next().unwrap_or(&text).to_owned();
        Self {
            kind,
            reason,
            preface: None,
            hint: None,
            offset: None,
            path: None,
            source: Some(source),
        }
    }
}
