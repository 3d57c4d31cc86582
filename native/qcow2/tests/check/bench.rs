//! Images under test: built by QEMU's tools, then poked.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::support::Random;
use crate::support::layout::OFFSET;
use crate::verdict::{Verdict, by_qemu, by_us, must};

// Header fields: offset and length.
pub const VERSION: u64 = 4;
pub const SIZE: u64 = 24;
pub const L1_ENTRIES: u64 = 36;
pub const L1_OFFSET: u64 = 40;
pub const TABLE_OFFSET: u64 = 48;
pub const TABLE_CLUSTERS: u64 = 56;
pub const SNAPSHOT_COUNT: u64 = 60;
pub const SNAPSHOTS_OFFSET: u64 = 64;
pub const INCOMPATIBLE: u64 = 72;
pub const AUTOCLEAR: u64 = 88;

/// One way to damage an image.
pub type Damage = fn(&Bench);

/// An image under test.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub secret: bool,
}

impl Bench {
    pub fn create(size: u64, options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.qcow2");
        let options = options.replace("DIR", dir.path().to_str().unwrap());
        let secret = options.contains("encrypt");
        let object = ["--object", "secret,id=key,data=abc"];
        let head = ["create", "-q", "-f", "qcow2"];
        let tail = ["-o", &options, path.to_str().unwrap(), &size.to_string()];
        let object = if secret { &object[..] } else { &[] };
        must("qemu-img", &[&head[..], object, &tail[..]].concat());
        Self { dir, path, secret }
    }

    /// `w OFFSET LENGTH`, `z OFFSET LENGTH`, `d OFFSET LENGTH`, `snapshot NAME`, `bitmap NAME`.
    pub fn prepare(self, steps: &[&str]) -> Self {
        let path = self.path.to_str().unwrap();
        let options = format!("driver=qcow2,file.filename={path},encrypt.key-secret=key");
        for step in steps {
            let words: Vec<_> = step.split(' ').collect();
            let io = match words[0] {
                "snapshot" => {
                    must("qemu-img", &["snapshot", "-c", words[1], path]);
                    continue;
                }
                "bitmap" => {
                    must("qemu-img", &["bitmap", "--add", path, words[1]]);
                    continue;
                }
                "w" => format!("write {} {}", words[1], words[2]),
                "z" => format!("write -z {} {}", words[1], words[2]),
                _ => format!("discard {} {}", words[1], words[2]),
            };
            if self.secret {
                let object = ["--object", "secret,id=key,data=abc", "--image-opts", &options];
                must("qemu-io", &[&object[..], &["-c", &io]].concat());
            } else {
                must("qemu-io", &["-f", "qcow2", "-c", &io, path]);
            }
        }
        self
    }

    /// Sixty clusters, most of which compress well.
    pub fn compressed(cluster_bits: u32, options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (raw, path) = (dir.path().join("raw"), dir.path().join("image.qcow2"));
        let cluster = 1_usize << cluster_bits;
        let mut random = Random::new(1);
        let mut content = Vec::new();
        for index in 0..60_u8 {
            let noise = index % 5 == 0;
            content.extend(
                (0..cluster).map(|_| if noise { random.next().to_le_bytes()[0] } else { index }),
            );
        }
        fs::write(&raw, content).unwrap();
        let options = format!("cluster_size={cluster},{options}");
        let (raw, image) = (raw.to_str().unwrap(), path.to_str().unwrap());
        let convert = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, raw, image];
        must("qemu-img", &convert);
        Self { dir, path, secret: false }
    }

    pub fn get(&self, at: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        let file = File::open(&self.path).unwrap();
        let _ = file.read_at(&mut bytes[8 - len..], at).unwrap();
        u64::from_be_bytes(bytes)
    }

    pub fn put(&self, at: u64, len: usize, value: u64) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(&value.to_be_bytes()[8 - len..], at).unwrap();
    }

    pub fn len(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    pub fn cluster(&self) -> u64 {
        1 << self.get(20, 4)
    }

    pub fn l1(&self) -> u64 {
        self.get(L1_OFFSET, 8)
    }

    pub fn l2(&self) -> u64 {
        self.get(self.l1(), 8) & OFFSET
    }

    pub fn table(&self) -> u64 {
        self.get(TABLE_OFFSET, 8)
    }

    pub fn block(&self) -> u64 {
        self.get(self.table(), 8)
    }

    pub fn snapshots(&self) -> u64 {
        self.get(SNAPSHOTS_OFFSET, 8)
    }

    pub fn snapshot_l1(&self) -> u64 {
        self.get(self.snapshots(), 8)
    }

    pub fn bitmap_directory(&self) -> u64 {
        self.get(self.bitmap_extension() + 16, 8)
    }

    /// Where the data of the bitmaps extension is.
    pub fn bitmap_extension(&self) -> u64 {
        let head = fs::read(&self.path).unwrap();
        let kind = 0x2385_2875_u32.to_be_bytes();
        head.windows(4).position(|bytes| bytes == kind).unwrap() as u64 + 8
    }

    pub fn compare(&self, story: &str) -> Verdict {
        let (ours, qemu) = (by_us(&self.path), by_qemu(&self.path, self.secret));
        assert_eq!(ours, qemu, "{story} (ours left, qemu-img's right)");
        ours
    }
}

/// Puts `entry` into slot 5 of the active L2 table, which is empty.
pub fn data_entry(bench: &Bench, entry: u64) {
    bench.put(bench.l2() + 5 * 8, 8, entry);
}

/// Changes the 16-bit refcount of the cluster that slot 0 of the active L2 table names.
pub fn refcount(bench: &Bench, change: i64) {
    let cluster = (bench.get(bench.l2(), 8) & OFFSET) >> 16;
    let at = bench.block() + cluster * 2;
    bench.put(at, 2, bench.get(at, 2).wrapping_add_signed(change));
}

pub fn change(bench: &Bench, at: u64, change: impl Fn(u64) -> u64) {
    bench.put(at, 8, change(bench.get(at, 8)));
}

/// Six clusters of data under one snapshot, and one of them rewritten since.
pub fn small() -> Bench {
    let steps =
        ["w 0 256k", "snapshot one", "w 64k 64k", "w 512k 128k", "snapshot two", "w 64k 64k"];
    Bench::create(1 << 20, "cluster_size=65536").prepare(&steps)
}

/// A disk with two snapshots, holes, zero clusters of both kinds and two L2 tables or more.
pub fn lively(cluster_bits: u32, options: &str) -> Bench {
    let cluster = 1_u64 << cluster_bits;
    let options = format!("cluster_size={cluster},{options}");
    let at = |verb: &str, first: u64, count: u64| {
        format!("{verb} {} {}", first * cluster, count * cluster)
    };
    // The second L2 table begins after cluster / 8 entries.
    let second = cluster / 8;
    let mut steps = vec![
        at("w", 0, 20),
        at("w", 40, 10),
        at("w", second, 5),
        "snapshot one".to_owned(),
        at("w", 3, 7),
        "snapshot two".to_owned(),
        at("d", 12, 2),
        at("w", 30, 1),
    ];
    if !options.contains("compat=0.10") {
        steps.push(at("z", 42, 3));
        steps.push(at("z", 35, 2));
    }
    // One bit cannot count what a snapshot shares.
    steps.retain(|step| !(options.contains("refcount_bits=1") && step.starts_with("snapshot")));
    let steps: Vec<_> = steps.iter().map(String::as_str).collect();
    Bench::create((second + 64) * cluster, &options).prepare(&steps)
}
