//! What the kernel says of a block device besides its bytes.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::File;
use std::io;

use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

use super::uninterrupted;

const BLKROGET: Opcode = opcode::none(0x12, 94);

/// Whether nobody can write to the block device, whatever it was opened for: opening one to write
/// succeeds all the same, and only the first write fails.
///
/// Fails with `ENOTTY` on what is no block device.
pub(crate) fn is_read_only(device: &File) -> io::Result<bool> {
    // SAFETY: the command writes one `int`.
    let answer = uninterrupted(|| unsafe { ioctl(device, Getter::<BLKROGET, c_int>::new()) })?;
    Ok(answer != 0)
}
