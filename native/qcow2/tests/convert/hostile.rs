//! Images that were made to do harm: a typed error or a disk, and neither a panic nor endless work.

use std::time::{Duration, Instant};

use qcow2::Kind;
use qcow2::convert::{Backing, Format, Source};
use qcow2::storage::SparseImage;

use crate::scene::{Scene, source_of};
use crate::support::layout::{COMPRESSED, COPIED, Layout, OFFSET, ZERO, be64, put64};
use crate::support::{Random, seed, setting};
use crate::tools::MIB;

/// Spoils the image `name`.
fn poke(scene: &Scene, name: &str, change: impl FnOnce(&mut SparseImage, &Layout)) {
    let mut image = SparseImage::load(&scene.path(name)).unwrap();
    let layout = Layout::read(&image).unwrap();
    change(&mut image, &layout);
    image.save(&scene.path(name)).unwrap();
}

/// What is done to an image.
type Change = Box<dyn Fn(&mut SparseImage, &Layout)>;

/// What the two words of an extended L2 entry become.
type ChangeEntry = fn(u64, u64) -> (u64, u64);

fn assert_corrupt(scene: &Scene, reason: &str) {
    let path = scene.path("image");
    let source = source_of(&path, Format::Qcow2);
    let error = scene.convert(&source, "target", Format::Qcow2).err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt, "{reason}: {error}");
    assert!(error.reason().contains(reason), "{reason}: {error}");
    assert!(error.offset.is_some(), "{reason}");
    assert_eq!(error.path.as_deref(), Some(&*scene.path("image")));
    assert!(!scene.path("target").exists());
}

#[test]
fn entries_that_the_format_forbids_are_corruption() {
    let Some(scene) = Scene::new() else { return };
    let entry = |value: fn(u64) -> u64| {
        move |image: &mut SparseImage, layout: &Layout| {
            let l2 = be64(image, layout.l1_offset) & OFFSET;
            let old = be64(image, l2 + 8);
            put64(image, l2 + 8, value(old));
        }
    };
    let table = |value: u64| {
        move |image: &mut SparseImage, layout: &Layout| put64(image, layout.l1_offset, value)
    };
    let plain: [(Change, &str); 6] = [
        (Box::new(entry(|old| old | 2)), "has reserved bits set"),
        (Box::new(entry(|old| old + 512)), "is not aligned"),
        (Box::new(entry(|_| COPIED | 1 << 50)), "Cluster at 0x4000000000000 is outside the image"),
        (Box::new(entry(|_| COMPRESSED | 1 << 50)), "is outside the image"),
        (Box::new(table(COPIED | 1 << 40)), "L2 table at 0x10000000000 is outside the image"),
        (Box::new(table(COPIED | 0x1_0200)), "is not aligned"),
    ];
    for (change, reason) in plain {
        scene.img("create -q -f qcow2 image 4M");
        scene.guest("image", &["write -P 1 0 1M"]);
        poke(&scene, "image", change);
        assert_corrupt(&scene, reason);
    }
    let extended: [(ChangeEntry, &str); 3] = [
        (|entry, bitmap| (entry, bitmap | 1 << 32), "both allocated and zero"),
        (|_, _| (0, 1), "allocated in no cluster"),
        (|entry, bitmap| (entry | ZERO, bitmap), "has reserved bits set"),
    ];
    for (change, reason) in extended {
        scene.img("create -q -f qcow2 -o extended_l2=on image 4M");
        scene.guest("image", &["write -P 1 0 1M"]);
        poke(&scene, "image", |image, layout| {
            let l2 = be64(image, layout.l1_offset) & OFFSET;
            let (entry, bitmap) = change(be64(image, l2), be64(image, l2 + 8));
            put64(image, l2, entry);
            put64(image, l2 + 8, bitmap);
        });
        assert_corrupt(&scene, reason);
    }
}

#[test]
fn version_2_knows_no_zero_flag() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 -o compat=0.10 image 4M");
    scene.guest("image", &["write -P 1 0 1M"]);
    poke(&scene, "image", |image, layout| {
        let l2 = be64(image, layout.l1_offset) & OFFSET;
        let old = be64(image, l2);
        put64(image, l2, old | ZERO);
    });
    assert_corrupt(&scene, "has reserved bits set");
}

#[test]
fn damaged_compressed_data_is_corruption() {
    let Some(scene) = Scene::new() else { return };
    for kind in ["zlib", "zstd"] {
        scene.img(&format!("create -q -f qcow2 -o compression_type={kind} image 4M"));
        scene.guest("image", &["write -c -P 1 0 64k"]);
        poke(&scene, "image", |image, layout| {
            let l2 = be64(image, layout.l1_offset) & OFFSET;
            let (offset, _) = layout.compressed_extent(be64(image, l2));
            image.write(&[0xff; 16], offset);
        });
        assert_corrupt(&scene, "is damaged");
    }
}

/// An L1 table whose entries all name one L2 table: each of them would have to be gone through.
#[test]
fn a_table_that_is_named_again_and_again_is_no_endless_work() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 image 8T");
    scene.guest("image", &["write -P 1 0 64k"]);
    poke(&scene, "image", |image, layout| {
        let first = be64(image, layout.l1_offset);
        for slot in 0..layout.l1_entries {
            put64(image, layout.l1_offset + slot * 8, first);
        }
    });
    let started = Instant::now();
    assert_corrupt(&scene, "More L2 tables are named than the image has clusters");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn sizes_that_no_file_can_have_are_errors() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 -o cluster_size=2M image 1M");
    scene.img("snapshot -c one image");
    scene.img("create -q -f qcow2 -o cluster_size=2M huge 1E");
    let error = scene.export("huge", "target").err().unwrap();
    assert_eq!((error.kind(), error.reason()), (Kind::Io, "File too large"));
    let path = scene.path("huge");
    let source = source_of(&path, Format::Qcow2);
    let error = scene.convert(&source, "target", Format::Qcow2).err().unwrap();
    assert_eq!(error.kind(), Kind::TooLarge);
    // A snapshot states its size itself.
    for size in [u64::MAX, u64::MAX - 511, 1 << 62] {
        poke(&scene, "image", |image, layout| put64(image, layout.snapshots_offset + 48, size));
        let path = scene.path("image");
        let mut source = source_of(&path, Format::Qcow2);
        source.snapshot = Some(b"one");
        let error = scene.convert(&source, "target", Format::Raw).err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt, "{size:#x}: {error}");
    }
    assert_eq!(scene.names(), ["huge", "image"]);
}

/// Images of every kind with random damage. Whatever comes of it is typed, soon there and, if it is
/// an image, clean.
#[test]
fn random_damage_is_an_error_or_a_disk() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f raw base.raw 2M");
    for (name, options) in [
        ("a", "compat=0.10,cluster_size=512"),
        ("b", "compat=1.1,cluster_size=4k,compression_type=zstd"),
        ("c", "compat=1.1,extended_l2=on,cluster_size=16k"),
        ("d", "compat=1.1"),
    ] {
        scene.img(&format!("create -q -f qcow2 -o {options} -F raw -b base.raw {name} 3M"));
        scene.guest(name, &["write -P 1 0 200k", "write -z 300k 16k", "write -P 2 1M 70k"]);
        scene.guest(name, &["write -c -P 3 512k 64k"]);
        scene.img(&format!("snapshot -c one {name}"));
        scene.guest(name, &["write -P 4 100k 64k"]);
    }
    let rounds = setting("CALQUE_HOSTILE_ROUNDS", 150);
    let mut random = Random::named(seed(), "hostile");
    let mut outcomes = [0; 2];
    for round in 0..rounds {
        let name = *random.pick(&["a", "b", "c", "d"]);
        let mut image = std::fs::read(scene.path(name)).unwrap();
        for _ in 0..=random.below(3) {
            spoil(&mut image, &mut random);
        }
        std::fs::write(scene.path("spoiled"), &image).unwrap();
        let path = scene.path("spoiled");
        let source = Source {
            path: &path,
            format: Format::Qcow2,
            snapshot: random.chance(40).then_some(&b"one"[..]),
            backing: if random.chance(80) { Backing::Flatten } else { Backing::Refuse },
        };
        let format = *random.pick(&[Format::Qcow2, Format::Raw]);
        let started = Instant::now();
        let result = scene.convert(&source, "target", format);
        assert!(started.elapsed() < Duration::from_secs(20), "{name}, round {round}: too long");
        match result {
            Err(_) => {
                outcomes[0] += 1;
                assert!(!scene.path("target").exists());
            }
            Ok(done) => {
                outcomes[1] += 1;
                if format == Format::Qcow2 && done.converted.virtual_size < 64 * MIB {
                    scene.assert_clean("target");
                }
                std::fs::remove_file(scene.path("target")).unwrap();
            }
        }
    }
    assert!(outcomes.iter().all(|&count| count > rounds / 10), "{outcomes:?}");
}

/// Changes a byte, or makes a number of 4 or 8 bytes large, small or another one, preferably where
/// there is something.
fn spoil(image: &mut [u8], random: &mut Random) {
    let at = loop {
        let range = if random.chance(30) { 512 } else { image.len() as u64 - 8 };
        let at = usize::try_from(random.below(range)).unwrap();
        if image[at..at + 8] != [0; 8] || random.chance(1) {
            break at;
        }
    };
    let number =
        *random.pick(&[0, 1, 0x200, 0x1_0000, 1 << 31, 1 << 56, 1 << 62, 1 << 63, u64::MAX]);
    let number = number ^ if random.chance(50) { random.next() & 0xff_ffff } else { 0 };
    match random.below(3) {
        0 => image[at] ^= 1 << random.below(8),
        1 => image[at & !3..(at & !3) + 4].copy_from_slice(&number.to_be_bytes()[4..]),
        _ => image[at & !7..(at & !7) + 8].copy_from_slice(&number.to_be_bytes()),
    }
}
