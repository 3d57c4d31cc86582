//! Locks on the store's own lock files, and the handles that stand for them.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Mutex, PoisonError};

use qcow2::lock::{FileLock, LockPolicy, Sharing};
use qcow2::{Error, Kind};
use rustix::fs::{AtFlags, OFlags};

use super::path::{Place, Root};
use crate::callback::Callback;
use crate::types::{
    Done, Failure, FailureCode, LockMode, Outcome, Stage, StoreLockReport, StoreLockRequest,
    StoreUnlockRequest,
};

/// The locks of this process, by handle. What is left ends with the process.
static HELD: Mutex<Held> = Mutex::new(Held { last: 0, locks: BTreeMap::new() });

struct Held {
    last: u32,
    locks: BTreeMap<u32, FileLock>,
}

/// Locks a file. `waiting` hears, after a second, who has it.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_lock(
    request: StoreLockRequest,
    waiting: &mut Callback<'_, String>,
) -> Outcome<StoreLockReport> {
    let place = Root::open(&request.root)?.place(&request.path)?;
    let (access, sharing) = match request.mode {
        LockMode::Exclusive => (OFlags::RDWR, Sharing::Exclusive),
        LockMode::Shared => (OFlags::RDONLY, Sharing::Shared),
    };
    let create = if request.create == Some(true) { OFlags::CREATE } else { OFlags::empty() };
    let file = place.open(access | create).map_err(|failure| match failure.code {
        // Whatever it is, nobody can have locked it.
        FailureCode::NotAFile => Failure {
            hint: Some("it is no lock; remove it, and a new one is made".to_owned()),
            ..failure
        },
        _ => failure,
    })?;
    let wait = request.wait == Some(true);
    if wait && holds(&place, &file)? {
        // It would wait for itself.
        let reason = "this process has locked it already";
        return Err(place.refusal(FailureCode::InUse, reason));
    }
    let mut on_wait = |holder: &str| Ok(waiting(holder.to_owned())?);
    let policy = LockPolicy { wait, on_wait: Some(&mut on_wait) };
    let lock = FileLock::acquire(file, sharing, policy)
        .map_err(|error| Failure::new(Stage::Operation, &place.path().to_string_lossy(), &error))?;
    let Some(lock) = lock else { return Ok(StoreLockReport { handle: None }) };
    // While we waited, whoever had it may have moved or removed the directory around it.
    let now = Root::open(&request.root)?.place(&request.path)?;
    if !means(&now, lock.file())? {
        return Err(now.refusal(FailureCode::NotFound, "another file has taken its place"));
    }
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.last += 1;
    let handle = held.last;
    held.locks.insert(handle, lock);
    Ok(StoreLockReport { handle: Some(handle) })
}

/// Gives a lock back.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_unlock(request: StoreUnlockRequest) -> Outcome<Done> {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if held.locks.remove(&request.handle.0).is_some() {
        return Ok(Done {});
    }
    let error = Error::new(Kind::InvalidArgument, "there is no lock of that handle");
    Err(Failure { path: None, ..Failure::new(Stage::Operation, "", &error) })
}

/// Whether this process has locked the file.
fn holds(place: &Place, file: &File) -> Outcome<bool> {
    let identity = |file: &File| {
        let stat = rustix::fs::fstat(file).map_err(|errno| place.failure(errno))?;
        Ok((stat.st_dev, stat.st_ino))
    };
    let wanted = identity(file)?;
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    for lock in held.locks.values() {
        if identity(lock.file())? == wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the name means the file now.
fn means(place: &Place, file: &File) -> Outcome<bool> {
    let stat = rustix::fs::fstat(file).map_err(|errno| place.failure(errno))?;
    match rustix::fs::statat(place.directory(), place.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (stat.st_dev, stat.st_ino)),
        Err(errno) => Err(place.failure(errno)),
    }
}
