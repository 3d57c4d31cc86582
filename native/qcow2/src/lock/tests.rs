//! Locks of other tools, which no program at hand takes.

use std::fs::File;
use std::ops::Range;

use super::*;
use crate::os::ofd::Mode;
use crate::storage::Access;

const INTENTS: [Intent; 3] = [Intent::Read, Intent::Share, Intent::Change];

/// The sentence that each intent is refused with while another description holds `bytes`.
fn refusals(mode: Mode, bytes: Range<u64>) -> [Option<String>; 3] {
    let named = tempfile::NamedTempFile::new().unwrap();
    let other = File::options().read(true).write(true).open(named.path()).unwrap();
    assert!(ofd::try_lock(&other, mode, &bytes).unwrap());
    INTENTS.map(|intent| {
        let file = FileStorage::open(named.path(), Access::Write).unwrap();
        let refusal = ImageLock::acquire(&file, intent, LockPolicy::default()).err()?;
        assert_eq!(refusal.kind(), Kind::InUse);
        let usages = users(&[named.path()]);
        assert_eq!(usages[0].as_ref().unwrap().holder, Holder::Other);
        Some(refusal.reason().to_owned())
    })
}

#[allow(clippy::unnecessary_wraps, reason = "one side of a comparison")]
fn some(reason: &str) -> Option<String> {
    Some(reason.to_owned())
}

#[test]
fn an_exclusive_lock_on_everything_keeps_from_everything() {
    let reason = some("Failed to lock byte 100");
    for end in [1 << 30, u64::MAX] {
        let expected = [reason.clone(), reason.clone(), reason.clone()];
        assert_eq!(refusals(Mode::Exclusive, 0..end), expected);
    }
}

#[test]
fn a_shared_lock_on_everything_keeps_from_everything() {
    let reason = some("Failed to get \"consistent read\" lock");
    for end in [1 << 30, u64::MAX] {
        let expected = [reason.clone(), reason.clone(), reason.clone()];
        assert_eq!(refusals(Mode::Shared, 0..end), expected);
    }
}

#[test]
fn a_lock_outside_of_qemus_bytes_lets_only_mere_readers_in() {
    for bytes in [0..1, 1..2, 50..60, 150..151, 250..260, 303..304, 1 << 40..u64::MAX] {
        for mode in [Mode::Shared, Mode::Exclusive] {
            let expected = [
                None,
                some("Failed to get shared \"write\" lock"),
                some("Failed to get \"write\" lock"),
            ];
            assert_eq!(refusals(mode, bytes.clone()), expected, "{mode:?} {bytes:?}");
        }
    }
}

#[test]
fn a_file_open_for_reading_only_can_be_shared_and_not_changed() {
    let named = tempfile::NamedTempFile::new().unwrap();
    let file = FileStorage::open(named.path(), Access::Read).unwrap();
    drop(ImageLock::acquire(&file, Intent::Share, LockPolicy::default()).unwrap());
    assert!(ImageLock::acquire(&file, Intent::Change, LockPolicy::default()).is_err());
    let file = FileStorage::open(named.path(), Access::Write).unwrap();
    drop(ImageLock::acquire(&file, Intent::Change, LockPolicy::default()).unwrap());
}

#[test]
fn an_error_that_means_no_locks_here_is_told_apart() {
    for errno in [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP, libc::EINVAL] {
        let error = lock_error(std::io::Error::from_raw_os_error(errno));
        assert_eq!(error.kind(), Kind::LocksUnsupported);
    }
    assert_eq!(lock_error(std::io::Error::from_raw_os_error(libc::EIO)).kind(), Kind::Io);
}
