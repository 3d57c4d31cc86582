//! What the system offers beyond the standard library, one subject per file.
//!
//! Knows nothing of qcow2. Everything here is Linux's own interface behind a safe function; the
//! only `unsafe` blocks of the crate are in [`device`], [`lease`], [`ofd`], [`reflink`], [`shared`],
//! [`signal`] and [`write_back`]. Offsets and lengths are in bytes, a range of bytes is half open,
//! and a range that ends at [`u64::MAX`] goes to the end of the file, however long it becomes.

pub(crate) mod copy;
pub(crate) mod descriptors;
pub(crate) mod device;
pub(crate) mod direct;
pub(crate) mod extents;
pub(crate) mod filesystem;
pub(crate) mod identity;
pub(crate) mod lease;
pub(crate) mod ofd;
pub(crate) mod processes;
pub(crate) mod punch;
pub(crate) mod reflink;
pub(crate) mod shared;
pub(crate) mod signal;
pub(crate) mod tmpfile;
pub(crate) mod write_back;

#[cfg(test)]
pub(crate) mod mounted;

use std::io;

/// Repeats a system call that a signal interrupted.
fn uninterrupted<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}
