//! From paths to files without a name, and from those to names: all of them, or none.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::os::descriptors;
use crate::os::tmpfile::{self, Durability, Named, Published, Staged};

/// From this many targets on, one `syncfs` is cheaper than a sync of each.
const SYNC_EACH_BELOW: usize = 4;

/// Open files per target: the file and its directory, both twice while it is published.
const DESCRIPTORS_EACH: usize = 4;

/// How many of `count` targets can be made at once.
pub(super) fn at_once(count: usize) -> usize {
    (descriptors::make_room(count * DESCRIPTORS_EACH) / DESCRIPTORS_EACH).max(1)
}

/// Refuses targets of which one exists or is named twice, however it is spelled.
pub(super) fn ensure_free(targets: &[PathBuf]) -> Result<()> {
    if targets.is_empty() {
        return Err(Error::new(Kind::InvalidArgument, "a clone needs a target"));
    }
    let mut seen = HashSet::new();
    for target in targets {
        let place = tmpfile::place(target).map_err(|error| Error::from(error).about(target))?;
        if !seen.insert(place) {
            let twice = Error::new(Kind::TargetExists, "the target is named twice");
            return Err(twice.about(target));
        }
    }
    Ok(())
}

/// An empty file for each of `targets`; `mode` as in `open(2)`.
pub(super) fn stage(targets: &[PathBuf], mode: u32) -> Result<Vec<Staged>> {
    let stage = |target: &PathBuf| Staged::new(target, mode);
    targets
        .iter()
        .map(|target| stage(target).map_err(|error| Error::from(error).about(target)))
        .collect()
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

/// Makes the names durable: a sync for each directory or, where they are many, of all that is on
/// their file system.
fn sync_names(published: &[Published]) -> io::Result<()> {
    let mut directories = HashMap::new();
    for target in published {
        directories.entry(target.directory()?).or_insert(target);
    }
    if directories.len() < SYNC_EACH_BELOW {
        return directories.values().try_for_each(|target| target.sync_name());
    }
    let mut devices = HashSet::new();
    for (place, target) in directories {
        if devices.insert(place.device) {
            target.sync_all()?;
        }
    }
    Ok(())
}

/// Names that were given. Dropped, they are taken back; a caller for whom all went well keeps them.
#[derive(Default)]
pub(super) struct Given(Vec<Named>);

impl Given {
    /// Leaves the clones where they are.
    pub(super) fn keep(mut self) {
        self.0.clear();
    }

    /// Gives every clone its name, durably; takes these names back if one cannot be given.
    pub(super) fn publish(&mut self, staged: impl Iterator<Item = Staged>) -> Result<()> {
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
        let named = sync_names(&published)
            .and_then(|()| published.iter().map(Published::named).collect::<io::Result<Vec<_>>>());
        match named {
            Ok(named) => self.0.extend(named),
            Err(error) => {
                published.into_iter().for_each(Published::retract);
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Named::retract);
    }
}
