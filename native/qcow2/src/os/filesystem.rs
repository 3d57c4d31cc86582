//! What a file system is called, for telling people why it cannot do something.

use std::borrow::Cow;
use std::fs::File;

/// The name of the file system that `file` lies on, as `mount -t` spells it. The ext family, which
/// the kernel does not tell apart either, is `ext4`; one without a name here is its number.
pub(crate) fn name(file: &File) -> Cow<'static, str> {
    let Ok(stat) = rustix::fs::fstatfs(file) else { return Cow::Borrowed("unknown") };
    // The field's type differs between systems; every magic number fits 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let magic = stat.f_type as u32;
    NAMES
        .iter()
        .find(|(number, _)| *number == magic)
        .map_or_else(|| Cow::Owned(format!("0x{magic:x}")), |(_, name)| Cow::Borrowed(*name))
}

/// Whether what happens to the file happens on this machine alone, as far as its kind tells.
pub(crate) fn is_local(file: &File) -> bool {
    let name = name(file);
    LOCAL.contains(&&*name)
}

const LOCAL: [&str; 11] = [
    "bcachefs", "btrfs", "exfat", "ext4", "f2fs", "ntfs3", "overlay", "tmpfs", "vfat", "xfs", "zfs",
];

/// Magic numbers from the kernel's `magic.h` and from the file systems that live outside of it.
const NAMES: [(u32, &str); 23] = [
    (0x0000_ef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xf2f5_2010, "f2fs"),
    (0x0000_6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0000_517b, "smb"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x0000_4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x7366_746e, "ntfs3"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x7371_7368, "squashfs"),
    (0x8584_58f6, "ramfs"),
    (0x0000_9660, "iso9660"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_shared_memory_is_named_and_local() {
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
        assert_eq!(name(&file), "tmpfs");
        assert!(is_local(&file));
    }
}
