//! The bytes of an image that are locked, and what a lock on them says.

use std::ops::Range;

/// Byte `USED + n`: somebody uses permission `n`.
pub(super) const USED: u64 = 100;
/// Byte `UNSHARED + n`: somebody does not share permission `n`.
pub(super) const UNSHARED: u64 = 200;
/// What QEMU calls the permissions, by number.
pub(super) const PERMISSIONS: [&str; 5] =
    ["consistent read", "write", "write unchanged", "resize", "change children"];
pub(super) const COUNT: u64 = PERMISSIONS.len() as u64;

pub(super) const READ: usize = 0;
pub(super) const WRITE: usize = 1;
pub(super) const WRITE_UNCHANGED: usize = 2;
pub(super) const RESIZE: usize = 3;
pub(super) const CHANGE_CHILDREN: usize = 4;

/// The bytes in which Calques wait for each other.
pub(super) const CALQUE: Range<u64> = 300..303;

/// That of a permission.
pub(super) fn byte(base: u64, permission: usize) -> Range<u64> {
    let at = base + permission as u64;
    at..at + 1
}

/// Whether a lock is not Calque's alone.
pub(super) fn is_foreign(bytes: &Range<u64>) -> bool {
    !is_calques(bytes)
}

/// Whether a lock is only on bytes that Calques take.
pub(super) fn is_calques(bytes: &Range<u64>) -> bool {
    CALQUE.start <= bytes.start && bytes.end <= CALQUE.end
}

pub(super) fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
