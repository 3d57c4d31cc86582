//! Where Calques wait for each other.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::bytes::{CALQUE, is_calques};
use super::message::{self, in_use, lock_error};
use super::survey::{Claim, Survey};
use super::{Intent, OnWait};
use crate::error::{Error, Result};
use crate::os::ofd::{self, Mode};
use crate::storage::FileStorage;

const TURNSTILE: Range<u64> = CALQUE.start..CALQUE.start + 1;
const QUEUE: Range<u64> = CALQUE.start + 1..CALQUE.start + 2;
const PRESENCE: Range<u64> = CALQUE.start + 2..CALQUE.start + 3;

/// How long somebody waits without hearing why.
pub(super) const SILENCE: Duration = Duration::from_secs(1);

/// Marks this description as a Calque's, so that others do not take it for a writer without locks.
pub(super) fn announce(file: &FileStorage, intent: Intent) -> Result<()> {
    if ofd::try_lock(file.file(), Mode::Shared, &PRESENCE).map_err(lock_error)? {
        Ok(())
    } else {
        Err(foreign(file, intent))
    }
}

/// Waits for the image's turn and takes it.
pub(super) fn enter(
    file: &FileStorage,
    intent: Intent,
    wait: bool,
    on_wait: Option<OnWait<'_>>,
) -> Result<()> {
    let mode = if intent == Intent::Change { Mode::Exclusive } else { Mode::Shared };
    let mut watch = Watch { intent, ..Watch::new(file, wait, on_wait) };
    watch.take(mode, &TURNSTILE)?;
    watch.take(mode, &QUEUE)?;
    ofd::unlock(file.file(), &TURNSTILE).map_err(lock_error)
}

/// The refusal when a lock that no Calque takes covers Calque's bytes: it is on the whole file.
fn foreign(file: &FileStorage, intent: Intent) -> Error {
    match Survey::of(file.file()).map(|it| it.obstacle(Claim::of(intent))) {
        Ok(Some(obstacle)) => in_use(file, &obstacle.reason, None),
        // Gone again; it was in use all the same.
        Ok(None) => in_use(file, message::sentence(intent), None),
        Err(error) => lock_error(error),
    }
}

/// Whether a Calque has the image, for whatever.
pub(super) fn is_held(file: &FileStorage) -> Result<bool> {
    conflict(file, Mode::Exclusive, &QUEUE)
}

/// Whether a Calque's lock keeps us from locking `byte`: one that lies within Calque's bytes.
fn conflict(file: &FileStorage, mode: Mode, byte: &Range<u64>) -> Result<bool> {
    let held = ofd::conflict(file.file(), mode, byte).map_err(lock_error)?;
    Ok(held.is_some_and(|it| is_calques(&it.bytes)))
}

/// Waits for a random time: whoever meets again does not meet a third time.
pub(super) fn pause(milliseconds: Range<u64>) {
    let random = RandomState::new().hash_one(std::process::id());
    let span = (milliseconds.end - milliseconds.start).max(1);
    sleep(Duration::from_millis(milliseconds.start + random % span));
}

/// One wait for other Calques.
pub(super) struct Watch<'f, 'p> {
    file: &'f FileStorage,
    intent: Intent,
    wait: bool,
    on_wait: Option<OnWait<'p>>,
    began: Instant,
}

impl<'f, 'p> Watch<'f, 'p> {
    pub(super) fn new(file: &'f FileStorage, wait: bool, on_wait: Option<OnWait<'p>>) -> Self {
        Self { file, intent: Intent::Read, wait, on_wait, began: Instant::now() }
    }

    /// Whether a Calque is changing the image.
    pub(super) fn is_changing(&self) -> Result<bool> {
        conflict(self.file, Mode::Shared, &QUEUE)
    }

    /// Waits until no Calque is changing the image, taking nothing.
    pub(super) fn wait_for_changers(&mut self) -> Result<()> {
        while self.is_changing()? {
            self.wait_once()?;
        }
        Ok(())
    }

    fn take(&mut self, mode: Mode, byte: &Range<u64>) -> Result<()> {
        loop {
            if ofd::try_lock(self.file.file(), mode, byte).map_err(lock_error)? {
                return Ok(());
            }
            if conflict(self.file, mode, byte)? {
                if self.wait_once()? {
                    // From here on the kernel wakes us, in the order in which we came.
                    return ofd::lock(self.file.file(), mode, byte).map_err(lock_error);
                }
            } else if ofd::conflict(self.file.file(), mode, byte).map_err(lock_error)?.is_some() {
                return Err(foreign(self.file, self.intent));
            }
        }
    }

    /// Waits a moment, or fails where waiting is not wanted. Says whether it has been long.
    fn wait_once(&mut self) -> Result<bool> {
        if !self.wait {
            return Err(in_use(self.file, message::sentence(self.intent), None));
        }
        let is_long = self.began.elapsed() >= SILENCE;
        if is_long && let Some(on_wait) = self.on_wait.take() {
            on_wait(&message::other_calque(self.file, &QUEUE))?;
        }
        pause(if is_long { 10..50 } else { 1..10 });
        Ok(is_long)
    }
}
