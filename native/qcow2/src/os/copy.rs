//! Copying a range of one file to the same place of another.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::uninterrupted;

/// How much one call moves at most, so that a caller can tell how far it is.
const STEP: u64 = 8 << 20;
/// How much passes through memory at a time where the kernel cannot copy by itself.
const BUFFER: usize = 1 << 20;

/// Copies in the kernel (which lets NFS and SMB copy on the server) as long as the two files'
/// systems can, and through memory from the first time they cannot.
#[derive(Debug, Default)]
pub(crate) struct Copier {
    buffer: Option<Vec<u8>>,
}

impl Copier {
    /// Copies `range` of `source` to the same offsets of `target` and tells `progress` the bytes
    /// that each step moved. Fails with `UnexpectedEof` if the source ends within the range.
    ///
    /// Nothing is durable before the target is flushed.
    pub(crate) fn copy(
        &mut self,
        source: &File,
        target: &File,
        range: Range<u64>,
        mut progress: impl FnMut(u64),
    ) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let part = at..range.end.min(at.saturating_add(STEP));
            let moved = if let Some(buffer) = &mut self.buffer {
                through_memory(source, target, part, buffer)?
            } else if let Some(moved) = in_kernel(source, target, part)? {
                moved
            } else {
                self.buffer = Some(vec![0; BUFFER]);
                continue;
            };
            at += moved;
            progress(moved);
        }
        Ok(())
    }
}

/// The number of bytes copied, or `None` where the kernel cannot.
fn in_kernel(source: &File, target: &File, part: Range<u64>) -> io::Result<Option<u64>> {
    let len = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
    let (mut from, mut to) = (part.start, part.start);
    let result = uninterrupted(|| {
        rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), len)
    });
    match result {
        // Some file systems say "nothing more" where they mean "not like this".
        Ok(0) => Ok(None),
        Ok(count) => Ok(Some(count as u64)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(
                Errno::XDEV
                | Errno::OPNOTSUPP
                | Errno::INVAL
                | Errno::NOSYS
                | Errno::PERM
                | Errno::BADF
                | Errno::TXTBSY,
            ) => Ok(None),
            _ => Err(error),
        },
    }
}

fn through_memory(
    source: &File,
    target: &File,
    part: Range<u64>,
    buffer: &mut [u8],
) -> io::Result<u64> {
    let len = usize::try_from(part.end - part.start).unwrap_or(usize::MAX).min(buffer.len());
    let count = loop {
        match source.read_at(&mut buffer[..len], part.start) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    target.write_all_at(&buffer[..count], part.start)?;
    Ok(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(copier: &mut Copier) {
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let content: Vec<u8> = (0..=250).cycle().take(20_000_000).collect();
        source.write_all_at(&content, 0).unwrap();
        let mut steps = Vec::new();
        copier.copy(&source, &target, 4096..19_999_999, |moved| steps.push(moved)).unwrap();
        assert_eq!(steps.iter().sum::<u64>(), 19_999_999 - 4096);
        assert!(steps.iter().all(|&moved| moved <= STEP));
        let mut copy = vec![1; 19_999_999];
        target.read_exact_at(&mut copy, 0).unwrap();
        assert!(copy[..4096].iter().all(|&byte| byte == 0));
        assert!(copy[4096..] == content[4096..19_999_999]);
        let beyond = copier.copy(&source, &target, 19_999_999..20_000_001, |_| {}).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_range_is_copied_to_the_same_place() {
        copies(&mut Copier::default());
    }

    #[test]
    fn a_range_is_copied_through_memory_where_the_kernel_cannot() {
        copies(&mut Copier { buffer: Some(vec![0; BUFFER]) });
    }
}
