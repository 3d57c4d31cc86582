//! Clones: new images with the content of an existing one, sharing blocks where the file system can.
//!
//! The ladder: *reflink* (the whole file shares its blocks, the metadata that changes is written
//! anew) or *copy* (only the clusters that the clone needs, at the same host offsets, holes kept).
//! Host offsets never move, so encryption, bitmaps and unknown extensions stay valid.
//!
//! The source is only read. Every target is made without a name, finished, made durable, and then
//! published; until the last step nothing is visible, and what is there is never replaced. A crash
//! between two publications leaves complete clones. An error takes the published ones back.

mod copy;
mod header;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::content::Disk;
use crate::error::{Error, Kind, Result};
use crate::image::{Image, lookup};
use crate::os::descriptors;
use crate::os::filesystem;
use crate::os::identity::Identity;
use crate::os::reflink;
use crate::os::tmpfile::{Durability, Published, Staged};
use crate::plan::{Goal, Plan, Planner, slots};
use crate::storage::{FileStorage, Storage};
use crate::transaction::{CommitOptions, Committed, commit};

/// From this many targets on, one `syncfs` is cheaper than a sync of each.
const SYNC_EACH_BELOW: usize = 4;

/// Open files per target: the file and its directory, both twice while it is published.
const DESCRIPTORS_EACH: usize = 4;

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
    /// By copying.
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

/// A clone that was made.
#[derive(Clone, Debug)]
pub struct Clone {
    /// Its path, as asked for.
    pub target: PathBuf,
    /// How it was made.
    pub used: Used,
    /// Why blocks could not be shared, where they were wanted.
    pub reason: Option<String>,
    /// Bytes written for it.
    pub copied_bytes: u64,
    /// Bytes of the file system that it shares with the source.
    pub shared_bytes: u64,
}

/// Clones `source` to every path of `targets`: all, or none.
///
/// The caller holds the locks of the source. `progress` is told bytes copied and bytes to copy.
///
/// Fails with [`Kind::TargetExists`] before anything is written if a target exists or is named
/// twice, with [`Kind::CannotShare`] if [`Strategy::Reflink`] is not possible.
pub fn clone_image(
    source: &FileStorage,
    targets: &[PathBuf],
    selection: Selection<'_>,
    strategy: Strategy,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Clone>> {
    let image = Image::open(Box::new(source.try_clone()?))?;
    image.ensure_cloneable()?;
    let goal = GoalFor::new(&image, selection)?;
    ensure_distinct(targets)?;
    descriptors::make_room(targets.len() * DESCRIPTORS_EACH);
    let staged = targets
        .iter()
        .map(|target| stage(target, source.mode()?))
        .collect::<Result<Vec<Staged>>>()?;
    let names: Vec<_> = targets
        .iter()
        .map(|target| header::relocated_backing(&image, source.path(), target))
        .collect::<Result<_>>()?;

    let (used, reason) = match strategy {
        Strategy::Copy => (Used::Copy, None),
        _ => match share(source, &staged[0]) {
            Ok(()) => (Used::Reflink, None),
            Err(error) if strategy == Strategy::Auto => {
                (Used::Copy, Some(explain(&error, source, &staged[0])?))
            }
            Err(error) => {
                let reason = explain(&error, source, &staged[0])?;
                return Err(Error::new(
                    Kind::CannotShare,
                    format!("Blocks cannot be shared: {reason}"),
                ));
            }
        },
    };
    let mut written = vec![0; staged.len()];
    match used {
        Used::Reflink => {
            // The metadata is changed once; the other clones share the result.
            let changed = goal.apply_to(&staged[0])?;
            for (target, written) in staged[1..].iter().zip(&mut written[1..]) {
                share_staged(&staged[0], target)?;
                *written = 0;
            }
            written[0] = changed.written_bytes;
        }
        Used::Copy => {
            let ranges = goal.needed_ranges(&image)?;
            let way = if strategy == Strategy::Copy {
                copy::Way::ThroughMemory
            } else {
                copy::Way::InKernel
            };
            let copied = copy::copy(source, &staged, &ranges, way, progress)?;
            for (target, written) in staged.iter().zip(&mut written) {
                *written = copied + goal.apply_to(target)?.written_bytes;
            }
        }
    }
    for (target, name) in staged.iter().zip(&names) {
        if let Some(name) = name {
            header::write_backing(&image, target.file(), name)?;
        }
    }
    if !image.is_current()? {
        return Err(Error::new(Kind::Busy, "The image changed while it was cloned"));
    }
    sync(&staged)?;
    let clones = staged
        .iter()
        .zip(written)
        .map(|(staged, copied_bytes)| {
            let shared_bytes = match used {
                Used::Reflink => allocated_bytes(staged)?.saturating_sub(copied_bytes),
                Used::Copy => 0,
            };
            let (target, reason) = (staged.target().to_owned(), reason.clone());
            Ok(Clone { target, used, reason, copied_bytes, shared_bytes })
        })
        .collect::<Result<_>>()?;
    publish(staged)?;
    Ok(clones)
}

fn allocated_bytes(staged: &Staged) -> Result<u64> {
    FileStorage::from_file(staged.file().try_clone()?)?.actual_bytes()
}

impl Image {
    fn ensure_cloneable(&self) -> Result<()> {
        use crate::format::header::incompatible::{CORRUPT, DATA_FILE, DIRTY};
        let refuse = |kind, reason: &str, hint: &str| Err(Error::new(kind, reason).with_hint(hint));
        if self.header.has(CORRUPT) {
            return refuse(
                Kind::MarkedCorrupt,
                "The image is marked corrupt",
                "a clone would carry the damage; repair it first, for example with \
                 `qemu-img check -r all`",
            );
        }
        if self.header.has(DIRTY) {
            return refuse(
                Kind::MarkedDirty,
                "The image is marked dirty: its reference counts may be stale",
                "repair it first, for example with `qemu-img check -r all`",
            );
        }
        if self.header.has(DATA_FILE) {
            return refuse(
                Kind::UnsupportedFeature,
                "The image keeps its data in an external data file",
                "copy both files, or convert the image to one without a data file",
            );
        }
        Ok(())
    }
}

/// What has to change in the copied metadata.
enum GoalFor {
    /// Nothing: the clone is the source, cluster by cluster.
    Same,
    /// Only this content stays.
    Only(Disk),
}

impl GoalFor {
    fn new(image: &Image, selection: Selection<'_>) -> Result<Self> {
        let disk = match selection {
            Selection::Everything => return Ok(Self::Same),
            Selection::ActiveDisk if image.header.snapshot_count == 0 => return Ok(Self::Same),
            Selection::ActiveDisk => Disk::Active,
            Selection::Snapshot(selector) => {
                Disk::Snapshot(lookup::by_id_or_name(&image.snapshots()?, selector)?)
            }
        };
        image.ensure_mapped_here()?;
        Ok(Self::Only(disk))
    }

    /// Carries the change out in a clone that nobody sees yet.
    fn apply_to(&self, staged: &Staged) -> Result<Committed> {
        let Self::Only(disk) = *self else { return Ok(Committed::default()) };
        let storage = FileStorage::from_file(staged.file().try_clone()?)?;
        let mut image = Image::open(Box::new(storage))?;
        let plan = only(&image, disk)?;
        commit(&mut image, plan, &mut CommitOptions { staged: true, ..Default::default() })
    }

    /// What a copy has to hold before [`GoalFor::apply_to`], as bytes of the source that own blocks.
    fn needed_ranges(&self, image: &Image) -> Result<Vec<std::ops::Range<u64>>> {
        let data = image.storage().data_ranges(0..image.file_bytes)?;
        let plan = match *self {
            // A cluster that is counted free may be in use all the same; only a walk tells.
            Self::Same if image.ensure_mapped_here().is_err() => return Ok(data),
            Self::Same => Planner::new(image)?.plan(Goal::same(&image.header))?,
            Self::Only(disk) => only(image, disk)?,
        };
        if !plan.proven {
            return Ok(data);
        }
        let mut refcounts = plan.refcounts;
        let bits = image.header.cluster_bits;
        let clusters = refcounts.needed(image.storage())?;
        let bytes: Vec<_> = clusters.iter().map(|c| c.start << bits..c.end << bits).collect();
        Ok(copy::intersect(&bytes, &data))
    }
}

/// The plan that leaves nothing but the content of `disk`.
fn only(image: &Image, disk: Disk) -> Result<Plan> {
    use crate::format::header::autoclear::BITMAPS;
    let planner = Planner::new(image)?;
    let same = Goal::same(&image.header);
    let goal = match disk {
        Disk::Active => Goal { active: Some(slots(planner.active_l1())), ..same },
        Disk::Snapshot(index) => {
            let (size, l1) = image.snapshot_disk(&planner.snapshots()[index])?;
            // Bitmaps describe the active disk.
            let drop_bitmaps = image.header.autoclear & BITMAPS != 0;
            Goal { size, active: Some(slots(&l1)), drop_bitmaps, ..same }
        }
    };
    planner.plan(Goal { snapshots: Some(Vec::new()), recount: true, ..goal })
}

fn stage(target: &Path, mode: u32) -> Result<Staged> {
    Staged::new(target, mode).map_err(|error| at_target(error.into(), target))
}

/// Says which target an error is about.
fn at_target(error: Error, target: &Path) -> Error {
    error.about(target)
}

/// Refuses a target that is named twice, however it is spelled.
fn ensure_distinct(targets: &[PathBuf]) -> Result<()> {
    if targets.is_empty() {
        return Err(Error::new(Kind::InvalidArgument, "A clone needs a target"));
    }
    let mut seen: HashSet<(Option<Identity>, Option<OsString>)> = HashSet::new();
    for target in targets {
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let place = (Identity::of_path(directory), target.file_name().map(ToOwned::to_owned));
        if !seen.insert(place) {
            let twice = Error::new(Kind::TargetExists, "The target is named twice");
            return Err(at_target(twice, target));
        }
    }
    Ok(())
}

/// Makes the empty target share the source's blocks. btrfs wants both to be excluded from
/// copy-on-write, or neither, before the first block.
fn share(source: &FileStorage, target: &Staged) -> io::Result<()> {
    if source.has_fixed_len() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    share_files(source.file(), target)
}

fn share_staged(source: &Staged, target: &Staged) -> Result<()> {
    share_files(source.file(), target).map_err(|error| at_target(error.into(), target.target()))
}

fn share_files(source: &std::fs::File, target: &Staged) -> io::Result<()> {
    if reflink::is_nocow(source) {
        reflink::set_nocow(target.file())?;
    }
    reflink::clone(source, target.file())
}

/// Why blocks could not be shared, in words; errors that say something else than "cannot" pass.
fn explain(error: &io::Error, source: &FileStorage, target: &Staged) -> Result<String> {
    let there = filesystem::name(target.file());
    match error.raw_os_error() {
        _ if source.has_fixed_len() => Ok("a block device cannot share blocks".to_owned()),
        Some(libc::EXDEV) => {
            Ok(format!("source and target are on different file systems ({there})"))
        }
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS) => {
            let here = filesystem::name(source.file());
            Ok(if here == there {
                format!("{there} cannot share blocks between files")
            } else {
                format!("source and target are on different file systems ({here}, {there})")
            })
        }
        _ => Err(at_target(
            io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)).into(),
            target.target(),
        )),
    }
}

/// Makes the content of every clone durable.
fn sync(staged: &[Staged]) -> Result<()> {
    let mut synced = HashSet::new();
    for target in staged {
        let file = target.file();
        let result = if staged.len() < SYNC_EACH_BELOW {
            file.sync_data()
        } else {
            let device = rustix::fs::fstat(file).map_err(io::Error::from)?.st_dev;
            if !synced.insert(device) {
                continue;
            }
            rustix::fs::syncfs(file).map_err(io::Error::from)
        };
        result.map_err(|error| at_target(error.into(), target.target()))?;
    }
    Ok(())
}

/// Gives every clone its name, durably; takes names back if one cannot be given.
fn publish(staged: Vec<Staged>) -> Result<()> {
    let mut published: Vec<Published> = Vec::new();
    for target in staged {
        let path = target.target().to_owned();
        match target.publish(Durability::Later) {
            Ok(done) => published.push(done),
            Err(error) => {
                published.into_iter().for_each(Published::retract);
                return Err(at_target(error.into(), &path));
            }
        }
    }
    // One sync per directory would do; they are few and a second one costs nothing.
    if let Some(error) = published.iter().find_map(|p| p.sync_name().err()) {
        published.into_iter().for_each(Published::retract);
        return Err(error.into());
    }
    Ok(())
}
