//! Where an image's bytes live: the seam between the core and the system.
//!
//! Knows nothing of qcow2. [`FileStorage`] is the real one; [`RecordingStorage`] keeps cache and
//! medium apart, logs every change and injects faults, so that tests can cut the power anywhere.

mod file;
mod record;

pub use crate::os::identity::Identity;
pub use file::{Access, FileStorage, Stamp};
pub use record::{Call, Fault, Harm, Operation, RecordingStorage, SparseImage};

use std::io;
use std::ops::Range;

/// A random-access file or block device. All offsets and lengths are in bytes.
///
/// Writes become durable at the next successful [`flush`](Storage::flush); before that any subset
/// of them may reach the medium, in any order, torn at 512 bytes.
pub trait Storage: Send + Sync {
    /// Length in bytes now.
    fn len(&self) -> io::Result<u64>;

    /// Whether the length is zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Whether the length cannot change (a block device).
    fn has_fixed_len(&self) -> bool {
        false
    }

    /// Fills `buf` from `offset`. What lies beyond the end reads as zeros.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Says that `range` will be read soon, so that a disk may fetch it meanwhile. Changes nothing,
    /// and need not do anything.
    fn expect(&self, _range: Range<u64>) {}

    /// Fills `buf` from what the medium holds, past the page cache. Same rule at the end.
    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, extending the file if need be.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Says that `range` was written and will be flushed soon, so that a disk may begin with it.
    /// Makes nothing durable, and need not do anything. After an error, some of what was written
    /// may be lost, and a flush need not say so again.
    fn write_back(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    /// Grows or cuts the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes everything written so far durable, the length included.
    fn flush(&self) -> io::Result<()>;

    /// Gives the blocks of `range` back; the range reads as zeros afterwards. The length stays.
    fn punch(&self, range: Range<u64>) -> io::Result<()>;

    /// The parts of `within` that own blocks, ascending and disjoint. A system that cannot tell
    /// reports everything up to the end of the file.
    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>>;

    /// The first such part at `at` or after it; none where only a hole follows.
    fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.data_ranges(at..u64::MAX)?.into_iter().next())
    }
}
