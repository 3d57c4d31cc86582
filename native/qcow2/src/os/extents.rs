//! Where a file owns blocks, as the file system tells.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::uninterrupted;

/// The parts of `within` that hold data, ascending and disjoint, cut at `len`, the file's length.
///
/// Data that was written but is not on the medium yet counts. A file system that cannot tell
/// reports everything. Moves the description's own offset, which nothing here relies on.
pub(crate) fn data_ranges(
    file: &File,
    len: u64,
    within: Range<u64>,
) -> io::Result<Vec<Range<u64>>> {
    let end = within.end.min(len);
    let mut ranges = Vec::new();
    let mut at = within.start;
    while at < end {
        let Some(data) = next_data(file, len, at)? else { break };
        if data.start >= end {
            break;
        }
        at = data.end.min(end);
        ranges.push(data.start..at);
    }
    Ok(ranges)
}

/// The first part that holds data at or after `at`, which lies inside the file of length `len`;
/// none where only a hole follows.
pub(crate) fn next_data(file: &File, len: u64, at: u64) -> io::Result<Option<Range<u64>>> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        // Nothing but a hole from here to the end.
        Err(error) if is(&error, Errno::NXIO) => return Ok(None),
        Err(error) if is(&error, Errno::INVAL) || is(&error, Errno::OPNOTSUPP) => {
            return Ok(Some(at..len));
        }
        Err(error) => return Err(error),
    };
    if start >= len {
        return Ok(None);
    }
    let stop = match seek(file, SeekFrom::Hole(start)) {
        // Somebody may be cutting the file meanwhile: then the rest is no data of ours.
        Err(error) if is(&error, Errno::NXIO) => len,
        result => result?.min(len),
    };
    Ok(Some(start..stop))
}

fn seek(file: &File, to: SeekFrom) -> io::Result<u64> {
    uninterrupted(|| rustix::fs::seek(file, to))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of one range are meant")]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const K64: u64 = 65_536;
    const K64_LEN: usize = 65_536;

    #[test]
    fn data_between_holes_is_found_and_cut_to_the_question() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * K64).unwrap();
        file.write_all_at(&vec![1; K64_LEN], 2 * K64).unwrap();
        file.write_all_at(&vec![1; 2 * K64_LEN], 5 * K64).unwrap();
        let ask = |within| data_ranges(&file, 10 * K64, within).unwrap();
        assert_eq!(ask(0..u64::MAX), [2 * K64..3 * K64, 5 * K64..7 * K64]);
        assert_eq!(ask(6 * K64..9 * K64), [6 * K64..7 * K64]);
        assert_eq!(ask(3 * K64..5 * K64), []);
        assert_eq!(ask(7 * K64..10 * K64), []);
        assert_eq!(ask(11 * K64..12 * K64), []);
    }
}
