//! An image open for one operation: file, lock, image, in this order; and the failures on the way.

use std::path::Path;
use std::thread;
use std::time::Duration;

use qcow2::lock::{ImageLock, Intent, LockPolicy};
use qcow2::storage::{Access, FileStorage, Storage};
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

/// Runs `read` on the image at `path` without taking locks, so that a virtual machine that starts
/// meanwhile cannot trip over it. Starts over when the image changed underneath; after a few times
/// it is busy, never corrupt.
pub(crate) fn read<T>(
    path: &str,
    force_share: Option<bool>,
    read: impl FnMut(&Image, &FileStorage) -> Result<T>,
) -> Outcome<T> {
    read_with(Image::open_to_show, path, force_share, read)
}

/// [`read`] of an image that is opened by `open`.
pub(crate) fn read_with<T>(
    open: fn(Box<dyn Storage>) -> Result<Image>,
    path: &str,
    force_share: Option<bool>,
    mut read: impl FnMut(&Image, &FileStorage) -> Result<T>,
) -> Outcome<T> {
    let mut attempt = 1;
    loop {
        let (result, current) = read_once(open, path, force_share, &mut read);
        let last = attempt == READ_ATTEMPTS;
        match (result, current) {
            (Ok(value), true) => return Ok(value),
            (Err(failure), true) => return Err(failure),
            (_, false) if last => {
                let busy = Error::new(Kind::Busy, "The image keeps changing; try again");
                return Err(Failure::new(Stage::Open, path, &busy));
            }
            (_, false) => {
                attempt += 1;
                thread::sleep(READ_PAUSE);
            }
        }
    }
}

/// One attempt, and whether the image stood still meanwhile: file, first sector, and nobody
/// writing.
fn read_once<T>(
    open: fn(Box<dyn Storage>) -> Result<Image>,
    path: &str,
    force_share: Option<bool>,
    read: &mut impl FnMut(&Image, &FileStorage) -> Result<T>,
) -> (Outcome<T>, bool) {
    let fail = |stage, error: &Error| Err(Failure::new(stage, path, error));
    let shared = force_share == Some(true);
    let opened = FileStorage::open(Path::new(path), Access::Read)
        .and_then(|file| ensure_no_writer(&file, shared).map(|()| file));
    let file = match opened {
        Ok(file) => file,
        Err(error) => return (fail(Stage::Open, &error), true),
    };
    // A guest that is allowed to write changes the file all the time, and the first sector never.
    let stamp = || if shared { None } else { file.stamp().ok() };
    let before = stamp();
    let image = match file.try_clone().and_then(|file| open(Box::new(file))) {
        Ok(image) => image,
        Err(error) => return (fail(Stage::Open, &error), before == stamp()),
    };
    let outcome = read(&image, &file).or_else(|error| fail(Stage::Operation, &error));
    let still = image.is_current().unwrap_or(true)
        && before == stamp()
        && ensure_no_writer(&file, shared).is_ok();
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
