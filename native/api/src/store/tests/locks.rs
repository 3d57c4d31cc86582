//! Locks on the store's own files.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::callback::Stopped;

#[test]
fn an_exclusive_lock_stands_alone_and_shared_ones_go_together() {
    let scene = Scene::new();
    let lock = |mode| scene.lock("spare", mode).unwrap();
    let one = lock(LockMode::Exclusive).unwrap();
    assert_eq!([lock(LockMode::Exclusive), lock(LockMode::Shared)], [None, None]);
    unlock(one).unwrap();
    let [one, other] = [lock(LockMode::Shared), lock(LockMode::Shared)].map(Option::unwrap);
    assert_ne!(one, other);
    assert_eq!(lock(LockMode::Exclusive), None);
    unlock(one).unwrap();
    assert_eq!(lock(LockMode::Exclusive), None);
    unlock(other).unwrap();
    unlock(lock(LockMode::Exclusive).unwrap()).unwrap();
}

#[test]
fn a_handle_stands_for_its_lock_once() {
    let scene = Scene::new();
    let handle = scene.lock("spare", LockMode::Exclusive).unwrap().unwrap();
    unlock(handle).unwrap();
    let refused = (FailureCode::InvalidArgument, "there is no lock of that handle".to_owned());
    assert_eq!(refusal(unlock(handle)), refused);
}

#[test]
fn a_missing_lock_file_is_made_only_where_that_is_asked_for() {
    let scene = Scene::new();
    assert_eq!(code(scene.lock("lock", LockMode::Exclusive)), Err(FailureCode::NotFound));
    let mut request = scene.lock_request("lock", LockMode::Shared);
    request.create = Some(true);
    let handle = store_lock(request, &mut |_| Ok(())).unwrap().handle.unwrap();
    assert_eq!(scene.text("lock"), "");
    unlock(handle).unwrap();
}

#[test]
fn a_lock_that_this_process_holds_is_not_waited_for() {
    let scene = Scene::new();
    let handle = scene.lock("spare", LockMode::Shared).unwrap().unwrap();
    let mut request = scene.lock_request("spare", LockMode::Exclusive);
    request.wait = Some(true);
    let refused = (FailureCode::InUse, "this process has locked it already".to_owned());
    assert_eq!(refusal(store_lock(request, &mut |_| Ok(()))), refused);
    unlock(handle).unwrap();
}

/// Locks the spare file for somebody else: through a description that is not in the table.
fn held(scene: &Scene) -> qcow2::lock::FileLock {
    use qcow2::lock::{FileLock, LockPolicy, Sharing};
    let file = fs::File::options().read(true).write(true).open(scene.path("spare")).unwrap();
    FileLock::acquire(file, Sharing::Exclusive, LockPolicy::default()).unwrap().unwrap()
}

/// Waits for the spare file's lock; sends when it is told of the wait.
fn wait(scene: &Scene, told: &mpsc::Sender<Instant>) -> Outcome<Option<u32>> {
    let mut request = scene.lock_request("spare", LockMode::Exclusive);
    request.wait = Some(true);
    let mut waiting = |holder: String| {
        // The tests are one process, and of itself it sees nothing.
        assert_eq!(holder, "another process");
        told.send(Instant::now()).map_err(|_| Stopped)
    };
    store_lock(request, &mut waiting).map(|report| report.handle)
}

#[test]
fn a_lock_is_waited_for_with_one_word_after_a_second() {
    let scene = Scene::new();
    let other = held(&scene);
    let (told, words) = mpsc::channel();
    let began = Instant::now();
    let waited = thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(&scene, &told));
        let word = words.recv().unwrap();
        assert!(word - began >= Duration::from_secs(1));
        thread::sleep(Duration::from_millis(200));
        drop(other);
        waiting.join().unwrap()
    });
    unlock(waited.unwrap().unwrap()).unwrap();
    assert!(words.try_recv().is_err());
}

#[test]
fn a_callback_that_fails_ends_the_wait() {
    let scene = Scene::new();
    let other = held(&scene);
    let (told, words) = mpsc::channel();
    drop(words);
    assert!(wait(&scene, &told).is_err());
    drop(other);
    unlock(scene.lock("spare", LockMode::Exclusive).unwrap().unwrap()).unwrap();
}

/// Whoever had the lock may have deleted the instance, and made another of the same name.
#[test]
fn a_lock_on_a_file_that_has_lost_its_name_meanwhile_is_none() {
    type Change = fn(&Scene);
    let changes: [(&str, Change); 3] = [
        ("No such file or directory", |scene| fs::remove_file(scene.path("spare")).unwrap()),
        ("another file has taken its place", |scene| {
            fs::rename(scene.path("spare"), scene.path("moved")).unwrap();
            fs::write(scene.path("spare"), "another").unwrap();
        }),
        ("No such file or directory", |scene| {
            fs::rename(&scene.root, scene.directory.path().join("moved")).unwrap();
        }),
    ];
    for (sentence, change) in changes {
        let scene = Scene::new();
        let other = held(&scene);
        let (told, words) = mpsc::channel();
        let waited = thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&scene, &told));
            words.recv().unwrap();
            change(&scene);
            drop(other);
            waiting.join().unwrap()
        });
        assert_eq!(refusal(waited), (FailureCode::NotFound, sentence.to_owned()));
    }
}

#[test]
fn a_shared_lock_needs_no_right_to_write() {
    let scene = Scene::new();
    let Some(mounted) = Mounted::small(&scene.path(DEV)) else { return };
    fs::write(scene.path(RECORD), "").unwrap();
    let arguments = ["-o", "remount,ro"];
    assert!(Command::new("mount").args(arguments).arg(&mounted.0).status().unwrap().success());
    let handle = scene.lock(RECORD, LockMode::Shared).unwrap().unwrap();
    assert_eq!(code(scene.lock(RECORD, LockMode::Exclusive)), Err(FailureCode::ReadOnly));
    assert_eq!(scene.read(RECORD).unwrap(), "");
    unlock(handle).unwrap();
    let refused = (FailureCode::ReadOnly, "Read-only file system".to_owned());
    assert_eq!(refusal(scene.create("instances/dev/new", "")), refused);
}
