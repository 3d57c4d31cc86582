//! Clones of version 2 images that become images of version 3.

use std::path::PathBuf;

use qcow2::Kind;
use qcow2::clone::{Selection, Strategy, Version, Wanted, clone_image};
use qcow2::storage::{Access, FileStorage, SparseImage};

use crate::scene::Scene;
use crate::support::layout::{Layout, OFFSET, ZERO, be32, be64, bytes, put64};
use crate::tools::strip_extra_data;

const WANTED: Wanted<'_> = Wanted {
    selection: Selection::Everything,
    strategy: Strategy::Auto,
    version: Version::Upgraded,
};

fn clones(
    scene: &Scene,
    name: &str,
    targets: &[&str],
    wanted: Wanted<'_>,
) -> qcow2::Result<Vec<bool>> {
    let source = FileStorage::open(scene.path(name), Access::Read)?;
    let targets: Vec<PathBuf> = targets.iter().map(|target| scene.path(target)).collect();
    let clones = clone_image(&source, &targets, wanted, &mut |_, _| {})?;
    Ok(clones.iter().map(|clone| clone.upgraded).collect())
}

fn load(scene: &Scene, name: &str) -> SparseImage {
    SparseImage::load(&scene.path(name)).unwrap()
}

/// A version 2 image with two snapshots, compressed clusters among it, and rows as old writers left
/// them where that is asked for.
fn image(scene: &Scene, cluster: &str, rows: &[u64]) {
    let _ = std::fs::remove_file(scene.path("image"));
    scene.img(&format!("create -q -f qcow2 -o compat=0.10,cluster_size={cluster} image 5M"));
    scene.guest("image", &["write -c -P 0x11 2M 2M", "write -P 0x22 0 1M"]);
    scene.img("snapshot -c one image");
    scene.guest("image", &["write -P 0x33 500k 1M"]);
    scene.img("snapshot -c two image");
    scene.guest("image", &["write -P 0x44 100k 200k"]);
    let mut stored = load(scene, "image");
    for &row in rows {
        strip_extra_data(&mut stored, row);
    }
    stored.save(&scene.path("image")).unwrap();
}

/// The header is what the format says of version 3 without features.
fn assert_version_3(scene: &Scene, name: &str) {
    let image = load(scene, name);
    assert_eq!((be32(&image, 4), be32(&image, 100), be32(&image, 96)), (3, 104, 4));
    assert_eq!(bytes(&image, 72, 24), [0; 24]);
    scene.assert_clean(name);
}

#[test]
fn a_clone_of_version_3_holds_what_the_image_of_version_2_held() {
    let Some(scene) = Scene::new() else { return };
    for (cluster, rows) in [("512", &[1][..]), ("4k", &[0, 1]), ("64k", &[]), ("2M", &[0])] {
        image(&scene, cluster, rows);
        assert_eq!(clones(&scene, "image", &["clone", "other"], WANTED).unwrap(), [true, true]);
        assert_version_3(&scene, "clone");
        let same = std::fs::read(scene.path("clone")).unwrap()
            == std::fs::read(scene.path("other")).unwrap();
        assert!(same, "{cluster}: two clones differ");
        // Every row states the size of its disk, as version 3 asks for.
        let stored = load(&scene, "clone");
        let mut row = Layout::read(&stored).unwrap().snapshots_offset;
        for _ in 0..2 {
            assert!(be32(&stored, row + 36) >= 16);
            assert_eq!(be64(&stored, row + 48), 5 << 20);
            row = (row + 40 + u64::from(be32(&stored, row + 36)) + 4).next_multiple_of(8);
        }
        assert_eq!(scene.difference("qcow2", "image", "clone", "qcow2"), None, "{cluster}");
        for snapshot in ["one", "two"] {
            for name in ["image", "clone"] {
                let target = format!("{name}.raw");
                scene.img(&format!(
                    "convert -f qcow2 -O raw -l snapshot.name={snapshot} {name} {target}"
                ));
            }
            assert_eq!(scene.difference("raw", "image.raw", "clone.raw", "raw"), None);
        }
        // It can do now what version 3 can: grow under snapshots.
        scene.img("resize -q clone 9M");
        scene.guest("clone", &["write -z 100k 64k", "write -P 0x55 8M 1M"]);
        scene.img("snapshot -a one clone");
        scene.assert_clean("clone");
        for name in ["clone", "other"] {
            std::fs::remove_file(scene.path(name)).unwrap();
        }
    }
}

#[test]
fn every_selection_and_strategy_can_be_upgraded() {
    let Some(scene) = Scene::new() else { return };
    image(&scene, "4k", &[0]);
    for strategy in [Strategy::Auto, Strategy::Copy] {
        for (selection, count) in [
            (Selection::ActiveDisk, 0),
            (Selection::Everything, 2),
            (Selection::Snapshot(b"one"), 0),
        ] {
            let wanted = Wanted { selection, strategy, ..WANTED };
            assert_eq!(clones(&scene, "image", &["clone"], wanted).unwrap(), [true]);
            assert_version_3(&scene, "clone");
            let layout = Layout::read(&load(&scene, "clone")).unwrap();
            assert_eq!(layout.snapshot_count, count);
            if selection != Selection::Snapshot(b"one") {
                assert_eq!(scene.difference("qcow2", "image", "clone", "qcow2"), None);
            }
            std::fs::remove_file(scene.path("clone")).unwrap();
        }
    }
}

#[test]
fn backing_file_format_and_what_nobody_knows_come_along() {
    let Some(scene) = Scene::new() else { return };
    std::fs::create_dir(scene.path("elsewhere")).unwrap();
    scene.img("create -q -f qcow2 base 5M");
    scene.guest("base", &["write -P 0x11 0 3M"]);
    scene.img("create -q -f qcow2 -o compat=0.10 -F qcow2 -b base image 5M");
    scene.guest("image", &["write -P 0x22 1M 1M"]);
    // An unknown extension before that of the format: the name goes 16 bytes up.
    let mut stored = load(&scene, "image");
    let extensions = bytes(&stored, 72, 4096);
    stored.write(&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0], 72);
    stored.write(&extensions, 88);
    let name_at = be64(&stored, 8);
    put64(&mut stored, 8, name_at + 16);
    stored.save(&scene.path("image")).unwrap();
    assert_eq!(clones(&scene, "image", &["clone", "elsewhere/clone"], WANTED).unwrap().len(), 2);
    for name in ["clone", "elsewhere/clone"] {
        assert_version_3(&scene, name);
        let stored = load(&scene, name);
        let layout = Layout::read(&stored).unwrap();
        let kinds: Vec<_> = layout.extensions.iter().map(|&(kind, _, _)| kind).collect();
        assert_eq!(kinds, [0x1234_5678, 0xe279_2aca]);
        let (_, at, length) = layout.extensions[0];
        assert_eq!(bytes(&stored, at, length), [1, 2, 3, 4, 5]);
        assert_eq!(scene.difference("qcow2", "image", name, "qcow2"), None, "{name}");
    }
}

#[test]
fn an_image_of_version_3_stays_as_it_is() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 -o lazy_refcounts=on image 5M");
    scene.guest("image", &["write -P 0x22 1M 1M"]);
    assert_eq!(clones(&scene, "image", &["clone"], WANTED).unwrap(), [false]);
    let [image, clone] = ["image", "clone"].map(|name| std::fs::read(scene.path(name)).unwrap());
    assert!(image == clone);
}

#[test]
fn a_version_that_is_to_be_kept_is_kept() {
    let Some(scene) = Scene::new() else { return };
    image(&scene, "64k", &[1]);
    let wanted = Wanted { version: Version::Kept, ..WANTED };
    assert_eq!(clones(&scene, "image", &["clone"], wanted).unwrap(), [false]);
    let [image, clone] = ["image", "clone"].map(|name| std::fs::read(scene.path(name)).unwrap());
    assert!(image == clone);
}

/// A bit that version 2 has no meaning for would turn content into zeros.
#[test]
fn an_entry_that_means_something_only_in_version_3_is_refused() {
    let Some(scene) = Scene::new() else { return };
    for in_snapshot in [false, true] {
        image(&scene, "4k", &[]);
        let mut stored = load(&scene, "image");
        let layout = Layout::read(&stored).unwrap();
        let l1 =
            if in_snapshot { be64(&stored, layout.snapshots_offset) } else { layout.l1_offset };
        let l2 = be64(&stored, l1) & OFFSET;
        let entry = be64(&stored, l2);
        put64(&mut stored, l2, entry | ZERO);
        stored.save(&scene.path("image")).unwrap();
        let error = clones(&scene, "image", &["clone"], WANTED).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.reason().ends_with("has reserved bits set"), "{error}");
        assert!(!scene.path("clone").exists());
    }
}

#[test]
fn a_header_that_does_not_fit_is_refused_before_anything_is_copied() {
    let Some(scene) = Scene::new() else { return };
    let name = format!("./{}", "n".repeat(385));
    scene.img("create -q -f qcow2 -o compat=0.10,cluster_size=512 image 1M");
    scene.img(&format!("rebase -u -f qcow2 -F qcow2 -b {name} image"));
    let error = clones(&scene, "image", &["clone"], WANTED).unwrap_err();
    let reason = "the header of version 3 does not fit the first cluster";
    assert_eq!((error.kind(), error.reason()), (Kind::UnsupportedFeature, reason));
    assert_eq!(error.path.as_deref(), Some(&*scene.path("clone")));
    assert_eq!(scene.names(), ["image"]);
}
