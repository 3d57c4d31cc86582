//! Images become raw disks.

use qcow2::Kind;
use qcow2::convert::Format;

use crate::scene::{Scene, allocated, source_of};
use crate::support::layout::Layout;
use crate::tools::{KIB, MIB};

use qcow2::storage::SparseImage;

/// The formats that QEMU makes, as options of `qemu-img create`.
const FORMATS: [&str; 9] = [
    "compat=0.10,cluster_size=512",
    "compat=0.10",
    "compat=1.1,cluster_size=512,refcount_bits=1",
    "compat=1.1,cluster_size=4k,compression_type=zstd",
    "compat=1.1",
    "compat=1.1,cluster_size=2M,compression_type=zstd",
    "compat=1.1,cluster_size=2M",
    "compat=1.1,extended_l2=on",
    "compat=1.1,extended_l2=on,cluster_size=16k",
];

/// What a guest does first: writes that begin and end anywhere, zeros over data and over nothing,
/// discards.
const BEFORE: [&str; 7] = [
    "write -P 0x11 0 3M",
    "write -P 0x22 3500001 777",
    "write -z 1M 300k",
    "write -z 5M 512k",
    "discard 200k 400k",
    "write -P 0x33 1100k 5k",
    "write -P 0x44 6290k 60k",
];

/// And what later.
const AFTER: [&str; 4] = [
    "write -P 0x55 100k 1M",
    "write -P 0x66 4100k 2k",
    "write -z 2M 64k",
    "write -P 0x77 6200k 3k",
];

const SIZE: u64 = 6 * MIB + 345 * KIB + 512;

/// An image with a past: a snapshot `one` in the middle of it where its counts allow that.
fn image(scene: &Scene, options: &str) -> bool {
    let _ = std::fs::remove_file(scene.path("image"));
    scene.img(&format!("create -q -f qcow2 -o {options} image {SIZE}"));
    // Where a cluster can be counted only once, neither compressed ones nor snapshots share any.
    let counts_higher = !options.contains("refcount_bits=1");
    if counts_higher {
        scene.guest("image", &["write -c -P 0x88 4M 2M"]);
    }
    scene.guest("image", &BEFORE);
    if counts_higher {
        scene.img("snapshot -c one image");
    }
    scene.guest("image", &AFTER);
    counts_higher
}

#[test]
fn a_raw_disk_has_the_content_of_the_active_disk() {
    let Some(scene) = Scene::new() else { return };
    for options in FORMATS {
        image(&scene, options);
        let done = scene.export("image", "target").unwrap();
        assert_eq!(done.converted.virtual_size, SIZE, "{options}");
        assert_eq!(done.opened, ["image"]);
        assert_eq!(scene.path("target").metadata().unwrap().len(), SIZE);
        let difference = scene.difference("qcow2", "image", "target", "raw");
        assert_eq!(difference, None, "{options}");
        std::fs::remove_file(scene.path("target")).unwrap();
    }
}

#[test]
fn a_raw_disk_can_have_the_content_of_a_snapshot_by_id_or_name() {
    let Some(scene) = Scene::new() else { return };
    for options in FORMATS {
        if !image(&scene, options) {
            continue;
        }
        scene.img("convert -f qcow2 -O raw -l snapshot.name=one image expected");
        let path = scene.path("image");
        for selector in ["1", "one"] {
            let mut source = source_of(&path, Format::Qcow2);
            source.snapshot = Some(selector.as_bytes());
            scene.convert(&source, "target", Format::Raw).unwrap();
            let same = std::fs::read(scene.path("target")).unwrap()
                == std::fs::read(scene.path("expected")).unwrap();
            assert!(same, "{options}");
            std::fs::remove_file(scene.path("target")).unwrap();
        }
    }
}

/// QEMU's own convert takes the size of today, so that its apply is the judge here.
#[test]
fn a_snapshot_of_another_size_comes_out_in_its_own() {
    let Some(scene) = Scene::new() else { return };
    for (options, size) in [("cluster_size=4k", "20M"), ("cluster_size=64k", "1300M")] {
        image(&scene, options);
        scene.img(&format!("resize -q image {size}"));
        scene.guest("image", &["write -P 0xaa 6M 2M", "write -P 0xbb 15M 1M"]);
        scene.img("snapshot -c two image");
        scene.guest("image", &["write -P 0xcc 0 20M"]);
        for (selector, bytes) in [("one", SIZE), ("two", 0)] {
            std::fs::copy(scene.path("image"), scene.path("applied")).unwrap();
            scene.img(&format!("snapshot -a {selector} applied"));
            let path = scene.path("image");
            let mut source = source_of(&path, Format::Qcow2);
            source.snapshot = Some(selector.as_bytes());
            let done = scene.convert(&source, "target", Format::Raw).unwrap();
            if bytes > 0 {
                assert_eq!(done.converted.virtual_size, bytes);
            }
            assert_eq!(scene.difference("qcow2", "applied", "target", "raw"), None, "{options}");
            std::fs::remove_file(scene.path("target")).unwrap();
        }
    }
}

#[test]
fn an_image_can_become_an_image_of_the_usual_form() {
    let Some(scene) = Scene::new() else { return };
    for options in FORMATS {
        image(&scene, options);
        let path = scene.path("image");
        let source = source_of(&path, Format::Qcow2);
        scene.convert(&source, "target", Format::Qcow2).unwrap();
        scene.assert_clean("target");
        let difference = scene.difference("qcow2", "image", "target", "qcow2");
        assert_eq!(difference, None, "{options}");
        let layout = Layout::read(&SparseImage::load(&scene.path("target")).unwrap()).unwrap();
        assert_eq!((layout.version, layout.cluster_bits, layout.snapshot_count), (3, 16, 0));
        std::fs::remove_file(scene.path("target")).unwrap();
    }
}

#[test]
fn compressed_images_of_every_cluster_size_are_read() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 plain 9M");
    scene.guest("plain", &BEFORE);
    scene.guest("plain", &["write -P 0x12 7M 1234567"]);
    for kind in ["zlib", "zstd"] {
        for cluster in ["512", "4k", "64k", "2M"] {
            let options = format!("cluster_size={cluster},compression_type={kind}");
            scene.img(&format!("convert -c -f qcow2 -O qcow2 -o {options} plain image"));
            let done = scene.export("image", "target").unwrap();
            assert_eq!(scene.difference("qcow2", "plain", "target", "raw"), None, "{options}");
            assert_eq!(done.converted.shared_bytes, 0);
            assert!(done.converted.reason.is_some());
            std::fs::remove_file(scene.path("target")).unwrap();
        }
    }
}

#[test]
fn a_raw_disk_has_holes_where_the_disk_reads_as_zeros() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 -o preallocation=metadata image 3G");
    scene.guest("image", &["write -P 1 1G 64k", "write -P 0 2G 8M", "write -P 1 3071M 64k"]);
    let done = scene.export("image", "target").unwrap();
    assert_eq!(done.converted.copied_bytes + done.converted.shared_bytes, 128 * KIB);
    assert!(allocated(&scene.path("target")) <= 256 * KIB);
    assert_eq!(scene.difference("qcow2", "image", "target", "raw"), None);
}

/// No guest sees less than a sector; QEMU leaves such an end away.
#[test]
fn an_end_inside_a_sector_is_filled_up_with_zeros() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 image 5M");
    scene.guest("image", &["write -P 7 0 5M"]);
    poke(&scene, 24, &(4 * MIB + 100).to_be_bytes());
    let done = scene.export("image", "target").unwrap();
    assert_eq!(done.converted.virtual_size, 4 * MIB + 512);
    let bytes = std::fs::read(scene.path("target")).unwrap();
    let (disk, rest) = bytes.split_at(4 * (1 << 20) + 100);
    assert!(disk.iter().all(|&byte| byte == 7));
    assert_eq!(rest, [0; 412]);
}

#[test]
fn vm_state_above_the_disk_stays_out() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 -o cluster_size=4k image 16M");
    scene.guest("image", &["write -P 1 0 1M", "write -P 2 9M 1M"]);
    // What lies above 4 MiB is above the end of the disk from now on.
    let mut bytes = std::fs::read(scene.path("image")).unwrap();
    bytes[24..32].copy_from_slice(&(4 * MIB).to_be_bytes());
    std::fs::write(scene.path("image"), bytes).unwrap();
    let done = scene.export("image", "target").unwrap();
    assert_eq!(done.converted.virtual_size, 4 * MIB);
    assert_eq!(scene.difference("qcow2", "image", "target", "raw"), None);
}

/// Sets bytes of the image.
fn poke(scene: &Scene, at: usize, new: &[u8]) {
    let mut bytes = std::fs::read(scene.path("image")).unwrap();
    bytes[at..at + new.len()].copy_from_slice(new);
    std::fs::write(scene.path("image"), bytes).unwrap();
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let Some(scene) = Scene::new() else { return };
    let fresh = || {
        let _ = std::fs::remove_file(scene.path("image"));
        scene.img("create -q -f qcow2 image 1M");
    };
    for (at, byte, kind, reason) in [
        (35, 1, Kind::UnsupportedFeature, "the image is encrypted"),
        (79, 2, Kind::MarkedCorrupt, "the image is marked corrupt"),
        (79, 1, Kind::MarkedDirty, "the image is marked dirty: its reference counts may be stale"),
        (79, 4, Kind::UnsupportedFeature, "the image keeps its data in an external data file"),
    ] {
        fresh();
        poke(&scene, at, &[byte]);
        let error = scene.assert_refused(scene.export("image", "target"), reason, "image");
        assert_eq!(error.kind(), kind, "{reason}");
        if matches!(kind, Kind::MarkedCorrupt | Kind::MarkedDirty) {
            let hint = "repair it first, for example with `calque image check -r all`";
            assert_eq!(error.hint.as_deref(), Some(hint));
        }
    }
    fresh();
    let path = scene.path("image");
    let mut source = source_of(&path, Format::Qcow2);
    source.snapshot = Some(b"none");
    let result = scene.convert(&source, "target", Format::Raw);
    let error = scene.assert_refused(result, "snapshot not found", "image");
    assert_eq!(error.kind(), Kind::SnapshotNotFound);
    std::fs::write(scene.path("image"), vec![7; 100_000]).unwrap();
    let result = scene.export("image", "target");
    let error = scene.assert_refused(result, "Image is not in qcow2 format", "image");
    assert_eq!(error.kind(), Kind::WrongFormat);
}
