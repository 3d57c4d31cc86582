//! The shadow commit: the only way in which an existing image changes.
//!
//! Everything new is written where nobody looks, then 512 bytes at the start of the file are
//! replaced. The epochs, with a sync between them:
//!
//! 0. *Nothing is written.* The cache is flushed and the first sector read back from the medium. It
//!    has to be the one that was parsed: else the two-state argument does not hold, and the image
//!    is refused as unsettled.
//! 1. The new tables: L2 tables, L1 tables, snapshot table, refcount blocks, refcount table, in
//!    clusters that no state on disk references; and new data, where there is some. A crash leaves
//!    the old image and some unused bytes.
//! 2. The first sector. A crash leaves the old sector or the new one; each names a complete image.
//! 3. Punches. Losing them loses space, nothing else.
//!
//! Whatever the image gives as a reason to refuse is found before epoch 1: by the plan, or when
//! everything gets its place. Later only the disk can fail, or whoever is asked last refuse.
//!
//! Assumed, here and nowhere else: the medium writes 512 aligned bytes whole or not at all. The
//! fields that change lie between bytes 24 and 96.

mod listing;
mod place;
mod space;
mod write;

use std::io;
use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::format::header::{Header, SECTOR_BYTES};
use crate::format::snapshot::SnapshotEntry;
use crate::image::Image;
use crate::plan::Plan;
use crate::storage::Storage;

pub(crate) use listing::{Listing, commit_listing};
use place::{Layout, place, take_back};
pub(crate) use space::Space;
use write::{header_after, write_tables};

/// Bytes 24 to 71 of the header: size, L1, refcount table, snapshot table.
pub type CommitFields = [u8; 48];

/// The commit that is about to happen.
#[derive(Clone, Copy, Debug)]
pub struct PlannedCommit<'a> {
    /// Bytes 24 to 71 of the header now.
    pub before: CommitFields,
    /// The same bytes after the commit.
    pub after: CommitFields,
    /// The snapshot that the operation is about, as it will be (or was, if it is deleted).
    pub snapshot: Option<&'a SnapshotEntry>,
}

/// How a commit is carried out.
#[derive(Default)]
pub struct CommitOptions<'a> {
    /// Called when everything but the header is durable. An error means that nothing happened.
    #[allow(clippy::type_complexity, reason = "a callback is named once, here")]
    pub prepared: Option<&'a mut dyn FnMut(&PlannedCommit<'_>) -> Result<()>>,
    /// The image is not published yet: its maker flushes once, at the end.
    pub staged: bool,
    /// What `prepared` is told of the snapshot.
    pub(crate) snapshot: Option<SnapshotEntry>,
    /// Set when `prepared` refused: its error is the caller's, whatever it looks like.
    pub(crate) was_refused: bool,
}

impl<'a> CommitOptions<'a> {
    /// A commit that `prepared` is asked about.
    pub fn asking(prepared: &'a mut dyn FnMut(&PlannedCommit<'_>) -> Result<()>) -> Self {
        Self { prepared: Some(prepared), ..Self::default() }
    }

    fn ask(&mut self, before: &Header, after: &Header) -> Result<()> {
        let (before, after) = (before.commit_fields(), after.commit_fields());
        let planned = PlannedCommit { before, after, snapshot: self.snapshot.as_ref() };
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
    /// Why freed clusters could not be given back to the file system, where that failed. They are
    /// free in the image.
    pub punch_failure: Option<io::Error>,
    /// Why a delete on a full disk could not count anew, where that failed. The snapshot is gone;
    /// what it used leaks until the next change counts anew.
    pub recount_failure: Option<Error>,
}

/// Data that a commit writes beside its tables: what tables of the plan name, in clusters that were
/// taken for it.
pub(crate) trait NewData {
    /// Where it goes.
    fn clusters(&self) -> &[Range<u64>];

    /// Writes it. Returns how many bytes that were.
    fn write(&self, plan: &Plan, storage: &dyn Storage) -> Result<u64>;
}

/// Carries `plan` out. On success the image is durably in its new state, and `image` describes it.
///
/// On any error but [`Kind::Unsettled`] the image is in its old state. If the plan cannot be
/// carried out, nothing was written. If the disk fails or `options.prepared` refuses, what was
/// written has been taken back: the file has its old length, and what was written into, a hole.
pub(crate) fn commit(
    image: &mut Image,
    plan: Plan,
    options: &mut CommitOptions<'_>,
) -> Result<Committed> {
    commit_with(image, plan, None, options)
}

/// The same, with data.
pub(crate) fn commit_with(
    image: &mut Image,
    plan: Plan,
    data: Option<&dyn NewData>,
    options: &mut CommitOptions<'_>,
) -> Result<Committed> {
    let mut done = Committed::default();
    let mut plan = plan;
    let old_header = image.header.clone();
    let old_bytes = image.file_bytes;

    // Epoch 0: nothing is written. What the medium holds is what was parsed, or there is no old
    // state to come back to.
    if !options.staged {
        ensure_settled(image, &mut done)?;
    }
    // Where everything goes is known, and what has no place refused, before the first write.
    let layout = place(image, &mut plan)?;
    let header = header_after(&plan, layout.as_ref());
    plan.refcounts.for_freed(|_| Ok(()))?;
    let data_clusters = data.map(NewData::clusters).unwrap_or_default().iter().cloned();
    let places: Vec<_> = layout.iter().flat_map(Layout::runs).chain(data_clusters).collect();

    // Epoch 1: the new tables and data, in clusters that no state on disk references. Any part of
    // it may be on the medium after a crash, in any order: the sector on the medium is the old one,
    // and nothing that it leads to has changed.
    let written = (|| {
        if let Some(data) = data {
            done.written_bytes += data.write(&plan, image.storage())?;
        }
        if let Some(layout) = &layout {
            write_tables(image, &mut plan, layout, &header, &mut done)?;
        }
        if !options.staged {
            flush(image, &mut done)?;
        }
        options.ask(&old_header, &header)
    })();
    if let Err(error) = written {
        take_back(image, &places, old_bytes);
        return Err(error);
    }

    // Epoch 2: the sector. After a crash the medium holds the old one, and what it leads to is
    // whole, or the new one, and all that it leads to was flushed before.
    switch(image, &header, options, &mut done).inspect_err(|error| {
        if error.kind() != Kind::Unsettled {
            take_back(image, &places, old_bytes);
        }
    })?;
    let end = places.iter().map(|run| run.end).max().unwrap_or(0);
    image.file_bytes = old_bytes.max(end << header.cluster_bits);
    adopt(image, header);

    // Epoch 3: holes. Until here what is freed belonged to a state that could come back. A crash
    // leaves some of it allocated: free by its count, and found again by whoever looks for space.
    if plan.gives_back {
        let mut punch = Punch::new(image, &mut done);
        plan.refcounts.for_freed(|run| punch.run(run)).expect("found before");
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
        // The new sector may be in the cache, in the disk's own cache, or on the medium. Only the
        // old one, flushed, makes this a refusal: reading it back proves nothing.
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

impl Image {
    /// Flushes what earlier writers left in the cache. Fails with [`Kind::Unsettled`] if the medium
    /// has another header: then a power cut would bring back a state that is not the one seen here.
    pub fn ensure_settled(&self) -> Result<()> {
        ensure_settled(self, &mut Committed::default())
    }
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

/// Gives clusters back to the file system, until it refuses.
pub(crate) struct Punch<'a> {
    image: &'a Image,
    done: &'a mut Committed,
    refused: bool,
}

impl<'a> Punch<'a> {
    pub fn new(image: &'a Image, done: &'a mut Committed) -> Self {
        Self { image, done, refused: false }
    }

    /// Gives one run back. Never fails: what is not given back is only space.
    #[allow(clippy::unnecessary_wraps, reason = "to be handed to those who show runs")]
    pub fn run(&mut self, run: Range<u64>) -> Result<()> {
        let bits = self.image.header.cluster_bits;
        let range = run.start << bits..(run.end << bits).min(self.image.file_bytes);
        if range.is_empty() || self.refused {
            return Ok(());
        }
        match self.image.storage.punch(range.clone()) {
            Ok(()) => self.done.punched_bytes += range.end - range.start,
            Err(error) => {
                self.refused = true;
                if error.kind() != io::ErrorKind::Unsupported {
                    self.done.punch_failure = Some(error);
                }
            }
        }
        Ok(())
    }
}
