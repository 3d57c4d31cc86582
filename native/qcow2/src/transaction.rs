//! The shadow commit: the only way in which an existing image changes.
//!
//! Everything new is written where nobody looks, then 512 bytes at the start of the file are
//! replaced. The epochs, with a sync between them:
//!
//! 0. *Nothing is written.* The cache is flushed and the first sector read back from the medium. It
//!    has to be the one that was parsed: else the two-state argument does not hold, and the image
//!    is refused as unsettled.
//! 1. The run: L2 tables, L1 tables, snapshot table, refcount blocks, refcount table, in clusters
//!    that no state on disk references. A crash leaves the old image and some unused bytes.
//! 2. The first sector. A crash leaves the old sector or the new one; each names a complete image.
//! 3. Punches. Losing them loses space, nothing else.
//!
//! Assumed, here and nowhere else: the medium writes 512 aligned bytes whole or not at all. The
//! fields that change lie between bytes 24 and 96.

use std::io;
use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::format::header::{Header, SECTOR_BYTES};
use crate::format::mapping;
use crate::format::snapshot::{SnapshotEntry, encode_table};
use crate::image::Image;
use crate::plan::{L1Slot, Plan, TableContent, flagged};
use crate::refcounts::{EditedSector, Refcounts};
use crate::storage::Storage;

/// A sector that a disk writes at once may be this large; nothing of ours shares one with others.
const PAGE_BYTES: u64 = 4096;
/// The run is written in pieces of this many bytes.
const WRITE_BYTES: usize = 1 << 20;

/// Bytes 24 to 71 of the header: size, L1, refcount table, snapshot table.
pub type CommitFields = [u8; 48];

/// The commit that is about to happen.
#[derive(Clone, Copy, Debug)]
pub struct PlannedCommit {
    /// Bytes 24 to 71 of the header now.
    pub before: CommitFields,
    /// The same bytes after the commit.
    pub after: CommitFields,
}

/// How a commit is carried out.
#[derive(Default)]
pub struct CommitOptions<'a> {
    /// Called when everything but the header is durable. An error means that nothing happened.
    #[allow(clippy::type_complexity, reason = "a callback is named once, here")]
    pub prepared: Option<&'a mut dyn FnMut(&PlannedCommit) -> Result<()>>,
    /// The image is not published yet: its maker flushes once, at the end.
    pub staged: bool,
    /// Set when `prepared` refused: its error is the caller's, whatever it looks like.
    pub(crate) was_refused: bool,
}

impl<'a> CommitOptions<'a> {
    /// A commit that `prepared` is asked about.
    pub fn asking(prepared: &'a mut dyn FnMut(&PlannedCommit) -> Result<()>) -> Self {
        Self { prepared: Some(prepared), ..Self::default() }
    }

    fn ask(&mut self, before: &Header, after: &Header) -> Result<()> {
        let planned =
            PlannedCommit { before: before.commit_fields(), after: after.commit_fields() };
        let Some(prepared) = self.prepared.as_mut() else { return Ok(()) };
        prepared(&planned).inspect_err(|_| self.was_refused = true)
    }
}

/// What a commit did.
#[derive(Debug, Default)]
pub struct Committed {
    /// The snapshot that the operation was about, as it is now (or was, if deleted).
    pub snapshot: Option<SnapshotEntry>,
    /// Bytes written to the image.
    pub written_bytes: u64,
    /// Flushes of the image.
    pub flushes: u32,
    /// Bytes given back to the file system.
    pub punched_bytes: u64,
    /// Why freed space could not be given back, where that failed. The commit stands.
    pub punch_failure: Option<io::Error>,
}

/// Where everything of a plan goes, in clusters.
struct Layout {
    run: Range<u64>,
    moved: Range<u64>,
    active_l1: Range<u64>,
    snapshot_l1: Range<u64>,
    snapshots: Range<u64>,
    /// Indices of the blocks, in the order of `block_clusters`.
    blocks: Vec<usize>,
    block_clusters: Range<u64>,
    table: Range<u64>,
}

/// Carries `plan` out. On success the image is durably in its new state, and `image` describes it.
///
/// On any error but [`Kind::Unsettled`] the image is in its old state and what was written has been
/// taken back.
pub(crate) fn commit(
    image: &mut Image,
    plan: Plan,
    options: &mut CommitOptions<'_>,
) -> Result<Committed> {
    let mut done = Committed::default();
    let old_header = image.header.clone();
    if !options.staged {
        ensure_settled(image, &mut done)?;
    }
    let old_bytes = image.file_bytes;
    let mut plan = plan;
    let layout = place(image, &mut plan)?;
    let header = header_after(image, &plan, layout.as_ref());
    let freed = plan.refcounts.freed()?;

    let written = (|| {
        if let Some(layout) = &layout {
            write_run(image, &mut plan, layout, &header, &mut done)?;
        }
        if !options.staged {
            flush(image, &mut done)?;
        }
        options.ask(&old_header, &header)
    })();
    if let Err(error) = written {
        take_back(image, layout.as_ref(), old_bytes);
        return Err(error);
    }

    switch(image, &header, options, &mut done).inspect_err(|error| {
        if error.kind() != Kind::Unsettled {
            take_back(image, layout.as_ref(), old_bytes);
        }
    })?;

    if let Some(layout) = &layout {
        image.file_bytes = old_bytes.max(layout.run.end << header.cluster_bits);
    }
    adopt(image, header);
    if plan.proven {
        punch(image, &freed, &mut done);
    }
    Ok(done)
}

/// Replaces the first sector: the commit point. An error other than [`Kind::Unsettled`] means that
/// the old sector is back, durably.
fn switch(
    image: &Image,
    header: &Header,
    options: &CommitOptions<'_>,
    done: &mut Committed,
) -> Result<()> {
    let old = image.header.raw_sector();
    let restore = || image.storage.write_at(old, 0).and_then(|()| image.storage.flush());
    let written = image.storage.write_at(&header.sector(), 0);
    let (error, restored) = if let Err(error) = written {
        // A file system without space may refuse the old sector too; but if the new one never came
        // into the cache, there is nothing to put right.
        (error.into(), restore().or_else(|_| ensure_holds(image, old)))
    } else {
        done.written_bytes += SECTOR_BYTES as u64;
        let flushed = if options.staged { Ok(()) } else { flush(image, done) };
        let Err(error) = flushed else { return Ok(()) };
        // The new sector may be in the cache, in the disk's own cache, or on the medium. Only the old
        // one, flushed, makes this a refusal: reading it back proves nothing.
        (error, restore())
    };
    Err(match restored {
        Ok(()) => error,
        Err(_) => Error::new(
            Kind::Unsettled,
            format!("{error}, and the old state could not be written back"),
        ),
    })
}

/// Checks that both the cache and the medium hold `sector`.
fn ensure_holds(image: &Image, sector: &[u8; SECTOR_BYTES]) -> io::Result<()> {
    let (mut cached, mut durable) = ([0; SECTOR_BYTES], [0; SECTOR_BYTES]);
    image.storage.read_durable(&mut durable, 0)?;
    image.storage.read_at(&mut cached, 0)?;
    if cached == *sector && durable == *sector { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
}

fn adopt(image: &mut Image, header: Header) {
    image.header = header;
    image.header.settle();
}

/// A shorter list of snapshots that needs no new block of the file system.
#[derive(Debug)]
pub(crate) enum Listing {
    /// The same table, of which only the first `count` entries are read.
    Shorter {
        /// Entries that stay.
        count: usize,
    },
    /// One sector of the table is replaced, which moves the entry that goes to the end; then as
    /// [`Listing::Shorter`].
    Reordered {
        /// Entries that stay.
        count: usize,
        /// The sector.
        edit: Box<EditedSector>,
    },
    /// A table in clusters that nobody references and that own blocks. Their counts are raised in
    /// place first, one sector at a time: a crash then leaves them as leaks.
    Elsewhere {
        /// Entries that stay.
        count: usize,
        /// The table.
        table: Vec<u8>,
        /// Where it goes.
        clusters: Range<u64>,
        /// The counts of these clusters.
        edits: Vec<EditedSector>,
    },
}

/// Commits a header that lists fewer snapshots and changes nothing else: what a removed one used
/// stays counted, so it leaks until a recount.
pub(crate) fn commit_listing(
    image: &mut Image,
    listing: &Listing,
    options: &mut CommitOptions<'_>,
) -> Result<Committed> {
    let mut done = Committed::default();
    ensure_settled(image, &mut done)?;
    let mut header = image.header.clone();
    let (count, edited) = match listing {
        Listing::Shorter { count } => (*count, Vec::new()),
        Listing::Reordered { count, edit } => (*count, vec![&**edit]),
        Listing::Elsewhere { count, clusters, edits, .. } => {
            header.snapshots_offset = clusters.start << header.cluster_bits;
            (*count, edits.iter().collect())
        }
    };
    header.snapshot_count = u32::try_from(count).expect("at most 65 536");
    if count == 0 {
        header.snapshots_offset = 0;
    }
    options.ask(&image.header, &header)?;
    let written = (|| {
        for edit in &edited {
            image.storage.write_at(&edit.new, edit.offset)?;
            done.written_bytes += SECTOR_BYTES as u64;
        }
        if !edited.is_empty() {
            flush(image, &mut done)?;
        }
        if let Listing::Elsewhere { table, .. } = listing {
            image.storage.write_at(table, header.snapshots_offset)?;
            done.written_bytes += table.len() as u64;
            flush(image, &mut done)?;
        }
        switch(image, &header, options, &mut done)
    })();
    if let Err(error) = written {
        if error.kind() != Kind::Unsettled {
            // Each old sector is right beside the old header, edited or not.
            for edit in &edited {
                let _ = image.storage.write_at(&edit.old, edit.offset);
            }
            let _ = image.storage.flush();
        }
        return Err(error);
    }
    adopt(image, header);
    Ok(done)
}

/// Flushes what earlier writers left in the cache and compares the first sector with the medium's.
pub(crate) fn ensure_settled(image: &Image, done: &mut Committed) -> Result<()> {
    flush(image, done)?;
    let mut sector = [0; SECTOR_BYTES];
    image.storage.read_durable(&mut sector, 0)?;
    if image.header.same_sector(&sector) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsettled,
        "The header on the disk differs from the one in memory: an earlier write did not reach it",
    )
    .with_hint("make a copy of the image before anything else; its last writer lost data"))
}

fn flush(image: &Image, done: &mut Committed) -> Result<()> {
    done.flushes += 1;
    Ok(image.storage.flush()?)
}

/// Finds a place for everything, counts it, and takes the replaced refcount structures off. None
/// where only the header changes.
///
/// The length of the run depends on how many refcount blocks change, and those on where the run is:
/// both only grow until they agree.
fn place(image: &Image, plan: &mut Plan) -> Result<Option<Layout>> {
    let header = &image.header;
    let storage = image.storage();
    let cluster_bytes = header.cluster_bytes();
    let clusters = |bytes: usize| (bytes as u64).div_ceil(cluster_bytes);
    let l1 = |l1: &Option<Vec<L1Slot>>| l1.as_ref().map_or(0, |l1| clusters(l1.len() * 8));
    let lengths = [
        plan.moved.len() as u64,
        l1(&plan.active_l1),
        l1(&plan.snapshot_l1),
        plan.snapshots.as_ref().map_or(0, |entries| clusters(encode_table(entries).len())),
    ];
    let fixed: u64 = lengths.iter().sum();
    if fixed == 0 && plan.refcounts.dirty_blocks().is_empty() {
        return Ok(None);
    }
    let table = header.refcount_table_offset >> header.cluster_bits;
    let table = table..table + u64::from(header.refcount_table_clusters);
    plan.refcounts.add(storage, table, -1)?;

    let space = Space::of(image, plan.proven)?;
    let mut released = std::collections::BTreeSet::new();
    let (start, blocks, table_clusters) = loop {
        release_blocks(storage, header, &mut plan.refcounts, &mut released)?;
        let blocks = plan.refcounts.dirty_blocks();
        let entries = plan.refcounts.table_entries();
        let table_clusters = clusters(entries * 8).max(u64::from(header.refcount_table_clusters));
        let count = fixed + blocks.len() as u64 + table_clusters;
        let start = space.find(storage, &mut plan.refcounts, count)?;
        plan.refcounts.cover(storage, start..start + count)?;
        if plan.refcounts.table_entries() == entries
            && plan.refcounts.dirty_blocks().len() == blocks.len()
        {
            break (start, blocks, table_clusters);
        }
    };
    if u32::try_from(table_clusters).is_err()
        || table_clusters * cluster_bytes > crate::format::header::MAX_REFCOUNT_TABLE_BYTES
    {
        return Err(Error::new(Kind::TooLarge, "File too large"));
    }

    let mut next = start;
    let mut take = |count: u64| {
        let range = next..next + count;
        next = range.end;
        range
    };
    let [moved, active_l1, snapshot_l1, snapshots] = lengths.map(&mut take);
    let block_clusters = take(blocks.len() as u64);
    let table = take(table_clusters);
    let layout = Layout {
        run: start..table.end,
        moved,
        active_l1,
        snapshot_l1,
        snapshots,
        blocks,
        block_clusters,
        table,
    };
    plan.refcounts.take(storage, layout.run.clone())?;
    for (cluster, table) in layout.moved.clone().zip(&plan.moved) {
        let names = i64::try_from(table.names).expect("a number of tables");
        plan.refcounts.add(storage, cluster..cluster + 1, names)?;
    }
    plan.refcounts.add(storage, layout.moved.end..layout.run.end, 1)?;
    Ok(Some(layout))
}

/// Takes the references off the places of blocks that will be written elsewhere, until no further
/// block changes by that.
fn release_blocks(
    storage: &dyn Storage,
    header: &Header,
    refcounts: &mut Refcounts,
    released: &mut std::collections::BTreeSet<usize>,
) -> Result<()> {
    loop {
        let mut any = false;
        for index in refcounts.dirty_blocks() {
            let (_, offset) = refcounts.block_bytes(index);
            if released.insert(index) && offset != 0 {
                let cluster = offset >> header.cluster_bits;
                refcounts.add(storage, cluster..cluster + 1, -1)?;
                any = true;
            }
        }
        if !any {
            return Ok(());
        }
    }
}

/// Where new clusters may be placed.
pub(crate) struct Space {
    /// Cluster ranges that may be used, ascending.
    candidates: Vec<Range<u64>>,
    /// Clusters that share a page with each other.
    align: u64,
}

impl Space {
    /// With a proof, whatever is free; without, holes of the file and what lies past its end.
    pub fn of(image: &Image, proven: bool) -> Result<Self> {
        let header = &image.header;
        let bits = header.cluster_bits;
        let align = (PAGE_BYTES >> bits).max(1);
        let file_clusters = image.file_bytes.div_ceil(header.cluster_bytes());
        let end =
            if image.storage.has_fixed_len() { image.file_bytes >> bits } else { 1 << (56 - bits) };
        let candidates = if proven {
            std::iter::once(align..end).collect()
        } else {
            let mut holes = Vec::new();
            let mut at = align;
            for data in image.storage.data_ranges(0..image.file_bytes)? {
                let hole = at..data.start >> bits;
                if !hole.is_empty() {
                    holes.push(hole);
                }
                at = data.end.div_ceil(header.cluster_bytes()).max(align);
            }
            // A hole at the end of the file and what lies beyond are one.
            let tail = if image.storage.has_fixed_len() { at } else { at.min(file_clusters) };
            holes.push(tail..end);
            holes
        };
        Ok(Self { candidates, align })
    }

    /// First of `count` neighbouring clusters that may be written now.
    pub fn find(
        &self,
        storage: &dyn Storage,
        refcounts: &mut Refcounts,
        count: u64,
    ) -> Result<u64> {
        let padded = count.next_multiple_of(self.align);
        for candidate in &self.candidates {
            if let Some(start) =
                refcounts.find_free(storage, candidate.clone(), padded, self.align)?
            {
                return Ok(start);
            }
        }
        Err(no_space())
    }
}

fn no_space() -> Error {
    Error::from(io::Error::from_raw_os_error(libc::ENOSPC))
}

/// The header after the commit.
fn header_after(image: &Image, plan: &Plan, layout: Option<&Layout>) -> Header {
    let mut header = plan.header.clone();
    let bits = header.cluster_bits;
    let Some(layout) = layout else { return header };
    if let Some(l1) = &plan.active_l1 {
        header.l1_entries = u32::try_from(l1.len()).expect("at most 32 MiB of entries");
        header.l1_offset = layout.active_l1.start << bits;
    }
    if let Some(entries) = &plan.snapshots {
        header.snapshot_count = u32::try_from(entries.len()).expect("at most 65 536");
        header.snapshots_offset =
            if entries.is_empty() { 0 } else { layout.snapshots.start << bits };
    }
    header.refcount_table_offset = layout.table.start << bits;
    header.refcount_table_clusters =
        u32::try_from(layout.table.end - layout.table.start).expect("checked when placed");
    debug_assert_eq!(image.header.version, header.version);
    header
}

/// Collects small pieces into large sequential writes.
struct Writer<'a> {
    storage: &'a dyn Storage,
    buffer: Vec<u8>,
    offset: u64,
    written: u64,
}

impl Writer<'_> {
    fn push(&mut self, bytes: &[u8], cluster_bytes: u64) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        let padded = (self.buffer.len() as u64).next_multiple_of(cluster_bytes);
        self.buffer.resize(usize::try_from(padded).expect("bounded"), 0);
        if self.buffer.len() >= WRITE_BYTES { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<()> {
        self.storage.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Writes everything but the header.
fn write_run(
    image: &Image,
    plan: &mut Plan,
    layout: &Layout,
    header: &Header,
    done: &mut Committed,
) -> Result<()> {
    let bits = header.cluster_bits;
    let cluster_bytes = header.cluster_bytes();
    let storage = image.storage();
    let end = layout.run.end << bits;
    if end > storage.len()? {
        storage.set_len(end)?;
    }
    let mut writer =
        Writer { storage, buffer: Vec::new(), offset: layout.run.start << bits, written: 0 };

    for table in &plan.moved {
        let mut bytes = match &table.content {
            TableContent::Fresh(entries) => mapping::encode_table(entries, 0),
            TableContent::At(offset) => {
                image.read_table_bytes(*offset, cluster_bytes, "L2 table")?
            }
        };
        for slot in bytes.as_chunks_mut::<8>().0 {
            let entry = u64::from_be_bytes(*slot);
            let entry = flagged(storage, &mut plan.refcounts, entry, bits, table.names == 1)?;
            *slot = entry.to_be_bytes();
        }
        writer.push(&bytes, cluster_bytes)?;
    }
    for l1 in [&plan.active_l1, &plan.snapshot_l1].into_iter().flatten() {
        let entries: Vec<u64> = l1
            .iter()
            .map(|slot| match *slot {
                L1Slot::Entry(entry) => entry,
                L1Slot::Moved(index) => {
                    let private = plan.moved[index].names == 1;
                    let offset = (layout.moved.start + index as u64) << bits;
                    offset | if private { mapping::COPIED } else { 0 }
                }
            })
            .collect();
        writer.push(&mapping::encode_table(&entries, 0), cluster_bytes)?;
    }
    if let Some(entries) = &mut plan.snapshots {
        if let Some(index) = plan.new_snapshot {
            // A disk of size 0 has an L1 table without entries: any place inside the file will do.
            entries[index].l1_offset = layout.snapshot_l1.start << bits;
            entries[index].l1_entries = header.l1_entries;
        }
        writer.push(&encode_table(entries), cluster_bytes)?;
    }
    let moved: Vec<(usize, u64)> = layout
        .blocks
        .iter()
        .zip(layout.block_clusters.clone())
        .map(|(&index, cluster)| (index, cluster << bits))
        .collect();
    for &(index, _) in &moved {
        writer.push(plan.refcounts.block_bytes(index).0, cluster_bytes)?;
    }
    let table = plan.refcounts.table_with(&moved);
    let table_bytes = (layout.table.end - layout.table.start) * cluster_bytes;
    let table_bytes = usize::try_from(table_bytes).expect("at most 8 MiB");
    writer.push(&mapping::encode_table(&table, table_bytes), cluster_bytes)?;
    writer.finish()?;
    done.written_bytes += writer.written;
    Ok(())
}

/// Gives back what a refused commit wrote. Nobody references it; failing here costs only space.
fn take_back(image: &Image, layout: Option<&Layout>, old_bytes: u64) {
    let Some(layout) = layout else { return };
    let bits = image.header.cluster_bits;
    let _ = image.storage.set_len(old_bytes);
    let (start, end) = (layout.run.start << bits, (layout.run.end << bits).min(old_bytes));
    if start < end {
        let _ = image.storage.punch(start..end);
    }
}

/// Gives freed clusters back to the file system, neighbours together.
pub(crate) fn punch(image: &Image, freed: &[Range<u64>], done: &mut Committed) {
    let bits = image.header.cluster_bits;
    for run in freed {
        let range = run.start << bits..(run.end << bits).min(image.file_bytes);
        if range.is_empty() {
            continue;
        }
        match image.storage.punch(range.clone()) {
            Ok(()) => done.punched_bytes += range.end - range.start,
            Err(error) => {
                if error.kind() != io::ErrorKind::Unsupported {
                    done.punch_failure = Some(error);
                }
                return;
            }
        }
    }
}
