//! Making durable what was written and named, all at once or where it was not asked for at first;
//! and the owner's alone, what the core made with the mode of its source.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::path::{Place, Root};
use crate::system::{failure, sync_directory, uninterrupted};
use crate::types::{Done, Outcome, StoreReadRequest, StoreSyncRequest};

/// Makes each of the files and directories durable, or everything on the store's file system.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_sync(request: StoreSyncRequest) -> Outcome<Done> {
    let root = Root::open(&request.root)?;
    let Some(paths) = &request.paths else {
        let directory = root.read()?;
        let synced = uninterrupted(|| rustix::fs::syncfs(&directory));
        return synced.map(|()| Done {}).map_err(|errno| failure(root.path(), errno));
    };
    for path in paths {
        sync(&root.place_or_root(path)?)?;
    }
    Ok(Done {})
}

/// Lets nobody but the owner read or write the files.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_protect(request: StoreReadRequest) -> Outcome<Done> {
    let root = Root::open(&request.root)?;
    for path in &request.paths {
        let place = root.place(path)?;
        let file = place.open(OFlags::RDONLY)?;
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(|errno| place.failure(errno))?;
    }
    Ok(Done {})
}

fn sync(place: &Place) -> Outcome<()> {
    let stat = rustix::fs::statat(place.directory(), place.name(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| place.failure(errno))?;
    let synced = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => sync_directory(&place.open_directory()?),
        _ => place.open(OFlags::RDONLY)?.sync_all(),
    };
    synced.map_err(|error| place.failure(error))
}
