//! Telling the disk to begin with what was written.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::uninterrupted;

/// Begins to write `range` from the cache to the disk, and does not wait for it. Makes nothing
/// durable. Where the system does not take such advice, nothing happens.
///
/// Fails where the file system finds no place for it, and has given up what was written: ext4 says
/// so here, and not again at the next `fdatasync`. What fails later, the disk's own errors, is left
/// to that.
pub(crate) fn begin(file: &File, range: Range<u64>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let start = i64::try_from(range.start).map_err(|_| Errno::FBIG)?;
    // Zero bytes: to the end of the file.
    let length = i64::try_from(range.end).map_or(0, |end| end - start);
    let advice = libc::SYNC_FILE_RANGE_WRITE;
    let result = uninterrupted(|| {
        // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is touched.
        if unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, advice) } == 0 {
            return Ok(());
        }
        Err(Errno::from_io_error(&io::Error::last_os_error()).expect("of the system"))
    });
    let untaken = [Errno::INVAL, Errno::NOSYS, Errno::SPIPE, Errno::PERM, Errno::OPNOTSUPP];
    match result {
        Err(error) if untaken.iter().any(|it| error.raw_os_error() == Some(it.raw_os_error())) => {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_was_written_can_be_begun_with_and_what_takes_no_advice_is_no_error() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        for range in [0..10_000, 5..6, 3..3, 4096..u64::MAX, 1 << 40..1 << 41] {
            begin(&file, range).unwrap();
        }
        let (pipe, _other) = std::io::pipe().unwrap();
        begin(&File::from(std::os::fd::OwnedFd::from(pipe)), 0..1).unwrap();
    }

    #[test]
    fn an_error_that_is_not_about_the_advice_is_one() {
        let path = tempfile::NamedTempFile::new().unwrap();
        // A descriptor without access to data.
        let flags = rustix::fs::OFlags::PATH;
        let opened = rustix::fs::open(path.path(), flags, rustix::fs::Mode::empty()).unwrap();
        let error = begin(&File::from(opened), 0..1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
