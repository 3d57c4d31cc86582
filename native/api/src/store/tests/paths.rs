//! The way from the root, and what stands in it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode};

use super::*;

#[test]
fn a_path_that_is_not_just_names_is_refused_by_every_operation() {
    let scene = Scene::new();
    let outside = scene.outside("instances");
    let paths = [
        "",
        "..",
        "../outside",
        "instances/../..",
        "instances/..",
        "/",
        "/etc/passwd",
        outside.to_str().unwrap(),
        "instances/",
        "instances//dev",
        "./instances",
        "instances/.",
        "instances/dev\0",
    ];
    let sentence = "a path in the store consists of names, with one slash between two";
    for path in paths {
        for (operation, answer) in scene.operations(path) {
            assert_eq!(answer, Err(FailureCode::InvalidArgument), "{operation} {path:?}");
        }
        assert_eq!(scene.read(path).unwrap_err().reason, sentence);
    }
    assert_eq!(scene.names(""), ["instances", "spare"]);
}

#[test]
fn only_what_looks_may_mean_the_root_itself() {
    let scene = Scene::new();
    for (operation, answer) in scene.operations(".") {
        let allowed = ["list", "sync"].contains(&operation);
        let expected = if allowed { Ok(()) } else { Err(FailureCode::InvalidArgument) };
        assert_eq!(answer, expected, "{operation}");
    }
}

#[test]
fn a_link_on_the_way_is_followed_by_no_operation() {
    for link in ["instances", DEV] {
        let scene = Scene::new();
        scene.replace_by_link(link);
        for path in [RECORD, "instances/dev/new"] {
            for (operation, answer) in scene.operations(path) {
                assert_eq!(answer, Err(FailureCode::NotADirectory), "{operation}, {link}");
            }
        }
        let outside = scene.outside(DEV);
        assert_eq!(fs::read_to_string(outside.join("record")).unwrap(), "outside");
        assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
    }
}

#[test]
fn a_link_at_the_end_is_followed_by_no_operation() {
    let scene = Scene::new();
    scene.replace_by_link(RECORD);
    assert_eq!(
        refusal(scene.read(RECORD)),
        (FailureCode::NotAFile, "it is a symbolic link".to_owned())
    );
    let answers = scene.operations(RECORD);
    let expected = [
        ("read", Err(FailureCode::NotAFile)),
        ("list", Err(FailureCode::NotADirectory)),
        ("lock", Err(FailureCode::NotAFile)),
        ("sync", Err(FailureCode::NotAFile)),
        ("make directory", Err(FailureCode::TargetExists)),
        ("create", Err(FailureCode::TargetExists)),
        ("append", Err(FailureCode::NotAFile)),
        ("rename to", Err(FailureCode::TargetExists)),
        // It is the name that moves, is replaced, goes.
        ("rename from", Ok(())),
        ("replace", Ok(())),
        ("remove", Ok(())),
    ];
    assert_eq!(answers, expected);
    assert!(scene.path("moved away").is_symlink());
    assert_eq!(scene.names(DEV), [""; 0]);
    assert_eq!(fs::read_to_string(scene.outside(RECORD)).unwrap(), "outside");

    symlink(scene.outside(DEV), scene.path(RECORD)).unwrap();
    scene.replace(RECORD, "new").unwrap();
    assert_eq!(scene.text(RECORD), "new");
    fs::remove_file(scene.path(RECORD)).unwrap();
    symlink(scene.outside(DEV), scene.path(RECORD)).unwrap();
    scene.remove(RECORD).unwrap();
    assert_eq!(fs::read_to_string(scene.outside(RECORD)).unwrap(), "outside");
}

#[test]
fn what_is_no_regular_file_is_refused_and_nobody_waits_for_it() {
    let scene = Scene::new();
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, scene.path("fifo"), FileType::Fifo, mode, 0).unwrap();
    let _listener = UnixListener::bind(scene.path("socket")).unwrap();
    for path in ["fifo", "socket", "instances"] {
        let refused = (FailureCode::NotAFile, "not a regular file".to_owned());
        assert_eq!(refusal(scene.read(path)), refused, "{path}");
        assert_eq!(refusal(scene.append(path, "new")), refused, "{path}");
        for mode in [LockMode::Exclusive, LockMode::Shared] {
            assert_eq!(refusal(scene.lock(path, mode)), refused, "{path}");
        }
    }
    for path in ["fifo", "socket", "spare"] {
        let refused = (FailureCode::NotADirectory, "Not a directory".to_owned());
        assert_eq!(refusal(scene.list(path)), refused, "{path}");
        assert_eq!(refusal(scene.read(&format!("{path}/record"))), refused, "{path}");
    }
}

#[test]
fn a_store_is_made_with_what_is_missing_above_it_and_for_its_owner_alone() {
    let scene = Scene::new();
    let path = scene.outside("a/b");
    let open = |create| {
        store_open(StoreOpenRequest { root: path.to_str().unwrap().to_owned(), create }).unwrap()
    };
    let found = open(None);
    assert!(!found.exists);
    assert!(!path.exists());
    let made = open(Some(true));
    let real = scene.directory.path().canonicalize().unwrap().join("outside/a/b");
    assert_eq!((made.root.as_str(), made.exists), (real.to_str().unwrap(), true));
    assert_eq!(found.root, made.root);
    for path in [path.parent().unwrap(), &path] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    }
    assert!(open(None).exists);
    assert!(open(Some(true)).exists);
}

#[test]
fn links_on_the_way_to_a_store_are_the_users_choice_and_the_store_is_their_end() {
    let scene = Scene::new();
    let link = scene.outside("link");
    symlink(&scene.root, &link).unwrap();
    let root = link.to_str().unwrap().to_owned();
    let store = store_open(StoreOpenRequest { root: root.clone(), create: None }).unwrap();
    assert_eq!((store.root, store.exists), (scene.root(), true));
    // The other operations take no second look.
    let list = store_list(StorePathRequest { root, path: ".".to_owned() });
    assert_eq!(refusal(list).0, FailureCode::NotADirectory);

    fs::remove_file(&link).unwrap();
    symlink("nowhere", &link).unwrap();
    let root = link.to_str().unwrap().to_owned();
    let store = store_open(StoreOpenRequest { root, create: Some(true) });
    assert_eq!(refusal(store).0, FailureCode::NotADirectory);
    assert!(!scene.outside("nowhere").exists());
}

#[test]
fn a_store_that_makes_no_sense_or_is_not_ours_is_refused_by_every_operation() {
    let scene = Scene::new();
    let refused = |root: &str, create| {
        let root = root.to_owned();
        refusal(store_open(StoreOpenRequest { root, create: Some(create) }))
    };
    let sentence = |text: &str| text.to_owned();
    for root in ["", "store", "./store"] {
        let reason = sentence("the path of a store begins with a slash");
        assert_eq!(refused(root, true), (FailureCode::InvalidArgument, reason));
    }
    let lost = scene.outside("missing/..");
    assert_eq!(refused(lost.to_str().unwrap(), true).0, FailureCode::NotFound);
    let file = scene.path("spare");
    for create in [true, false] {
        let refusal = refused(file.to_str().unwrap(), create);
        assert_eq!(refusal, (FailureCode::NotADirectory, sentence("Not a directory")));
    }
    let below = file.join("store");
    assert_eq!(refused(below.to_str().unwrap(), true).0, FailureCode::NotADirectory);

    for mode in [0o720, 0o702] {
        fs::set_permissions(&scene.root, fs::Permissions::from_mode(mode)).unwrap();
        let expected = (FailureCode::NotOurs, sentence("others can write to it"));
        assert_eq!(refused(&scene.root(), false), expected);
        for (operation, answer) in scene.operations(RECORD) {
            assert_eq!(answer, Err(FailureCode::NotOurs), "{operation}");
        }
    }
    fs::set_permissions(&scene.root, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(scene.read(RECORD).unwrap(), "store");
    if std::os::unix::fs::chown(&scene.root, Some(65_534), None).is_ok() {
        let expected = (FailureCode::NotOurs, sentence("it belongs to another user"));
        assert_eq!(refused(&scene.root(), false), expected);
    } else {
        eprintln!("skipped: only root gives things away");
    }
}
