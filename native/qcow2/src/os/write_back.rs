//! Telling the disk to begin with what was written.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Begins to write `range` from the cache to the disk, and does not wait for it. Makes nothing
/// durable. An error of the disk stays for the next `fdatasync`, which reports it; where the system
/// does not take such advice, nothing happens.
pub(crate) fn begin(file: &File, range: Range<u64>) {
    let length = range.end.saturating_sub(range.start);
    let (Ok(start), Ok(length)) = (i64::try_from(range.start), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is touched.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), start, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}
