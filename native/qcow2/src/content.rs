//! What the guest sees: reading the active disk or a snapshot, and replacing the content of the
//! active disk in one commit.
//!
//! Nothing here opens a backing file or decrypts: such images are refused by name.

use std::io::Read;
use std::ops::Range;

use ruzstd::decoding::StreamingDecoder;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{Compression, Encryption, autoclear};
use crate::format::mapping::{self, COPIED, Mapping};
use crate::image::Image;
use crate::plan::{Goal, Planner, Slot};
use crate::storage::Storage;
use crate::transaction::{CommitOptions, Committed, Space, commit, ensure_settled};

/// New data is placed and written in pieces of at most this many bytes.
const BATCH_BYTES: u64 = 1 << 20;

/// Largest window of a Zstandard frame that is decoded, as its specification recommends; four times
/// the largest cluster.
const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// Which content of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// What a guest would see now.
    Active,
    /// The snapshot at this position of the table.
    Snapshot(usize),
}

/// Reads guest content. Keeps one L2 table and one decompressed cluster.
#[derive(Debug)]
pub struct Content<'a> {
    image: &'a Image,
    size: u64,
    l1: Vec<u64>,
    l1_offset: u64,
    /// L1 index and entries of the table read last.
    table: Option<(usize, Vec<u64>)>,
    /// L2 entry and content of the cluster decompressed last.
    inflated: Option<(u64, Vec<u8>)>,
}

impl Image {
    /// Opens guest content for reading.
    pub fn content(&self, disk: Disk) -> Result<Content<'_>> {
        self.ensure_mapped_here()?;
        if self.header.backing_file.is_some() {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "The image has a backing file, which is not opened unasked",
            ));
        }
        if self.header.extended_l2() {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "The image has extended L2 entries, whose content is not read here",
            ));
        }
        if self.header.encryption != Encryption::None {
            return Err(Error::new(Kind::UnsupportedFeature, "The image is encrypted"));
        }
        let (size, l1_offset, entries) = match disk {
            Disk::Active => (self.header.size, self.header.l1_offset, self.header.l1_entries),
            Disk::Snapshot(index) => {
                let entry = self
                    .snapshots()?
                    .into_iter()
                    .nth(index)
                    .ok_or_else(|| Error::new(Kind::SnapshotNotFound, "snapshot not found"))?;
                let size = entry.disk_size().unwrap_or(self.header.size);
                (size, entry.l1_offset, entry.l1_entries)
            }
        };
        let l1 = self.read_l1(l1_offset, entries)?;
        Ok(Content { image: self, size, l1, l1_offset, table: None, inflated: None })
    }

    /// Makes the content of the active disk that of `source`, a raw disk of at most the virtual
    /// size; the rest reads as zeros. One commit: a crash leaves the old content or the new one,
    /// whole.
    ///
    /// Only clusters that differ are written, to new places; snapshots keep theirs.
    pub fn write_content(
        &mut self,
        source: &dyn Storage,
        options: &mut CommitOptions<'_>,
    ) -> Result<Committed> {
        self.ensure_changeable()?;
        if source.len()? > self.header.size {
            return Err(Error::new(Kind::InvalidArgument, "The source is larger than the disk"));
        }
        if self.header.autoclear & autoclear::BITMAPS != 0 {
            return Err(Error::new(Kind::HasBitmaps, "Device has active dirty bitmaps"));
        }
        let mut settled = Committed::default();
        if !options.staged {
            ensure_settled(self, &mut settled)?;
        }
        let old_bytes = self.file_bytes;
        let mut placed = Vec::new();
        let written = Replacement::new(self, source).and_then(|r| r.goal(&mut placed));
        let result = written
            .and_then(|(planner, goal)| planner.plan(goal))
            .and_then(|plan| commit(self, plan, options));
        match result {
            Ok(mut done) => {
                let cluster_bytes = self.header.cluster_bytes();
                done.flushes += settled.flushes;
                done.written_bytes +=
                    placed.iter().map(|run| (run.end - run.start) * cluster_bytes).sum::<u64>();
                Ok(done)
            }
            Err(error) => {
                if error.kind() != Kind::Unsettled {
                    self.discard(&placed, old_bytes);
                }
                Err(error)
            }
        }
    }

    /// Gives back data that a refused replacement had placed.
    fn discard(&self, placed: &[Range<u64>], old_bytes: u64) {
        let bits = self.header.cluster_bits;
        let _ = self.storage.set_len(old_bytes);
        for run in placed {
            let (start, end) = (run.start << bits, (run.end << bits).min(old_bytes));
            if start < end {
                let _ = self.storage.punch(start..end);
            }
        }
    }
}

impl Content<'_> {
    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buf` from guest offset `offset`; what lies beyond the disk's end reads as zeros.
    pub fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let cluster_bytes = self.image.header.cluster_bytes();
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let inside = at % cluster_bytes;
            let count = usize::try_from(cluster_bytes - inside).expect("at most 2 MiB");
            let (piece, tail) = rest.split_at_mut(count.min(rest.len()));
            self.read_piece(piece, at - inside, usize::try_from(inside).expect("at most 2 MiB"))?;
            at += piece.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Whether data is mapped at guest offset `guest`; elsewhere the disk reads as zeros.
    pub fn is_allocated(&mut self, guest: u64) -> Result<bool> {
        let entry = self.entry(guest)?;
        Ok(!matches!(self.decode(entry, guest)?, Mapping::Unallocated | Mapping::Zero { .. }))
    }

    fn read_piece(&mut self, piece: &mut [u8], cluster: u64, inside: usize) -> Result<()> {
        let entry = if cluster < self.size { self.entry(cluster)? } else { 0 };
        match self.decode(entry, cluster)? {
            Mapping::Unallocated | Mapping::Zero { .. } => piece.fill(0),
            Mapping::Standard { offset } => {
                self.image.storage.read_at(piece, offset + inside as u64)?;
            }
            Mapping::Compressed { offset, length } => {
                if self.inflated.as_ref().is_none_or(|(known, _)| *known != entry) {
                    self.inflated = Some((entry, self.image.inflate(offset, length)?));
                }
                let (_, bytes) = self.inflated.as_ref().expect("just set");
                piece.copy_from_slice(&bytes[inside..inside + piece.len()]);
            }
        }
        let end = cluster + inside as u64 + piece.len() as u64;
        if end > self.size {
            let valid = self.size.saturating_sub(cluster + inside as u64);
            let valid = usize::try_from(valid).unwrap_or(usize::MAX).min(piece.len());
            piece[valid..].fill(0);
        }
        Ok(())
    }

    fn decode(&self, entry: u64, guest: u64) -> Result<Mapping> {
        let header = &self.image.header;
        Mapping::decode(entry, header.cluster_bits, header.version, guest)
    }

    /// The L2 entry for guest offset `guest`.
    fn entry(&mut self, guest: u64) -> Result<u64> {
        let header = &self.image.header;
        let slot = usize::try_from(guest / header.l1_entry_span()).unwrap_or(usize::MAX);
        let index = usize::try_from((guest % header.l1_entry_span()) >> header.cluster_bits)
            .expect("inside a table");
        let Some(&l1_entry) = self.l1.get(slot) else { return Ok(0) };
        let at = self.l1_offset + slot as u64 * 8;
        let Some(offset) = mapping::l2_offset(l1_entry, header.cluster_bits, at)? else {
            return Ok(0);
        };
        if self.table.as_ref().is_none_or(|(known, _)| *known != slot) {
            let bytes = self.image.read_table_bytes(offset, header.cluster_bytes(), "L2 table")?;
            self.table = Some((slot, mapping::decode_table(&bytes)));
        }
        Ok(self.table.as_ref().expect("just set").1[index])
    }
}

impl Image {
    /// Decompresses the cluster whose data begins at host offset `offset` and takes at most
    /// `length` bytes. Input and output are bounded by the entry and the cluster size, memory by a
    /// window that no writer exceeds.
    pub(crate) fn inflate(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let bad = |_| corrupt(format!("Compressed cluster at {offset:#x} is damaged"), offset);
        if offset >= self.file_bytes {
            return Err(corrupt(
                format!("Compressed cluster at {offset:#x} is outside the image"),
                offset,
            ));
        }
        let mut input = vec![0; usize::try_from(length).expect("at most two clusters")];
        self.storage.read_at(&mut input, offset)?;
        let size = usize::try_from(self.header.cluster_bytes()).expect("at most 2 MiB");
        let mut output = vec![0; size];
        match self.header.compression {
            Compression::Zlib => {
                flate2::read::DeflateDecoder::new(input.as_slice())
                    .read_exact(&mut output)
                    .map_err(bad)?;
            }
            Compression::Zstd => {
                StreamingDecoder::new_with_max_window_size(input.as_slice(), MAX_WINDOW_BYTES)
                    .map_err(|_| std::io::Error::other("zstd"))
                    .and_then(|mut decoder| decoder.read_exact(&mut output))
                    .map_err(bad)?;
            }
        }
        Ok(output)
    }
}

/// Compares a raw disk with the active one, cluster by cluster, and places what differs.
struct Replacement<'a> {
    image: &'a Image,
    source: &'a dyn Storage,
    planner: Planner<'a>,
    space: Space,
    content: Content<'a>,
    data: Vec<Range<u64>>,
}

impl<'a> Replacement<'a> {
    fn new(image: &'a Image, source: &'a dyn Storage) -> Result<Self> {
        Ok(Self {
            image,
            source,
            planner: Planner::new(image)?,
            space: Space::of(image, false)?,
            content: image.content(Disk::Active)?,
            data: source.data_ranges(0..source.len()?)?,
        })
    }

    /// Writes new data clusters, noting them in `placed`, and describes the mapping to commit.
    fn goal(mut self, placed: &mut Vec<Range<u64>>) -> Result<(Planner<'a>, Goal)> {
        let header = &self.image.header;
        let mut active = self.planner.active()?;
        let mut fresh = Vec::new();
        let used = usize::try_from(header.l1_entries_for(header.size)).expect("at most 2^22");
        for (index, slot) in active.iter_mut().enumerate().take(used) {
            let span = header.l1_entry_span();
            let guest = index as u64 * span..((index as u64 + 1) * span).min(header.size);
            if *slot == Slot::NONE && !self.has_data(&guest) {
                continue;
            }
            if let Some(table) = self.replace_table(guest, placed)? {
                *slot = Slot::new(fresh.len());
                fresh.push(table);
            }
        }
        let goal = Goal { active: Some(active), fresh, ..Goal::same(header) };
        Ok((self.planner, goal))
    }

    fn has_data(&self, guest: &Range<u64>) -> bool {
        let after = self.data.partition_point(|data| data.end <= guest.start);
        self.data.get(after).is_some_and(|data| data.start < guest.end)
    }

    /// The L2 table for `guest` with new entries where the content differs; none if nowhere.
    fn replace_table(
        &mut self,
        guest: Range<u64>,
        placed: &mut Vec<Range<u64>>,
    ) -> Result<Option<Vec<u64>>> {
        let header = &self.image.header;
        let cluster_bytes = header.cluster_bytes();
        let size = usize::try_from(cluster_bytes).expect("at most 2 MiB");
        let mut table = vec![0; usize::try_from(header.l2_entries()).expect("in a cluster")];
        let (mut new, mut old) = (vec![0; size], vec![0; size]);
        let mut batch = Vec::new();
        let mut batch_indices = Vec::new();
        let mut changed = false;
        for (index, at) in guest.clone().step_by(size).enumerate() {
            let entry = self.content.entry(at)? & !COPIED;
            table[index] = entry;
            let has_data = self.has_data(&(at..at + cluster_bytes));
            if !has_data && entry == 0 {
                continue;
            }
            new.fill(0);
            if has_data {
                self.source.read_at(&mut new, at)?;
            }
            self.content.read_at(&mut old, at)?;
            if new == old {
                continue;
            }
            changed = true;
            if new.iter().all(|&byte| byte == 0) {
                table[index] = 0;
                continue;
            }
            batch_indices.push(index);
            batch.extend_from_slice(&new);
            if batch.len() as u64 >= BATCH_BYTES {
                self.place(&mut batch, &mut batch_indices, &mut table, placed)?;
            }
        }
        self.place(&mut batch, &mut batch_indices, &mut table, placed)?;
        Ok(changed.then_some(table))
    }

    /// Writes a batch of clusters to one free run and enters them.
    fn place(
        &mut self,
        batch: &mut Vec<u8>,
        indices: &mut Vec<usize>,
        table: &mut [u64],
        placed: &mut Vec<Range<u64>>,
    ) -> Result<()> {
        if indices.is_empty() {
            return Ok(());
        }
        let bits = self.image.header.cluster_bits;
        let count = indices.len() as u64;
        let storage = self.image.storage();
        let refcounts = self.planner.refcounts();
        let start = self.space.find(storage, refcounts, count)?;
        refcounts.take(storage, start..start + count)?;
        placed.push(start..start + count);
        storage.write_at(batch, start << bits)?;
        for (nth, &index) in indices.iter().enumerate() {
            table[index] = (start + nth as u64) << bits;
        }
        batch.clear();
        indices.clear();
        Ok(())
    }
}
