//! Removing a file, or a directory with all that is in it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::path::Root;
use crate::system::{failure, refusal, uninterrupted};
use crate::types::{Done, FailureCode, Outcome, StorePathRequest};

/// Each level takes a descriptor and some stack. A store's own trees are three deep.
const MAX_DEPTH: u32 = 128;

/// Removes whatever has that name; nothing is as good. Links are removed, not followed. What is
/// mounted in there stays, and ends the removal.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_remove(request: StorePathRequest) -> Outcome<Done> {
    let place = match Root::open(&request.root)?.place(&request.path) {
        Err(failure) if failure.code == FailureCode::NotFound => return Ok(Done {}),
        place => place?,
    };
    let mount = mount_of(place.directory()).map_err(|errno| place.failure(errno))?;
    let name = CString::new(place.name()).expect("a name has no NUL");
    remove(place.directory(), &name, place.path(), Tree { mount, depth: MAX_DEPTH })?;
    Ok(Done {})
}

/// Where a removal may go.
#[derive(Clone, Copy)]
struct Tree {
    /// All of it lies here.
    mount: Mount,
    /// Further levels.
    depth: u32,
}

/// What a file lies on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mount {
    /// The mount, as the kernel numbers them.
    Id(u64),
    /// The file system; all that an old kernel without `/proc` tells.
    Device(u64),
}

fn remove(parent: &OwnedFd, name: &CStr, path: &Path, tree: Tree) -> Outcome<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // Some file systems say `EPERM` of a directory, and all of a file that must not go.
        Err(refused @ (Errno::ISDIR | Errno::PERM)) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match uninterrupted(|| rustix::fs::openat(parent, name, flags, Mode::empty())) {
                Ok(directory) => remove_directory(parent, name, &directory, path, tree),
                Err(Errno::NOENT) => Ok(()),
                Err(Errno::NOTDIR) => Err(failure(path, refused)),
                Err(errno) => Err(failure(path, errno)),
            }
        }
        Err(errno) => Err(failure(path, errno)),
    }
}

fn remove_directory(
    parent: &OwnedFd,
    name: &CStr,
    directory: &OwnedFd,
    path: &Path,
    tree: Tree,
) -> Outcome<()> {
    if mount_of(directory).map_err(|errno| failure(path, errno))? != tree.mount {
        return Err(failure(path, Errno::BUSY));
    }
    let Some(depth) = tree.depth.checked_sub(1) else {
        let reason = format!("it lies in more than {MAX_DEPTH} directories");
        return Err(refusal(path, FailureCode::TooLarge, &reason));
    };
    let names = names(directory).map_err(|errno| failure(path, errno))?;
    for name in names {
        let path = path.join(OsStr::from_bytes(name.to_bytes()));
        remove(directory, &name, &path, Tree { depth, ..tree })?;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failure(path, errno)),
    }
}

/// All names at once: what a listing shows while its entries disappear is left open by the system.
fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// A directory of the same file system that is mounted on another one has the same device number;
/// only the number of the mount tells them apart.
fn mount_of(directory: &OwnedFd) -> rustix::io::Result<Mount> {
    if let Ok(stat) = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        && StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID)
    {
        return Ok(Mount::Id(stat.stx_mnt_id));
    }
    let details = format!("/proc/self/fdinfo/{}", directory.as_raw_fd());
    let details = std::fs::read_to_string(details).unwrap_or_default();
    let id = details.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    match id {
        Some(id) => Ok(Mount::Id(id)),
        None => Ok(Mount::Device(rustix::fs::fstat(directory)?.st_dev)),
    }
}
