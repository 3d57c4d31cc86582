//! A new file that appears under its name whole or not at all, and never replaces another.
//!
//! It has no name while it is written (`O_TMPFILE`), so a crash leaves nothing behind, and gets its
//! name by a link, which fails if the name is taken. Where the system cannot do that (the file
//! system has no unnamed files, or there is neither `/proc` nor the right to link a descriptor) it
//! is written under a temporary name `.calque-…` beside its place and moved without replacing;
//! only there a killed process leaves litter.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::identity::Identity;

/// When a published file must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// When `publish` returns: content before name, then the directory.
    Now,
    /// When the caller has synchronised the file system (one call for many files).
    Later,
}

/// A file on its way to its name. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    directory: Directory,
    name: OsString,
    path: PathBuf,
    /// The temporary name, where there is one.
    temporary: Option<OsString>,
}

/// A file that has its name.
#[derive(Debug)]
pub(crate) struct Published {
    file: File,
    directory: Directory,
    name: OsString,
    path: PathBuf,
}

/// The same without an open file: what is known of it, so that the name can be taken back later.
#[derive(Debug)]
pub(crate) struct Named {
    path: PathBuf,
    directory: Identity,
    file: Identity,
    stamp: Stamp,
}

/// What changes when a file is written to.
type Stamp = (i128, i128, i128);

#[derive(Debug)]
struct Directory {
    descriptor: OwnedFd,
    /// A directory that we may write but not list can be opened only as a place.
    can_sync: bool,
}

impl Staged {
    /// An empty file, open for reading and writing, for the path `target`; `mode` as in `open(2)`,
    /// so the umask applies.
    ///
    /// Fails with `EEXIST` if the name is taken, by a dangling symbolic link too, and with `EISDIR`
    /// if only a directory can be called that (`name/`, `.`), whether there is one or not.
    pub(crate) fn new(target: &Path, mode: u32) -> io::Result<Self> {
        Self::with(target, Mode::from_raw_mode(mode), OFlags::TMPFILE)
    }

    fn with(target: &Path, mode: Mode, tmpfile: OFlags) -> io::Result<Self> {
        let (directory, name) = vacancy(target)?;
        let (file, temporary) = match directory.unnamed(mode, tmpfile)? {
            Some(file) => (file, None),
            None => directory.temporary(mode).map(|(file, name)| (file, Some(name)))?,
        };
        Ok(Self { file, directory, name: name.to_owned(), path: target.to_owned(), temporary })
    }

    /// The file, to be written.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where it will be.
    pub(crate) fn target(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name.
    ///
    /// Fails with `EEXIST` if somebody has taken the name meanwhile; whatever the failure, the
    /// target is as it was.
    pub(crate) fn publish(mut self, durability: Durability) -> io::Result<Published> {
        if durability == Durability::Now {
            // Before the name: a power cut in between must not leave a name without its content
            // (XFS and btrfs keep the name of a file that was not flushed, with nothing under it).
            self.file.sync_data()?;
        }
        // Everything that can fail comes before the name.
        let published = Published {
            file: self.file.try_clone()?,
            directory: self.directory.try_clone()?,
            name: self.name.clone(),
            path: self.path.clone(),
        };
        match &self.temporary {
            None => self.directory.link(&self.file, &self.name)?,
            Some(temporary) => self.directory.rename(temporary, &self.name)?,
        }
        self.temporary = None;
        if durability == Durability::Now
            && let Err(error) = published.sync_name()
        {
            // A name that may be lost is not what was promised.
            published.retract();
            return Err(error);
        }
        Ok(published)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlinkat(&self.directory.descriptor, temporary, AtFlags::empty());
        }
    }
}

impl Published {
    /// Makes the name durable; the content is a matter of its own.
    pub(crate) fn sync_name(&self) -> io::Result<()> {
        if self.directory.can_sync {
            super::uninterrupted(|| rustix::fs::fsync(&self.directory.descriptor))
        } else {
            self.sync_all()
        }
    }

    /// The directory in which the name is.
    pub(crate) fn directory(&self) -> io::Result<Identity> {
        self.directory.identity()
    }

    /// Makes durable what is on the file system, names of other files included.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        super::uninterrupted(|| rustix::fs::syncfs(&self.file))
    }

    /// Takes the name away again, if it still means this file: for a command of several targets
    /// whose later one failed.
    pub(crate) fn retract(self) {
        let directory = &self.directory.descriptor;
        let named = rustix::fs::statat(directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        let ours = rustix::fs::fstat(&self.file);
        if let (Ok(named), Ok(ours)) = (named, ours)
            && Identity::of(&named) == Identity::of(&ours)
        {
            let _ = rustix::fs::unlinkat(directory, &self.name, AtFlags::empty());
        }
    }

    /// What is left to know when it is closed.
    pub(crate) fn named(&self) -> io::Result<Named> {
        let file = rustix::fs::fstat(&self.file)?;
        Ok(Named {
            path: self.path.clone(),
            directory: self.directory()?,
            file: Identity::of(&file),
            stamp: stamp(&file),
        })
    }
}

impl Named {
    /// Takes the name away again, if it still means this file and nobody has written to it: once
    /// it is closed, another file may get its inode.
    pub(crate) fn retract(self) {
        let (parent, name) = split(&self.path);
        let (Ok(directory), Some(name)) = (Directory::open(parent), name) else { return };
        let place = directory.identity();
        let directory = &directory.descriptor;
        let named = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        if let (Ok(place), Ok(named)) = (place, named)
            && place == self.directory
            && (Identity::of(&named), stamp(&named)) == (self.file, self.stamp)
        {
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
    }
}

/// The widths of these fields differ by system.
fn stamp(stat: &Stat) -> Stamp {
    (i128::from(stat.st_size), i128::from(stat.st_mtime), i128::from(stat.st_mtime_nsec))
}

/// Where a file at `target` would be: the same for two paths that mean one name, however they are
/// spelled. Fails as [`Staged::new`] does if the name is taken.
pub(crate) fn place(target: &Path) -> io::Result<(Identity, OsString)> {
    let (directory, name) = vacancy(target)?;
    Ok((directory.identity()?, name.to_owned()))
}

/// The directory of a file to be, and its name, which nothing has.
fn vacancy(target: &Path) -> io::Result<(Directory, &OsStr)> {
    if target.as_os_str().is_empty() {
        return Err(Errno::NOENT.into());
    }
    let (parent, name) = split(target);
    let directory = Directory::open(parent)?;
    let name = name.ok_or(Errno::ISDIR)?;
    match rustix::fs::statat(&directory.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST.into()),
        Err(Errno::NOENT) => Ok((directory, name)),
        Err(error) => Err(error.into()),
    }
}

/// The directory that a path leads to, and the name in it; none where the path ends as only that of
/// a directory can.
fn split(path: &Path) -> (&Path, Option<&OsStr>) {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let start = bytes[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = (&bytes[..start], &bytes[start..end]);
    let parent = if parent.is_empty() { &b"."[..] } else { parent };
    let is_directory = end < bytes.len() || matches!(name, b"" | b"." | b"..");
    (Path::new(OsStr::from_bytes(parent)), (!is_directory).then(|| OsStr::from_bytes(name)))
}

impl Directory {
    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&rustix::fs::fstat(&self.descriptor)?))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(CWD, path, flags, Mode::empty());
        match open(flags | OFlags::RDONLY) {
            Ok(descriptor) => Ok(Self { descriptor, can_sync: true }),
            Err(Errno::ACCESS) => {
                Ok(Self { descriptor: open(flags | OFlags::PATH)?, can_sync: false })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { descriptor: self.descriptor.try_clone()?, can_sync: self.can_sync })
    }

    /// A file without a name that can get one, or `None` where the system has no such thing.
    fn unnamed(&self, mode: Mode, tmpfile: OFlags) -> io::Result<Option<File>> {
        // A removed directory can be somebody's current one. It has no links. Whether a file
        // without a name can be made in it differs between file systems, and so does the refusal;
        // a name can be made on none of them, and they all say that there is no such directory.
        if rustix::fs::fstat(&self.descriptor)?.st_nlink == 0 {
            return Ok(None);
        }
        let flags = tmpfile | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.descriptor, ".", flags, mode) {
            Ok(descriptor) => File::from(descriptor),
            // File systems without it; kernels and overlays that take it for a plain open.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::NOSYS) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        // "." always exists: the answer tells whether a link of a descriptor gets that far.
        let may_link = self.link_descriptor(&file, OsStr::new(".")) == Err(Errno::EXIST);
        Ok((may_link || link_in_proc(&file).is_some()).then_some(file))
    }

    /// A file under a name that nobody has.
    fn temporary(&self, mode: Mode) -> io::Result<(File, OsString)> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        loop {
            let random = RandomState::new().hash_one(std::process::id());
            let name = OsString::from(format!(".calque-{random:016x}"));
            match rustix::fs::openat(&self.descriptor, &name, flags, mode) {
                Ok(descriptor) => return Ok((File::from(descriptor), name)),
                Err(Errno::EXIST | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn link(&self, file: &File, name: &OsStr) -> io::Result<()> {
        match self.link_descriptor(file, name) {
            // The kernel's answer to a caller without the right to do so.
            Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {}
            result => return Ok(result?),
        }
        let proc = link_in_proc(file).ok_or(Errno::NOENT)?;
        let flags = AtFlags::SYMLINK_FOLLOW;
        Ok(rustix::fs::linkat(CWD, &proc, &self.descriptor, name, flags)?)
    }

    fn link_descriptor(&self, file: &File, name: &OsStr) -> rustix::io::Result<()> {
        rustix::fs::linkat(file, "", &self.descriptor, name, AtFlags::EMPTY_PATH)
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let directory = &self.descriptor;
        match rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
            // NFS, for one. A second link fails if the name is taken, as wanted.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(directory, from, directory, to, AtFlags::empty())?;
                rustix::fs::unlinkat(directory, from, AtFlags::empty()).map_err(|error| {
                    let _ = rustix::fs::unlinkat(directory, to, AtFlags::empty());
                    io::Error::from(error)
                })
            }
            result => Ok(result?),
        }
    }
}

/// The path under which `/proc` shows the descriptor, if it does.
fn link_in_proc(file: &File) -> Option<PathBuf> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let own = Identity::of(&rustix::fs::fstat(file).ok()?);
    (Identity::of_path(&path) == Some(own)).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

    use super::*;
    use crate::os::mounted::Mounted;

    /// Both ways: without a name, and with a temporary one (a plain open of a directory fails as
    /// one does on a file system that does not know unnamed files).
    const WAYS: [OFlags; 2] = [OFlags::TMPFILE, OFlags::empty()];

    fn stage(target: &Path, way: OFlags) -> io::Result<Staged> {
        let staged = Staged::with(target, Mode::from_raw_mode(0o640), way)?;
        staged.file().write_all_at(b"disk", 0)?;
        Ok(staged)
    }

    fn listing(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    fn publishes_once(directory: &Path) {
        for way in WAYS {
            let before = listing(directory);
            let target = directory.join("target");
            let first = stage(&target, way).unwrap();
            let second = stage(&target, way).unwrap();
            assert!(!target.exists());
            let published = first.publish(Durability::Now).unwrap();
            assert_eq!(std::fs::read(&target).unwrap(), b"disk");
            assert_eq!(target.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
            second.file().write_all_at(b"other", 0).unwrap();
            let refusal = second.publish(Durability::Now).unwrap_err();
            assert_eq!(refusal.raw_os_error(), Some(libc::EEXIST));
            assert_eq!(std::fs::read(&target).unwrap(), b"disk");
            published.retract();
            assert_eq!(listing(directory), before);
        }
    }

    #[test]
    fn the_second_of_two_files_for_one_name_is_refused_and_leaves_nothing() {
        publishes_once(tempfile::tempdir().unwrap().path());
    }

    #[test]
    fn the_second_of_two_files_for_one_name_is_refused_on_xfs_and_btrfs() {
        for kind in ["xfs", "btrfs"] {
            let Some(mounted) = Mounted::new(kind) else { continue };
            publishes_once(mounted.path());
        }
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for way in WAYS {
            drop(stage(&directory.path().join("target"), way).unwrap());
            assert_eq!(listing(directory.path()), [""; 0]);
        }
    }

    #[test]
    fn a_taken_name_is_refused_before_anything_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        symlink("nowhere", &target).unwrap();
        for way in WAYS {
            let refusal = stage(&target, way).unwrap_err();
            assert_eq!(refusal.raw_os_error(), Some(libc::EEXIST));
        }
        assert_eq!(listing(directory.path()), ["target"]);
    }

    #[test]
    fn a_path_is_split_at_its_last_name() {
        for (path, parent, name) in [
            ("a", ".", Some("a")),
            ("a/b", "a/", Some("b")),
            ("/a", "/", Some("a")),
            ("a/../b", "a/../", Some("b")),
            ("a//b", "a//", Some("b")),
            ("a/", ".", None),
            ("a//", ".", None),
            ("a/b/", "a/", None),
            ("a/.", "a/", None),
            ("a/..", "a/", None),
            (".", ".", None),
            ("..", ".", None),
            ("/", ".", None),
        ] {
            assert_eq!(split(Path::new(path)), (Path::new(parent), name.map(OsStr::new)), "{path}");
        }
    }

    #[test]
    fn what_only_a_directory_can_be_called_is_refused_as_the_system_does() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        std::fs::create_dir(directory.path().join("directory")).unwrap();
        symlink("nowhere", directory.path().join("dangling")).unwrap();
        let missing = ["", "name/", "name/.", "name/..", "missing/name/", "dangling/"];
        let there = ["file/", "file/.", "directory/", "directory/.", ".", "..", "/"];
        for name in missing.into_iter().chain(there) {
            let target = directory.path().join(name);
            let target = if name.is_empty() { Path::new("") } else { &target };
            let created = File::options().write(true).create(true).truncate(false).open(target);
            let expected = created.unwrap_err().raw_os_error();
            for way in WAYS {
                assert_eq!(stage(target, way).unwrap_err().raw_os_error(), expected, "{name}");
            }
        }
        assert_eq!(listing(directory.path()), ["dangling", "directory", "file"]);
    }

    /// On ext4 it was "Operation not permitted"; on others it was noticed when all was written.
    #[test]
    fn a_removed_directory_is_no_such_directory() {
        let check = |directory: &Path| {
            let removed = directory.join("removed");
            std::fs::create_dir(&removed).unwrap();
            let handle = File::open(&removed).unwrap();
            std::fs::remove_dir(&removed).unwrap();
            let target = PathBuf::from(format!("/proc/self/fd/{}/name", handle.as_raw_fd()));
            for way in WAYS {
                let refusal = stage(&target, way).unwrap_err();
                assert_eq!(refusal.raw_os_error(), Some(libc::ENOENT), "{}", directory.display());
            }
        };
        check(tempfile::tempdir().unwrap().path());
        if let Ok(directory) = tempfile::tempdir_in("/dev/shm") {
            check(directory.path());
        }
        for kind in ["ext4", "xfs", "btrfs"] {
            let Some(mounted) = Mounted::new(kind) else { continue };
            check(mounted.path());
        }
    }

    #[test]
    fn two_spellings_of_one_name_have_one_place() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("in")).unwrap();
        symlink("in", directory.path().join("alias")).unwrap();
        let place = |name| place(&directory.path().join(name)).unwrap();
        let first = place("in/name");
        for (name, same) in [("alias/name", true), ("in/../in//name", true), ("name", false)] {
            assert_eq!(place(name) == first, same, "{name}");
        }
    }

    #[test]
    fn retracting_spares_a_file_that_has_taken_the_name_since() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        let published = stage(&target, WAYS[0]).unwrap().publish(Durability::Later).unwrap();
        std::fs::write(directory.path().join("other"), "other").unwrap();
        std::fs::rename(directory.path().join("other"), &target).unwrap();
        published.retract();
        assert_eq!(std::fs::read(&target).unwrap(), b"other");
    }

    #[test]
    fn a_closed_file_is_retracted_unless_it_was_replaced_or_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        let publish = || {
            let published = stage(&target, WAYS[0]).unwrap().publish(Durability::Later).unwrap();
            published.named().unwrap()
        };
        publish().retract();
        assert_eq!(listing(directory.path()), [""; 0]);

        let named = publish();
        std::fs::write(directory.path().join("other"), "other").unwrap();
        std::fs::rename(directory.path().join("other"), &target).unwrap();
        named.retract();
        assert_eq!(std::fs::read(&target).unwrap(), b"other");
        std::fs::remove_file(&target).unwrap();

        let named = publish();
        std::fs::write(&target, "written since").unwrap();
        named.retract();
        assert_eq!(std::fs::read(&target).unwrap(), b"written since");
    }

    /// Without the flush before the link, XFS and btrfs came back with an empty file; without the
    /// directory's own afterwards, XFS came back without one.
    #[test]
    fn a_published_file_is_whole_after_a_power_cut() {
        for (kind, way) in
            ["xfs", "btrfs", "ext4"].into_iter().flat_map(|it| WAYS.map(|way| (it, way)))
        {
            let Some(mounted) = Mounted::new(kind) else { continue };
            let staged = Staged::with(&mounted.path().join("target"), Mode::RUSR, way).unwrap();
            staged.file().write_all_at(&vec![7; 300_000], 0).unwrap();
            drop(staged.publish(Durability::Now).unwrap());
            let after = mounted.after_power_cut();
            let content = std::fs::read(after.path().join("target")).unwrap();
            assert!(content == vec![7; 300_000], "{kind}, {way:?}: {} bytes", content.len());
        }
    }
}
