//! Image locks against real QEMU processes and against other Calques, in this process and in
//! others.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use qcow2::lock::{Holder, ImageLock, Intent, LockPolicy, Usage, users};
use qcow2::storage::{Access, FileStorage, Storage};
use qcow2::{Error, Kind};

const INTENTS: [Intent; 3] = [Intent::Read, Intent::Share, Intent::Change];

/// A directory with an empty image in it.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap() };
        qemu_img(&["create", "-q", "-f", "qcow2", scene.name(), "64M"]).unwrap();
        scene
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk.qcow2")
    }

    fn name(&self) -> &'static str {
        // Leaked: a test's few bytes, for argument lists that read well.
        self.path().into_os_string().into_string().unwrap().leak()
    }

    fn open(&self, intent: Intent) -> FileStorage {
        let access = if intent == Intent::Change { Access::Write } else { Access::Read };
        FileStorage::open(self.path(), access).unwrap()
    }

    fn acquire(&self, intent: Intent) -> Result<ImageLock, Error> {
        ImageLock::acquire(&self.open(intent), intent, LockPolicy::default())
    }

    fn acquire_waiting(&self, intent: Intent) -> Result<ImageLock, Error> {
        let policy = LockPolicy { wait: true, on_wait: None };
        ImageLock::acquire(&self.open(intent), intent, policy)
    }

    fn usage(&self) -> Usage {
        users(&[self.path()]).pop().unwrap().unwrap()
    }

    /// The sentence that each intent is refused with, not waiting.
    fn refusals(&self) -> [Option<String>; 3] {
        INTENTS.map(|intent| self.acquire(intent).err().map(|error| error.reason().to_owned()))
    }
}

/// Another process that holds something until it is let go or dropped.
struct Other(Child);

impl Other {
    /// Starts `command`, which is ready when it has written a line that contains `ready`.
    fn start(command: &mut Command, ready: &str, first_line: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(first_line.as_bytes()).unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let found = lines.by_ref().map_while(Result::ok).any(|line| line.contains(ready));
        assert!(found, "{command:?} ended without {ready:?}");
        Self(child)
    }

    fn qemu_io(options: &[&str], file: &str) -> Self {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "qcow2"]).args(options).arg(file);
        Self::start(&mut command, "64 MiB", "length\n")
    }

    fn qemu_nbd(file: &str, socket: &Path) -> Self {
        let child = Command::new("qemu-nbd")
            .args(["-f", "qcow2", "--persistent", "--socket"])
            .args([socket, Path::new(file)])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(|| UnixStream::connect(socket).is_ok());
        // It listens before it opens the image, and greets afterwards.
        let mut greeting = [0; 8];
        UnixStream::connect(socket).unwrap().read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGIC");
        Self(child)
    }

    fn shell(script: &str, file: &str) -> Self {
        let script = format!("{script}; echo ready; read -r wait");
        Self::start(Command::new("sh").args(["-c", &script, file]), "ready", "")
    }

    /// A Calque: this very program, running [`other_calque`].
    fn calque(intent: Intent, file: &str) -> Self {
        Self::start(&mut Self::calque_command(intent, file), "holding", "")
    }

    fn calque_command(intent: Intent, file: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "other_calque", "--nocapture"])
            .env("LOCKS_TEST_FILE", file)
            .env("LOCKS_TEST_INTENT", format!("{intent:?}"));
        command
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It ends with its input; qemu-nbd has none.
        for _ in 0..50 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "no test of its own: the other process of the tests here"]
fn other_calque() {
    let Ok(file) = std::env::var("LOCKS_TEST_FILE") else { return };
    let wanted = std::env::var("LOCKS_TEST_INTENT").unwrap();
    let intent = INTENTS.into_iter().find(|it| format!("{it:?}") == wanted).unwrap();
    let storage = FileStorage::open(file, Access::Write).unwrap();
    let policy = LockPolicy { wait: true, on_wait: None };
    let _lock = ImageLock::acquire(&storage, intent, policy).unwrap();
    println!("holding");
    let _ = std::io::stdin().read(&mut [0]);
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(10), "waited in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a QEMU tool says on stderr when it fails.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    // qemu-io ends with 0 when it could not open the file with -c "".
    if output.status.success() { Ok(()) } else { Err(text) }
}

fn qemu_img(arguments: &[&str]) -> Result<(), String> {
    run("qemu-img", arguments)
}

#[allow(clippy::unnecessary_wraps, reason = "one side of a comparison")]
fn some(reason: &str) -> Option<String> {
    Some(reason.to_owned())
}

#[test]
fn a_free_image_is_had_for_everything() {
    let scene = Scene::new();
    assert_eq!(scene.refusals(), [None, None, None]);
    assert_eq!(scene.usage().holder, Holder::Nobody);
}

#[test]
fn a_force_shared_reader_keeps_from_changing_only() {
    let scene = Scene::new();
    let _qemu = Other::qemu_io(&["-r", "-U"], scene.name());
    let reason = some("Failed to get shared \"consistent read\" lock");
    assert_eq!(scene.refusals(), [None, None, reason]);
    assert_eq!(scene.usage().holder, Holder::Reader);
}

#[test]
fn a_reader_keeps_from_changing_only() {
    let scene = Scene::new();
    let qemu = Other::qemu_io(&["-r"], scene.name());
    assert_eq!(scene.refusals(), [None, None, some("Failed to get \"write\" lock")]);
    let usage = scene.usage();
    assert_eq!(usage.holder, Holder::Reader);
    assert_eq!(usage.name, Some(format!("qemu-io (process {})", qemu.id())));
}

#[test]
fn the_backing_file_of_a_writer_is_frozen_and_can_be_shared() {
    let scene = Scene::new();
    let overlay = scene.directory.path().join("overlay.qcow2");
    let overlay = overlay.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", scene.name(), overlay]).unwrap();
    let _qemu = Other::qemu_io(&[], overlay);
    assert_eq!(scene.refusals(), [None, None, some("Failed to get \"write\" lock")]);
}

#[test]
fn a_writer_keeps_from_everything_at_once_and_is_named() {
    let scene = Scene::new();
    let qemu = Other::qemu_io(&[], scene.name());
    let shared = some("Failed to get shared \"write\" lock");
    let reasons = [shared.clone(), shared, some("Failed to get \"write\" lock")];
    assert_eq!(scene.refusals(), reasons);
    let began = Instant::now();
    let error = scene.acquire_waiting(Intent::Change).unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(500), "a writer is not waited for");
    assert_eq!(error.kind(), Kind::InUse);
    let hint = format!(
        "Is another process using the image [{}]?\nIt is locked by qemu-io (process {})",
        scene.name(),
        qemu.id()
    );
    assert_eq!(error.hint, Some(hint));
    assert_eq!(scene.usage().holder, Holder::Writer);
}

#[test]
fn an_exported_image_is_in_use_and_free_after_the_exporter_is_killed() {
    let scene = Scene::new();
    let nbd = Other::qemu_nbd(scene.name(), &scene.directory.path().join("socket"));
    let shared = some("Failed to get shared \"write\" lock");
    let reasons = [shared.clone(), shared, some("Failed to get \"write\" lock")];
    assert_eq!(scene.refusals(), reasons);
    nbd.kill();
    assert_eq!(scene.refusals(), [None, None, None]);
}

#[test]
fn qemu_img_is_kept_out_of_a_change_and_let_in_afterwards() {
    let scene = Scene::new();
    let file = scene.name();
    let lock = scene.acquire(Intent::Change).unwrap();
    let second_line = format!("Is another process using the image [{file}]?\n");
    for arguments in [
        &["snapshot", "-c", "one", file][..],
        &["snapshot", "-l", file],
        &["check", file],
        &["info", file],
        &["resize", file, "128M"],
    ] {
        let refusal = qemu_img(arguments).unwrap_err();
        assert!(refusal.ends_with(&second_line), "{arguments:?}: {refusal}");
        lock.reprobe().unwrap();
    }
    assert!(run("qemu-io", &["-f", "qcow2", "-c", "write 0 64k", file]).is_err());
    qemu_img(&["info", "-U", file]).unwrap();
    drop(lock);
    qemu_img(&["snapshot", "-c", "one", file]).unwrap();
    qemu_img(&["check", "-q", file]).unwrap();
}

#[test]
fn qemu_img_reads_beside_a_clone_and_cannot_write() {
    let scene = Scene::new();
    let file = scene.name();
    let lock = scene.acquire(Intent::Share).unwrap();
    let _second = scene.acquire(Intent::Share).unwrap();
    qemu_img(&["info", file]).unwrap();
    qemu_img(&["check", "-q", file]).unwrap();
    let refusal = qemu_img(&["snapshot", "-c", "one", file]).unwrap_err();
    assert!(refusal.contains("Failed to get \"write\" lock"), "{refusal}");
    lock.reprobe().unwrap();
    assert_eq!(scene.acquire(Intent::Change).unwrap_err().kind(), Kind::InUse);
    drop(scene.acquire(Intent::Read).unwrap());
}

#[test]
fn a_reader_that_leaves_within_two_seconds_is_waited_for() {
    let scene = Scene::new();
    let qemu = Other::qemu_io(&["-r"], scene.name());
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            drop(qemu);
        });
        drop(scene.acquire_waiting(Intent::Change).unwrap());
    });
}

#[test]
fn a_reader_that_stays_is_given_up_on_after_two_seconds() {
    let scene = Scene::new();
    let _qemu = Other::qemu_io(&["-r"], scene.name());
    let began = Instant::now();
    assert_eq!(scene.acquire_waiting(Intent::Change).unwrap_err().kind(), Kind::InUse);
    let waited = began.elapsed();
    assert!((2.0..3.0).contains(&waited.as_secs_f64()), "{waited:?}");
}

#[test]
fn another_calque_is_waited_for_with_a_word_after_one_second() {
    for intent in INTENTS {
        let scene = Scene::new();
        let other = Other::calque(Intent::Change, scene.name());
        let id = other.id();
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap();
        let storage = scene.open(intent);
        let mut other = Some(other);
        let began = Instant::now();
        let mut words = Vec::new();
        let mut on_wait = |holder: &str| {
            words.push((holder.to_owned(), began.elapsed()));
            let other = other.take();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                drop(other);
            });
            Ok(())
        };
        let policy = LockPolicy { wait: true, on_wait: Some(&mut on_wait) };
        let lock = ImageLock::acquire(&storage, intent, policy).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(1300));
        drop(lock);
        let [(holder, after)] = &words[..] else { panic!("{words:?}") };
        assert_eq!(holder, &format!("{} (process {id})", name.trim()));
        assert!(after.as_secs_f64() < 1.5, "{after:?}");
    }
}

#[test]
fn another_calque_is_refused_at_once_where_waiting_is_not_wanted() {
    let scene = Scene::new();
    let other = Other::calque(Intent::Change, scene.name());
    let began = Instant::now();
    let shared = some("Failed to get shared \"write\" lock");
    let reasons = [shared.clone(), shared, some("Failed to get \"write\" lock")];
    assert_eq!(scene.refusals(), reasons);
    assert!(began.elapsed() < Duration::from_millis(500));
    let usage = scene.usage();
    assert_eq!(usage.holder, Holder::Calque);
    assert!(usage.name.unwrap().ends_with(&format!("(process {})", other.id())));
    let hint = scene.acquire(Intent::Change).unwrap_err().hint.unwrap();
    assert!(hint.ends_with(&format!("(process {})", other.id())), "{hint}");
}

#[test]
fn one_look_tells_the_users_of_many_images_apart() {
    let scenes = [(); 6].map(|()| Scene::new());
    let [free, reader, writer, calque, unlocked, read] = &scenes;
    let reading = Other::qemu_io(&["-r"], reader.name());
    let writing = Other::qemu_io(&[], writer.name());
    let changing = Other::calque(Intent::Change, calque.name());
    let unlocking = Other::shell("exec 9<>\"$0\"", unlocked.name());
    let _looking = Other::shell("exec 9<\"$0\"", read.name());
    let missing = free.directory.path().join("missing.qcow2");
    let mut paths: Vec<_> = scenes.iter().map(Scene::path).collect();
    paths.extend([missing, writer.path()]);

    let mut found = users(&paths).into_iter();
    let mut next = || found.next().unwrap().map(|it| (it.holder, it.name.unwrap_or_default()));
    let named = |name: &str, other: &Other| format!("{name} (process {})", other.id());
    assert_eq!(next().unwrap(), (Holder::Nobody, String::new()));
    assert_eq!(next().unwrap(), (Holder::Reader, named("qemu-io", &reading)));
    assert_eq!(next().unwrap(), (Holder::Writer, named("qemu-io", &writing)));
    let (holder, name) = next().unwrap();
    assert_eq!(holder, Holder::Calque);
    assert!(name.ends_with(&format!("(process {})", changing.id())), "{name}");
    assert_eq!(next().unwrap(), (Holder::Unlocked, named("sh", &unlocking)));
    assert_eq!(next().unwrap(), (Holder::Nobody, String::new()));
    assert_eq!(next().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(next().unwrap(), (Holder::Writer, named("qemu-io", &writing)));
}

/// A Calque that waits for a reader to go stands in the queue; the reader has the image.
#[test]
fn a_calque_in_the_queue_does_not_hide_who_has_the_image() {
    let scene = Scene::new();
    let reading = Other::qemu_io(&["-r"], scene.name());
    let path = scene.path();
    let waiting = thread::spawn(move || {
        let file = FileStorage::open(&path, Access::Write).unwrap();
        let policy = LockPolicy { wait: true, on_wait: None };
        ImageLock::acquire(&file, Intent::Change, policy).map(drop)
    });
    // It waits for two seconds.
    thread::sleep(Duration::from_millis(500));
    let usage = scene.usage();
    assert_eq!(usage.holder, Holder::Reader);
    assert_eq!(usage.name, Some(format!("qemu-io (process {})", reading.id())));
    drop(reading);
    waiting.join().unwrap().unwrap();
}

/// The first of the waiting ones took the others, which have the file open for writing, for writers
/// without locks.
#[test]
fn calques_that_wait_are_no_writers_without_locks() {
    let scene = Scene::new();
    let lock = scene.acquire(Intent::Change).unwrap();
    let mut others: Vec<_> = (0..6)
        .map(|_| {
            Other::calque_command(Intent::Change, scene.name())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    // Long enough for all to arrive.
    thread::sleep(Duration::from_millis(500));
    drop(lock);
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
}

#[test]
fn a_calque_that_is_killed_leaves_no_lock() {
    let scene = Scene::new();
    for intent in [Intent::Share, Intent::Change] {
        let other = Other::calque(intent, scene.name());
        assert!(scene.acquire(Intent::Change).is_err());
        other.kill();
        assert_eq!(scene.refusals(), [None, None, None]);
        qemu_img(&["check", "-q", scene.name()]).unwrap();
    }
}

#[test]
fn changers_at_once_all_get_their_turn_and_one_at_a_time() {
    let scene = Scene::new();
    let (changing, sharing) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..12 {
            let (scene, changing, sharing) = (&scene, &changing, &sharing);
            scope.spawn(move || {
                for _ in 0..10 {
                    // A quarter changes, a quarter reads, half shares.
                    let intent = [Intent::Change, Intent::Read, Intent::Share, Intent::Share];
                    let intent = intent[number % 4];
                    let lock = scene.acquire_waiting(intent).unwrap();
                    match intent {
                        Intent::Read => {}
                        Intent::Share => {
                            sharing.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(changing.load(Ordering::SeqCst), 0);
                            thread::sleep(Duration::from_millis(1));
                            sharing.fetch_sub(1, Ordering::SeqCst);
                        }
                        Intent::Change => {
                            assert_eq!(changing.fetch_add(1, Ordering::SeqCst), 0);
                            assert_eq!(sharing.load(Ordering::SeqCst), 0);
                            thread::sleep(Duration::from_millis(1));
                            lock.reprobe().unwrap();
                            changing.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(scene.refusals(), [None, None, None]);
}

#[test]
fn readers_that_keep_coming_do_not_starve_a_changer() {
    let scene = Scene::new();
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for delay in [0, 4, 8, 12, 16] {
            let (scene, done) = (&scene, &done);
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(delay));
                let began = Instant::now();
                while done.load(Ordering::SeqCst) == 0 && began.elapsed().as_secs() < 4 {
                    // Practically always one of them holds it.
                    let _lock = scene.acquire_waiting(Intent::Share).unwrap();
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        let lock = scene.acquire_waiting(Intent::Change);
        let waited = began.elapsed();
        done.store(1, Ordering::SeqCst);
        drop(lock.unwrap());
        assert!(waited < Duration::from_millis(800), "{waited:?}");
    });
}

#[test]
fn a_qemu_that_starts_in_the_same_instant_and_we_do_not_both_fail() {
    let scene = Scene::new();
    for round in 0..40 {
        let mut qemu = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", "length", scene.name()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_micros(500 * round));
        let ours = scene.acquire(Intent::Change);
        let theirs = qemu.wait().unwrap();
        assert!(ours.is_ok() || theirs.success(), "round {round}: {ours:?}");
    }
}

#[test]
fn a_writer_without_locks_is_found_in_proc() {
    let scene = Scene::new();
    let reader = Other::shell("exec 9<\"$0\"", scene.name());
    assert_eq!(scene.refusals(), [None, None, None]);
    drop(reader);
    let writer = Other::shell("exec 9<>\"$0\"", scene.name());
    let error = scene.acquire(Intent::Change).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::InUse, "Failed to get \"write\" lock"));
    let hint = format!(
        "Is another process using the image [{}]?\n\
         It is open for writing, without a lock, in sh (process {})",
        scene.name(),
        writer.id()
    );
    assert_eq!(error.hint, Some(hint));
    drop(writer);
    drop(scene.acquire(Intent::Change).unwrap());
}

#[test]
fn a_qemu_that_was_told_not_to_lock_is_found_in_proc() {
    let scene = Scene::new();
    let options =
        format!("driver=qcow2,file.driver=file,file.locking=off,file.filename={}", scene.name());
    let mut command = Command::new("qemu-io");
    command.args(["--image-opts", &options]);
    let _qemu = Other::start(&mut command, "64 MiB", "length\n");
    assert_eq!(scene.acquire(Intent::Share).unwrap_err().kind(), Kind::InUse);
    assert_eq!(scene.acquire(Intent::Change).unwrap_err().kind(), Kind::InUse);
}

#[test]
fn a_loop_device_is_a_writer_without_locks() {
    let scene = Scene::new();
    let losetup = Command::new("losetup").args(["--show", "-f", scene.name()]).output();
    let Some(losetup) = losetup.ok().filter(|it| it.status.success()) else {
        eprintln!("skipped: no loop devices here");
        return;
    };
    let device = String::from_utf8(losetup.stdout).unwrap().trim().to_owned();
    let result = scene.acquire(Intent::Change);
    // A child of another test has what is open here until it starts its program, and comes first.
    let name = Some(format!("the loop device {device}"));
    let usage = (0..20).map(|_| scene.usage()).find(|usage| usage.name == name);
    Command::new("losetup").args(["-d", &device]).status().unwrap();
    let hint = result.unwrap_err().hint.unwrap();
    assert!(hint.ends_with(&format!("\nIt is attached to the loop device {device}")), "{hint}");
    assert_eq!(usage.expect("it is named").holder, Holder::Unlocked);
    // It is detached in the background.
    wait_until(|| scene.acquire(Intent::Change).is_ok());
}

#[test]
fn flock_by_somebody_else_counts_and_by_our_caller_does_not() {
    let scene = Scene::new();
    let mut command = Command::new("flock");
    command.args([scene.name(), "sh", "-c", "echo ready; read -r wait"]);
    let other = Other::start(&mut command, "ready", "");
    let error = scene.acquire(Intent::Change).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::InUse, "Failed to get \"write\" lock"));
    assert!(error.hint.unwrap().contains("It is locked by flock (process "));
    drop(other);
    let held = scene.acquire(Intent::Change).unwrap();
    let second = Command::new("flock").args(["-n", scene.name(), "true"]).status().unwrap();
    assert!(!second.success(), "we take part in flock");
    drop(held);

    let mut command = Command::new("flock");
    command
        .arg(scene.name())
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "other_calque", "--nocapture"])
        .env("LOCKS_TEST_FILE", scene.name())
        .env("LOCKS_TEST_INTENT", "Change");
    drop(Other::start(&mut command, "holding", ""));
}

#[test]
fn a_file_that_was_replaced_is_not_changed() {
    let scene = Scene::new();
    let storage = scene.open(Intent::Change);
    let other = scene.directory.path().join("other");
    std::fs::copy(scene.path(), &other).unwrap();
    std::fs::rename(&other, scene.path()).unwrap();
    let refusal = ImageLock::acquire(&storage, Intent::Change, LockPolicy::default()).unwrap_err();
    assert_eq!(refusal.kind(), Kind::Busy);
    assert_eq!(scene.refusals(), [None, None, None]);
}

/// QEMU measures a file when it opens it, and locks it when it puts a format on it; what has been
/// added in between reads as zeros to it. A storage daemon that was given the file before a
/// snapshot, and the format after it, took the new tables for empty ones and wrote by them.
#[test]
fn who_has_measured_the_file_before_it_grew_and_not_locked_it_is_in_the_way() {
    let scene = Scene::new();
    // It stands at the end, as lseek(2) leaves it.
    let at_end = "exec 9<\"$0\"; cat <&9 >/dev/null";
    let early = Other::shell(at_end, scene.name());
    let lock = scene.acquire(Intent::Change).unwrap();
    lock.reprobe().unwrap();

    let file = scene.open(Intent::Change);
    file.set_len(file.len().unwrap() + 65_536).unwrap();
    let error = lock.reprobe().unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::InUse, "Failed to get \"write\" lock"));
    let hint = format!(
        "Is another process using the image [{}]?\nIt is open, and not locked yet, in sh (process {})",
        scene.name(),
        early.id()
    );
    assert_eq!(error.hint, Some(hint));

    // Neither who measures it now nor who has not measured it is in the way.
    let _late = Other::shell(at_end, scene.name());
    let _reader = Other::shell("exec 9<\"$0\"", scene.name());
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            early.kill();
        });
        lock.reprobe().unwrap();
    });
}

/// A Calque that asks the kernel for other writers holds a lease for microseconds, and the next one
/// to open the file, not waiting, was told to try again.
#[test]
fn opening_succeeds_while_another_calque_looks_for_writers() {
    let scene = Scene::new();
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            for _ in 0..2_000 {
                drop(scene.acquire(Intent::Share));
            }
        });
        while !looking.is_finished() {
            drop(scene.open(Intent::Change));
        }
    });
}
