//! A table of 64-bit numbers in a file, of which one window is in memory: an L1 table may take
//! 32 MiB, and a chain has many.

use crate::error::Result;
use crate::format::mapping;
use crate::storage::Storage;

/// Numbers that are read together: 64 KiB.
const WINDOW: u64 = 8192;

#[derive(Debug)]
pub(super) struct Words {
    /// Host offset of the table, which lies inside the file.
    pub offset: u64,
    /// Numbers in it.
    pub count: u64,
    /// Index of the first number of the window.
    first: u64,
    window: Vec<u64>,
}

impl Words {
    /// The table of `count` numbers at `offset`. Nothing is read yet.
    pub(super) fn new(offset: u64, count: u64) -> Self {
        Self { offset, count, first: 0, window: Vec::new() }
    }

    /// Number `index`, which the table has.
    pub(super) fn get(&mut self, storage: &dyn Storage, index: u64) -> Result<u64> {
        assert!(index < self.count, "word {index} of {}", self.count);
        let inside = index.checked_sub(self.first).filter(|&at| at < self.window.len() as u64);
        let inside = if let Some(inside) = inside {
            inside
        } else {
            let first = index - index % WINDOW;
            let count = WINDOW.min(self.count - first);
            let mut bytes = vec![0; usize::try_from(count * 8).expect("at most 64 KiB")];
            storage.read_at(&mut bytes, self.offset + first * 8)?;
            self.window = mapping::decode_table(&bytes);
            self.first = first;
            index - first
        };
        Ok(self.window[usize::try_from(inside).expect("inside the window")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RecordingStorage;

    #[test]
    fn every_number_is_read_in_any_order() {
        let storage = RecordingStorage::new();
        let count = 2 * WINDOW + 5;
        let table: Vec<u64> = (0..count).map(|index| index * 3 + 1).collect();
        storage.write_at(&mapping::encode_table(&table, 0), 4096).unwrap();
        let mut words = Words::new(4096, count);
        for index in [0, 1, WINDOW - 1, WINDOW, count - 1, 2 * WINDOW, 7, count - 2] {
            assert_eq!(words.get(&storage, index).unwrap(), index * 3 + 1, "{index}");
        }
    }
}
