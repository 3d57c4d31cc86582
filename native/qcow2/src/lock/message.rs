//! What people are told about who has an image.

use std::io;
use std::ops::Range;

use super::Intent;
use super::bytes::{CALQUE, is_foreign, overlap};
use crate::error::{Error, Kind};
use crate::os::processes::{self, Opener, Process};
use crate::storage::{FileStorage, Identity};

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
        let mut processes = holders(file.identity(), is_foreign);
        if processes.is_empty() {
            processes = holders(file.identity(), |bytes| overlap(bytes, &CALQUE));
        }
        list(&processes).map(|names| format!("It is locked by {names}"))
    };
    lines.extend(holder.or_else(found));
    let error = Error::new(Kind::InUse, reason);
    if lines.is_empty() { error } else { error.with_hint(lines.join("\n")) }
}

/// The Calque that holds `queue`, by name.
pub(super) fn other_calque(file: &FileStorage, queue: &Range<u64>) -> String {
    somebody(&holders(file.identity(), |bytes| overlap(bytes, queue)))
}

/// Whoever has locked a file that is there for nothing else, by name.
pub(super) fn locker(identity: Identity) -> String {
    somebody(&holders(identity, |_| true))
}

fn somebody(processes: &[Process]) -> String {
    list(processes).unwrap_or_else(|| "another process".to_owned())
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
    if means_no_locks(&error) {
        let error = Error::from(error);
        Error::new(Kind::LocksUnsupported, error.reason())
            .context("The file system cannot hold image locks")
    } else {
        Error::from(error).context("Cannot lock the image")
    }
}

/// Whether a failed lock call says that there are no such locks here.
pub(super) fn means_no_locks(error: &io::Error) -> bool {
    let none = [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP, libc::EINVAL];
    error.raw_os_error().is_some_and(|errno| none.contains(&errno))
}

fn holders(identity: Identity, matches: impl Fn(&Range<u64>) -> bool) -> Vec<Process> {
    let holds = |opener: &Opener| opener.locked.iter().any(&matches);
    let mut found: Vec<_> = processes::openers(identity)
        .into_iter()
        .filter(holds)
        .map(|opener| opener.process)
        .collect();
    found.dedup();
    found
}
