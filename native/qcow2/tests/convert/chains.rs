//! Images with backing files: refused, or flattened into one.

use std::fmt::Write;
use std::path::Path;

use qcow2::convert::{Backing, Format, Source};
use qcow2::lock::{ImageLock, Intent, LockPolicy};
use qcow2::storage::{Access, FileStorage};
use qcow2::{Kind, Result};

use crate::scene::{Done, Scene};
use crate::tools::MIB;

fn flattened(path: &Path) -> Source<'_> {
    Source { path, format: Format::Qcow2, snapshot: None, backing: Backing::Flatten }
}

fn flatten(scene: &Scene, name: &str) -> Result<Done> {
    scene.convert(&flattened(&scene.path(name)), "target", Format::Qcow2)
}

/// Five files: raw below all, then a compressed one, one of large clusters and shorter than what is
/// below it, one with subclusters, and a longer one of small clusters on top. In two directories.
fn tower(scene: &Scene) {
    std::fs::create_dir(scene.path("below")).unwrap();
    scene.img("create -q -f raw below/ground 5M");
    scene.img("create -q -f qcow2 filled 6M");
    scene.guest("filled", &["write -P 0x11 0 2M", "write -P 0x12 3M 200k"]);
    scene.img("convert -f qcow2 -O raw filled below/ground");
    scene.img("create -q -f qcow2 -F raw -b ground below/first 8M");
    scene.guest("below/first", &["write -c -P 0x21 64k 1M", "write -P 0x22 6M 1M"]);
    scene.img("create -q -f qcow2 -o cluster_size=2M -F qcow2 -b first below/second 7M");
    scene.guest("below/second", &["write -P 0x31 4100k 50k", "write -z 200k 100k"]);
    scene.img("create -q -f qcow2 -o extended_l2=on -F qcow2 -b below/second third 10M");
    scene.guest("third", &["write -P 0x41 128k 3k", "write -z 300k 6k", "write -P 0x42 7M 100k"]);
    scene.img("create -q -f qcow2 -o cluster_size=512 -F qcow2 -b ./third top 11M");
    scene.guest("top", &["write -P 0x51 77k 600", "write -z 6500k 3k", "write -P 0x52 10800k 9k"]);
}

const TOWER: [&str; 5] = ["top", "./third", "./below/second", "./below/first", "./below/ground"];

#[test]
fn the_files_of_a_chain_become_one_image() {
    let Some(scene) = Scene::new() else { return };
    tower(&scene);
    for (number, name) in ["top", "third", "below/second", "below/first"].into_iter().enumerate() {
        let done = flatten(&scene, name).unwrap();
        scene.assert_clean("target");
        assert_eq!(scene.difference("qcow2", name, "target", "qcow2"), None, "{name}");
        let expected = TOWER[number..].iter().map(|path| path.replace("./", ""));
        let opened = done.opened.iter().map(|path| path.replace("./", ""));
        assert_eq!(opened.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        std::fs::remove_file(scene.path("target")).unwrap();
    }
}

#[test]
fn the_files_of_a_chain_become_one_raw_disk() {
    let Some(scene) = Scene::new() else { return };
    tower(&scene);
    let path = scene.path("top");
    let done = scene.convert(&flattened(&path), "target", Format::Raw).unwrap();
    assert_eq!(done.opened.len(), 5);
    assert_eq!(done.converted.virtual_size, 11 * MIB);
    assert_eq!(scene.difference("qcow2", "top", "target", "raw"), None);
}

#[test]
fn a_snapshot_shows_what_is_below_it_too() {
    let Some(scene) = Scene::new() else { return };
    tower(&scene);
    scene.img("snapshot -c one top");
    scene.guest("top", &["write -P 0x61 0 5M"]);
    let path = scene.path("top");
    let source = Source { snapshot: Some(b"one"), ..flattened(&path) };
    scene.convert(&source, "target", Format::Qcow2).unwrap();
    scene.img("snapshot -a one top");
    assert_eq!(scene.difference("qcow2", "top", "target", "qcow2"), None);
}

#[test]
fn names_are_relative_to_the_directory_of_the_path_that_was_opened() {
    let Some(scene) = Scene::new() else { return };
    tower(&scene);
    std::fs::create_dir(scene.path("other")).unwrap();
    // QEMU goes by the spelling too: the link's directory has no `first`, until it gets one.
    std::os::unix::fs::symlink("../below/second", scene.path("other/link")).unwrap();
    let error = flatten(&scene, "other/link").err().unwrap();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(error.path.as_deref(), Some(&*scene.path("other/first")));
    scene.img("create -q -f qcow2 other/first 7M");
    scene.guest("other/first", &["write -P 0x99 0 7M"]);
    let done = flatten(&scene, "other/link").unwrap();
    assert_eq!(done.opened, ["other/link", "other/first"]);
    assert_eq!(scene.difference("qcow2", "other/link", "target", "qcow2"), None);
}

#[test]
fn nothing_is_opened_unasked() {
    let Some(scene) = Scene::new() else { return };
    // A backing file that does not exist: who looked for it would notice.
    scene.img("create -q -f qcow2 -u -F qcow2 -b missing top 1M");
    let reason = "the image has a backing file, which is not opened unasked";
    let error = scene.assert_refused(scene.export("top", "target"), reason, "top");
    assert_eq!(error.kind(), Kind::UnsupportedFeature);
    let hint = "with `--flatten` its files are opened, and the content of all is taken";
    assert_eq!(error.hint.as_deref(), Some(hint));
}

/// Renames the extension that states the backing format into one that nobody knows.
fn unstate(scene: &Scene, name: &str) {
    let mut bytes = std::fs::read(scene.path(name)).unwrap();
    let at = bytes.windows(4).position(|it| it == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    bytes[at] = 0x12;
    std::fs::write(scene.path(name), bytes).unwrap();
}

#[test]
fn a_format_is_never_guessed_not_even_an_obvious_one() {
    let Some(scene) = Scene::new() else { return };
    for format in ["qcow2", "raw"] {
        scene.img(&format!("create -q -f {format} base 1M"));
        scene.img(&format!("create -q -f qcow2 -F {format} -b base top 1M"));
        unstate(&scene, "top");
        let reason = "the format of the backing file is not stated, and formats are never guessed";
        let error = scene.assert_refused(flatten(&scene, "top"), reason, "top");
        assert_eq!(error.kind(), Kind::UnsupportedFeature);
        // The hint is true: afterwards it works.
        let hint = error.hint.unwrap();
        let command = hint.split('`').nth(1).unwrap().strip_prefix("qemu-img ").unwrap();
        let command = command.replace("qcow2", format).replace("NAME", "base");
        scene.img(&command.replace("IMAGE", "top"));
        flatten(&scene, "top").unwrap();
        std::fs::remove_file(scene.path("target")).unwrap();
    }
}

#[test]
fn a_raw_file_that_looks_like_an_image_stays_raw() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 base 1M");
    scene.guest("base", &["write -P 7 0 1M"]);
    scene.img("create -q -f qcow2 -F raw -b base top 2M");
    flatten(&scene, "top").unwrap();
    assert_eq!(scene.difference("qcow2", "top", "target", "qcow2"), None);
}

#[test]
fn what_is_no_plain_file_of_a_known_format_is_refused_by_name() {
    let Some(scene) = Scene::new() else { return };
    for (format, name, reason, hint) in [
        (
            "vmdk",
            "base",
            "the backing file has the format \"vmdk\"",
            "only qcow2 and raw files can be read",
        ),
        (
            "qcow2",
            "nbd://localhost:1/x",
            "the backing file's name \"nbd://localhost:1/x\" begins with a protocol",
            "only a file that the image names by its path is opened",
        ),
        (
            "qcow2",
            "json:{\"driver\":7}",
            "the backing file's name \"json:{\\\"driver\\\":7}\" is a JSON description",
            "only a file that the image names by its path is opened",
        ),
    ] {
        scene.img("create -q -f qcow2 top 1M");
        scene.img(&format!("rebase -u -f qcow2 -F {format} -b {name} top"));
        let error = scene.assert_refused(flatten(&scene, "top"), reason, "top");
        assert_eq!(error.kind(), Kind::UnsupportedFeature);
        assert_eq!(error.hint.as_deref(), Some(hint));
    }
}

#[test]
fn a_chain_that_bites_its_tail_is_refused() {
    let Some(scene) = Scene::new() else { return };
    for name in ["a", "b", "c"] {
        scene.img(&format!("create -q -f qcow2 {name} 1M"));
    }
    std::fs::hard_link(scene.path("a"), scene.path("alias")).unwrap();
    for (image, backing) in [("a", "b"), ("b", "c"), ("c", "./alias")] {
        scene.img(&format!("rebase -u -f qcow2 -F qcow2 -b {backing} {image}"));
    }
    let reason = "the chain of backing files comes back to this file";
    let error = scene.assert_refused(flatten(&scene, "a"), reason, "./alias");
    assert_eq!(error.kind(), Kind::UnsupportedFeature);
}

#[test]
fn a_chain_of_64_files_is_flattened_and_one_of_65_is_refused() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 0 1M");
    scene.guest("0", &["write -P 9 300k 64k"]);
    for number in 1..65 {
        scene.img(&format!("create -q -f qcow2 -u -F qcow2 -b {} {number} 1M", number - 1));
    }
    assert_eq!(flatten(&scene, "63").unwrap().opened.len(), 64);
    assert_eq!(scene.difference("qcow2", "0", "target", "qcow2"), None);
    std::fs::remove_file(scene.path("target")).unwrap();
    let reason = "the chain of backing files is longer than 64";
    scene.assert_refused(flatten(&scene, "64"), reason, "1");
}

#[test]
fn what_is_below_is_as_little_trusted_as_what_is_on_top() {
    let Some(scene) = Scene::new() else { return };
    scene.img("create -q -f qcow2 -u -F qcow2 -b base top 1M");
    let spoil: [(&dyn Fn(), &str); 4] = [
        (&|| (), "No such file or directory"),
        (&|| std::fs::write(scene.path("base"), [0; 512]).unwrap(), "Image is not in qcow2 format"),
        (
            &|| {
                scene.img("create -q -f qcow2 base 1M");
                let mut bytes = std::fs::read(scene.path("base")).unwrap();
                bytes[79] = 2;
                std::fs::write(scene.path("base"), bytes).unwrap();
            },
            "the image is marked corrupt",
        ),
        (
            &|| {
                scene.img("create -q -f qcow2 base 1M");
                let mut bytes = std::fs::read(scene.path("base")).unwrap();
                bytes[35] = 1;
                std::fs::write(scene.path("base"), bytes).unwrap();
            },
            "the image is encrypted",
        ),
    ];
    for (spoil, reason) in spoil {
        spoil();
        scene.assert_refused(flatten(&scene, "top"), reason, "base");
    }
    std::fs::remove_file(scene.path("base")).unwrap();
    std::fs::create_dir(scene.path("base")).unwrap();
    let mut reason = String::new();
    let base = scene.path("base");
    write!(reason, "'file' driver requires '{}' to be a regular file", base.display()).unwrap();
    scene.assert_refused(flatten(&scene, "top"), &reason, "base");
}

#[test]
fn a_file_of_the_chain_that_somebody_writes_to_is_refused() {
    let Some(scene) = Scene::new() else { return };
    tower(&scene);
    for name in TOWER {
        let file = FileStorage::open(scene.path(name), Access::Write).unwrap();
        let lock = ImageLock::acquire(&file, Intent::Change, LockPolicy::default()).unwrap();
        let error = flatten(&scene, "top").err().unwrap();
        assert_eq!(error.kind(), Kind::InUse, "{name}");
        let path = error.path.unwrap().display().to_string().replace("./", "");
        assert_eq!(path, scene.path(&name.replace("./", "")).display().to_string());
        assert!(!scene.path("target").exists());
        drop(lock);
    }
    // Nothing of ours is left on any of them.
    for name in TOWER {
        let file = FileStorage::open(scene.path(name), Access::Write).unwrap();
        drop(ImageLock::acquire(&file, Intent::Change, LockPolicy::default()).unwrap());
    }
}

#[test]
fn nobody_can_write_to_a_file_of_the_chain_meanwhile() {
    let Some(scene) = Scene::new() else { return };
    tower(&scene);
    let mut tried = 0;
    let mut watch = |_, _| {
        if tried == 0 {
            for name in TOWER {
                let file = FileStorage::open(scene.path(name), Access::Write).unwrap();
                let result = ImageLock::acquire(&file, Intent::Change, LockPolicy::default());
                assert_eq!(result.unwrap_err().kind(), Kind::InUse, "{name}");
            }
        }
        tried += 1;
    };
    let path = scene.path("top");
    let source = flattened(&path);
    scene.convert_watching(&source, "target", Format::Qcow2, &mut watch).unwrap();
    assert!(tried > 0);
}
