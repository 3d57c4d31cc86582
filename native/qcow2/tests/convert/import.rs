//! Raw disks become images.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use qcow2::Kind;
use qcow2::clone::Used;
use qcow2::convert::Format;

use crate::scene::{Scene, allocated, source_of};
use crate::support::Random;
use crate::support::fixtures::pattern;
use crate::support::layout::Layout;
use crate::tools::{KIB, MIB};

use qcow2::storage::SparseImage;

/// A raw disk of `size` bytes with data in the given places.
fn raw(scene: &Scene, name: &str, size: u64, data: &[(u64, u64)]) {
    let file = File::create(scene.path(name)).unwrap();
    let mut random = Random::named(size, name);
    file.set_len(size).unwrap();
    for &(offset, bytes) in data {
        file.write_all_at(&pattern(bytes, &mut random), offset).unwrap();
    }
}

#[test]
fn an_image_of_a_raw_disk_has_its_content_and_is_clean() {
    let Some(scene) = Scene::new() else { return };
    let cases: [(u64, &[(u64, u64)]); 9] = [
        (0, &[]),
        (1, &[(0, 1)]),
        (512, &[]),
        (1000, &[(0, 1000)]),
        (64 * KIB - 1, &[(60 * KIB, 4 * KIB - 1)]),
        (64 * KIB + 1, &[(0, 64 * KIB + 1)]),
        (MIB + 37, &[(3, 200), (300 * KIB, 100 * KIB), (MIB, 37)]),
        // Two L2 tables, data across their border, and a third without data before the last.
        (1700 * MIB, &[(512 * MIB - 100 * KIB, 300 * KIB), (1600 * MIB, 5 * MIB)]),
        (40 * 1024 * MIB, &[(39 * 1024 * MIB + 7, 70 * KIB)]),
    ];
    for (size, data) in cases {
        raw(&scene, "disk.raw", size, data);
        let path = scene.path("disk.raw");
        let source = source_of(&path, Format::Raw);
        let done = scene.convert(&source, "target", Format::Qcow2).unwrap();
        assert_eq!(done.converted.virtual_size, size.next_multiple_of(512));
        assert_eq!(done.opened, ["disk.raw"]);
        scene.assert_clean("target");
        assert_eq!(scene.difference("raw", "disk.raw", "target", "qcow2"), None, "{size}");
        let layout = Layout::read(&SparseImage::load(&scene.path("target")).unwrap()).unwrap();
        assert_eq!((layout.version, layout.cluster_bits, layout.refcount_bits), (3, 16, 16));
        assert_eq!(layout.size, size.next_multiple_of(512));
        std::fs::remove_file(scene.path("target")).unwrap();
    }
}

#[test]
fn what_reads_as_zeros_takes_no_cluster() {
    let Some(scene) = Scene::new() else { return };
    raw(&scene, "disk.raw", 8 * MIB, &[(2 * MIB, 64 * KIB), (5 * MIB + 700, 1)]);
    // Zeros that were written, and so are data to the file system.
    let file = File::options().write(true).open(scene.path("disk.raw")).unwrap();
    file.write_all_at(&vec![0; 2 << 20], 2 * MIB + 64 * KIB).unwrap();
    let path = scene.path("disk.raw");
    let source = source_of(&path, Format::Raw);
    let done = scene.convert(&source, "target", Format::Qcow2).unwrap();
    // Header, L2, refcount table, refcount block, L1, and the two clusters with data.
    assert_eq!(scene.path("target").metadata().unwrap().len(), 6 * 64 * KIB + 8);
    assert_eq!(scene.difference("raw", "disk.raw", "target", "qcow2"), None);
    if done.converted.used == Used::Copy {
        assert_eq!(done.converted.shared_bytes, 0);
        let copied = done.converted.copied_bytes;
        assert!((5 * 64 * KIB..=6 * 64 * KIB + 8).contains(&copied), "{copied}");
    }
    assert!(allocated(&scene.path("target")) <= 7 * 64 * KIB);
}

#[test]
fn an_image_lives_on_as_any_other() {
    let Some(scene) = Scene::new() else { return };
    raw(&scene, "disk.raw", 700 * MIB, &[(0, MIB), (600 * MIB, MIB)]);
    let path = scene.path("disk.raw");
    let source = source_of(&path, Format::Raw);
    scene.convert(&source, "target", Format::Qcow2).unwrap();
    scene.img("snapshot -c one target");
    scene.guest("target", &["write -P 7 100k 3M", "write -P 9 511M 2M"]);
    scene.assert_clean("target");
    scene.img("snapshot -a one target");
    scene.assert_clean("target");
    assert_eq!(scene.difference("raw", "disk.raw", "target", "qcow2"), None);
}

#[test]
fn the_owner_can_use_what_was_made_of_a_read_only_file() {
    let Some(scene) = Scene::new() else { return };
    for (mode, expected) in [(0o400, 0o600), (0o640, 0o640), (0o755, 0o644)] {
        raw(&scene, "disk.raw", 512, &[]);
        let path = scene.path("disk.raw");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let source = source_of(&path, Format::Raw);
        scene.convert(&source, "target", Format::Qcow2).unwrap();
        let made = scene.path("target").metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(made, expected, "{mode:o}");
        std::fs::remove_file(scene.path("target")).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn progress_goes_through_the_disk_to_its_end() {
    let Some(scene) = Scene::new() else { return };
    raw(&scene, "disk.raw", 40 * MIB, &[(0, 20 * MIB)]);
    let path = scene.path("disk.raw");
    let mut steps = Vec::new();
    let source = source_of(&path, Format::Raw);
    let mut watch = |done, total| steps.push((done, total));
    scene.convert_watching(&source, "target", Format::Qcow2, &mut watch).unwrap();
    assert!(steps.iter().all(|&(_, total)| total == 40 * MIB));
    assert!(steps.is_sorted());
    assert_eq!((steps.first(), steps.last()), (Some(&(0, 40 * MIB)), Some(&(40 * MIB, 40 * MIB))));
}

/// A loop device over a file, as long as it lives.
struct Device(String);

impl Device {
    /// None (said on stderr) where there are none.
    fn over(path: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--show", "-f"]).arg(path).output().ok()?;
        if !output.status.success() {
            eprintln!("skipped: no loop devices here");
            return None;
        }
        Some(Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_a_raw_disk_too() {
    let Some(scene) = Scene::new() else { return };
    raw(&scene, "disk.raw", 8 * MIB, &[(MIB, 64 * KIB), (5 * MIB + 512, 100 * KIB)]);
    let Some(device) = Device::over(&scene.path("disk.raw")) else { return };
    let path = Path::new(&device.0);
    let done = scene.convert(&source_of(path, Format::Raw), "target", Format::Qcow2).unwrap();
    assert_eq!((done.converted.used, done.converted.virtual_size), (Used::Copy, 8 * MIB));
    assert_eq!(done.converted.reason.as_deref(), Some("a block device cannot share blocks"));
    assert_eq!(scene.path("target").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    scene.assert_clean("target");
    assert_eq!(scene.difference("raw", "disk.raw", "target", "qcow2"), None);
}

#[test]
fn what_has_the_name_is_not_replaced() {
    let Some(scene) = Scene::new() else { return };
    raw(&scene, "disk.raw", MIB, &[(0, MIB)]);
    std::fs::write(scene.path("taken"), "mine").unwrap();
    let path = scene.path("disk.raw");
    for (target, format) in
        [("taken", Format::Qcow2), ("taken", Format::Raw), ("disk.raw", Format::Raw)]
    {
        let source = source_of(&path, Format::Raw);
        let error = scene.convert(&source, target, format).err().unwrap();
        assert_eq!((error.kind(), error.reason()), (Kind::TargetExists, "File exists"));
        assert_eq!(error.path.as_deref(), Some(&*scene.path(target)));
    }
    assert_eq!(std::fs::read(scene.path("taken")).unwrap(), b"mine");
    assert_eq!(scene.names(), ["disk.raw", "taken"]);
}

#[test]
fn a_source_that_changes_meanwhile_is_noticed_and_leaves_nothing() {
    let Some(scene) = Scene::new() else { return };
    raw(&scene, "disk.raw", 8 * MIB, &[(0, 8 * MIB)]);
    let path = scene.path("disk.raw");
    let source = source_of(&path, Format::Raw);
    let mut calls = 0;
    let mut change = |_, _| {
        calls += 1;
        if calls == 2 {
            let file = File::options().write(true).open(scene.path("disk.raw")).unwrap();
            file.write_all_at(b"changed", MIB).unwrap();
        }
    };
    let result = scene.convert_watching(&source, "target", Format::Qcow2, &mut change);
    let error = scene.assert_refused(result, "the file changed while it was read", "disk.raw");
    assert_eq!(error.kind(), Kind::Busy);
    assert_eq!(scene.names(), ["disk.raw"]);
}

#[test]
fn a_raw_disk_has_no_snapshots() {
    let Some(scene) = Scene::new() else { return };
    raw(&scene, "disk.raw", MIB, &[]);
    let path = scene.path("disk.raw");
    let mut source = source_of(&path, Format::Raw);
    source.snapshot = Some(b"1");
    let result = scene.convert(&source, "target", Format::Qcow2);
    let error = scene.assert_refused(result, "a raw disk has no snapshots", "disk.raw");
    assert_eq!(error.kind(), Kind::InvalidArgument);
}
