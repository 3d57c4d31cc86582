//! Names: listed, looked at, made, moved.

use std::io;

use rustix::fs::{AtFlags, Dir, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::path::{Place, Root};
use crate::system::sync_directory;
use crate::types::{
    Bytes, Done, EntryKind, FailureCode, Outcome, StoreEntry, StoreFile, StoreListReport,
    StorePathRequest, StoreReadRequest, StoreRenameRequest, StoreStat, StoreStatReport,
};

/// Lists a directory.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_list(request: StorePathRequest) -> Outcome<StoreListReport> {
    let place = Root::open(&request.root)?.place_or_root(&request.path)?;
    let entries = list(&place)?;
    Ok(StoreListReport { entries: entries.into_iter().map(|(_, entry)| entry).collect() })
}

fn list(place: &Place) -> Outcome<Vec<(Vec<u8>, StoreEntry)>> {
    let mut directory = Dir::new(place.open_directory()?).map_err(|errno| place.failure(errno))?;
    let mut entries = Vec::new();
    while let Some(entry) = directory.read() {
        let entry = entry.map_err(|errno| place.failure(errno))?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            // The file system does not say it in a listing.
            let parent = directory.fd().map_err(|errno| place.failure(errno))?;
            match rustix::fs::statat(parent, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                // Gone since.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(place.failure(errno)),
            }
        }
        let (name, kind) = match std::str::from_utf8(bytes) {
            Ok(name) => (name.to_owned(), self::kind(kind)),
            Err(_) => (String::from_utf8_lossy(bytes).into_owned(), EntryKind::Other),
        };
        let inode = entry.ino().to_string();
        entries.push((bytes.to_owned(), StoreEntry { name, kind, inode }));
    }
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
}

/// Looks what each of these names stands for.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_stat(request: StoreReadRequest) -> Outcome<StoreStatReport> {
    let root = Root::open(&request.root)?;
    let look = |path: &String| match root.place_or_root(path).and_then(|place| look_at(&place)) {
        Ok(file) => StoreStat { file: Some(file), failure: None },
        Err(failure) => StoreStat { file: None, failure: Some(failure) },
    };
    Ok(StoreStatReport { files: request.paths.iter().map(look).collect() })
}

#[allow(
    clippy::unnecessary_fallible_conversions,
    clippy::useless_conversion,
    reason = "the width of the count of links differs by system"
)]
fn look_at(place: &Place) -> Outcome<StoreFile> {
    let stat = rustix::fs::statat(place.directory(), place.name(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| place.failure(errno))?;
    Ok(StoreFile {
        name: place.name().to_owned(),
        kind: kind(FileType::from_raw_mode(stat.st_mode)),
        inode: stat.st_ino.to_string(),
        size_bytes: Bytes(u64::try_from(stat.st_size).unwrap_or(0)),
        link_count: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
    })
}

fn kind(file_type: FileType) -> EntryKind {
    match file_type {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    }
}

/// Makes a directory for its owner alone.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_make_directory(request: StorePathRequest) -> Outcome<Done> {
    let place = Root::open(&request.root)?.place(&request.path)?;
    rustix::fs::mkdirat(place.directory(), place.name(), Mode::RWXU)
        .map(|()| Done {})
        .map_err(|errno| place.failure(errno))
}

/// Moves a file or directory to a name that nothing has.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_rename(request: StoreRenameRequest) -> Outcome<Done> {
    let root = Root::open(&request.root)?;
    let source = root.place(&request.source)?;
    let target = root.place(&request.target)?;
    move_to_free_name(&source, &target)?;
    if request.durable != Some(true) {
        return Ok(Done {});
    }
    // The new name first: what has both names for a moment is not lost.
    let sync = || {
        sync_directory(target.directory())?;
        sync_directory(source.directory())
    };
    sync().map(|()| Done {}).map_err(|error: io::Error| {
        let failure = target.failure(error);
        if move_to_free_name(&target, &source).is_ok() && sync().is_ok() {
            return failure;
        }
        let reason = format!("{}, and the old name could not be given back", failure.reason);
        target.refusal(FailureCode::Unsettled, &reason)
    })
}

fn move_to_free_name(source: &Place, target: &Place) -> Outcome<()> {
    let (from, to) = (source.directory(), target.directory());
    let (old, new) = (source.name(), target.name());
    let moved = match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        // The file system cannot, NFS for one; or what it is asked makes no sense, and the
        // replacement will say so too.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => move_after_looking(source, target),
        result => result,
    };
    moved.map_err(|errno| match errno {
        Errno::EXIST | Errno::NOTEMPTY => target.failure(errno),
        _ => source.failure(errno),
    })
}

/// The same where the file system has no such call. A file gets a second name, which fails if the
/// name is taken, and loses the first. A directory cannot have two: it is moved after a look, so
/// two who move to one name at the same time need a lock between them. At worst, an empty directory
/// is replaced, for the system replaces nothing else by a directory.
pub(super) fn move_after_looking(source: &Place, target: &Place) -> rustix::io::Result<()> {
    let (from, to) = (source.directory(), target.directory());
    let (old, new) = (source.name(), target.name());
    let stat = rustix::fs::statat(from, old, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        rustix::fs::linkat(from, old, to, new, AtFlags::empty())?;
        return rustix::fs::unlinkat(from, old, AtFlags::empty()).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(to, new, AtFlags::empty());
        });
    }
    match rustix::fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Err(Errno::EXIST),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    match rustix::fs::renameat(from, old, to, new) {
        Err(Errno::NOTDIR) => Err(Errno::EXIST),
        result => result,
    }
}
