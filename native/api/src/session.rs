//! An image open for one operation: file, lock, image, in this order; and the failures on the way.

use std::cell::Cell;
use std::path::Path;
use std::thread;
use std::time::Duration;

use qcow2::lock::{ImageLock, Intent, LockPolicy};
use qcow2::storage::{Access, FileStorage, Stamp, Storage};
use qcow2::{CommitOptions, Error, Image, Kind, PlannedCommit, Result};

use crate::callback::Callback;
use crate::report::planned_commit;
use crate::types::{ChangeEvent, Failure, Outcome, Stage};

/// How often a reader without locks starts over before it calls the image busy.
const READ_ATTEMPTS: u32 = 4;
/// How long it pauses in between: longer than a commit takes to write its sector.
const READ_PAUSE: Duration = Duration::from_millis(5);

/// Runs `change` on the image at `path`, which is ours alone until it returns. `event` hears whom
/// it waits for and what the commit will do; if it fails, the change fails before its commit.
pub(crate) fn change<T>(
    path: &str,
    no_wait: Option<bool>,
    event: &mut Callback<'_, ChangeEvent>,
    change: impl FnOnce(&mut Image, &mut CommitOptions<'_>) -> Result<T>,
) -> Outcome<T> {
    change_with(Image::open, path, no_wait, event, change)
}

/// [`change`] of an image that is opened by `open`.
pub(crate) fn change_with<T>(
    open: fn(Box<dyn Storage>) -> Result<Image>,
    path: &str,
    no_wait: Option<bool>,
    event: &mut Callback<'_, ChangeEvent>,
    change: impl FnOnce(&mut Image, &mut CommitOptions<'_>) -> Result<T>,
) -> Outcome<T> {
    let at = |stage| move |error: Error| Failure::new(stage, path, &error);
    let file = FileStorage::open(Path::new(path), Access::Write).map_err(at(Stage::Open))?;
    let lock = lock_to_change(&file, no_wait, event).map_err(at(Stage::Open))?;
    let mut image = open(Box::new(file)).map_err(at(Stage::Open))?;
    let mut prepared = |planned: &PlannedCommit<'_>| {
        event(ChangeEvent::planned(planned_commit(planned)))?;
        // QEMU looks for a writer before it has locked; so we look again, last of all.
        lock.reprobe()
    };
    let mut options = CommitOptions::asking(&mut prepared);
    change(&mut image, &mut options).map_err(|error| {
        let stage = match error.kind() {
            Kind::MarkedCorrupt | Kind::MarkedDirty => Stage::Open,
            _ => Stage::Operation,
        };
        Failure::new(stage, path, &error)
    })
}

/// Takes the lock for a change; `event` hears, after a second, of another Calque that has the
/// image.
pub(crate) fn lock_to_change(
    file: &FileStorage,
    no_wait: Option<bool>,
    event: &mut Callback<'_, ChangeEvent>,
) -> Result<ImageLock> {
    let mut on_wait = |holder: &str| Ok(event(ChangeEvent::waiting_for(holder))?);
    let policy = LockPolicy { wait: no_wait != Some(true), on_wait: Some(&mut on_wait) };
    ImageLock::acquire(file, Intent::Change, policy)
}

/// Takes a lock; `waiting` hears, after a second, of another Calque that has the image.
pub(crate) fn lock(
    file: &FileStorage,
    intent: Intent,
    no_wait: Option<bool>,
    waiting: &mut dyn FnMut(String),
) -> Result<ImageLock> {
    let mut on_wait = |holder: &str| {
        waiting(holder.to_owned());
        Ok(())
    };
    let policy = LockPolicy { wait: no_wait != Some(true), on_wait: Some(&mut on_wait) };
    ImageLock::acquire(file, intent, policy)
}

/// An image that is being read. What was read is of one moment as long as it stands still.
pub(crate) struct Reading<'a> {
    pub image: &'a Image,
    pub file: &'a FileStorage,
    /// A guest that is allowed to write changes the file all the time, and the first sector never.
    stamp: Option<Stamp>,
    shared: bool,
    /// Whether the program has heard of it: then there is no starting over.
    is_told: &'a Cell<bool>,
}

impl Reading<'_> {
    /// Before a part of what was read is told while the rest is still to be read.
    pub fn ensure_still(&self) -> Result<()> {
        if !self.is_still() {
            return Err(busy());
        }
        self.is_told.set(true);
        Ok(())
    }

    /// File, first sector, and nobody writing.
    fn is_still(&self) -> bool {
        self.image.is_current().unwrap_or(true)
            && self.stamp == stamp(self.file, self.shared)
            && ensure_no_writer(self.file, self.shared).is_ok()
    }
}

fn stamp(file: &FileStorage, shared: bool) -> Option<Stamp> {
    if shared { None } else { file.stamp().ok() }
}

fn busy() -> Error {
    Error::new(Kind::Busy, "The image keeps changing; try again")
}

/// Runs `read` on the image at `path` without taking locks, so that a virtual machine that starts
/// meanwhile cannot trip over it. Starts over when the image changed underneath, unless a part of it
/// was told; after a few times it is busy, never corrupt.
pub(crate) fn read<T>(
    path: &str,
    force_share: Option<bool>,
    read: impl FnMut(&Reading<'_>) -> Result<T>,
) -> Outcome<T> {
    read_with(Image::open_to_show, path, force_share, read)
}

/// [`read`] of an image that is opened by `open`.
pub(crate) fn read_with<T>(
    open: fn(Box<dyn Storage>) -> Result<Image>,
    path: &str,
    force_share: Option<bool>,
    mut read: impl FnMut(&Reading<'_>) -> Result<T>,
) -> Outcome<T> {
    let is_told = Cell::new(false);
    let mut attempt = 1;
    loop {
        let (result, still) = read_once(open, path, force_share, &is_told, &mut read);
        if still {
            return result;
        }
        if attempt == READ_ATTEMPTS || is_told.get() {
            return Err(Failure::new(Stage::Open, path, &busy()));
        }
        attempt += 1;
        thread::sleep(READ_PAUSE);
    }
}

/// One attempt, and whether the image stood still meanwhile.
fn read_once<T>(
    open: fn(Box<dyn Storage>) -> Result<Image>,
    path: &str,
    force_share: Option<bool>,
    is_told: &Cell<bool>,
    read: &mut impl FnMut(&Reading<'_>) -> Result<T>,
) -> (Outcome<T>, bool) {
    let fail = |stage, error: &Error| Err(Failure::new(stage, path, error));
    let shared = force_share == Some(true);
    let opened = FileStorage::open(Path::new(path), Access::Read)
        .and_then(|file| ensure_no_writer(&file, shared).map(|()| file));
    let file = match opened {
        Ok(file) => file,
        Err(error) => return (fail(Stage::Open, &error), true),
    };
    let before = stamp(&file, shared);
    let image = match file.try_clone().and_then(|file| open(Box::new(file))) {
        Ok(image) => image,
        Err(error) => return (fail(Stage::Open, &error), before == stamp(&file, shared)),
    };
    let reading = Reading { image: &image, file: &file, stamp: before, shared, is_told };
    let outcome = read(&reading).or_else(|error| fail(Stage::Operation, &error));
    let still = reading.is_still();
    (outcome, still)
}

/// Refuses while somebody writes. Nothing is taken, so nothing has to be given back.
fn ensure_no_writer(file: &FileStorage, shared: bool) -> Result<()> {
    if shared {
        return Ok(());
    }
    let policy = LockPolicy { wait: true, on_wait: None };
    ImageLock::acquire(file, Intent::Read, policy).map(drop)
}
