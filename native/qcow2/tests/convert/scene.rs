//! Files in a directory, and conversions between them.

use std::path::{Path, PathBuf};
use std::process::Command;

use qcow2::convert::{Backing, Chain, Converted, Format, Source, convert};
use qcow2::lock::{ImageLock, Intent, LockPolicy};
use qcow2::storage::FileStorage;
use qcow2::{Error, Result};

use crate::support::qemu::{self, Workshop};

/// A directory to work in.
pub struct Scene(Workshop);

/// A conversion that succeeded.
pub struct Done {
    pub converted: Converted,
    /// Names of the files that were read, in order.
    pub opened: Vec<String>,
}

impl Scene {
    /// None where there is no qemu-img.
    pub fn new() -> Option<Self> {
        qemu::is_installed().then(|| Self(Workshop::new()))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// Runs qemu-img in the directory, with the words of `command`; it has to succeed.
    pub fn img(&self, command: &str) {
        let (ok, text) = self.run("qemu-img", &command.split_whitespace().collect::<Vec<_>>());
        assert!(ok, "qemu-img {command}: {text}");
    }

    /// Lets a guest do something to the image `name`.
    pub fn guest(&self, name: &str, commands: &[&str]) {
        let mut arguments = vec!["-f", "qcow2"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(name);
        let (ok, text) = self.run("qemu-io", &arguments);
        assert!(ok && !text.contains("failed"), "qemu-io {commands:?} {name}: {text}");
    }

    /// What is different between two disks, size included, as qemu-img sees them; none if they are
    /// alike.
    pub fn difference(&self, format: &str, name: &str, other: &str, its: &str) -> Option<String> {
        let command = ["compare", "-f", format, "-F", its, name, other];
        let (_, text) = self.run("qemu-img", &command);
        (text != "Images are identical.\n").then_some(text)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(program);
        let output = command.current_dir(self.path("")).args(arguments).output().unwrap();
        let texts = [output.stdout, output.stderr];
        let text = texts.map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), text)
    }

    /// Names in the directory, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Makes `target` a raw disk of what the image `name` holds.
    pub fn export(&self, name: &str, target: &str) -> Result<Done> {
        let path = self.path(name);
        self.convert(&source_of(&path, Format::Qcow2), target, Format::Raw)
    }

    pub fn convert(&self, source: &Source<'_>, target: &str, format: Format) -> Result<Done> {
        self.convert_watching(source, target, format, &mut |_, _| {})
    }

    pub fn convert_watching(
        &self,
        source: &Source<'_>,
        target: &str,
        format: Format,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Done> {
        let mut chain = Chain::open(source, &mut share)?;
        let opened = chain
            .opened()
            .map(|path| path.strip_prefix(self.path("")).unwrap_or(path).display().to_string())
            .collect();
        let converted = convert(&mut chain, &self.path(target), format, progress)?;
        Ok(Done { converted, opened })
    }

    /// The target is an image without leaks or errors.
    pub fn assert_clean(&self, name: &str) {
        assert_eq!(qemu::complaint(&self.path(name)), None);
    }

    /// The image is refused with this reason, about this file, and nothing is left of the target.
    pub fn assert_refused(&self, result: Result<Done>, reason: &str, about: &str) -> Error {
        let error = result.err().unwrap_or_else(|| panic!("not refused: {reason}"));
        assert_eq!(error.reason(), reason);
        assert_eq!(error.path.as_deref(), Some(&*self.path(about)), "{reason}");
        assert!(!self.path("target").exists(), "{reason}: something is left");
        error
    }
}

/// The active disk of a file, which is to have no backing file.
pub fn source_of(path: &Path, format: Format) -> Source<'_> {
    Source { path, format, snapshot: None, backing: Backing::Refuse }
}

/// Takes the lock of a reader, and waits for nobody.
pub fn share(file: &FileStorage) -> Result<ImageLock> {
    ImageLock::acquire(file, Intent::Share, LockPolicy::default())
}

/// The bytes of the file system that a file takes.
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.metadata().unwrap().blocks() * 512
}
