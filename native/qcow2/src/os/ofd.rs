//! Open-file-description locks: byte ranges that belong to a descriptor and its duplicates, not to
//! the process.
//!
//! They end when the last duplicate is closed, so a killed process leaves none, and (unlike
//! classic POSIX locks) they survive when the process closes another descriptor of the same file.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// How a range is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Beside other shared locks. Needs a descriptor open for reading.
    Shared,
    /// Alone. Needs a descriptor open for writing.
    Exclusive,
}

/// Somebody else's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub mode: Mode,
    /// All of it, which may be more than what was asked about.
    pub bytes: Range<u64>,
}

/// Takes the lock on `bytes`, or says `false` where somebody else's is in the way.
///
/// Fails with `ENOLCK`, `EINVAL`, `EOPNOTSUPP` or `ENOSYS` where there are no such locks.
pub(crate) fn try_lock(file: &File, mode: Mode, bytes: &Range<u64>) -> io::Result<bool> {
    match control(file, libc::F_OFD_SETLK, &mut request(l_type(mode), bytes)?) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Takes the lock on `bytes`, sleeping in the kernel until it is free.
pub(crate) fn lock(file: &File, mode: Mode, bytes: &Range<u64>) -> io::Result<()> {
    control(file, libc::F_OFD_SETLKW, &mut request(l_type(mode), bytes)?)
}

/// Gives `bytes` back; not holding them is no error.
pub(crate) fn unlock(file: &File, bytes: &Range<u64>) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, &mut request(libc::F_UNLCK, bytes)?)
}

/// The first lock of somebody else that would keep this description from locking `bytes` in
/// `mode`. Takes nothing, so nobody can trip over the question, and needs no write access.
pub(crate) fn conflict(file: &File, mode: Mode, bytes: &Range<u64>) -> io::Result<Option<Held>> {
    let mut answer = request(l_type(mode), bytes)?;
    control(file, libc::F_OFD_GETLK, &mut answer)?;
    let mode = match i32::from(answer.l_type) {
        libc::F_UNLCK => return Ok(None),
        libc::F_WRLCK => Mode::Exclusive,
        _ => Mode::Shared,
    };
    let start = u64::try_from(answer.l_start).unwrap_or(0);
    let end = match u64::try_from(answer.l_len).unwrap_or(0) {
        0 => u64::MAX,
        len => start.saturating_add(len),
    };
    Ok(Some(Held { mode, bytes: start..end }))
}

fn l_type(mode: Mode) -> i32 {
    match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    }
}

fn request(l_type: i32, bytes: &Range<u64>) -> io::Result<libc::flock> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let len = if bytes.end == u64::MAX { 0 } else { bytes.end - bytes.start };
    Ok(libc::flock {
        l_type: libc::c_short::try_from(l_type).map_err(invalid)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(invalid)?,
        l_start: libc::off_t::try_from(bytes.start).map_err(invalid)?,
        l_len: libc::off_t::try_from(len).map_err(invalid)?,
        // The kernel refuses anything else for these locks.
        l_pid: 0,
    })
}

fn control(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed, and the three OFD
        // commands read and write exactly one `struct flock`, which `lock` points to.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) };
        if result != -1 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_descriptions() -> (File, File, tempfile::NamedTempFile) {
        let named = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(named.path()).unwrap();
        (open(), open(), named)
    }

    #[test]
    fn shared_locks_go_together_and_an_exclusive_one_stands_alone() {
        let (a, b, _file) = two_descriptions();
        assert!(try_lock(&a, Mode::Shared, &(100..101)).unwrap());
        assert!(try_lock(&b, Mode::Shared, &(100..101)).unwrap());
        assert!(!try_lock(&b, Mode::Exclusive, &(100..101)).unwrap());
        unlock(&a, &(0..u64::MAX)).unwrap();
        assert!(try_lock(&b, Mode::Exclusive, &(100..101)).unwrap());
        assert!(!try_lock(&a, Mode::Shared, &(50..200)).unwrap());
    }

    #[test]
    fn a_conflict_is_reported_with_its_whole_range_and_own_locks_are_none() {
        let (a, b, _file) = two_descriptions();
        assert!(try_lock(&a, Mode::Exclusive, &(0..u64::MAX)).unwrap());
        let held = Held { mode: Mode::Exclusive, bytes: 0..u64::MAX };
        assert_eq!(conflict(&b, Mode::Shared, &(100..101)).unwrap(), Some(held));
        assert_eq!(conflict(&a, Mode::Exclusive, &(0..u64::MAX)).unwrap(), None);
    }

    #[test]
    fn a_duplicate_keeps_the_lock_and_the_last_one_ends_it() {
        let (a, b, _file) = two_descriptions();
        assert!(try_lock(&a, Mode::Exclusive, &(7..8)).unwrap());
        let duplicate = a.try_clone().unwrap();
        drop(a);
        assert!(!try_lock(&b, Mode::Shared, &(7..8)).unwrap());
        drop(duplicate);
        lock(&b, Mode::Shared, &(7..8)).unwrap();
    }
}
