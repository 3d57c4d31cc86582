//! qemu-img as a second judge. Where it is not installed, tests that need it say so and pass,
//! unless `CALQUE_REQUIRE_QEMU` is set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use qcow2::storage::SparseImage;
use tempfile::TempDir;

use super::oracle::{Content, View};

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

/// What [`luks_header`] opens with.
pub const SECRET: &str = "not a secret";

/// A LUKS header that qemu-img made, as far as the end of its first key: the shortest that it makes.
/// None where it is not installed. Takes some seconds the first time, and is random.
pub fn luks_header() -> Option<&'static [u8]> {
    /// What comes before the first key, and that key: 16 bytes in 4000 parts.
    const BYTES: usize = 4096 + 16 * 4000;
    static HEADER: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let make = || {
        let workshop = is_installed().then(Workshop::new)?;
        let path = workshop.path("luks");
        let secret = format!("secret,id=key,data={SECRET}");
        let options = "key-secret=key,iter-time=1,cipher-alg=aes-128,cipher-mode=cbc,\
                       ivgen-alg=plain64,hash-alg=sha1";
        let path_text = path.to_str().unwrap();
        img_ok(&["create", "-q", "--object", &secret, "-f", "luks", "-o", options, path_text, "0"]);
        let mut header = std::fs::read(path).unwrap();
        header.truncate(BYTES);
        Some(header)
    };
    HEADER.get_or_init(make).as_deref()
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

/// Status of a check that found leaks and nothing else.
const LEAKS_ONLY: i32 = 3;

/// What `qemu-img check` has against an image; none if it is clean, leaks included.
pub fn complaint(path: &Path) -> Option<String> {
    complaint_but(&[], &["check", "-f", "qcow2", path.to_str().unwrap()])
}

/// The same, where leaks are no complaint.
pub fn complaint_but_leaks(path: &Path) -> Option<String> {
    complaint_but(&[LEAKS_ONLY], &["check", "-f", "qcow2", path.to_str().unwrap()])
}

/// The same of an image that [`SECRET`] opens, where leaks are a complaint or none. Without its key
/// qemu-img does not even check an image.
pub fn complaint_with_key(path: &Path, may_leak: bool) -> Option<String> {
    let secret = format!("secret,id=key,data={SECRET}");
    let name = path.to_str().unwrap();
    let image = format!("driver=qcow2,file.filename={name},encrypt.key-secret=key");
    let fine = if may_leak { &[LEAKS_ONLY][..] } else { &[] };
    complaint_but(fine, &["check", "--object", &secret, "--image-opts", &image])
}

/// What qemu-img says, unless it ends with 0 or one of these.
fn complaint_but(fine: &[i32], arguments: &[&str]) -> Option<String> {
    let output = img(arguments);
    let texts = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    let is_fine = output.status.code().is_some_and(|code| code == 0 || fine.contains(&code));
    (!is_fine).then(|| texts.concat())
}

/// What of an image qemu-img reads differently from `view`: the active disk, or a snapshot.
pub fn other_content(
    workshop: &Workshop,
    path: &Path,
    view: &View,
    cluster_bytes: u64,
) -> Option<String> {
    let raw = workshop.path("raw");
    let convert = |more: &[&str]| {
        let mut arguments = vec!["convert", "-f", "qcow2", "-O", "raw"];
        arguments.extend(more);
        arguments.extend([path.to_str().unwrap(), raw.to_str().unwrap()]);
        img_ok(&arguments);
        raw_content(&raw, cluster_bytes)
    };
    if convert(&[]) != visible(&view.active, view.size, cluster_bytes) {
        return Some("active disk".into());
    }
    view.snapshots.iter().find_map(|snapshot| {
        let name = String::from_utf8_lossy(&snapshot.name);
        // qemu-img shows a snapshot through the size of the disk now.
        let shown = visible(&snapshot.content, view.size, cluster_bytes);
        let read = convert(&["-l", &format!("snapshot.name={name}")]);
        (read != shown).then(|| format!("snapshot {name}"))
    })
}

/// A raw disk as the oracle's content.
fn raw_content(path: &Path, cluster: u64) -> Content {
    let raw = SparseImage::load(path).unwrap();
    let mut content = BTreeMap::new();
    for range in raw.data_ranges(0..raw.len()) {
        for number in range.start / cluster..range.end.div_ceil(cluster) {
            let mut data = vec![0; usize::try_from(cluster).unwrap()];
            raw.read(&mut data, number * cluster);
            if data.iter().any(|&b| b != 0) {
                content.insert(number, Arc::from(data));
            }
        }
    }
    content
}

/// Content without VM state and without what a last, partial cluster holds beyond the end.
fn visible(content: &Content, size: u64, cluster: u64) -> Content {
    let mut content = content.clone();
    content.retain(|&number, _| number * cluster < size);
    if let Some(mut last) = content.last_entry() {
        let valid = usize::try_from((size - last.key() * cluster).min(cluster)).unwrap();
        let mut data = last.get().to_vec();
        data[valid..].fill(0);
        let is_empty = data.iter().all(|&b| b == 0);
        last.insert(Arc::from(data));
        if is_empty {
            content.pop_last();
        }
    }
    content
}
