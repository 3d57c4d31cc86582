//! What the operations on the store's files do where somebody has planted something, where the
//! file system is full, and when the power goes. Tests that mount something need root.

mod locks;
mod moves;
mod names;
mod paths;
mod power;
mod texts;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::types::{
    Done, FailureCode, LockMode, Outcome, StoreCreateRequest, StoreListReport, StoreLockRequest,
    StoreOpenRequest, StorePathRequest, StoreReadRequest, StoreRenameRequest, StoreSyncRequest,
    StoreUnlockRequest, StoreWriteRequest, Whole,
};

/// A store with one instance and a spare file in it, and its likeness outside of it.
struct Scene {
    directory: tempfile::TempDir,
    root: PathBuf,
}

/// Where the instance is.
const DEV: &str = "instances/dev";
/// The file in it.
const RECORD: &str = "instances/dev/record";

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for root in ["store", "outside"] {
            let dev = directory.path().join(root).join(DEV);
            fs::create_dir_all(&dev).unwrap();
            fs::write(dev.join("record"), root).unwrap();
        }
        let root = directory.path().canonicalize().unwrap().join("store");
        fs::write(root.join("spare"), "spare").unwrap();
        Self { directory, root }
    }

    fn root(&self) -> String {
        self.root.to_str().unwrap().to_owned()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn outside(&self, path: &str) -> PathBuf {
        self.directory.path().join("outside").join(path)
    }

    /// Puts a symbolic link to its likeness outside where `path` was.
    fn replace_by_link(&self, path: &str) {
        fs::rename(self.path(path), self.path("moved")).unwrap();
        symlink(self.outside(path), self.path(path)).unwrap();
    }

    /// The names in a directory of the store.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn read(&self, path: &str) -> Outcome<String> {
        let request = StoreReadRequest { root: self.root(), paths: vec![path.to_owned()] };
        let file = store_read(request)?.files.pop().unwrap();
        file.text.ok_or_else(|| file.failure.unwrap())
    }

    fn list(&self, path: &str) -> Outcome<StoreListReport> {
        store_list(StorePathRequest { root: self.root(), path: path.to_owned() })
    }

    fn make_directory(&self, path: &str) -> Outcome<Done> {
        store_make_directory(StorePathRequest { root: self.root(), path: path.to_owned() })
    }

    fn create(&self, path: &str, text: &str) -> Outcome<Done> {
        let (path, text) = (path.to_owned(), text.to_owned());
        store_create(StoreCreateRequest { root: self.root(), path, text, durable: Some(true) })
    }

    fn replace(&self, path: &str, text: &str) -> Outcome<Done> {
        let (path, text) = (path.to_owned(), text.to_owned());
        store_replace(StoreWriteRequest { root: self.root(), path, text })
    }

    fn append(&self, path: &str, text: &str) -> Outcome<Done> {
        let (path, text) = (path.to_owned(), text.to_owned());
        store_append(StoreWriteRequest { root: self.root(), path, text })
    }

    fn rename(&self, source: &str, target: &str) -> Outcome<Done> {
        let (source, target) = (source.to_owned(), target.to_owned());
        store_rename(StoreRenameRequest { root: self.root(), source, target, durable: Some(true) })
    }

    fn remove(&self, path: &str) -> Outcome<Done> {
        store_remove(StorePathRequest { root: self.root(), path: path.to_owned() })
    }

    fn sync(&self, path: &str) -> Outcome<Done> {
        store_sync(StoreSyncRequest { root: self.root(), paths: Some(vec![path.to_owned()]) })
    }

    fn lock_request(&self, path: &str, mode: LockMode) -> StoreLockRequest {
        let path = path.to_owned();
        StoreLockRequest { root: self.root(), path, mode, wait: None, create: None }
    }

    /// Does not wait.
    fn lock(&self, path: &str, mode: LockMode) -> Outcome<Option<u32>> {
        store_lock(self.lock_request(path, mode), &mut |_| Ok(())).map(|report| report.handle)
    }

    /// What each operation answers to one path.
    fn operations(&self, path: &str) -> [(&'static str, Result<(), FailureCode>); 11] {
        [
            ("read", code(self.read(path))),
            ("list", code(self.list(path))),
            ("lock", code(self.lock(path, LockMode::Exclusive))),
            ("sync", code(self.sync(path))),
            ("make directory", code(self.make_directory(path))),
            ("create", code(self.create(path, "new"))),
            ("append", code(self.append(path, "new"))),
            ("rename to", code(self.rename("spare", path))),
            ("rename from", code(self.rename(path, "moved away"))),
            ("replace", code(self.replace(path, "new"))),
            ("remove", code(self.remove(path))),
        ]
    }
}

fn code<T>(outcome: Outcome<T>) -> Result<(), FailureCode> {
    outcome.map(drop).map_err(|failure| failure.code)
}

/// The code and the sentence of what must fail.
fn refusal<T>(outcome: Outcome<T>) -> (FailureCode, String) {
    let failure = outcome.err().expect("it is refused");
    (failure.code, failure.reason)
}

fn unlock(handle: u32) -> Outcome<Done> {
    store_unlock(StoreUnlockRequest { handle: Whole(handle) })
}

/// Something mounted, as long as it lives.
struct Mounted(PathBuf);

impl Mounted {
    /// None, which is said, where the machine does not let us.
    fn new(arguments: &[&str], point: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(arguments).arg(point).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(point.to_owned()));
        }
        eprintln!("skipped: nothing can be mounted here");
        None
    }

    /// A file system of 64 KiB.
    fn small(point: &Path) -> Option<Self> {
        Self::new(&["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"], point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
