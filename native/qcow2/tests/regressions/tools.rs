//! Images that QEMU's tools made, and ways to spoil them.

use std::path::{Path, PathBuf};
use std::process::Command;

use qcow2::Image;
use qcow2::storage::{Access, FileStorage, SparseImage};

use crate::support::layout::{Layout, OFFSET, be32, be64, bytes, put64};
use crate::support::qemu::{self, Workshop};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// An extension that no program knows.
pub const UNKNOWN: u32 = 0x1234_5678;

/// An image in a directory of its own.
pub struct QemuImage {
    pub workshop: Workshop,
    pub path: PathBuf,
}

impl QemuImage {
    /// A new one with the `-o` options of `qemu-img create`; none where there is no qemu-img.
    pub fn create(options: &str, bytes: u64) -> Option<Self> {
        if !qemu::is_installed() {
            return None;
        }
        let workshop = Workshop::new();
        let path = workshop.path("image.qcow2");
        let (name, bytes) = (path.to_str().unwrap(), bytes.to_string());
        qemu::img_ok(&["create", "-q", "-f", "qcow2", "-o", options, name, &bytes]);
        Some(Self { workshop, path })
    }

    pub fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Lets a guest do something, in qemu-io's words; a pattern that does not match is a failure.
    /// Who only reads does not change the file.
    pub fn guest(&self, command: &str) {
        let mut io = Command::new("qemu-io");
        io.args(command.starts_with("read").then_some("-r"));
        let output = io.args(["-f", "qcow2", "-c", command, self.name()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = !output.status.success() || text.contains("failed");
        assert!(!failed, "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn snapshot(&self, name: &str) {
        qemu::img_ok(&["snapshot", "-c", name, self.name()]);
    }

    /// What a snapshot contains, as QEMU reads it.
    pub fn read_snapshot(&self, name: &str) -> Vec<u8> {
        let raw = self.workshop.path("snapshot.raw");
        let (selector, target) = (format!("snapshot.name={name}"), raw.to_str().unwrap());
        let source = self.name();
        qemu::img_ok(&["convert", "-f", "qcow2", "-O", "raw", "-l", &selector, source, target]);
        std::fs::read(raw).unwrap()
    }

    /// Virtual size as QEMU says it.
    pub fn virtual_size(&self) -> u64 {
        let output = qemu::img(&["info", "--output=json", self.name()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        // The file below is a child with a size of its own, further in.
        let mut tops = text.lines().filter_map(|line| line.strip_prefix("    \"virtual-size\": "));
        tops.next().unwrap().trim_end_matches(',').parse().unwrap()
    }

    /// The file, byte for byte.
    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    /// Spoils the file.
    pub fn poke(&self, change: impl FnOnce(&mut SparseImage, &Layout)) {
        let mut image = SparseImage::load(&self.path).unwrap();
        let layout = Layout::read(&image).unwrap();
        change(&mut image, &layout);
        image.save(&self.path).unwrap();
    }

    pub fn open(&self) -> Image {
        let storage = FileStorage::open(&self.path, Access::Write).unwrap();
        Image::open(Box::new(storage)).unwrap()
    }

    pub fn complaint(&self) -> Option<String> {
        qemu::complaint(&self.path)
    }

    /// Names in the directory.
    pub fn neighbours(&self) -> Vec<String> {
        let directory = self.path.parent().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Whether two images show the guest the same disk, as QEMU sees it.
pub fn same_disk(one: &Path, other: &Path) -> bool {
    let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
    qemu::img(&["compare", "-f", "qcow2", "-F", "qcow2", one, other]).status.success()
}

/// Where the active disk maps guest offset `guest`: the L2 table and the data.
pub fn mapped(image: &SparseImage, layout: &Layout, guest: u64) -> (u64, u64) {
    let cluster = guest >> layout.cluster_bits;
    let l2 = be64(image, layout.l1_offset + cluster / layout.l2_entries() * 8) & OFFSET;
    let data = be64(image, l2 + cluster % layout.l2_entries() * 8) & OFFSET;
    assert!(l2 != 0 && data != 0, "{guest:#x} is mapped");
    (l2, data)
}

/// Sets the count of the cluster at host offset `offset`, which is not what it says it is now.
pub fn miscount(image: &mut SparseImage, layout: &Layout, offset: u64, count: u64) {
    let cluster = offset >> layout.cluster_bits;
    assert_ne!(layout.refcount(image, cluster), count);
    layout.set_refcount(image, cluster, count).unwrap();
}

/// Adds a header extension behind the others.
pub fn add_extension(image: &mut SparseImage, kind: u32, data: [u8; 8]) {
    let layout = Layout::read(image).unwrap();
    let first = u64::from(be32(image, 100));
    let end = |&(_, at, length): &(u32, u64, u64)| at + length.next_multiple_of(8);
    let at = layout.extensions.last().map_or(first, end);
    assert!(at + 24 <= layout.cluster() && bytes(image, at, 24) == [0; 24], "there is room");
    put64(image, at, u64::from(kind) << 32 | 8);
    image.write(&data, at + 8);
}

/// Takes the extra data out of row `index` of the snapshot table, as very old writers left it.
pub fn strip_extra_data(image: &mut SparseImage, index: u64) {
    let layout = Layout::read(image).unwrap();
    let mut at = row(image, index);
    let mut rest = bytes(image, at, layout.snapshots_offset + layout.cluster() - at);
    let (id, name) = (u16_at(&rest, 12), u16_at(&rest, 14));
    let extra = usize::try_from(be32(image, at + 36)).unwrap();
    assert_eq!(extra, 24);
    let next = (40 + extra + id + name).next_multiple_of(8);
    let following = rest.split_off(next);
    rest.truncate(40 + extra + id + name);
    rest.drain(40..40 + extra);
    rest[36..40].fill(0);
    rest.resize(rest.len().next_multiple_of(8), 0);
    image.write(&rest, at);
    at += rest.len() as u64;
    image.write(&following, at);
    image.write(&vec![0; next - rest.len()], at + following.len() as u64);
}

/// Offset of row `index` of the snapshot table.
pub fn row(image: &SparseImage, index: u64) -> u64 {
    let mut at = Layout::read(image).unwrap().snapshots_offset;
    for _ in 0..index {
        let fixed = bytes(image, at, 40);
        let names = u16_at(&fixed, 12) + u16_at(&fixed, 14);
        at += 40 + u64::from(be32(image, at + 36)) + names as u64;
        at = at.next_multiple_of(8);
    }
    at
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}
