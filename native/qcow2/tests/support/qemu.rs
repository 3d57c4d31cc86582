//! qemu-img as a second judge. Where it is not installed, tests that need it say so and pass,
//! unless `CALQUE_REQUIRE_QEMU` is set.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use qcow2::storage::SparseImage;
use tempfile::TempDir;

/// Whether qemu-img can be run.
pub fn is_installed() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    assert!(
        found || std::env::var_os("CALQUE_REQUIRE_QEMU").is_none(),
        "CALQUE_REQUIRE_QEMU is set and qemu-img is not installed"
    );
    if !found {
        eprintln!("skipped: qemu-img is not installed");
    }
    found
}

/// A directory for files that QEMU's tools look at.
pub struct Workshop(TempDir);

impl Workshop {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Stores `image` as `name`.
    pub fn put(&self, name: &str, image: &SparseImage) -> PathBuf {
        let path = self.path(name);
        image.save(&path).unwrap();
        path
    }
}

/// Runs qemu-img; `{}` in an argument stands for nothing special.
pub fn img(arguments: &[&str]) -> Output {
    Command::new("qemu-img").args(arguments).output().unwrap()
}

/// Runs qemu-img, which has to succeed.
pub fn img_ok(arguments: &[&str]) {
    let output = img(arguments);
    assert!(
        output.status.success(),
        "qemu-img {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What `qemu-img check` has against an image; none if it is clean, leaks included.
pub fn complaint(path: &Path) -> Option<String> {
    let output = img(&["check", "-f", "qcow2", path.to_str().unwrap()]);
    let texts = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    (!output.status.success()).then(|| texts.concat())
}
