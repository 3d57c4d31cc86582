//! Images as the system has them: regular files and block devices.
//!
//! Opening never hangs and never touches anything else: a FIFO, a terminal or a watchdog device is
//! recognised before it is opened. What must stay true: one `FileStorage` is one open file
//! description, so the locks taken through it end with its last duplicate.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FileType, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Storage;
use crate::error::{Error, Kind, Result};
use crate::os::identity::Identity;
use crate::os::{device, direct, extents, punch, write_back};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; works on read-only file systems.
    Read,
    /// Reading and writing.
    Write,
}

/// When a file changed last; only good for being compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// An image file or block device.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: Option<PathBuf>,
    identity: Identity,
    is_device: bool,
}

impl FileStorage {
    /// Opens the regular file or block device at `path`, following symbolic links.
    ///
    /// Fails with [`Kind::NotAFile`] for anything else, and with [`Kind::NotFound`],
    /// [`Kind::PermissionDenied`], [`Kind::ReadOnly`] or [`Kind::Io`] as the system says.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self> {
        let path = path.as_ref();
        // Before opening: some devices act on being opened.
        check_type(path, rustix::fs::stat(path).map_err(io::Error::from)?.st_mode)?;
        let opened = match options(access).open(path) {
            // Somebody has a lease on it: a file server, or a Calque that looks for writers. The
            // kernel asks for it back when we wait.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                File::options().read(true).write(access == Access::Write).open(path)
            }
            opened => opened,
        };
        let file = opened.map_err(|error| open_error(path, error))?;
        let storage = Self::settled(file, path)?;
        // Before anything is promised that the first write would break. A driver that does not know
        // the question may be written to.
        let is_read_only = || device::is_read_only(&storage.file).unwrap_or(false);
        if access == Access::Write && storage.is_device && is_read_only() {
            let reason = "The device is not writable: Permission denied";
            return Err(Error::new(Kind::ReadOnly, reason));
        }
        Ok(storage)
    }

    /// Takes over a file that is open already: without a name, or with one that does not matter.
    pub fn from_file(file: File) -> Result<Self> {
        let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        let identity = Identity::of(&stat);
        Ok(Self { file, path: None, identity, is_device })
    }

    /// A second handle on the same open file description: what one locks, the other holds too.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            path: self.path.clone(),
            identity: self.identity,
            is_device: self.is_device,
        })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path that it was opened by.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the path still names this file: an image that was replaced by a rename can be
    /// changed without anybody ever seeing it. A file without a path is current.
    pub fn is_current(&self) -> bool {
        self.path.as_deref().is_none_or(|path| Identity::of_path(path) == Some(self.identity))
    }

    /// The bytes that the file system has spent on the file; all of them for a block device.
    pub fn actual_bytes(&self) -> Result<u64> {
        if self.is_device { Ok(self.len()?) } else { Ok(self.file.metadata()?.blocks() * 512) }
    }

    /// Changes whenever the file does, as finely as the system's clock for files ticks.
    pub fn stamp(&self) -> Result<Stamp> {
        let it = self.file.metadata()?;
        Ok(Stamp {
            bytes: it.len(),
            modified: (it.mtime(), it.mtime_nsec()),
            changed: (it.ctime(), it.ctime_nsec()),
        })
    }

    /// The permission bits, as in `chmod(2)`.
    pub fn mode(&self) -> Result<u32> {
        Ok(self.file.metadata()?.mode() & 0o7777)
    }

    fn settled(file: File, path: &Path) -> Result<Self> {
        let mode = rustix::fs::fstat(&file).map_err(io::Error::from)?.st_mode;
        check_type(path, mode)?;
        // Only opening had to return at once; some block devices behave differently with it.
        let flags = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)?;
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(io::Error::from)?;
        Ok(Self { path: Some(path.to_owned()), ..Self::from_file(file)? })
    }
}

impl Storage for FileStorage {
    fn len(&self) -> io::Result<u64> {
        if self.is_device {
            // A device node has no length of its own.
            Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?)
        } else {
            Ok(self.file.metadata()?.len())
        }
    }

    fn has_fixed_len(&self) -> bool {
        self.is_device
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                // Nothing where the file has something: it is not what it was a moment ago.
                Ok(0) if offset + (done as u64) < self.len()? => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(0) => {
                    buf[done..].fill(0);
                    break;
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn expect(&self, range: Range<u64>) {
        let length = NonZeroU64::new(range.end.saturating_sub(range.start));
        // Where the system does not take advice, the file is read all the same.
        let _ = length.map(|length| {
            rustix::fs::fadvise(&self.file, range.start, Some(length), Advice::WillNeed)
        });
    }

    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        // A file without a name can be reached through /proc, where there is one. Closed at once:
        // a second description would keep the kernel from saying that nobody else has the file.
        let path = self.path.clone().unwrap_or_else(|| descriptor_path(&self.file));
        if let Some(file) = direct::reopen(&path, self.identity) {
            match direct::read(&file, buf, offset) {
                // A device that wants a larger alignment.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
                result => return result,
            }
        }
        direct::forget(&self.file, offset, buf.len())?;
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        write_back::begin(&self.file, range)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.is_device {
            return self.file.set_len(len);
        }
        if len <= self.len()? { Ok(()) } else { Err(Errno::NOSPC.into()) }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        punch::punch(&self.file, range)
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let len = self.len()?;
        if !self.is_device {
            return extents::data_ranges(&self.file, len, within);
        }
        let range = within.start..within.end.min(len);
        Ok(if range.is_empty() { Vec::new() } else { Vec::from([range]) })
    }

    fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len()?;
        if at >= len {
            return Ok(None);
        }
        if self.is_device { Ok(Some(at..len)) } else { extents::next_data(&self.file, len, at) }
    }
}

fn options(access: Access) -> std::fs::OpenOptions {
    // std adds O_CLOEXEC.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = File::options();
    options.read(true).write(access == Access::Write).custom_flags(flags.bits().cast_signed());
    options
}

fn check_type(path: &Path, mode: rustix::fs::RawMode) -> Result<()> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile | FileType::BlockDevice => Ok(()),
        _ => Err(not_a_file(path)),
    }
}

fn open_error(path: &Path, error: io::Error) -> Error {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // What the file was when we looked is not what it is any more.
        Some(Errno::ISDIR | Errno::NXIO) => not_a_file(path),
        _ => error.into(),
    }
}

fn not_a_file(path: &Path) -> Error {
    let path = path.display();
    Error::new(Kind::NotAFile, format!("'file' driver requires '{path}' to be a regular file"))
}

fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of one range are meant")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image(dir: &tempfile::TempDir) -> (FileStorage, PathBuf) {
        let path = dir.path().join("image");
        File::create_new(&path).unwrap();
        (FileStorage::open(&path, Access::Write).unwrap(), path)
    }

    #[test]
    fn what_is_neither_file_nor_block_device_is_refused_without_opening_it() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in [dir.path(), &fifo, Path::new("/dev/null")] {
            for access in [Access::Read, Access::Write] {
                let error = FileStorage::open(path, access).unwrap_err();
                assert_eq!(error.kind(), Kind::NotAFile);
                let path = path.display();
                let sentence = format!("'file' driver requires '{path}' to be a regular file");
                assert_eq!(error.reason(), sentence);
            }
        }
    }

    #[test]
    fn a_file_that_is_missing_is_not_found_and_not_made_also_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("image"), dir.path().join("link"));
        symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            for access in [Access::Read, Access::Write] {
                let error = FileStorage::open(path, access).unwrap_err();
                let said = (error.kind(), error.reason());
                assert_eq!(said, (Kind::NotFound, "No such file or directory"));
                assert!(!file.exists());
            }
        }
        std::fs::write(&file, "ours").unwrap();
        let storage = FileStorage::open(&link, Access::Write).unwrap();
        assert_eq!(storage.len().unwrap(), 4);
    }

    #[test]
    fn what_lies_beyond_the_end_reads_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, _) = image(&dir);
        storage.write_at(b"abc", 5).unwrap();
        storage.flush().unwrap();
        assert_eq!(storage.len().unwrap(), 8);
        for read in [FileStorage::read_at, FileStorage::read_durable] {
            let mut buf = [0xff; 6];
            read(&storage, &mut buf, 4).unwrap();
            assert_eq!(&buf, b"\0abc\0\0");
            read(&storage, &mut buf, 1 << 40).unwrap();
            assert_eq!(buf, [0; 6]);
        }
    }

    #[test]
    fn a_durable_read_works_when_the_path_names_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, path) = image(&dir);
        storage.write_at(b"ours", 0).unwrap();
        storage.flush().unwrap();
        assert!(storage.is_current());
        std::fs::remove_file(&path).unwrap();
        assert!(!storage.is_current());
        std::fs::write(&path, "theirs").unwrap();
        assert!(!storage.is_current());
        let mut buf = [0; 4];
        storage.read_durable(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"ours");
    }

    #[test]
    fn space_is_counted_in_blocks_and_data_found_between_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, _) = image(&dir);
        storage.set_len(1 << 20).unwrap();
        assert_eq!(storage.actual_bytes().unwrap(), 0);
        assert_eq!(storage.data_ranges(0..u64::MAX).unwrap(), []);
        storage.write_at(&vec![1; 65_536], 131_072).unwrap();
        storage.flush().unwrap();
        assert_eq!(storage.actual_bytes().unwrap(), 65_536);
        assert_eq!(storage.data_ranges(0..u64::MAX).unwrap(), [131_072..196_608]);
        let next = [0, 140_000, 196_608, 1 << 30].map(|at| storage.next_data(at).unwrap());
        assert_eq!(next, [Some(131_072..196_608), Some(140_000..196_608), None, None]);
        storage.punch(131_072..196_608).unwrap();
        assert_eq!(storage.data_ranges(0..u64::MAX).unwrap(), []);
        assert_eq!(storage.len().unwrap(), 1 << 20);
    }

    /// A block device over this file; none where there are none.
    fn attached(file: &Path, options: &[&str]) -> Option<PathBuf> {
        let losetup = std::process::Command::new("losetup")
            .args(options)
            .args(["--show", "-f"])
            .arg(file)
            .output()
            .ok()
            .filter(|output| output.status.success());
        let Some(losetup) = losetup else {
            eprintln!("skipped: no loop devices here");
            return None;
        };
        Some(PathBuf::from(String::from_utf8(losetup.stdout).unwrap().trim()))
    }

    #[test]
    fn a_block_device_has_a_fixed_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let Some(device) = attached(file.path(), &[]) else { return };
        let result = std::panic::catch_unwind(|| {
            let storage = FileStorage::open(&device, Access::Write).unwrap();
            assert!(storage.has_fixed_len());
            assert_eq!(storage.len().unwrap(), 1 << 20);
            storage.set_len(4096).unwrap();
            let error = storage.set_len((1 << 20) + 1).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            assert_eq!(storage.data_ranges(4096..u64::MAX).unwrap(), [4096..1 << 20]);
            storage.write_at(b"abc", 512).unwrap();
            storage.flush().unwrap();
            let mut buf = [0; 3];
            storage.read_durable(&mut buf, 512).unwrap();
            assert_eq!(&buf, b"abc");
        });
        std::process::Command::new("losetup").arg("-d").arg(&device).status().unwrap();
        result.unwrap();
    }

    #[test]
    fn a_block_device_that_nobody_can_write_to_is_opened_to_read_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let Some(device) = attached(file.path(), &["--read-only"]) else { return };
        let to_write = FileStorage::open(&device, Access::Write);
        let to_read = FileStorage::open(&device, Access::Read);
        std::process::Command::new("losetup").arg("-d").arg(&device).status().unwrap();
        let error = to_write.unwrap_err();
        assert_eq!(error.kind(), Kind::ReadOnly);
        assert_eq!(error.reason(), "The device is not writable: Permission denied");
        to_read.unwrap();
    }
}
