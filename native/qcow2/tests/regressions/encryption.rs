//! Encrypted images: their keys lie in clusters that no table names.

use std::path::Path;
use std::process::Command;

use qcow2::storage::{Access, FileStorage, SparseImage};
use qcow2::{Bitmaps, CommitOptions, Committed, Image, NewSnapshot, Result};

use crate::support::layout::Layout;
use crate::support::oracle;
use crate::support::qemu::{self, Workshop};

const SECRET: &str = "secret,id=key,data=open sesame";

/// Runs one of QEMU's programs with the key.
fn with_key(program: &str, verb: &[&str], path: &Path) {
    let path = path.to_str().unwrap();
    let options = format!("driver=qcow2,file.filename={path},encrypt.key-secret=key");
    let (command, rest) = match program {
        "qemu-io" => (&[][..], verb),
        _ => verb.split_at(1),
    };
    let output = Command::new(program)
        .args(command)
        .args(["--object", SECRET])
        .args(rest)
        .args(["--image-opts", &options])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = !output.status.success() || text.contains("failed");
    assert!(!failed, "{verb:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Counts a cluster that nobody uses, so that the next change counts anew.
fn leak(path: &Path) {
    let mut image = SparseImage::load(path).unwrap();
    let layout = Layout::read(&image).unwrap();
    let mut clusters = 0..layout.block_entries();
    let free = clusters.find(|&cluster| layout.refcount(&image, cluster) == 0).unwrap();
    layout.set_refcount(&mut image, free, 1).unwrap();
    image.save(path).unwrap();
}

/// The header of LUKS holds the keys of the disk, and only a header extension says where it is.
/// Taken for a leak, it would be given back to the file system, and nobody could read the disk
/// again.
#[test]
fn the_keys_of_an_encrypted_image_are_nobodys_leak() {
    if !qemu::is_installed() {
        return;
    }
    let workshop = Workshop::new();
    let path = workshop.path("image.qcow2");
    let name = path.to_str().unwrap();
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let create = ["create", "-q", "--object", SECRET, "-f", "qcow2", "-o", options, name, "4M"];
    qemu::img_ok(&create);
    with_key("qemu-io", &["-c", "write -P 0x11 0 3M"], &path);

    let changes: [fn(&mut Image, &mut CommitOptions<'_>) -> Result<Committed>; 4] = [
        |image, options| {
            let new = NewSnapshot { name: b"one", least_id: 0, date_sec: 0, date_nsec: 0 };
            image.create_snapshot(&new, options)
        },
        |image, options| image.rename_snapshot(b"one", b"first", options),
        |image, options| image.apply_snapshot(b"first", Bitmaps::Refuse, options),
        |image, options| image.delete_snapshot(b"first", options),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        if number % 2 == 1 {
            leak(&path);
        }
        let storage = FileStorage::open(&path, Access::Write).unwrap();
        let mut image = Image::open(Box::new(storage)).unwrap();
        change(&mut image, &mut CommitOptions::default()).unwrap();
        let audit = oracle::audit(&SparseImage::load(&path).unwrap()).unwrap();
        assert!(audit.is_clean(), "change {number}: {audit:?}");
        with_key("qemu-img", &["check", "-q"], &path);
        with_key("qemu-io", &["-r", "-c", "read -P 0x11 0 3M"], &path);
        with_key("qemu-io", &["-c", "write -P 0x11 1M 64k"], &path);
    }
}
