//! Giving blocks back to the file system.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::FallocateFlags;

use super::uninterrupted;

/// Turns `range` into a hole: it reads as zeros afterwards, and the length stays.
///
/// Fails with [`io::ErrorKind::Unsupported`] where the file system has no holes; nothing has
/// changed then.
pub(crate) fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    uninterrupted(|| rustix::fs::fallocate(file, flags, range.start, range.end - range.start))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::os::mounted::Mounted;

    fn punching_gives_blocks_back(file: &File) {
        file.write_all_at(&vec![0xab; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        punch(file, 65_536..131_072).unwrap();
        file.sync_all().unwrap();
        let after = file.metadata().unwrap();
        assert_eq!(after.len(), 1 << 20);
        assert_eq!(before - after.blocks(), 128);
        let mut buf = vec![1; 65_536];
        file.read_exact_at(&mut buf, 65_536).unwrap();
        assert!(buf.iter().all(|&byte| byte == 0));
        file.read_exact_at(&mut buf, 131_072).unwrap();
        assert!(buf.iter().all(|&byte| byte == 0xab));
    }

    #[test]
    fn punching_gives_blocks_back_here() {
        punching_gives_blocks_back(&tempfile::tempfile().unwrap());
    }

    #[test]
    fn punching_gives_blocks_back_on_xfs_and_btrfs() {
        for kind in ["xfs", "btrfs"] {
            let Some(mounted) = Mounted::new(kind) else { continue };
            punching_gives_blocks_back(&mounted.file("image"));
        }
    }
}
