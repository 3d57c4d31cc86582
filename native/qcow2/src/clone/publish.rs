//! From paths to files without a name, and from those to names: all of them, or none.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::os::descriptors;
use crate::os::identity::Identity;
use crate::os::tmpfile::{Durability, Published, Staged};

/// From this many targets on, one `syncfs` is cheaper than a sync of each.
const SYNC_EACH_BELOW: usize = 4;

/// Open files per target: the file and its directory, both twice while it is published.
const DESCRIPTORS_EACH: usize = 4;

/// An empty file for each of `targets`. Refuses one that exists or that is named twice, however it
/// is spelled; `mode` as in `open(2)`.
pub(super) fn stage(targets: &[PathBuf], mode: u32) -> Result<Vec<Staged>> {
    if targets.is_empty() {
        return Err(Error::new(Kind::InvalidArgument, "a clone needs a target"));
    }
    descriptors::make_room(targets.len() * DESCRIPTORS_EACH);
    let mut seen: HashSet<(Identity, OsString)> = HashSet::new();
    let mut stage = |target: &Path| {
        let staged = Staged::new(target, mode)?;
        let (directory, name) = staged.place()?;
        if seen.insert((directory, name.to_owned())) {
            Ok(staged)
        } else {
            Err(Error::new(Kind::TargetExists, "the target is named twice"))
        }
    };
    targets.iter().map(|target| stage(target).map_err(|error| error.about(target))).collect()
}

/// Makes the content of every clone durable.
pub(super) fn sync(staged: Vec<&Staged>) -> Result<()> {
    let mut synced = HashSet::new();
    let each = staged.len() < SYNC_EACH_BELOW;
    for target in staged {
        let file = target.file();
        let result = if each {
            file.sync_data()
        } else {
            let device = rustix::fs::fstat(file).map_err(io::Error::from)?.st_dev;
            if !synced.insert(device) {
                continue;
            }
            rustix::fs::syncfs(file).map_err(io::Error::from)
        };
        result.map_err(|error| Error::from(error).about(target.target()))?;
    }
    Ok(())
}

/// Gives every clone its name, durably; takes names back if one cannot be given.
pub(super) fn publish(staged: impl Iterator<Item = Staged>) -> Result<()> {
    let mut published: Vec<Published> = Vec::new();
    for target in staged {
        let path = target.target().to_owned();
        match target.publish(Durability::Later) {
            Ok(done) => published.push(done),
            Err(error) => {
                published.into_iter().for_each(Published::retract);
                return Err(Error::from(error).about(&path));
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
