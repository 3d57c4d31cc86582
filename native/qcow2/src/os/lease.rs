//! Asking the kernel itself whether anybody else can write to a file.
//!
//! A lease is granted only to a description beside which no other one is open for writing, counted
//! by the kernel over all processes, mappings and loop devices. It is given back at once: what
//! matters is that it was granted. Somebody who opens the file in these microseconds waits for
//! them, or is told to try again if he opens without waiting.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::OFlags;

/// Chooses the signal that reports on the descriptor; the libc crate does not name it.
const F_SETSIG: libc::c_int = 10;

/// Whether the kernel vouches that the file is open for writing through `file` and its duplicates
/// at most.
///
/// For a `file` that is itself open for writing that means more: nobody else has it open at all.
/// `false` says nothing: only the file's owner and root may ask, and not every file system answers.
pub(crate) fn is_only_writer(file: &File) -> bool {
    let Ok(flags) = rustix::fs::fcntl_getfl(file) else { return false };
    // A read lease is granted if there is no writer, a write lease if there is nobody else.
    let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
    let lease = if writes { libc::F_WRLCK } else { libc::F_RDLCK };
    // A newcomer makes the kernel signal us, and the usual signal, SIGIO, would end the process.
    // SIGURG is ignored by default.
    if !control(file, F_SETSIG, libc::SIGURG) {
        return false;
    }
    let granted = control(file, libc::F_SETLEASE, lease);
    // As long as there is a lease, its signal must stay the harmless one.
    if !granted || control(file, libc::F_SETLEASE, libc::F_UNLCK) {
        control(file, F_SETSIG, 0);
    }
    granted
}

fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> bool {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and both commands take an
    // integer.
    unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_writer_is_noticed_by_readers_and_writers() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let path = named.into_temp_path();
        let open = |write| File::options().read(true).write(write).open(&path).unwrap();
        let ours = open(true);
        // A duplicate is not another writer. Where leases do not exist nothing can be tested.
        let duplicate = ours.try_clone().unwrap();
        if !is_only_writer(&ours) {
            eprintln!("skipped: no leases here");
            return;
        }
        let other = open(true);
        assert!(!is_only_writer(&ours));
        assert!(!is_only_writer(&open(false)));
        drop(other);
        eventually(|| is_only_writer(&ours));
        assert!(!is_only_writer(&open(false)));
        let reader = open(false);
        assert!(!is_only_writer(&ours), "a reader counts beside a writer");
        drop(reader);
        eventually(|| is_only_writer(&ours));
        drop((ours, duplicate));
        eventually(|| is_only_writer(&open(false)));
    }

    /// A child of another test has what is open here too, until it starts its program.
    fn eventually(condition: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !condition() {
            assert!(began.elapsed().as_secs() < 5, "still not so");
        }
    }

    #[test]
    fn nobody_dies_and_nobody_fails_when_another_opens_the_file_meanwhile() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let path = named.into_temp_path();
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| {
                for _ in 0..20_000 {
                    drop(File::options().read(true).write(true).open(&path).unwrap());
                }
            });
            let ours = File::options().read(true).write(true).open(&path).unwrap();
            while !opening.is_finished() {
                is_only_writer(&ours);
            }
        });
    }
}
