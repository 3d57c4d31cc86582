//! Clones: new images with the content of an existing one, sharing blocks where the file system
//! can.
//!
//! The ladder: *reflink* (the whole file shares its blocks, the metadata that changes is written
//! anew) or *copy* (only the clusters that the clone needs, at the same host offsets, holes kept).
//! Each target is decided by itself: of two, one may lie where blocks can be shared and one not.
//! Host offsets never move, so encryption, bitmaps and unknown extensions stay valid.
//!
//! The source is only read. Every target is made without a name, finished, made durable, and then
//! published; until the last step nothing is visible, and what is there is never replaced. A crash
//! between two publications leaves complete clones. An error takes the published ones back.
//!
//! A file without a name is an open file. Where the system lets us have fewer of them than there
//! are targets, these are made in batches, one after the other, under one lock of the source.

mod commit;
mod copy;
mod goal;
mod header;
mod publish;
pub(crate) mod reflink;
mod upgrade;

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::image::Image;
use crate::os::shared;
use crate::os::tmpfile::Staged;
use crate::storage::FileStorage;
use goal::GoalFor;

/// How a clone may be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Reflink where the file system can, else a copy, with the reason.
    #[default]
    Auto,
    /// Reflink or nothing.
    Reflink,
    /// A copy with blocks of its own.
    Copy,
}

/// How a clone was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// By sharing blocks.
    Reflink,
    /// By copying. Where [`Strategy::Auto`] left that to the kernel, it may have shared blocks for
    /// its part, as [`Clone::shared_bytes`] tells.
    Copy,
}

/// What a clone shall hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection<'a> {
    /// The active disk, without snapshots.
    #[default]
    ActiveDisk,
    /// The active disk and every snapshot.
    Everything,
    /// The content of one snapshot (an id, else a name), without snapshots.
    Snapshot(&'a [u8]),
}

/// Of which version a clone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// The source's.
    #[default]
    Kept,
    /// 3, also where the source is of version 2.
    Upgraded,
}

/// What a clone shall be, and how it may be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// What it shall hold.
    pub selection: Selection<'a>,
    /// How it may be made.
    pub strategy: Strategy,
    /// Of which version it shall be.
    pub version: Version,
}

/// A clone that was made.
#[derive(Clone, Debug)]
pub struct Clone {
    /// Its path, as asked for.
    pub target: PathBuf,
    /// How it was made.
    pub used: Used,
    /// Why blocks are not shared, where that was wanted.
    pub reason: Option<String>,
    /// Bytes written for it.
    pub copied_bytes: u64,
    /// Bytes of this file that it shares with other files: the source, or another clone whose
    /// metadata it took over. In whole blocks, as the file system said when the clone was durable;
    /// none where it cannot tell.
    pub shared_bytes: Option<u64>,
    /// The name of the backing file, where the source's own would not have led there.
    pub backing_file: Option<Vec<u8>>,
    /// Whether it is of a newer version than the source.
    pub upgraded: bool,
}

/// A clone that has no name yet.
struct Draft {
    staged: Staged,
    used: Used,
    reason: Option<String>,
    written_bytes: u64,
    backing_file: Option<Vec<u8>>,
    upgraded: bool,
}

/// Clones `source` to every path of `targets`: all, or none.
///
/// The caller holds the locks of the source. `progress` is told bytes copied and bytes to copy.
///
/// Fails with [`Kind::TargetExists`] before anything is written if a target exists or is named
/// twice, with [`Kind::CannotShare`] if [`Strategy::Reflink`] is not possible for all of them.
pub fn clone_image(
    source: &FileStorage,
    targets: &[PathBuf],
    wanted: Wanted<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Clone>> {
    let Wanted { selection, strategy, version } = wanted;
    let image = Image::open(Box::new(source.try_clone()?))?;
    image.ensure_cloneable()?;
    let version = if image.header.version < 3 { version } else { Version::Kept };
    let goal = GoalFor::new(&image, selection, version)?;
    publish::ensure_free(targets)?;

    let making = Making { source, image: &image, goal: &goal, strategy, version };
    let mut clones = Vec::with_capacity(targets.len());
    let mut given = publish::Given::default();
    let mut earlier_bytes = 0;
    for batch in targets.chunks(publish::at_once(targets.len())) {
        let left = (targets.len() - clones.len()) as u64;
        let mut batch_bytes = 0;
        let drafts = making.drafts(batch, &mut |copied, total| {
            batch_bytes = total;
            // As if those that are still to come took as much.
            let all = total.saturating_mul(left) / batch.len() as u64;
            progress(earlier_bytes + copied, earlier_bytes.saturating_add(all));
        })?;
        earlier_bytes += batch_bytes;
        clones.extend(drafts.iter().map(Draft::measured));
        given.publish(drafts.into_iter().map(|draft| draft.staged))?;
    }
    given.keep();
    Ok(clones)
}

/// What all clones of one command have in common.
struct Making<'a> {
    source: &'a FileStorage,
    image: &'a Image,
    goal: &'a GoalFor,
    strategy: Strategy,
    version: Version,
}

impl Making<'_> {
    /// Clones for these targets, complete and durable, but without names.
    fn drafts(
        &self,
        targets: &[PathBuf],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Draft>> {
        let Self { source, image, goal, strategy, version } = *self;
        let mut drafts = publish::stage(targets, source.mode()?)?
            .into_iter()
            .map(|staged| Draft::new(staged, image, source.path()))
            .collect::<Result<Vec<_>>>()?;
        if version == Version::Upgraded {
            upgrade::ensure_fits(image, &drafts)?;
        }

        if strategy != Strategy::Copy {
            reflink::make(source, image, goal, &mut drafts, strategy)?;
        }
        let mut copies: Vec<_> =
            drafts.iter_mut().filter(|draft| draft.used == Used::Copy).collect();
        if !copies.is_empty() {
            copy::make(source, image, goal, &mut copies, strategy, progress)?;
        }
        for draft in &mut drafts {
            if let Some(name) = &draft.backing_file {
                let written = header::write_backing(image, draft.staged.file(), name);
                draft.written_bytes +=
                    written.map_err(|error| error.about(draft.staged.target()))?;
            }
        }
        if version == Version::Upgraded {
            upgrade::upgrade(&mut drafts)?;
        }
        if !image.is_current()? {
            return Err(Error::new(Kind::Busy, "the image changed while it was cloned"));
        }
        publish::sync(drafts.iter().map(|draft| &draft.staged).collect())?;
        Ok(drafts)
    }
}

impl Draft {
    /// Nothing yet, which becomes a copy unless it can share.
    fn new(staged: Staged, image: &Image, source: Option<&Path>) -> Result<Self> {
        let backing_file = header::relocated_backing(image, source, staged.target())?;
        Ok(Self {
            staged,
            used: Used::Copy,
            reason: None,
            written_bytes: 0,
            backing_file,
            upgraded: false,
        })
    }

    /// What became of it.
    fn measured(&self) -> Clone {
        let shared_bytes = shared::bytes(self.staged.file());
        // Handed to the kernel as a copy, and shared: then nothing was missed.
        let spared = if self.used == Used::Copy { shared_bytes.unwrap_or(0) } else { 0 };
        Clone {
            target: self.staged.target().to_owned(),
            used: self.used,
            reason: self.reason.clone().filter(|_| spared == 0),
            copied_bytes: self.written_bytes.saturating_sub(spared),
            shared_bytes,
            backing_file: self.backing_file.clone(),
            upgraded: self.upgraded,
        }
    }
}

impl Image {
    fn ensure_cloneable(&self) -> Result<()> {
        use crate::format::header::incompatible::{CORRUPT, DATA_FILE, DIRTY};
        let refuse = |kind, reason: &str, hint: &str| Err(Error::new(kind, reason).with_hint(hint));
        if self.header.has(CORRUPT) {
            return refuse(
                Kind::MarkedCorrupt,
                "the image is marked corrupt",
                "a clone would carry the damage; repair it first, for example with \
                 `calque image check -r all`",
            );
        }
        if self.header.has(DIRTY) {
            return refuse(
                Kind::MarkedDirty,
                "the image is marked dirty: its reference counts may be stale",
                "repair it first, for example with `calque image check -r all`",
            );
        }
        if self.header.has(DATA_FILE) {
            return refuse(
                Kind::UnsupportedFeature,
                "the image keeps its data in an external data file",
                "copy both files, or convert the image to one without a data file",
            );
        }
        Ok(())
    }
}
