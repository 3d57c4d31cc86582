//! Texts: read, made, replaced, continued.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

#[test]
fn texts_are_read_each_for_itself() {
    let scene = Scene::new();
    fs::write(scene.path("binary"), b"\xff").unwrap();
    fs::write(scene.path("empty"), "").unwrap();
    let large = fs::File::create(scene.path("large")).unwrap();
    large.set_len(16 << 20).unwrap();
    let paths = ["spare", "missing", "binary", "empty", "large", ".."];
    let paths = paths.map(str::to_owned).to_vec();
    let request = StoreReadRequest { root: scene.root(), paths };
    let files = store_read(request.clone()).unwrap().files;
    let codes = |files: &[crate::types::StoreText]| {
        let code = |file: &crate::types::StoreText| file.failure.as_ref().map(|it| it.code);
        files.iter().map(code).collect::<Vec<_>>()
    };
    let [missing, text, path] =
        [FailureCode::NotFound, FailureCode::NotText, FailureCode::InvalidArgument].map(Some);
    assert_eq!(codes(&files), [None, missing, text, None, None, path]);
    assert_eq!(files[0].text.as_deref(), Some("spare"));
    assert_eq!(files[3].text.as_deref(), Some(""));
    assert_eq!(files[4].text.as_ref().unwrap().len(), 16 << 20);

    large.set_len((16 << 20) + 1).unwrap();
    let files = store_read(request).unwrap().files;
    assert_eq!(codes(&files)[4], Some(FailureCode::TooLarge));
    assert_eq!(files[4].failure.as_ref().unwrap().reason, "it is larger than 16 MiB");
    assert_eq!(files[2].failure.as_ref().unwrap().reason, "it is not UTF-8 text");
}

#[test]
fn a_new_file_takes_nobodys_place_and_is_its_owners_alone() {
    let scene = Scene::new();
    scene.create("new", "Grüße\n").unwrap();
    assert_eq!(scene.text("new"), "Grüße\n");
    let mode = scene.path("new").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let refused = (FailureCode::TargetExists, "File exists".to_owned());
    assert_eq!(refusal(scene.create("new", "other")), refused);
    assert_eq!(scene.text("new"), "Grüße\n");
}

#[test]
fn a_replaced_file_is_another_one_and_what_a_crash_left_is_swept() {
    let scene = Scene::new();
    let inode = || scene.path("spare").metadata().unwrap().ino();
    let before = inode();
    let reader = fs::File::open(scene.path("spare")).unwrap();
    fs::write(scene.path(".spare.new"), "half a te").unwrap();
    scene.replace("spare", "new").unwrap();
    assert_eq!(scene.text("spare"), "new");
    assert_ne!(inode(), before);
    assert_eq!(std::io::read_to_string(reader).unwrap(), "spare");
    assert_eq!(scene.names(""), ["instances", "spare"]);
    let mode = scene.path("spare").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    scene.replace("new", "made").unwrap();
    assert_eq!(scene.text("new"), "made");
}

#[test]
fn what_cannot_be_replaced_leaves_nothing_behind() {
    let scene = Scene::new();
    let refused = (FailureCode::NotAFile, "not a regular file".to_owned());
    assert_eq!(refusal(scene.replace("instances", "new")), refused);
    assert_eq!(scene.names(""), ["instances", "spare"]);
    assert_eq!(scene.read(RECORD).unwrap(), "store");
}

#[test]
fn texts_are_added_at_the_end() {
    let scene = Scene::new();
    scene.append("history", "one\n").unwrap();
    scene.append("history", "two\n").unwrap();
    assert_eq!(scene.text("history"), "one\ntwo\n");
}

#[test]
fn a_full_disk_refuses_a_text_whole() {
    let scene = Scene::new();
    let Some(_mounted) = Mounted::small(&scene.path(DEV)) else { return };
    scene.create(RECORD, "old").unwrap();
    scene.create("instances/dev/history", "one\n").unwrap();
    let text = "x".repeat(64 << 10);
    let refused = (FailureCode::NoSpace, "No space left on device".to_owned());
    assert_eq!(refusal(scene.create("instances/dev/new", &text)), refused);
    assert_eq!(refusal(scene.replace(RECORD, &text)), refused);
    assert_eq!(refusal(scene.append("instances/dev/history", &text)), refused);
    assert_eq!(scene.names(DEV), ["history", "record"]);
    assert_eq!(
        (scene.text(RECORD), scene.text("instances/dev/history")),
        ("old".into(), "one\n".into())
    );
}
