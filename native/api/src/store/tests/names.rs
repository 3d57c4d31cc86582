//! Names: listed, moved, removed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::types::EntryKind;

#[test]
fn a_listing_tells_kinds_apart_and_is_in_the_order_of_bytes() {
    let scene = Scene::new();
    symlink("nowhere", scene.path("a-link")).unwrap();
    for name in ["é", "Z", "a", "a.b"] {
        fs::write(scene.path(name), "").unwrap();
    }
    fs::write(scene.root.join(OsStr::from_bytes(b"b\xff")), "").unwrap();
    let entries = scene.list(".").unwrap().entries;
    let seen: Vec<_> = entries.iter().map(|it| (it.name.as_str(), it.kind)).collect();
    let expected = [
        ("Z", EntryKind::File),
        ("a", EntryKind::File),
        ("a-link", EntryKind::Link),
        ("a.b", EntryKind::File),
        ("b\u{fffd}", EntryKind::Other),
        ("instances", EntryKind::Directory),
        ("spare", EntryKind::File),
        ("é", EntryKind::File),
    ];
    assert_eq!(seen, expected);
    let inode = |name: &str| entries.iter().find(|it| it.name == name).unwrap().inode.clone();
    scene.rename("a", "c").unwrap();
    let after = scene.list(".").unwrap().entries;
    assert_eq!(after.iter().find(|it| it.name == "c").unwrap().inode, inode("a"));
}

#[test]
fn nothing_takes_the_place_of_what_is_there() {
    let scene = Scene::new();
    fs::create_dir(scene.path("empty")).unwrap();
    fs::write(scene.path("other"), "other").unwrap();
    symlink("nowhere", scene.path("link")).unwrap();
    for source in ["spare", "instances"] {
        for target in ["other", "empty", "link", DEV, source] {
            let refused = (FailureCode::TargetExists, "File exists".to_owned());
            assert_eq!(refusal(scene.rename(source, target)), refused, "{source} to {target}");
        }
    }
    assert_eq!((scene.text("other"), scene.text("spare")), ("other".into(), "spare".into()));
    assert_eq!(scene.names("empty"), [""; 0]);
    assert_eq!(code(scene.rename("missing", "new")), Err(FailureCode::NotFound));
    assert_eq!(code(scene.rename("spare", "missing/new")), Err(FailureCode::NotFound));
    assert_eq!(code(scene.rename("instances", "instances/dev/new")), Err(FailureCode::Io));
}

#[test]
fn a_directory_moves_with_all_that_is_in_it() {
    let scene = Scene::new();
    scene.make_directory("trash").unwrap();
    scene.rename(DEV, "trash/dev").unwrap();
    assert_eq!(scene.text("trash/dev/record"), "store");
    assert_eq!(scene.names("instances"), [""; 0]);
}

/// As on NFS, which cannot move without replacing.
#[test]
fn nothing_takes_the_place_of_what_is_there_where_the_file_system_does_not_help() {
    use super::super::entry::move_after_looking;
    use super::super::path::Root;
    let scene = Scene::new();
    let root = Root::open(&scene.root).unwrap();
    let rename = |source, target| {
        move_after_looking(&root.place(source).unwrap(), &root.place(target).unwrap())
    };
    fs::create_dir(scene.path("empty")).unwrap();
    fs::write(scene.path("other"), "other").unwrap();
    for (source, target) in
        [("spare", "other"), ("spare", "empty"), ("instances", "empty"), ("instances", "other")]
    {
        let refused = Err(rustix::io::Errno::EXIST);
        assert_eq!(rename(source, target), refused, "{source} to {target}");
    }
    assert_eq!(scene.names(""), ["empty", "instances", "other", "spare"]);
    rename("spare", "moved").unwrap();
    rename("instances", "empty/instances").unwrap();
    assert_eq!(scene.names(""), ["empty", "moved", "other"]);
    assert_eq!((scene.text("moved"), scene.text("other")), ("spare".into(), "other".into()));
    assert_eq!(scene.text("empty/instances/dev/record"), "store");
}

#[test]
fn a_removed_directory_takes_what_is_in_it_along_and_nothing_else() {
    let scene = Scene::new();
    symlink(scene.outside(DEV), scene.path("instances/dev/link")).unwrap();
    fs::create_dir_all(scene.path("instances/dev/a/b/c")).unwrap();
    for n in 0..1000 {
        fs::write(scene.path(&format!("instances/dev/a/{n}")), "").unwrap();
    }
    scene.remove("instances").unwrap();
    assert_eq!(scene.names(""), ["spare"]);
    assert_eq!(fs::read_to_string(scene.outside(RECORD)).unwrap(), "outside");
    for missing in ["instances", "instances/dev/record"] {
        scene.remove(missing).unwrap();
    }
    scene.remove("spare").unwrap();
    assert_eq!(scene.names(""), [""; 0]);
}

#[test]
fn a_removal_goes_down_only_so_far() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path(&["d"; 128].join("/"))).unwrap();
    scene.remove("d").unwrap();
    fs::create_dir_all(scene.path(&["d"; 129].join("/"))).unwrap();
    let refused = (FailureCode::TooLarge, "it lies in more than 128 directories".to_owned());
    assert_eq!(refusal(scene.remove("d")), refused);
}

#[test]
fn what_is_mounted_in_a_directory_outlives_its_removal() {
    let scene = Scene::new();
    fs::create_dir(scene.path("instances/dev/mounted")).unwrap();
    let point = scene.path("instances/dev/mounted");
    let outside = scene.outside(DEV);
    // The second has the same device number as the store.
    let mounts: [&[&str]; 2] = [&["-t", "tmpfs", "tmpfs"], &["--bind", outside.to_str().unwrap()]];
    for arguments in mounts {
        let Some(mounted) = Mounted::new(arguments, &point) else { return };
        fs::write(point.join("file"), "precious").unwrap();
        let refused = (FailureCode::Mounted, "something is mounted on it".to_owned());
        let failure = scene.remove("instances").unwrap_err();
        assert_eq!(failure.path.as_deref(), point.to_str());
        assert_eq!((failure.code, failure.reason), refused);
        assert_eq!(refusal(scene.remove("instances/dev/mounted")), refused);
        assert_eq!(refusal(scene.rename("instances/dev/mounted", "new")), refused);
        assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "precious");
        drop(mounted);
    }
    scene.remove("instances").unwrap();
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "precious");
}
