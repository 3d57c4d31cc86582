//! A disk that moves into the store: linked there, and removed outside once that is durable.

use qcow2::lock::{ImageLock, Intent, LockPolicy};
use qcow2::storage::{Access, FileStorage};

use super::*;
use crate::types::{FilePathRequest, FileRemoveRequest, StoreLinkRequest};
use crate::{file_remove, file_stamp};

/// The path outside of a disk.
fn disk(scene: &Scene) -> PathBuf {
    let path = scene.outside("disk.qcow2");
    fs::write(&path, "disk").unwrap();
    path
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn link(scene: &Scene, source: &Path, target: &str) -> Outcome<Done> {
    let (source, target) = (text(source), target.to_owned());
    store_link(StoreLinkRequest { root: scene.root(), source, target })
}

fn stamp(path: &Path) -> Outcome<String> {
    file_stamp(FilePathRequest { path: text(path) }).map(|report| report.stamp)
}

fn remove(path: &Path, stamp: &str) -> Outcome<Done> {
    file_remove(FileRemoveRequest { path: text(path), stamp: stamp.to_owned() })
}

#[test]
fn a_disk_moves_by_a_second_name_and_the_end_of_the_first() {
    let scene = Scene::new();
    let path = disk(&scene);
    let before = stamp(&path).unwrap();
    link(&scene, &path, "instances/dev/disk").unwrap();
    assert_eq!(stamp(&path).unwrap(), before);
    remove(&path, &before).unwrap();
    assert!(!path.exists());
    assert_eq!(scene.text("instances/dev/disk"), "disk");
    assert_eq!(stamp(&scene.path("instances/dev/disk")).unwrap(), before);
}

#[test]
fn a_link_to_the_disk_stands_for_the_disk() {
    let scene = Scene::new();
    let path = disk(&scene);
    let alias = scene.outside("alias");
    symlink("disk.qcow2", &alias).unwrap();
    link(&scene, &alias, "disk").unwrap();
    assert!(!scene.path("disk").is_symlink());
    remove(&alias, &stamp(&alias).unwrap()).unwrap();
    assert!(!path.exists());
    assert_eq!(scene.text("disk"), "disk");
}

#[test]
fn what_cannot_be_shared_or_is_not_ours_gets_no_second_name() {
    let scene = Scene::new();
    let path = disk(&scene);
    let exists = (FailureCode::TargetExists, "File exists".to_owned());
    assert_eq!(refusal(link(&scene, &path, "spare")), exists);
    let missing = (FailureCode::NotFound, "No such file or directory".to_owned());
    assert_eq!(refusal(link(&scene, &scene.outside("missing"), "disk")), missing);
    let refused = (FailureCode::NotAFile, "not a regular file".to_owned());
    for path in [scene.outside("instances"), "/dev/null".into()] {
        assert_eq!(refusal(link(&scene, &path, "disk")), refused);
        assert_eq!(refusal(stamp(&path)), refused);
    }
    fs::hard_link(&path, scene.outside("second")).unwrap();
    let refused = (FailureCode::CannotShare, "it has other names".to_owned());
    assert_eq!(refusal(link(&scene, &path, "disk")), refused);
    fs::remove_file(scene.outside("second")).unwrap();
    if let Some(_mounted) = Mounted::small(&scene.outside(DEV)) {
        let elsewhere = scene.outside(RECORD);
        fs::write(&elsewhere, "disk").unwrap();
        let refused = (FailureCode::CannotShare, "Invalid cross-device link".to_owned());
        assert_eq!(refusal(link(&scene, &elsewhere, "disk")), refused);
    }
    if std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
        let refused = (FailureCode::NotOurs, "it belongs to another user".to_owned());
        assert_eq!(refusal(link(&scene, &path, "disk")), refused);
    } else {
        eprintln!("skipped: only root gives things away");
    }
    assert_eq!(scene.names(""), ["instances", "spare"]);
}

#[test]
fn a_disk_that_has_changed_or_is_in_use_keeps_its_name() {
    let scene = Scene::new();
    let path = disk(&scene);
    let before = stamp(&path).unwrap();
    let changed = (FailureCode::Busy, "it has changed meanwhile".to_owned());
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    assert_ne!(stamp(&path).unwrap(), before);
    assert_eq!(refusal(remove(&path, &before)), changed);
    let before = stamp(&path).unwrap();
    fs::rename(&path, scene.outside("other")).unwrap();
    fs::write(&path, "disk").unwrap();
    assert_eq!(refusal(remove(&path, &before)), changed);

    let before = stamp(&path).unwrap();
    for intent in [Intent::Change, Intent::Share] {
        let file = FileStorage::open(&path, Access::Write).unwrap();
        let lock = ImageLock::acquire(&file, intent, LockPolicy::default()).unwrap();
        assert_eq!(code(remove(&path, &before)), Err(FailureCode::InUse));
        drop(lock);
    }
    assert!(path.exists());
    remove(&path, &before).unwrap();
    assert_eq!(code(remove(&path, &before)), Err(FailureCode::NotFound));
}
