//! Which file a descriptor or a path means, whatever it is called.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Stat, StatxFlags};

/// Names a file among all that the system has: two paths of one image have the same identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The device that the file lies on; for a block device, the device itself.
    pub device: u64,
    /// The inode on that device; 0 for a block device, whose nodes all mean the same bytes.
    pub inode: u64,
}

impl Identity {
    #[allow(clippy::useless_conversion, reason = "the widths of these fields differ by system")]
    pub(crate) fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Self { device: stat.st_rdev.into(), inode: 0 },
            _ => Self { device: stat.st_dev.into(), inode: stat.st_ino.into() },
        }
    }

    /// What `path` names now, or `None` where it names nothing.
    pub(crate) fn of_path(path: &Path) -> Option<Self> {
        rustix::fs::stat(path).ok().as_ref().map(Self::of)
    }

    /// What `path`, relative to `directory`, names, from what the kernel has at hand: a dead
    /// network file system, which somebody else may have open, cannot make this hang.
    pub(crate) fn at_hand(directory: impl std::os::fd::AsFd, path: &Path) -> Option<Self> {
        let wanted = StatxFlags::TYPE | StatxFlags::INO;
        let stat = rustix::fs::statx(directory, path, AtFlags::STATX_DONT_SYNC, wanted).ok()?;
        let device = |major, minor| rustix::fs::makedev(major, minor);
        Some(match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::BlockDevice => {
                Self { device: device(stat.stx_rdev_major, stat.stx_rdev_minor), inode: 0 }
            }
            _ => {
                Self { device: device(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino }
            }
        })
    }

    /// [`at_hand`](Self::at_hand) for a path of its own.
    pub(crate) fn of_path_at_hand(path: &Path) -> Option<Self> {
        Self::at_hand(CWD, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_link_has_the_same_identity_and_a_copy_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
        std::fs::write(&a, "disk").unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        std::fs::copy(&a, &c).unwrap();
        let identity = Identity::of_path(&a).unwrap();
        assert_eq!(Identity::of_path(&b), Some(identity));
        assert_eq!(Identity::of_path_at_hand(&b), Some(identity));
        assert_ne!(Identity::of_path(&c), Some(identity));
        assert_eq!(Identity::of_path(&dir.path().join("d")), None);
    }
}
