//! How much of a file the file system says it shares.

#![allow(unsafe_code)]

use std::fs::File;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::{filesystem, uninterrupted};

/// Extents that one call tells about: 14 KiB, however many there are.
const BATCH: usize = 256;

/// Writes out what is not on the medium yet, so that it has extents.
const SYNC: u32 = 1;
/// The last extent of the file.
const LAST: u32 = 1;
/// Another file, or another place of this one, has the extent too.
const SHARED: u32 = 0x2000;

const FIEMAP: Opcode = opcode::read_write::<Head>(b'f', 11);

/// The kernel's `struct fiemap` without the extents behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// The kernel's `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved_wide: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Map {
    head: Head,
    extents: [Extent; BATCH],
}

/// Bytes of the file whose blocks belong to another file as well, counted in whole blocks: what the
/// file system itself says when it is asked for extents. Those past the end of the file, which some
/// file systems take in advance, are nobody else's.
///
/// None where it cannot tell: it has no such question, or it is not on this machine, so that its
/// silence about what a server does proves nothing.
pub(crate) fn bytes(file: &File) -> Option<u64> {
    let (mut bytes, mut start) = (0, 0);
    loop {
        let mut map = Map { head: ask_from(start), extents: [Extent::default(); BATCH] };
        uninterrupted(|| {
            // SAFETY: the command reads a `struct fiemap` and writes at most `extent_count` extents
            // behind it; `Map` is that, with room for as many.
            unsafe { ioctl(file, Updater::<FIEMAP, Map>::new(&mut map)) }
        })
        .ok()?;
        let mapped = map.extents.get(..map.head.mapped_extents as usize)?;
        bytes += mapped.iter().filter(|it| it.flags & SHARED != 0).map(|it| it.length).sum::<u64>();
        match mapped.last() {
            Some(last) if last.flags & LAST == 0 => {
                let end = last.logical.checked_add(last.length)?;
                start = Some(end).filter(|end| *end > start)?;
            }
            _ => break,
        }
    }
    (bytes > 0 || filesystem::is_local(file)).then_some(bytes)
}

fn ask_from(start: u64) -> Head {
    Head {
        start,
        length: u64::MAX - start,
        flags: SYNC,
        mapped_extents: 0,
        extent_count: u32::try_from(BATCH).expect("a small number"),
        reserved: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::os::copy::Copier;
    use crate::os::mounted::Mounted;
    use crate::os::reflink;

    const K64: u64 = 65_536;
    const K64_LEN: usize = 65_536;

    #[test]
    fn what_is_shared_is_counted_and_what_was_written_since_is_not() {
        for kind in ["xfs", "btrfs"] {
            let Some(mounted) = Mounted::new(kind) else { continue };
            let source = mounted.file("source");
            source.write_all_at(&vec![7; 16 * K64_LEN], 0).unwrap();
            assert_eq!(bytes(&source), Some(0), "{kind}");
            let target = mounted.file("target");
            reflink::clone(&source, &target).unwrap();
            assert_eq!(bytes(&target), Some(16 * K64), "{kind}");
            // Not flushed: the question itself has to see to it.
            target.write_all_at(&vec![8; K64_LEN], 3 * K64).unwrap();
            target.write_all_at(&vec![9; K64_LEN], 20 * K64).unwrap();
            assert_eq!(bytes(&target), Some(15 * K64), "{kind}");
        }
    }

    #[test]
    fn more_extents_than_one_call_tells_are_counted() {
        for kind in ["xfs", "btrfs"] {
            let Some(mounted) = Mounted::new(kind) else { continue };
            let source = mounted.file("source");
            let count = 2 * BATCH as u64 + 7;
            for index in 0..count {
                source.write_all_at(&vec![7; K64_LEN], 2 * index * K64).unwrap();
            }
            let target = mounted.file("target");
            reflink::clone(&source, &target).unwrap();
            assert_eq!(bytes(&target), Some(count * K64), "{kind}");
        }
    }

    /// What the kernel copies it may share, and nobody asked for it.
    #[test]
    fn a_copy_that_the_kernel_made_by_sharing_is_counted() {
        let Some(mounted) = Mounted::new("xfs") else { return };
        let (source, target) = (mounted.file("source"), mounted.file("target"));
        source.write_all_at(&vec![7; 16 * K64_LEN], 0).unwrap();
        Copier::default().copy(&source, &target, 0..16 * K64, |_| {}).unwrap();
        assert_eq!(bytes(&target), Some(16 * K64));
    }

    #[test]
    fn where_nothing_can_be_shared_it_is_nothing() {
        let Some(mounted) = Mounted::new("ext4") else { return };
        let file = mounted.file("file");
        assert_eq!(bytes(&file), Some(0));
        file.write_all_at(&vec![7; K64_LEN], K64).unwrap();
        assert_eq!(bytes(&file), Some(0));
    }

    #[test]
    fn a_file_system_that_cannot_tell_says_nothing() {
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
        if filesystem::name(&file) == "tmpfs" {
            file.write_all_at(&vec![7; K64_LEN], 0).unwrap();
            assert_eq!(bytes(&file), None);
        }
    }
}
