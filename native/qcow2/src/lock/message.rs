//! What people are told about who has an image.

use std::io;
use std::ops::Range;

use super::Intent;
use super::survey::CALQUE;
use crate::error::{Error, Kind};
use crate::os::processes::{self, Opener, Process};
use crate::storage::FileStorage;

/// Who uses an image, as far as locks tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody who locks.
    Nobody,
    /// A Calque.
    Calque,
    /// A QEMU that only reads; the image may be the backing file of a running machine.
    Reader,
    /// A QEMU that writes: a virtual machine, `qemu-nbd`, a job.
    Writer,
    /// Another tool, with locks of its own kind.
    Other,
}

/// Who uses an image, and which processes those are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What kind of user.
    pub holder: Holder,
    /// `NAME (process ID)` of each, where the system lets us see them.
    pub processes: Vec<String>,
}

pub(super) fn usage(file: &FileStorage, holder: Holder) -> Usage {
    let processes = match holder {
        Holder::Nobody => Vec::new(),
        Holder::Calque => holders(file, |bytes| overlap(bytes, &CALQUE)),
        _ => holders(file, is_foreign),
    };
    Usage { holder, processes: processes.iter().map(Process::to_string).collect() }
}

/// QEMU's sentence for somebody who comes second.
pub(super) fn sentence(intent: Intent) -> &'static str {
    match intent {
        Intent::Read | Intent::Share => "Failed to get shared \"write\" lock",
        Intent::Change => "Failed to get \"write\" lock",
    }
}

/// The refusal: QEMU's two lines, and one that names the holder where that can be found out.
pub(super) fn in_use(file: &FileStorage, reason: &str, holder: Option<String>) -> Error {
    let mut lines = Vec::new();
    if let Some(path) = file.path() {
        lines.push(format!("Is another process using the image [{}]?", path.display()));
    }
    let found = || {
        let mut processes = holders(file, is_foreign);
        if processes.is_empty() {
            processes = holders(file, |bytes| overlap(bytes, &CALQUE));
        }
        list(&processes).map(|names| format!("It is locked by {names}"))
    };
    lines.extend(holder.or_else(found));
    let error = Error::new(Kind::InUse, reason);
    if lines.is_empty() { error } else { error.with_hint(lines.join("\n")) }
}

/// The Calque that holds `queue`, by name.
pub(super) fn other_calque(file: &FileStorage, queue: &Range<u64>) -> String {
    list(&holders(file, |bytes| overlap(bytes, queue)))
        .unwrap_or_else(|| "another process".to_owned())
}

/// Three at most, for a sentence.
pub(super) fn list(processes: &[Process]) -> Option<String> {
    const MOST: usize = 3;
    let mut names: Vec<_> = processes.iter().take(MOST).map(Process::to_string).collect();
    if processes.len() > MOST {
        names.push(format!("{} more", processes.len() - MOST));
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// What a failed lock call means: some errors say that there are no such locks.
pub(super) fn lock_error(error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => {
            let error = Error::from(error);
            Error::new(Kind::LocksUnsupported, error.reason())
                .context("The file system cannot hold image locks")
        }
        _ => Error::from(error).context("Cannot lock the image"),
    }
}

fn holders(file: &FileStorage, matches: impl Fn(&Range<u64>) -> bool) -> Vec<Process> {
    let holds = |opener: &Opener| opener.locked.iter().any(&matches);
    let mut found: Vec<_> = processes::openers(file.identity())
        .into_iter()
        .filter(holds)
        .map(|opener| opener.process)
        .collect();
    found.dedup();
    found
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn is_foreign(bytes: &Range<u64>) -> bool {
    bytes.start < CALQUE.start || bytes.end > CALQUE.end
}
