//! Finding the store, and making it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;

use super::path::{Root, directory_in, ensure_absolute};
use crate::system::{failure, readable, refusal, sync_foreign_directory};
use crate::types::{FailureCode, Outcome, StoreOpenReport, StoreOpenRequest};

/// Finds the store at an absolute path. Symbolic links on the way to it are the user's choice; from
/// there on there are none.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_open(request: StoreOpenRequest) -> Outcome<StoreOpenReport> {
    let path = Path::new(&request.root);
    ensure_absolute(path)?;
    let (existing, missing) = split(path)?;
    let path = missing.iter().fold(existing.clone(), |path, name| path.join(name));
    let Some(root) = path.to_str().map(str::to_owned) else {
        let reason = "the real path of the store is not UTF-8";
        return Err(refusal(&path, FailureCode::InvalidArgument, reason));
    };
    if !missing.is_empty() {
        if request.create != Some(true) {
            return Ok(StoreOpenReport { root, exists: false });
        }
        make(&existing, &missing)?;
    }
    Root::open(&path)?;
    Ok(StoreOpenReport { root, exists: true })
}

/// The real path of as much of `path` as there is, and the names of what is missing.
fn split(path: &Path) -> Outcome<(PathBuf, Vec<OsString>)> {
    let mut existing = path;
    let mut missing = Vec::new();
    loop {
        match existing.canonicalize() {
            Ok(existing) => {
                missing.reverse();
                return Ok((existing, missing));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failure(existing, error)),
        }
        let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
            // `..` behind something that is not there.
            return Err(failure(path, Errno::NOENT));
        };
        missing.push(name.to_owned());
        existing = parent;
    }
}

/// Makes the directories `missing`, one in the other, each durably. Somebody else may be about the
/// same.
fn make(existing: &Path, missing: &[OsString]) -> Outcome<()> {
    let mut path = existing.to_owned();
    let mut at = directory_in(CWD, existing).map_err(|errno| failure(existing, errno))?;
    for name in missing {
        path.push(name);
        match rustix::fs::mkdirat(&at, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failure(&path, errno)),
        }
        let made = directory_in(&at, name).map_err(|errno| failure(&path, errno))?;
        sync_foreign_directory(&at, || readable(&made)).map_err(|error| failure(&path, error))?;
        at = made;
    }
    Ok(())
}
