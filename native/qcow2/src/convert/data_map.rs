//! Where a file has data and where holes, asked of the file system as one goes along.

use std::ops::Range;

use crate::error::Result;
use crate::os::extents;
use crate::storage::{FileStorage, Storage};

#[derive(Debug)]
pub(super) struct DataMap {
    /// Length of the file.
    bytes: u64,
    /// The range that is known: a hole, and then data.
    known: Range<u64>,
    /// Where in it the data begins.
    data_from: u64,
}

impl DataMap {
    /// The map of a file of `bytes` bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, known: 0..0, data_from: 0 }
    }

    /// Whether there is data at `at`, and up to where it is so. Behind the end is a hole.
    pub(super) fn at(&mut self, file: &FileStorage, at: u64) -> Result<(bool, u64)> {
        if at >= self.bytes {
            return Ok((false, u64::MAX));
        }
        if file.has_fixed_len() {
            // A device has no holes to tell of.
            return Ok((true, self.bytes));
        }
        if !self.known.contains(&at) {
            let data = extents::next_data(file.file(), self.bytes, at)?;
            let data = data.unwrap_or(self.bytes..self.bytes);
            (self.known, self.data_from) = (at..data.end, data.start);
        }
        let is_data = at >= self.data_from;
        Ok((is_data, if is_data { self.known.end } else { self.data_from }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K64: u64 = 65_536;

    #[test]
    fn data_and_holes_take_turns_up_to_the_end() {
        let file = FileStorage::from_file(tempfile::tempfile().unwrap()).unwrap();
        file.set_len(10 * K64).unwrap();
        file.write_at(&vec![1; 65_536], 2 * K64).unwrap();
        file.write_at(&vec![1; 65_536], 5 * K64).unwrap();
        file.write_at(&vec![1; 65_536], 6 * K64).unwrap();
        let mut map = DataMap::new(10 * K64);
        for (at, is_data, end) in [
            (0, false, 2 * K64),
            (7, false, 2 * K64),
            (2 * K64, true, 3 * K64),
            (5 * K64 + 1, true, 7 * K64),
            (3 * K64, false, 5 * K64),
            (7 * K64, false, 10 * K64),
            (10 * K64, false, u64::MAX),
            (0, false, 2 * K64),
        ] {
            assert_eq!(map.at(&file, at).unwrap(), (is_data, end), "{at:#x}");
        }
    }
}
