//! Reading what the medium holds, past the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags};

use super::identity::Identity;

/// What every device and file system in use accepts as alignment of offset, length and memory.
const ALIGNMENT: usize = 4096;

/// A second description of the file at `path` that reads past the cache, if it is still `identity`
/// and its file system can do so.
///
/// It is open for reading only, so nobody mistakes it for a writer.
pub(crate) fn reopen(path: &Path, identity: Identity) -> Option<File> {
    let flags = OFlags::DIRECT | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    (Identity::of(&rustix::fs::fstat(&file).ok()?) == identity).then_some(file)
}

/// Fills `buf` from `offset` through `direct`, a description made by [`reopen`]. What lies beyond
/// the end reads as zeros. Fails with `EINVAL` where the device wants a larger alignment.
pub(crate) fn read(direct: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let head = usize::try_from(offset % ALIGNMENT as u64).expect("less than the alignment");
    let len = (head + buf.len()).next_multiple_of(ALIGNMENT);
    let mut memory = vec![0; len + ALIGNMENT];
    let lead = memory.as_ptr().align_offset(ALIGNMENT);
    let aligned = &mut memory[lead..lead + len];
    let base = offset - head as u64;
    let mut done = 0;
    while done < len {
        match direct.read_at(&mut aligned[done..], base + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // The end of the file: a read that begins off the alignment would be refused.
        if done % ALIGNMENT != 0 {
            break;
        }
    }
    // What a short read left untouched is zero already.
    buf.copy_from_slice(&aligned[head..head + buf.len()]);
    Ok(())
}

/// Asks the system to forget the cached pages around `len` bytes at `offset`. Pages that are not
/// on the medium yet stay, so a flush comes first.
pub(crate) fn forget(file: &File, offset: u64, len: usize) -> io::Result<()> {
    // Only whole pages are dropped, and 64 KiB is the largest page in use.
    const PAGE: u64 = 65_536;
    let start = offset / PAGE * PAGE;
    let end = offset.saturating_add(len as u64).saturating_add(PAGE) / PAGE * PAGE;
    let len = std::num::NonZeroU64::new(end - start);
    Ok(rustix::fs::fadvise(file, start, len, Advice::DontNeed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_offset_and_length_can_be_read_and_the_end_reads_as_zeros() {
        let named = tempfile::NamedTempFile::new_in(".").unwrap();
        let content: Vec<u8> = (0..=250).cycle().take(10_000).collect();
        std::fs::write(named.path(), &content).unwrap();
        named.as_file().sync_all().unwrap();
        let identity = Identity::of_path(named.path()).unwrap();
        // A file system without O_DIRECT has nothing to be tested here.
        let Some(direct) = reopen(named.path(), identity) else { return };
        for (offset, len) in [(0, 512), (1, 1), (4095, 2), (5000, 5000), (9_000, 3_000)] {
            let mut buf = vec![0xff; len];
            read(&direct, &mut buf, offset).unwrap();
            let at = |n| content.get(n).copied().unwrap_or(0);
            let start = usize::try_from(offset).unwrap();
            assert_eq!(buf, (start..start + len).map(at).collect::<Vec<_>>());
        }
    }

    #[test]
    fn another_file_under_the_same_name_is_not_taken_for_ours() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, "one").unwrap();
        let identity = Identity::of_path(&path).unwrap();
        std::fs::write(dir.path().join("other"), "two").unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        assert!(reopen(&path, identity).is_none());
    }
}
