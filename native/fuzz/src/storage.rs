//! Storages that watch: who only reads must not write, and nobody may read without end.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qcow2::storage::{Operation, RecordingStorage, SparseImage, Storage};

/// Where no file reaches: the system refuses to read there.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// What an operation has cost.
#[derive(Debug, Default)]
struct Spent {
    calls: AtomicU64,
    bytes: AtomicU64,
}

/// How much an operation may read of a file of some length.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    calls: u64,
    bytes: u64,
}

impl Allowance {
    /// A table may be read again for another purpose, an entry may need a look at a count; nothing
    /// is read for each pair of things.
    fn of(file_bytes: u64) -> Self {
        Self { calls: CALLS + file_bytes / BYTES_A_CALL, bytes: BYTES + file_bytes * TIMES }
    }
}

/// Calls that any image may cost.
const CALLS: u64 = 512;
/// And one more for each so many bytes of the file.
const BYTES_A_CALL: u64 = 2;
/// Bytes that any image may cost.
const BYTES: u64 = 64 << 10;
/// And how often each byte of the file may be read.
const TIMES: u64 = 16;

#[derive(Debug)]
struct Meter {
    spent: Spent,
    allowance: Allowance,
}

impl Meter {
    fn new(file_bytes: u64) -> Arc<Self> {
        Arc::new(Self { spent: Spent::default(), allowance: Allowance::of(file_bytes) })
    }

    /// Counts a read of `wanted` bytes of which the file has those before `file_bytes`.
    fn read(&self, wanted: usize, offset: u64, file_bytes: u64) -> io::Result<()> {
        if offset.saturating_add(wanted as u64) > MAX_OFFSET {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let present = file_bytes.saturating_sub(offset).min(wanted as u64);
        let calls = self.spent.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.spent.bytes.fetch_add(present, Ordering::Relaxed) + present;
        let Allowance { calls: most_calls, bytes: most_bytes } = self.allowance;
        assert!(
            calls <= most_calls,
            "more than {most_calls} reads of a file of {file_bytes} bytes"
        );
        assert!(bytes <= most_bytes, "{bytes} bytes read of a file of {file_bytes}");
        Ok(())
    }
}

/// A file that is only read: a write, even a flush, is a panic.
#[derive(Clone, Debug)]
pub struct ReadOnly {
    bytes: Arc<[u8]>,
    meter: Arc<Meter>,
}

impl ReadOnly {
    /// A file of these bytes, nothing of which has been read.
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), meter: Meter::new(bytes.len() as u64) }
    }
}

impl Storage for ReadOnly {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.meter.read(buf.len(), offset, self.bytes.len() as u64)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let present = &self.bytes[start..];
        let (inside, outside) = buf.split_at_mut(present.len().min(buf.len()));
        inside.copy_from_slice(&present[..inside.len()]);
        outside.fill(0);
        Ok(())
    }

    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buf, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        panic!("a reader writes")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        panic!("a reader sets the length")
    }

    fn flush(&self) -> io::Result<()> {
        panic!("a reader flushes")
    }

    fn punch(&self, _: Range<u64>) -> io::Result<()> {
        panic!("a reader punches")
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let end = within.end.min(self.bytes.len() as u64);
        Ok(if within.start < end { vec![within.start..end] } else { Vec::new() })
    }
}

/// A file that may be changed, in memory.
#[derive(Clone, Debug)]
pub struct Changeable {
    inner: RecordingStorage,
    meter: Arc<Meter>,
}

impl Changeable {
    /// A file of this content.
    pub fn new(image: SparseImage) -> Self {
        let meter = Meter::new(image.len());
        Self { inner: RecordingStorage::from_image(image), meter }
    }

    /// What readers see now.
    pub fn cached(&self) -> SparseImage {
        self.inner.cached()
    }

    /// What a power cut leaves.
    pub fn durable(&self) -> SparseImage {
        self.inner.durable()
    }

    /// Whether anything was done to it.
    pub fn has_written(&self) -> bool {
        self.inner.operations().iter().any(|done| *done != Operation::Flush)
    }

    /// Takes away the space for new blocks, or gives it back.
    pub fn fill_up(&self, is_full: Fullness) {
        let used = self.inner.cached().data_bytes();
        self.inner.limit_room((is_full == Fullness::Full).then_some(used));
    }
}

/// Whether a file system has space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fullness {
    /// None for another block.
    Full,
    /// As much as is wanted.
    Free,
}

impl Storage for Changeable {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.meter.read(buf.len(), offset, self.inner.len()?)?;
        self.inner.read_at(buf, offset)
    }

    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.meter.read(buf.len(), offset, self.inner.len()?)?;
        self.inner.read_durable(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.punch(range)
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.inner.data_ranges(within)
    }
}
