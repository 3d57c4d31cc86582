//! Conversions on file systems that share blocks.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Backing, Chain, Converted, Format, Source, convert};
use crate::clone::Used;
use crate::lock::{ImageLock, Intent, LockPolicy};
use crate::os::mounted::Mounted;
use crate::os::reflink;
use crate::storage::FileStorage;

const MIB: u64 = 1 << 20;

fn converted(source: &Path, format: Format, target: &Path, its: Format) -> Converted {
    let source = Source { path: source, format, snapshot: None, backing: Backing::Flatten };
    let mut share =
        |file: &FileStorage| ImageLock::acquire(file, Intent::Share, LockPolicy::default());
    let mut chain = Chain::open(&source, &mut share).unwrap();
    convert(&mut chain, target, its, &mut |_, _| {}).unwrap()
}

/// Noise at `data`, given in bytes, in a file of `size` bytes.
fn write_raw(file: &File, size: u64, data: &[(u64, u64)]) {
    file.set_len(size).unwrap();
    for &(offset, bytes) in data {
        let noise: Vec<u8> =
            (0..bytes).map(|n| (n * 7 + n / 251 + offset).to_le_bytes()[0] | 1).collect();
        file.write_all_at(&noise, offset).unwrap();
    }
    file.sync_all().unwrap();
}

const SIZE: u64 = 700 * MIB + 12_345;
/// Across the border of two L2 tables, up to the odd end, and pieces that are not whole blocks.
const DATA: [(u64, u64); 5] = [
    (0, 20 * MIB),
    (100 * MIB + 777, 3 * MIB),
    (200 * MIB + 5 * 4096, 200 * 1024),
    (510 * MIB, 30 * MIB),
    (SIZE - 2 * MIB, 2 * MIB),
];

#[test]
fn data_is_shared_in_both_directions_on_xfs_and_btrfs() {
    for kind in ["xfs", "btrfs"] {
        let Some(mounted) = Mounted::new(kind) else { continue };
        let raw = mounted.path().join("disk.raw");
        write_raw(&mounted.file("disk.raw"), SIZE, &DATA);
        let data_bytes: u64 = DATA.iter().map(|(_, bytes)| bytes).sum();
        let free = mounted.free_bytes();

        let image = mounted.path().join("disk.qcow2");
        let there = converted(&raw, Format::Raw, &image, Format::Qcow2);
        let back = mounted.path().join("back.raw");
        let again = converted(&image, Format::Qcow2, &back, Format::Raw);
        let copy = mounted.path().join("copy.qcow2");
        let image_again = converted(&image, Format::Qcow2, &copy, Format::Qcow2);
        for done in [&there, &again, &image_again] {
            assert_eq!((done.used, done.reason.as_deref()), (Used::Reflink, None), "{kind}");
            assert!(done.shared_bytes > data_bytes - 64 * 1024, "{kind}: {done:?}");
            assert!(done.copied_bytes < MIB, "{kind}: {done:?}");
        }
        assert!(free - mounted.free_bytes() < 3 * MIB, "{kind}: blocks were copied");
        let back = File::options().read(true).write(true).open(&back).unwrap();
        assert_eq!(back.metadata().unwrap().len(), SIZE.next_multiple_of(512));
        let raw = File::open(&raw).unwrap();
        let ranges = DATA.map(|(offset, bytes)| offset..offset + bytes);
        let data = || ranges.clone().map(|range| read(&raw, range));
        assert!(ranges.clone().map(|range| read(&back, range)) == data(), "{kind}: another disk");
        // Written to, the target parts with the source.
        back.write_all_at(&[0xee; 4096], 0).unwrap();
        assert!(read(&raw, 0..4096) != read(&back, 0..4096), "{kind}: the source changed");
    }
}

fn read(file: &File, range: Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
    file.read_exact_at(&mut bytes, range.start).unwrap();
    bytes
}

#[test]
fn a_source_without_copy_on_write_is_shared_by_a_target_like_it() {
    let Some(mounted) = Mounted::new("btrfs") else { return };
    let file = mounted.file("disk.raw");
    reflink::set_nocow(&file).unwrap();
    write_raw(&file, 4 * MIB, &[(0, 3 * MIB)]);
    let (raw, image) = (mounted.path().join("disk.raw"), mounted.path().join("disk.qcow2"));
    let done = converted(&raw, Format::Raw, &image, Format::Qcow2);
    assert_eq!((done.used, done.shared_bytes), (Used::Reflink, 3 * MIB));
    assert!(reflink::is_nocow(&File::open(&image).unwrap()));
}

/// A chain of which one file is excluded from copy-on-write and one is not.
#[test]
fn what_cannot_be_shared_is_copied_and_what_can_is_not() {
    let Some(mounted) = Mounted::new("btrfs") else { return };
    let place = |name: &str| mounted.path().join(name);
    let file = mounted.file("base.raw");
    reflink::set_nocow(&file).unwrap();
    write_raw(&file, 4 * MIB, &[(0, 4 * MIB)]);
    write_raw(&mounted.file("top.raw"), 4 * MIB, &[(0, MIB)]);
    converted(&place("top.raw"), Format::Raw, &place("top.qcow2"), Format::Qcow2);
    name_backing(&File::options().write(true).open(place("top.qcow2")).unwrap(), b"base.raw");
    let done = converted(&place("top.qcow2"), Format::Qcow2, &place("flat"), Format::Raw);
    assert_eq!((done.used, done.shared_bytes), (Used::Reflink, MIB));
    assert_eq!((done.reason, done.copied_bytes), (None, 3 * MIB));
    let [top, base, flat] =
        ["top.raw", "base.raw", "flat"].map(|name| std::fs::read(place(name)).unwrap());
    let mib = usize::try_from(MIB).unwrap();
    assert!(flat[..mib] == top[..mib] && flat[mib..] == base[mib..]);

    // Where nothing of the one that could be shared is needed, the reason is the other's.
    write_raw(&mounted.file("empty.raw"), 4 * MIB, &[]);
    converted(&place("empty.raw"), Format::Raw, &place("empty.qcow2"), Format::Qcow2);
    name_backing(&File::options().write(true).open(place("empty.qcow2")).unwrap(), b"base.raw");
    let done = converted(&place("empty.qcow2"), Format::Qcow2, &place("copy"), Format::Raw);
    let reason = "btrfs does not share these blocks: Invalid argument";
    assert_eq!((done.used, done.reason.as_deref()), (Used::Copy, Some(reason)));
}

/// Gives a fresh image a raw backing file: the extension in place of the feature names.
fn name_backing(image: &File, name: &[u8]) {
    let mut extension = Vec::from([0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3]);
    extension.extend(b"raw\0\0\0\0\0");
    extension.extend([0; 8]);
    image.write_all_at(&extension, 112).unwrap();
    image.write_all_at(name, 1024).unwrap();
    image.write_all_at(&1024_u64.to_be_bytes(), 8).unwrap();
    image.write_all_at(&u32::try_from(name.len()).unwrap().to_be_bytes(), 16).unwrap();
}

#[test]
fn where_nothing_can_be_shared_the_reason_is_said() {
    let Some(mounted) = Mounted::new("ext4") else { return };
    write_raw(&mounted.file("disk.raw"), 4 * MIB, &[(0, MIB)]);
    let raw = mounted.path().join("disk.raw");
    let done = converted(&raw, Format::Raw, &mounted.path().join("image"), Format::Qcow2);
    assert_eq!((done.used, done.shared_bytes), (Used::Copy, 0));
    let reason = "ext4 cannot share blocks between files";
    assert_eq!(done.reason.as_deref(), Some(reason));

    let elsewhere = tempfile::tempdir().unwrap();
    let done = converted(&raw, Format::Raw, &elsewhere.path().join("image"), Format::Qcow2);
    let reason = done.reason.unwrap();
    assert!(reason.contains("ext4"), "{reason}");

    write_raw(&mounted.file("small.raw"), 4 * MIB, &[(0, 4096)]);
    let small = mounted.path().join("small.raw");
    let done = converted(&small, Format::Raw, &mounted.path().join("less"), Format::Qcow2);
    let reason = "the data lies in pieces that are too small or not aligned";
    assert_eq!(done.reason.as_deref(), Some(reason));

    write_raw(&mounted.file("empty.raw"), 4 * MIB, &[]);
    let empty = mounted.path().join("empty.raw");
    let done = converted(&empty, Format::Raw, &mounted.path().join("nothing"), Format::Qcow2);
    assert_eq!(done.reason, None);
}

#[test]
fn a_full_disk_is_an_error_about_the_target_and_leaves_nothing() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(mounted) = Mounted::new(kind) else { continue };
        let elsewhere = tempfile::tempdir().unwrap();
        let raw = elsewhere.path().join("disk.raw");
        write_raw(&File::create(&raw).unwrap(), 64 * MIB, &[(0, 64 * MIB)]);
        // All but a few megabytes are taken.
        let (filler, flags) = (mounted.file("filler"), rustix::fs::FallocateFlags::empty());
        let mut taken = 0;
        while rustix::fs::fallocate(&filler, flags, taken, 4 * MIB).is_ok() {
            taken += 4 * MIB;
        }
        filler.set_len(taken - 12 * MIB).unwrap();
        let free = mounted.free_bytes();
        for format in [Format::Qcow2, Format::Raw] {
            let source = Source {
                path: &raw,
                format: Format::Raw,
                snapshot: None,
                backing: Backing::Refuse,
            };
            let mut share =
                |file: &FileStorage| ImageLock::acquire(file, Intent::Share, LockPolicy::default());
            let mut chain = Chain::open(&source, &mut share).unwrap();
            let target = mounted.path().join("target");
            let error = convert(&mut chain, &target, format, &mut |_, _| {}).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::NoSpace, "{kind}");
            assert_eq!(error.path.as_deref(), Some(&*target));
            let left = std::fs::read_dir(mounted.path()).unwrap();
            let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert!(names.iter().all(|it| it == "filler" || it == "lost+found"), "{names:?}");
        }
        // A child that another test starts has this file open until it runs its program.
        let is_back = || free.saturating_sub(mounted.free_bytes()) < MIB;
        let waited = (0..100).any(|_| {
            let is_back = is_back();
            if !is_back {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            is_back
        });
        assert!(waited, "{kind}: space is lost");
    }
}
