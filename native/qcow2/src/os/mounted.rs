//! A file system of a given kind for a test, in a loop-mounted file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Mounted as long as it lives.
pub(crate) struct Mounted {
    directory: tempfile::TempDir,
    point: PathBuf,
}

impl Mounted {
    /// An empty file system of `kind`, or `None` (said on stderr) where the machine cannot mount
    /// one: that takes root, loop devices and `mkfs.<kind>`.
    pub(crate) fn new(kind: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let mounted = run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))
            .then(|| Self::mount(directory, "loop"))
            .flatten();
        if mounted.is_none() {
            eprintln!("skipped: {kind} cannot be mounted here");
        }
        mounted
    }

    /// What is there when the power goes now and comes back: the medium as it is, mounted anew.
    pub(crate) fn after_power_cut(self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [medium, copy] = [&self.directory, &directory].map(|it| it.path().join("image"));
        assert!(run(Command::new("cp").arg("--sparse=always").args([&medium, &copy])));
        drop(self);
        // btrfs remembers the unmounted original, which is newer and of the same uuid.
        run(Command::new("btrfs").args(["device", "scan", "--forget"]));
        Self::mount(directory, "loop").unwrap()
    }

    /// Mounts the file `image` of `directory`.
    fn mount(directory: tempfile::TempDir, options: &str) -> Option<Self> {
        let point = directory.path().join("mounted");
        std::fs::create_dir(&point).unwrap();
        let image = directory.path().join("image");
        run(Command::new("mount").args(["-o", options]).arg(&image).arg(&point))
            .then_some(Self { directory, point })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    /// A new file, open for reading and writing.
    pub(crate) fn file(&self, name: &str) -> File {
        let path = self.point.join(name);
        File::options().read(true).write(true).create_new(true).open(path).unwrap()
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        rustix::fs::syncfs(File::open(&self.point).unwrap()).unwrap();
        let stat = rustix::fs::statvfs(&self.point).unwrap();
        stat.f_bfree * stat.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The loop device goes with the mount. A descriptor of the test may still be open when an
        // assertion failed; a lazy unmount lets go as soon as it is closed.
        if !run(Command::new("umount").arg(&self.point)) {
            run(Command::new("umount").arg("--lazy").arg(&self.point));
        }
        let _ = std::fs::remove_file(self.directory.path().join("image"));
    }
}

fn run(command: &mut Command) -> bool {
    command.stderr(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|it| it.success())
}
