//! Sharing blocks between files, and the btrfs attribute that stands in the way.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::fs::IFlags;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use super::uninterrupted;

/// Makes the empty `target` share all blocks of `source`.
///
/// Fails with `EOPNOTSUPP` where the file system cannot share, `EXDEV` across file systems, and
/// `EINVAL` where one of the two is excluded from copy-on-write and the other is not
/// ([`set_nocow`] first). Nothing has changed then.
pub(crate) fn clone(source: &File, target: &File) -> io::Result<()> {
    uninterrupted(|| rustix::fs::ioctl_ficlone(target, source))
}

const FICLONERANGE: Opcode = opcode::write::<CloneRange>(0x94, 13);

/// The kernel's `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    source: i64,
    source_offset: u64,
    length: u64,
    target_offset: u64,
}

/// Makes `target` share the blocks of `range` of `source`, from `offset` on; what it had there is
/// gone. All three numbers are multiples of [`block_bytes`], and the range is not empty.
///
/// Fails as [`clone`] does.
pub(crate) fn clone_range(
    source: &File,
    range: Range<u64>,
    target: &File,
    offset: u64,
) -> io::Result<()> {
    uninterrupted(|| {
        let request = CloneRange {
            source: source.as_raw_fd().into(),
            source_offset: range.start,
            length: range.end - range.start,
            target_offset: offset,
        };
        // SAFETY: the command reads a `struct file_clone_range`, which `CloneRange` is, and the
        // source is open for as long as it is borrowed.
        unsafe { ioctl(target, Setter::<FICLONERANGE, CloneRange>::new(request)) }
    })
}

/// What the file system shares at once: places and lengths have to be multiples of it.
pub(crate) fn block_bytes(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::fstatvfs(file)?.f_frsize)
}

/// Whether the file is excluded from copy-on-write (`chattr +C`). A file system without such
/// attributes says no.
pub(crate) fn is_nocow(file: &File) -> bool {
    rustix::fs::ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::NOCOW))
}

/// Excludes the still empty file from copy-on-write.
pub(crate) fn set_nocow(file: &File) -> io::Result<()> {
    let flags = uninterrupted(|| rustix::fs::ioctl_getflags(file))?;
    uninterrupted(|| rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::os::filesystem;
    use crate::os::mounted::Mounted;

    fn content(file: &File) -> Vec<u8> {
        let mut buf = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut buf, 0).unwrap();
        buf
    }

    #[test]
    fn a_clone_shares_blocks_on_xfs_and_btrfs_and_parts_when_written() {
        for kind in ["xfs", "btrfs"] {
            let Some(mounted) = Mounted::new(kind) else { continue };
            assert_eq!(filesystem::name(&mounted.file("probe")), kind);
            let source = mounted.file("source");
            source.write_all_at(&vec![7; 64 << 20], 0).unwrap();
            source.sync_all().unwrap();
            let free = mounted.free_bytes();
            let target = mounted.file("target");
            clone(&source, &target).unwrap();
            target.sync_all().unwrap();
            assert!(free - mounted.free_bytes() < 1 << 20, "{kind}: blocks were copied");
            target.write_all_at(b"mine", 0).unwrap();
            assert_eq!(content(&source), vec![7; 64 << 20]);
            assert_eq!(&content(&target)[..6], b"mine\x07\x07");
        }
    }

    #[test]
    fn a_range_is_shared_with_another_place_of_the_target() {
        for kind in ["xfs", "btrfs"] {
            let Some(mounted) = Mounted::new(kind) else { continue };
            let (source, target) = (mounted.file("source"), mounted.file("target"));
            source.write_all_at(&vec![7; 32 << 20], 0).unwrap();
            source.write_all_at(b"here", 4 << 20).unwrap();
            source.sync_all().unwrap();
            let block = block_bytes(&target).unwrap();
            assert_eq!(block, 4096, "{kind}");
            let free = mounted.free_bytes();
            clone_range(&source, 4 << 20..32 << 20, &target, 3 * block).unwrap();
            target.sync_all().unwrap();
            assert!(free - mounted.free_bytes() < 1 << 20, "{kind}: blocks were copied");
            assert_eq!(target.metadata().unwrap().len(), 3 * block + (28 << 20));
            let mut start = [1; 8];
            target.read_exact_at(&mut start, 3 * block - 2).unwrap();
            assert_eq!(&start, b"\0\0here\x07\x07");
            let error = clone_range(&source, 1..block + 1, &target, 0).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn a_source_without_copy_on_write_is_shared_once_the_target_is_like_it() {
        let Some(mounted) = Mounted::new("btrfs") else { return };
        let source = mounted.file("source");
        set_nocow(&source).unwrap();
        assert!(is_nocow(&source));
        source.write_all_at(&vec![7; 1 << 20], 0).unwrap();
        let target = mounted.file("target");
        assert!(!is_nocow(&target));
        assert_eq!(clone(&source, &target).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        set_nocow(&target).unwrap();
        clone(&source, &target).unwrap();
        assert_eq!(content(&target), content(&source));
    }

    #[test]
    fn across_file_systems_nothing_is_shared() {
        let Some(mounted) = Mounted::new("xfs") else { return };
        let target = tempfile::tempfile().unwrap();
        let error = clone(&mounted.file("source"), &target).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
        assert_eq!(target.metadata().unwrap().len(), 0);
    }
}
