//! Storage in memory for tests: cache and medium apart, every change logged, faults on order.
//!
//! The model is the page cache of Linux. Writes go to the cache and mark 4 KiB pages dirty; a flush
//! brings dirty pages to the medium. A flush that *loses* its pages marks them clean without
//! bringing them anywhere: reads go on returning them, the next flush succeeds, and a power cut
//! shows what the medium has. Pages that nobody wrote, or that were punched, are holes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{SeekFrom, seek};

use super::Storage;

/// Bytes of a page: the unit of holes and of what a flush brings to the medium.
const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;

/// The bytes of a file as pages, most of them holes. A clone shares its pages until they change, so
/// thousands of variants of one image are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseImage {
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
    len: u64,
}

impl SparseImage {
    /// Reads a file, holes as holes.
    pub fn load(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut image = Self { pages: BTreeMap::new(), len: file.metadata()?.len() };
        let mut at = 0;
        while at < image.len {
            let start = match seek(&file, SeekFrom::Data(at)) {
                Ok(start) => start / PAGE * PAGE,
                Err(rustix::io::Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            let end = seek(&file, SeekFrom::Hole(start.max(at)))?.min(image.len);
            for index in start / PAGE..end.div_ceil(PAGE) {
                let count = (image.len - index * PAGE).min(PAGE);
                let mut page = [0; PAGE_BYTES];
                file.read_exact_at(&mut page[..to_usize(count)], index * PAGE)?;
                image.pages.insert(index, Arc::new(page));
            }
            at = end;
        }
        Ok(image)
    }

    /// Writes a file of the same length, with the same holes; an existing one is replaced.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        for (&index, page) in &self.pages {
            let count = to_usize((self.len - index * PAGE).min(PAGE));
            file.write_all_at(&page[..count], index * PAGE)?;
        }
        file.set_len(self.len)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes in pages that are not holes.
    pub fn data_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Fills `buf` from `offset`; holes and what lies beyond the end read as zeros.
    pub fn read(&self, buf: &mut [u8], offset: u64) {
        let mut done = 0;
        for (index, within) in pieces(offset, buf.len() as u64) {
            let part = &mut buf[done..done + within.len()];
            match self.pages.get(&index) {
                Some(page) => part.copy_from_slice(&page[within.clone()]),
                None => part.fill(0),
            }
            done += within.len();
        }
    }

    /// Writes `data` at `offset`, extending the image if need be.
    pub fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        for (index, within) in pieces(offset, data.len() as u64) {
            let page = self.pages.entry(index).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            let part = &data[done..done + within.len()];
            Arc::make_mut(page)[within.clone()].copy_from_slice(part);
            done += within.len();
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// Grows with a hole or cuts.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            let end = self.len.next_multiple_of(PAGE);
            self.punch(len..end);
        }
        self.len = len;
    }

    /// Turns whole pages of `range` into holes and zeroes what it touches of others.
    pub fn punch(&mut self, range: Range<u64>) {
        let length = range.end.saturating_sub(range.start);
        let touched: Vec<_> = self
            .pages
            .range(range.start / PAGE..range.end.div_ceil(PAGE).max(range.start / PAGE))
            .map(|(&index, _)| index)
            .collect();
        if length == 0 {
            return;
        }
        for index in touched {
            let start = range.start.saturating_sub(index * PAGE);
            let end = (range.end - index * PAGE).min(PAGE);
            if (start, end) == (0, PAGE) {
                self.pages.remove(&index);
            } else if let Some(page) = self.pages.get_mut(&index) {
                Arc::make_mut(page)[to_usize(start)..to_usize(end)].fill(0);
            }
        }
    }

    /// The parts of `within` that are not holes, ascending and disjoint.
    pub fn data_ranges(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let end = within.end.min(self.len);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        if within.start >= end {
            return ranges;
        }
        for (&index, _) in self.pages.range(within.start / PAGE..end.div_ceil(PAGE)) {
            let range = (index * PAGE).max(within.start)..((index + 1) * PAGE).min(end);
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// Forgets what lies beyond the end, as a power cut does. A medium may have such pages, because
    /// they and the length come to it in any order.
    pub fn cut_at_end(&mut self) {
        let end = self.len.div_ceil(PAGE);
        while let Some(last) = self.pages.last_entry().filter(|last| *last.key() >= end) {
            last.remove();
        }
        let inside = to_usize(self.len % PAGE);
        if let Some(page) = self.pages.get_mut(&(self.len / PAGE))
            && page[inside..].iter().any(|&byte| byte != 0)
        {
            Arc::make_mut(page)[inside..].fill(0);
        }
    }

    /// Makes one page what `from` has there, hole or data. The length stays.
    pub fn copy_page(&mut self, from: &Self, index: u64) {
        match from.pages.get(&index) {
            Some(page) => self.pages.insert(index, Arc::clone(page)),
            None => self.pages.remove(&index),
        };
    }

    /// Whether `range` is in both the very same pages, which are then equal without a look at them.
    /// Of images that are not clones of one another: no.
    pub fn shares(&self, other: &Self, range: Range<u64>) -> bool {
        let mut pages = range.start / PAGE..range.end.div_ceil(PAGE);
        pages.all(|index| match (self.pages.get(&index), other.pages.get(&index)) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (None, None) => true,
            _ => false,
        })
    }

    /// Index of the page that holds the byte at `offset`.
    pub fn page_of(offset: u64) -> u64 {
        offset / PAGE
    }

    /// Bytes of a page.
    pub const fn page_bytes() -> u64 {
        PAGE
    }
}

/// Splits a range of bytes at page boundaries: page index, and the part of that page.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let index = at / PAGE;
            let stop = ((index + 1) * PAGE).min(end);
            let within = to_usize(at - index * PAGE)..to_usize(stop - index * PAGE);
            at = stop;
            (index, within)
        })
    })
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("at most a page")
}

/// A change that reached the cache, or a flush. What stands between two flushes may reach the
/// medium in any order, in part, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `data` was written at `offset`.
    Write {
        /// Byte offset.
        offset: u64,
        /// What was written; of a short write, the part that was.
        data: Arc<[u8]>,
    },
    /// The length was set, in bytes.
    SetLen(u64),
    /// A range of bytes was given back.
    Punch(Range<u64>),
    /// Everything before is on the medium.
    Flush,
    /// A flush failed: of the pages dirty then, only `reached` came to the medium, and no later
    /// flush brings the others unless they are written again.
    LostFlush {
        /// Indices of 4 KiB pages.
        reached: Vec<u64>,
    },
}

/// The calls of [`Storage`] that a fault can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Every call.
    Any,
    /// `len`.
    Len,
    /// `read_at`.
    Read,
    /// `read_durable`.
    ReadDurable,
    /// `write_at`.
    Write,
    /// `write_back`.
    WriteBack,
    /// `set_len`.
    SetLen,
    /// `flush`.
    Flush,
    /// `punch`.
    Punch,
    /// `data_ranges`.
    DataRanges,
}

/// What a fault leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing happened; after a failed flush the next one tries everything again.
    Nothing,
    /// Of a write, the first half is in the cache. Of a flush, every other dirty page reached the
    /// medium, beginning with the first, and the rest is lost.
    Half,
    /// Of a write, its first so many bytes are in the cache, if it has as many. Of a flush, some of
    /// the dirty pages reached the medium, chosen by this number, and the rest is lost.
    Part(u64),
    /// A failed flush lost all its pages: clean in the cache, never on the medium. So did writing
    /// back, those of its range, of which the log says nothing. Other calls: as [`Harm::Nothing`].
    Lost,
}

/// A call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which calls count.
    pub on: Call,
    /// The first one that fails, counted from 0 from the moment the fault is injected.
    pub at: u64,
    /// How many fail from there on.
    pub times: u64,
    /// What the failed call leaves behind.
    pub harm: Harm,
    /// What it returns.
    pub errno: i32,
}

impl Fault {
    /// Call number `at` of the kind `on` fails once with `errno` and does nothing.
    pub fn once(on: Call, at: u64, errno: i32) -> Self {
        Self { on, at, times: 1, harm: Harm::Nothing, errno }
    }

    /// The same with something left behind.
    #[must_use]
    pub fn leaving(self, harm: Harm) -> Self {
        Self { harm, ..self }
    }

    /// The same, and every later call of that kind fails too.
    #[must_use]
    pub fn forever(self) -> Self {
        Self { times: u64::MAX, ..self }
    }
}

#[derive(Debug, Default)]
struct State {
    cache: SparseImage,
    medium: SparseImage,
    dirty: BTreeSet<u64>,
    operations: Vec<Operation>,
    /// With how many calls each has seen.
    faults: Vec<(Fault, u64)>,
    faults_met: u64,
    calls: u64,
    /// Bytes of pages that the medium has room for.
    room: Option<u64>,
    fixed_len: bool,
}

/// A storage for tests. Clones are handles to the same storage.
#[derive(Clone, Debug, Default)]
pub struct RecordingStorage(Arc<Mutex<State>>);

impl RecordingStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// A storage whose cache and medium both hold `image`.
    pub fn from_image(image: SparseImage) -> Self {
        let state = State { cache: image.clone(), medium: image, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A storage whose cache and medium both hold what the file at `path` holds, holes included.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        Ok(Self::from_image(SparseImage::load(path)?))
    }

    /// Stores what the cache holds in a file, holes as holes.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        self.cached().save(path)
    }

    /// What readers see now.
    pub fn cached(&self) -> SparseImage {
        self.state().cache.clone()
    }

    /// What a power cut leaves, if nothing is written back before it.
    pub fn durable(&self) -> SparseImage {
        let mut medium = self.state().medium.clone();
        medium.cut_at_end();
        medium
    }

    /// Everything that happened since the storage was made or the log cleared.
    pub fn operations(&self) -> Vec<Operation> {
        self.state().operations.clone()
    }

    /// Forgets the log.
    pub fn clear_operations(&self) {
        self.state().operations.clear();
    }

    /// How many calls of any kind came in.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Lets a call fail.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push((fault, 0));
    }

    /// Takes back all faults; those that struck have struck.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// How many calls failed because of an injected fault.
    pub fn faults_met(&self) -> u64 {
        self.state().faults_met
    }

    /// Gives the medium room for `bytes` bytes of pages: writes that need a new page beyond that
    /// fail with ENOSPC, as on a full file system. None: no limit.
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    /// Makes the length as fixed as a block device's.
    pub fn fix_len(&self) {
        self.state().fixed_len = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a page is among those that a number chooses: about half of them.
fn is_chosen(page: u64, choice: u64) -> bool {
    let mixed = (page ^ choice).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32).count_ones() % 2 == 1
}

impl State {
    /// Counts a call; returns what strikes it.
    fn enter(&mut self, call: Call) -> Option<Fault> {
        self.calls += 1;
        let mut struck = None;
        for (fault, seen) in &mut self.faults {
            if fault.on == Call::Any || fault.on == call {
                if *seen >= fault.at && *seen - fault.at < fault.times {
                    struck = Some(*fault);
                }
                *seen += 1;
            }
        }
        self.faults_met += u64::from(struck.is_some());
        struck
    }

    /// The same for calls that a fault stops before they do anything.
    fn pass(&mut self, call: Call) -> io::Result<()> {
        self.enter(call).map_or(Ok(()), |fault| Err(io::Error::from_raw_os_error(fault.errno)))
    }

    fn has_room_for(&self, offset: u64, length: u64) -> bool {
        let Some(room) = self.room else { return true };
        let new = pieces(offset, length).filter(|(i, _)| !self.cache.pages.contains_key(i)).count();
        new == 0 || self.cache.data_bytes() + new as u64 * PAGE <= room
    }

    fn write(&mut self, data: &[u8], offset: u64) {
        if data.is_empty() {
            return;
        }
        self.cache.write(data, offset);
        self.dirty.extend(pieces(offset, data.len() as u64).map(|(index, _)| index));
        self.operations.push(Operation::Write { offset, data: data.into() });
    }

    fn write_back(&mut self, pages: impl IntoIterator<Item = u64>) {
        for index in pages {
            self.medium.copy_page(&self.cache, index);
        }
    }
}

impl Storage for RecordingStorage {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.pass(Call::Len)?;
        Ok(state.cache.len())
    }

    fn has_fixed_len(&self) -> bool {
        self.state().fixed_len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.pass(Call::Read)?;
        state.cache.read(buf, offset);
        Ok(())
    }

    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.pass(Call::ReadDurable)?;
        state.medium.read(buf, offset);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault) = state.enter(Call::Write) {
            let done = match fault.harm {
                Harm::Half => buf.len() / 2,
                Harm::Part(bytes) => usize::try_from(bytes).map_or(buf.len(), |n| n.min(buf.len())),
                Harm::Nothing | Harm::Lost => 0,
            };
            state.write(&buf[..done], offset);
            return Err(io::Error::from_raw_os_error(fault.errno));
        }
        let beyond = state.fixed_len && offset + buf.len() as u64 > state.cache.len();
        if beyond || !state.has_room_for(offset, buf.len() as u64) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        state.write(buf, offset);
        Ok(())
    }

    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.state();
        let Some(fault) = state.enter(Call::WriteBack) else { return Ok(()) };
        if fault.harm == Harm::Lost {
            state
                .dirty
                .retain(|page| !(range.start / PAGE..range.end.div_ceil(PAGE)).contains(page));
        }
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.pass(Call::SetLen)?;
        if state.fixed_len {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if len < state.cache.len() {
            let cut: Vec<_> =
                state.cache.pages.range(len / PAGE..).map(|(&index, _)| index).collect();
            state.dirty.extend(cut);
        }
        state.cache.set_len(len);
        state.operations.push(Operation::SetLen(len));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.enter(Call::Flush);
        if let Some(Fault { harm: Harm::Nothing, errno, .. }) = fault {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let dirty = std::mem::take(&mut state.dirty);
        let Some(fault) = fault else {
            state.write_back(dirty);
            let len = state.cache.len();
            state.medium.set_len(len);
            state.operations.push(Operation::Flush);
            return Ok(());
        };
        // The length belongs to the inode, which stays dirty: the next flush brings it.
        let reached: Vec<_> = match fault.harm {
            Harm::Half => dirty.into_iter().step_by(2).collect(),
            Harm::Part(choice) => {
                dirty.into_iter().filter(|&page| is_chosen(page, choice)).collect()
            }
            Harm::Nothing | Harm::Lost => Vec::new(),
        };
        state.write_back(reached.iter().copied());
        state.operations.push(Operation::LostFlush { reached });
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.state();
        state.pass(Call::Punch)?;
        let range = range.start..range.end.min(state.cache.len().next_multiple_of(PAGE));
        if range.is_empty() {
            return Ok(());
        }
        state.dirty.extend(range.start / PAGE..range.end.div_ceil(PAGE));
        state.cache.punch(range.clone());
        state.operations.push(Operation::Punch(range));
        Ok(())
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let mut state = self.state();
        state.pass(Call::DataRanges)?;
        if state.fixed_len {
            // A device has no holes that anybody could ask for.
            let all = within.start..within.end.min(state.cache.len());
            return Ok(if all.is_empty() { Vec::new() } else { vec![all] });
        }
        Ok(state.cache.data_ranges(within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(image: &SparseImage, at: u64) -> u8 {
        let mut buf = [0];
        image.read(&mut buf, at);
        buf[0]
    }

    #[test]
    fn a_lost_flush_leaves_its_pages_in_the_cache_only_and_the_next_one_succeeds() {
        let storage = RecordingStorage::new();
        storage.write_at(&[1; 8192], 0).unwrap();
        storage.flush().unwrap();
        storage.write_at(&[2; 512], 0).unwrap();
        storage.inject(Fault::once(Call::Flush, 0, libc::EIO).leaving(Harm::Lost));
        assert_eq!(storage.flush().unwrap_err().raw_os_error(), Some(libc::EIO));
        storage.flush().unwrap();
        assert_eq!(byte(&storage.cached(), 0), 2);
        assert_eq!(byte(&storage.durable(), 0), 1);
        // Written again, the whole page comes along.
        storage.write_at(&[3], 4095).unwrap();
        storage.flush().unwrap();
        assert_eq!(byte(&storage.durable(), 0), 2);
    }

    #[test]
    fn clones_share_what_neither_has_written() {
        let mut image = SparseImage::default();
        image.write(&[1; 3 * 4096], 0);
        let mut clone = image.clone();
        clone.write(&[1], 4096);
        clone.punch(8192..12288);
        assert!(clone.shares(&image, 0..4096) && clone.shares(&image, 1 << 30..2 << 30));
        for range in [0..4097, 5000..5001, 8192..8193] {
            assert!(!clone.shares(&image, range.clone()), "{range:?}");
        }
    }

    /// A hole of this length, on the medium too.
    fn of_length(len: u64) -> RecordingStorage {
        let storage = RecordingStorage::new();
        storage.set_len(len).unwrap();
        storage.flush().unwrap();
        storage
    }

    /// A flush that fails brings pages without the length. What lies beyond the end was read all the
    /// same, as no file system reads it, and such a state could not be saved.
    #[test]
    fn a_power_cut_forgets_what_lies_beyond_the_end() {
        let storage = of_length(4096 + 7);
        storage.write_at(&[1; 3 * 4096], 0).unwrap();
        storage.state().write_back(0..3);
        let medium = storage.durable();
        assert_eq!((medium.len(), medium.data_bytes()), (4096 + 7, 2 * 4096));
        let bytes = [0, 4096 + 6, 4096 + 7, 8192].map(|at| byte(&medium, at));
        assert_eq!(bytes, [1, 1, 0, 0]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        medium.save(&path).unwrap();
        assert!(SparseImage::load(&path).unwrap() == medium);
    }

    #[test]
    fn what_writing_back_lost_no_flush_brings() {
        let storage = of_length(3 * 4096);
        storage.write_at(&[1; 3 * 4096], 0).unwrap();
        storage.inject(Fault::once(Call::WriteBack, 0, libc::EIO).leaving(Harm::Lost));
        storage.write_back(4096..8192).unwrap_err();
        storage.write_back(0..8192).unwrap();
        storage.flush().unwrap();
        let medium = storage.durable();
        let bytes: Vec<_> = [0, 4096, 8192].into_iter().map(|at| byte(&medium, at)).collect();
        assert_eq!(bytes, [1, 0, 1]);
    }

    #[test]
    fn half_a_flush_brings_every_other_page() {
        let storage = of_length(3 * 4096);
        storage.write_at(&[1; 3 * 4096], 0).unwrap();
        storage.inject(Fault::once(Call::Flush, 0, libc::EIO).leaving(Harm::Half));
        storage.flush().unwrap_err();
        let medium = storage.durable();
        let bytes: Vec<_> = [0, 4096, 8192].into_iter().map(|at| byte(&medium, at)).collect();
        assert_eq!(bytes, [1, 0, 1]);
    }

    #[test]
    fn a_part_of_a_flush_brings_other_pages_for_another_number() {
        let of_32 =
            |choice| -> Vec<_> { (0..32).filter(|&page| is_chosen(page, choice)).collect() };
        assert!((0..8).all(|choice| (4..28).contains(&of_32(choice).len())));
        assert_ne!(of_32(1), of_32(2));
        let storage = of_length(32 * 4096);
        storage.write_at(&vec![1; 32 * 4096], 0).unwrap();
        storage.inject(Fault::once(Call::Flush, 0, libc::EIO).leaving(Harm::Part(1)));
        storage.flush().unwrap_err();
        let medium = storage.durable();
        let reached: Vec<_> = (0..32).filter(|page| byte(&medium, page * 4096) == 1).collect();
        assert_eq!(reached, of_32(1));
    }

    #[test]
    fn a_part_of_a_write_is_so_many_bytes_or_all_of_it() {
        for (bytes, expected) in [(0, [0, 0, 0]), (2, [7, 7, 0]), (9, [7, 7, 7])] {
            let storage = RecordingStorage::new();
            storage.inject(Fault::once(Call::Write, 0, libc::EIO).leaving(Harm::Part(bytes)));
            storage.write_at(&[7; 3], 0).unwrap_err();
            let mut found = [0; 3];
            storage.read_at(&mut found, 0).unwrap();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn faults_count_the_calls_they_are_about() {
        let storage = RecordingStorage::new();
        storage.inject(Fault::once(Call::Write, 1, libc::ENOSPC).leaving(Harm::Half));
        storage.write_at(&[1; 4], 0).unwrap();
        storage.flush().unwrap();
        assert!(storage.write_at(&[2; 4], 0).is_err());
        storage.write_at(&[3], 3).unwrap();
        let mut buf = [0; 4];
        storage.read_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [2, 2, 1, 3]);
        assert_eq!(storage.faults_met(), 1);
    }

    #[test]
    fn holes_are_pages_that_nobody_wrote_or_that_were_punched() {
        let storage = RecordingStorage::new();
        storage.set_len(6 << 30).unwrap();
        storage.write_at(&[1; 8192], 4096).unwrap();
        storage.write_at(&[1], 5 << 30).unwrap();
        let last = 5 << 30..(5 << 30) + 4096;
        assert_eq!(storage.data_ranges(0..6 << 30).unwrap(), [4096..12288, last.clone()]);
        storage.punch(4096..8200).unwrap();
        assert_eq!(storage.data_ranges(0..6 << 30).unwrap(), [8192..12288, last]);
        assert_eq!(byte(&storage.cached(), 8199), 0);
        assert_eq!(byte(&storage.cached(), 8200), 1);
        assert_eq!(storage.data_ranges(8200..8300).unwrap(), vec![8200..8300]);
    }

    #[test]
    fn a_full_medium_takes_what_needs_no_new_page() {
        let storage = RecordingStorage::new();
        storage.write_at(&[1; 4096], 0).unwrap();
        storage.limit_room(Some(4096));
        storage.write_at(&[2; 4096], 0).unwrap();
        let error = storage.write_at(&[2; 4096], 100).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        storage.punch(0..4096).unwrap();
        storage.write_at(&[3; 4096], 8192).unwrap();
    }

    #[test]
    fn cutting_zeroes_what_a_later_growth_shows() {
        let storage = RecordingStorage::new();
        storage.write_at(&[1; 5000], 0).unwrap();
        storage.flush().unwrap();
        storage.set_len(10).unwrap();
        storage.set_len(5000).unwrap();
        storage.flush().unwrap();
        for image in [storage.cached(), storage.durable()] {
            assert_eq!((byte(&image, 9), byte(&image, 10), byte(&image, 4999)), (1, 0, 0));
        }
    }

    #[test]
    fn files_load_and_save_with_their_holes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let mut image = SparseImage::default();
        image.write(&[7; 4096], 1 << 30);
        image.write(&[8; 10], 0);
        image.set_len((1 << 30) + 9000);
        image.save(&path).unwrap();
        let loaded = RecordingStorage::from_file(&path).unwrap();
        assert_eq!(loaded.cached().len(), image.len());
        assert_eq!(byte(&loaded.cached(), 1 << 30), 7);
        assert_eq!(byte(&loaded.durable(), 9), 8);
        assert!(loaded.cached().data_bytes() < 1 << 20);
    }
}
