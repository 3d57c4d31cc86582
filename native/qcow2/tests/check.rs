//! `check` against `qemu-img check`: every number, every line, the exit status. Images are built by
//! qemu-img and qemu-io, then damaged byte by byte. Both programs must be installed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use qcow2::Kind;
use qcow2::check::{self, MAX_PROBLEMS};
use qcow2::storage::{Access, FileStorage, Storage};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

// Header fields: offset and length.
const VERSION: u64 = 4;
const SIZE: u64 = 24;
const L1_ENTRIES: u64 = 36;
const L1_OFFSET: u64 = 40;
const TABLE_OFFSET: u64 = 48;
const SNAPSHOT_COUNT: u64 = 60;
const SNAPSHOTS_OFFSET: u64 = 64;
const INCOMPATIBLE: u64 = 72;
const AUTOCLEAR: u64 = 88;

/// What a check says: exit status, the JSON's numbers, the lines on stderr.
#[derive(Debug, PartialEq)]
struct Verdict {
    status: i32,
    numbers: BTreeMap<String, u64>,
    lines: String,
}

fn run(program: &str, args: &[&str]) -> std::process::Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

fn must(program: &str, args: &[&str]) {
    let output = run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// What a reader without bitmaps in it says before the check; its second line has no end.
const BITMAP_WARNING: &str = "qemu-img: warning: a program lacking bitmap support modified this \
    file, so all bitmaps are now considered inconsistent\nSome clusters may be leaked, run \
    'qemu-img check -r' on the image file to fix.";

fn by_qemu(path: &Path, secret: bool) -> Verdict {
    let path = path.to_str().unwrap();
    let options = format!("driver=qcow2,file.filename={path},encrypt.key-secret=key");
    if secret {
        by_qemu_with(&["--object", "secret,id=key,data=abc", "--image-opts", &options])
    } else {
        by_qemu_with(&["-f", "qcow2", path])
    }
}

fn by_qemu_with(args: &[&str]) -> Verdict {
    let output = run("qemu-img", &[&["check", "--output=json"], args].concat());
    let json = String::from_utf8(output.stdout).unwrap();
    let number = |line: &str| {
        let (key, value) = line.trim().trim_end_matches(',').split_once(": ")?;
        Some((key.trim_matches('"').to_owned(), value.parse().ok()?))
    };
    let mut lines = String::from_utf8_lossy(&output.stderr).replace(BITMAP_WARNING, "");
    lines = lines.trim_start_matches('\n').to_owned();
    Verdict {
        status: output.status.code().unwrap(),
        numbers: json.lines().filter_map(number).collect(),
        lines,
    }
}

/// The check as the command line puts it.
fn by_us(path: &Path) -> Verdict {
    judged(path, Box::new(FileStorage::open(path, Access::Read).unwrap()))
}

fn judged(path: &Path, storage: Box<dyn Storage>) -> Verdict {
    let mut lines = String::new();
    let report = check::open(storage).and_then(|image| {
        check::check(&image, &mut |problem| writeln!(lines, "{problem}").unwrap())
    });
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            if let Some(preface) = &error.preface {
                writeln!(lines, "qemu-img: {preface}").unwrap();
            }
            let what = match error.kind() {
                Kind::InvalidHeader => format!("Could not open '{}'", path.display()),
                _ => "Check failed".to_owned(),
            };
            writeln!(lines, "qemu-img: {what}: {}", error.reason()).unwrap();
            return Verdict { status: 1, numbers: BTreeMap::new(), lines };
        }
    };
    if report.check_errors > 0 {
        lines.push_str("qemu-img: Check failed\n");
    }
    let optional = [
        ("total-clusters", report.total_clusters),
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
        ("allocated-clusters", report.allocated_clusters),
        ("fragmented-clusters", report.fragmented_clusters),
        ("compressed-clusters", report.compressed_clusters),
    ];
    let always =
        [("image-end-offset", report.image_end_offset), ("check-errors", report.check_errors)];
    let present = optional.into_iter().filter(|&(_, value)| value != 0).chain(always);
    let status = match (report.check_errors, report.corruptions, report.leaks) {
        (0, 0, 0) => 0,
        (0, 0, _) => 3,
        (0, _, _) => 2,
        _ => 1,
    };
    let numbers = present.map(|(key, value)| (key.to_owned(), value)).collect();
    Verdict { status, numbers, lines }
}

/// An image under test.
struct Bench {
    dir: tempfile::TempDir,
    path: PathBuf,
    secret: bool,
}

impl Bench {
    fn create(size: u64, options: &str) -> Self {
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
    fn prepare(self, steps: &[&str]) -> Self {
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
    fn compressed(cluster_bits: u32, options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (raw, path) = (dir.path().join("raw"), dir.path().join("image.qcow2"));
        let cluster = 1_usize << cluster_bits;
        let mut random = Random(1);
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

    fn get(&self, at: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        let file = File::open(&self.path).unwrap();
        let _ = file.read_at(&mut bytes[8 - len..], at).unwrap();
        u64::from_be_bytes(bytes)
    }

    fn put(&self, at: u64, len: usize, value: u64) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(&value.to_be_bytes()[8 - len..], at).unwrap();
    }

    fn len(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    fn cluster(&self) -> u64 {
        1 << self.get(20, 4)
    }

    fn l1(&self) -> u64 {
        self.get(L1_OFFSET, 8)
    }

    fn l2(&self) -> u64 {
        self.get(self.l1(), 8) & OFFSET
    }

    fn table(&self) -> u64 {
        self.get(TABLE_OFFSET, 8)
    }

    fn block(&self) -> u64 {
        self.get(self.table(), 8)
    }

    fn snapshots(&self) -> u64 {
        self.get(SNAPSHOTS_OFFSET, 8)
    }

    fn snapshot_l1(&self) -> u64 {
        self.get(self.snapshots(), 8)
    }

    fn bitmap_directory(&self) -> u64 {
        self.get(self.bitmap_extension() + 16, 8)
    }

    /// Where the data of the bitmaps extension is.
    fn bitmap_extension(&self) -> u64 {
        let head = fs::read(&self.path).unwrap();
        let kind = 0x2385_2875_u32.to_be_bytes();
        head.windows(4).position(|bytes| bytes == kind).unwrap() as u64 + 8
    }

    fn compare(&self, story: &str) -> Verdict {
        let (ours, qemu) = (by_us(&self.path), by_qemu(&self.path, self.secret));
        assert_eq!(ours, qemu, "{story} (ours left, qemu-img's right)");
        ours
    }
}

/// A xorshift generator: the pokes are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A disk with two snapshots, holes, zero clusters of both kinds and two L2 tables or more.
fn lively(cluster_bits: u32, options: &str) -> Bench {
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

#[test]
fn sound_images_of_every_geometry_get_qemus_numbers() {
    for bits in [9, 12, 16, 21] {
        for options in ["compat=0.10", "refcount_bits=16", "lazy_refcounts=on"] {
            let verdict = lively(bits, options).compare(&format!("2^{bits}, {options}"));
            assert_eq!(verdict.status, 0, "2^{bits}, {options}: {verdict:?}");
        }
    }
    for width in [1, 2, 4, 8, 32, 64] {
        let bench = lively(12, &format!("refcount_bits={width}"));
        assert_eq!(bench.compare(&format!("{width} bits")).status, 0);
    }
    for options in ["preallocation=metadata", "preallocation=falloc"] {
        let bench =
            Bench::create(4 << 20, options).prepare(&["w 0 64k", "snapshot a", "z 1M 128k"]);
        assert_eq!(bench.compare(options).status, 0);
    }
    for bits in [9, 12, 16] {
        for options in ["compression_type=zlib", "compression_type=zstd"] {
            let bench = Bench::compressed(bits, options);
            let overwritten = format!("w {} {}", 5 << bits, 3 << bits);
            let bench = bench.prepare(&["snapshot one", &overwritten]);
            assert_eq!(bench.compare(&format!("2^{bits}, {options}")).status, 0);
        }
    }
    let empty = Bench::create(0, "cluster_size=65536");
    assert_eq!(empty.compare("no disk at all").status, 0);
}

#[test]
fn owners_outside_the_mapping_are_counted() {
    let bitmaps = ["w 0 128k", "bitmap first", "bitmap second", "w 0 3M"];
    let bench = Bench::create(4 << 20, "cluster_size=65536").prepare(&bitmaps);
    assert_eq!(bench.compare("bitmaps").status, 0);

    let luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let bench = Bench::create(4 << 20, luks).prepare(&["w 0 256k"]);
    assert_eq!(bench.compare("LUKS").status, 0);

    for raw in ["data_file_raw=off", "data_file_raw=on"] {
        let options = format!("data_file=DIR/data,{raw}");
        let bench = Bench::create(4 << 20, &options).prepare(&["w 0 256k", "z 64k 64k"]);
        assert_eq!(bench.compare(raw).status, 0);
    }
}

/// One way to damage an image.
type Damage = fn(&Bench);

/// Puts `entry` into slot 5 of the active L2 table, which is empty.
fn data_entry(bench: &Bench, entry: u64) {
    bench.put(bench.l2() + 5 * 8, 8, entry);
}

/// Changes the 16-bit refcount of the cluster that slot 0 of the active L2 table names.
fn refcount(bench: &Bench, change: i64) {
    let cluster = (bench.get(bench.l2(), 8) & OFFSET) >> 16;
    let at = bench.block() + cluster * 2;
    bench.put(at, 2, bench.get(at, 2).wrapping_add_signed(change));
}

fn change(bench: &Bench, at: u64, change: impl Fn(u64) -> u64) {
    bench.put(at, 8, change(bench.get(at, 8)));
}

#[rustfmt::skip]
const DAMAGES: &[(&str, Damage)] = &[
    ("a refcount too high", |b| refcount(b, 1)),
    ("a refcount too low", |b| refcount(b, -1)),
    ("a refcount of zero", |b| refcount(b, -2)),
    ("a refcount at its maximum", |b| refcount(b, -3)),
    ("a refcount beyond the end of the file", |b| b.put(b.block() + (b.len() >> 16) * 2, 2, 1)),
    ("the header referenced twice", |b| b.put(b.block(), 2, 2)),
    ("COPIED set on shared data", |b| change(b, b.l2(), |e| e ^ COPIED)),
    ("COPIED clear on data of its own", |b| change(b, b.l2() + 8, |e| e ^ COPIED)),
    ("COPIED clear on an L2 table", |b| change(b, b.l1(), |e| e ^ COPIED)),
    ("COPIED on an L1 entry without a table", |b| b.put(b.l1(), 8, COPIED)),
    ("COPIED on an empty L2 entry", |b| data_entry(b, COPIED)),
    ("COPIED on a zero cluster", |b| data_entry(b, COPIED | 1)),
    ("reserved bits in an L1 entry", |b| change(b, b.l1(), |e| e | 1)),
    ("reserved bits in an L2 entry", |b| change(b, b.l2(), |e| e | 2)),
    ("reserved bits in an L2 entry without a cluster", |b| data_entry(b, 1 << 60)),
    ("an unaligned L2 table", |b| change(b, b.l1(), |e| e | 0x200)),
    ("an unaligned L2 table of a snapshot", |b| change(b, b.snapshot_l1(), |e| e | 0x200)),
    ("unaligned data", |b| change(b, b.l2(), |e| e | 0x200)),
    ("unaligned data that follows itself", |b| {
        for slot in 0..3 { b.put(b.l2() + slot * 8, 8, 0x5_0200 + slot * 0x1_0000); }
    }),
    ("an unaligned preallocated cluster", |b| change(b, b.l2(), |e| e | 0x201)),
    ("a zero flag in version 2", |b| { change(b, b.l2(), |e| e | 1); b.put(VERSION, 4, 2); }),
    ("data outside", |b| data_entry(b, 0x900_0000)),
    ("data just past the end", |b| data_entry(b, b.len().next_multiple_of(0x1_0000))),
    ("one cluster twice", |b| data_entry(b, b.get(b.l2() + 8, 8))),
    ("data in the header", |b| change(b, b.l2(), |_| 1)),
    ("an L2 table outside", |b| b.put(b.l1(), 8, 0x900_0000)),
    ("one L2 table twice", |b| { b.put(L1_ENTRIES, 4, 2); b.put(b.l1() + 8, 8, b.l2()); }),
    ("one damaged L2 table twice", |b| {
        data_entry(b, 0x900_0000); b.put(L1_ENTRIES, 4, 2); b.put(b.l1() + 8, 8, b.l2());
    }),
    ("a damaged L2 table that a snapshot shares", |b| {
        data_entry(b, 0x900_0002); b.put(b.snapshots(), 8, b.l1());
    }),
    ("a damaged L2 table of a snapshot", |b| {
        let table = b.get(b.snapshot_l1(), 8) & OFFSET; change(b, table + 16, |e| e | 2);
    }),
    ("the active L1 table outside", |b| b.put(L1_OFFSET, 8, 0x90_0000)),
    ("the active L1 table in a refcount block", |b| b.put(L1_OFFSET, 8, b.block())),
    ("compressed data that overlaps", |b| data_entry(b, COMPRESSED | 3 << 54 | 0x5_0000)),
    ("compressed data of the greatest length", |b| data_entry(b, COMPRESSED | 0xff << 54 | 0x5_0001)),
    ("compressed data with COPIED", |b| data_entry(b, COMPRESSED | COPIED | 3 << 54 | 0x5_0000)),
    ("compressed data outside", |b| data_entry(b, COMPRESSED | 3 << 54 | 0x95_0000)),
    ("compressed data across the end", |b| {
        data_entry(b, COMPRESSED | 0x7f << 54 | (b.len().next_multiple_of(0x1_0000) - 512));
    }),
    ("compressed data too far across the end", |b| {
        data_entry(b, COMPRESSED | 0x80 << 54 | (b.len().next_multiple_of(0x1_0000) - 512));
    }),
    ("reserved bits in the refcount table", |b| change(b, b.table(), |e| e | 1)),
    ("an unaligned refcount block", |b| change(b, b.table(), |e| e | 0x200)),
    ("an unaligned refcount block that no cluster needs", |b| b.put(b.table() + 8, 8, 0x2_0200)),
    ("a refcount block outside", |b| b.put(b.table() + 8, 8, 0x90_0000)),
    ("the only refcount block outside", |b| b.put(b.table(), 8, 0x90_0000)),
    ("a refcount block that no file could have", |b| change(b, b.table(), |e| e | 1 << 63)),
    ("a refcount block beyond the format", |b| change(b, b.table(), |e| e | 1 << 62)),
    ("no refcount block", |b| b.put(b.table(), 8, 0)),
    ("one refcount block three times", |b| {
        b.put(b.table() + 8, 8, b.block()); b.put(b.table() + 16, 8, b.block());
    }),
    ("a refcount block that is an L2 table", |b| b.put(b.table() + 8, 8, b.l2())),
    ("the refcount table outside", |b| b.put(TABLE_OFFSET, 8, 0x90_0000)),
    ("a snapshot without an L1 table", |b| b.put(b.snapshots() + 8, 4, 0)),
    ("a snapshot's L1 table outside", |b| b.put(b.snapshots(), 8, 0x90_0000)),
    ("a snapshot's L1 table where no file reaches", |b| b.put(b.snapshots(), 8, 1 << 63)),
    ("a snapshot's L1 table in the header", |b| b.put(b.snapshots(), 8, 0)),
    ("a snapshot's L1 table unaligned", |b| change(b, b.snapshots(), |o| o | 0x200)),
    ("a snapshot's L1 table too large", |b| b.put(b.snapshots() + 8, 4, 0x40_0001)),
    ("a snapshot entry without sizes", |b| b.put(b.snapshots() + 36, 4, 8)),
    ("a snapshot entry without sizes in version 2", |b| {
        b.put(b.snapshots() + 36, 4, 0); b.put(VERSION, 4, 2);
    }),
    ("a snapshot entry with too much extra data", |b| b.put(b.snapshots() + 36, 4, 1032)),
    ("a snapshot with a long id", |b| b.put(b.snapshots() + 12, 2, 0xffff)),
    ("a snapshot more than there are", |b| b.put(SNAPSHOT_COUNT, 4, 3)),
    ("no snapshots although there are", |b| b.put(SNAPSHOT_COUNT, 4, 0)),
    ("too many snapshots", |b| b.put(SNAPSHOT_COUNT, 4, 70_000)),
    ("an unaligned snapshot table", |b| change(b, SNAPSHOTS_OFFSET, |o| o | 0x200)),
    ("the dirty bit", |b| b.put(INCOMPATIBLE, 8, 1)),
    ("the corrupt bit", |b| b.put(INCOMPATIBLE, 8, 2)),
    ("no disk", |b| b.put(SIZE, 8, 0)),
    ("a disk that ends inside a cluster", |b| b.put(SIZE, 8, 0x1_0200)),
    ("a disk that ends inside a sector", |b| b.put(SIZE, 8, 0x1_0064)),
    ("a file that ends inside its last cluster", |b| truncate(b, 100)),
    ("a file without its last cluster", |b| truncate(b, 0x1_0000)),
    ("a file without its last cluster and a bit", |b| truncate(b, 0x1_0100)),
];

fn truncate(bench: &Bench, bytes: u64) {
    let end = bench.len().next_multiple_of(0x1_0000);
    File::options().write(true).open(&bench.path).unwrap().set_len(end - bytes).unwrap();
}

/// Six clusters of data under one snapshot, and one of them rewritten since.
fn small() -> Bench {
    let steps =
        ["w 0 256k", "snapshot one", "w 64k 64k", "w 512k 128k", "snapshot two", "w 64k 64k"];
    Bench::create(1 << 20, "cluster_size=65536").prepare(&steps)
}

#[test]
fn every_damage_is_reported_as_qemu_reports_it() {
    let bench = small();
    let sound = fs::read(&bench.path).unwrap();
    for (story, damage) in DAMAGES {
        fs::write(&bench.path, &sound).unwrap();
        damage(&bench);
        bench.compare(story);
    }
}

#[rustfmt::skip]
const BITMAP_DAMAGES: &[(&str, Damage)] = &[
    ("bitmaps declared stale", |b| b.put(AUTOCLEAR, 8, 0)),
    ("no bitmaps", |b| b.put(b.bitmap_extension(), 4, 0)),
    ("fewer bitmaps than there are", |b| b.put(b.bitmap_extension(), 4, 1)),
    ("more bitmaps than there are", |b| b.put(b.bitmap_extension(), 4, 3)),
    ("too many bitmaps", |b| b.put(b.bitmap_extension(), 4, 70_000)),
    ("a reserved field", |b| b.put(b.bitmap_extension() + 4, 4, 1)),
    ("a short extension", |b| b.put(b.bitmap_extension() - 4, 4, 16)),
    ("an empty directory", |b| b.put(b.bitmap_extension() + 8, 8, 0)),
    ("a directory that is too long", |b| b.put(b.bitmap_extension() + 8, 8, 1 << 40)),
    ("a directory that ends inside an entry", |b| change(b, b.bitmap_extension() + 8, |n| n + 8)),
    ("an unaligned directory", |b| change(b, b.bitmap_extension() + 16, |o| o | 0x200)),
    ("a directory outside", |b| b.put(b.bitmap_extension() + 16, 8, 0x900_0000)),
    ("an unaligned table", |b| change(b, b.bitmap_directory(), |o| o | 0x200)),
    ("a table outside", |b| b.put(b.bitmap_directory(), 8, 0x900_0000)),
    ("a table nowhere", |b| b.put(b.bitmap_directory(), 8, 0)),
    ("a table without entries", |b| b.put(b.bitmap_directory() + 8, 4, 0)),
    ("a table with too many entries", |b| b.put(b.bitmap_directory() + 8, 4, 1 << 30)),
    ("a table of the wrong length", |b| b.put(b.bitmap_directory() + 8, 4, 2)),
    ("a bitmap in use", |b| b.put(b.bitmap_directory() + 12, 4, 3)),
    ("a table of the wrong length, in use", |b| {
        b.put(b.bitmap_directory() + 8, 4, 2); b.put(b.bitmap_directory() + 12, 4, 3);
    }),
    ("unknown flags", |b| b.put(b.bitmap_directory() + 12, 4, 0x80)),
    ("an unknown type", |b| b.put(b.bitmap_directory() + 16, 1, 2)),
    ("a granularity too fine", |b| b.put(b.bitmap_directory() + 17, 1, 8)),
    ("a granularity too coarse", |b| b.put(b.bitmap_directory() + 17, 1, 32)),
    ("a name that runs over", |b| b.put(b.bitmap_directory() + 18, 2, 2000)),
    ("extra data", |b| b.put(b.bitmap_directory() + 20, 4, 8)),
    ("bits that are all ones", |b| b.put(bitmap_table(b), 8, 1)),
    ("reserved bits", |b| b.put(bitmap_table(b), 8, 1 << 63)),
    ("bits outside", |b| b.put(bitmap_table(b), 8, 0x900_0000)),
    ("bits in the L1 table", |b| b.put(bitmap_table(b), 8, b.l1())),
    ("unaligned bits", |b| b.put(bitmap_table(b), 8, 0x7_0200)),
    ("bits that are both", |b| b.put(bitmap_table(b), 8, 0x7_0001)),
];

fn bitmap_table(bench: &Bench) -> u64 {
    bench.get(bench.bitmap_directory(), 8)
}

#[test]
fn damaged_bitmaps_are_reported_as_qemu_reports_them() {
    let steps = ["w 0 128k", "bitmap b0", "bitmap b1", "w 0 3M"];
    let bench = Bench::create(4 << 20, "cluster_size=65536").prepare(&steps);
    let sound = fs::read(&bench.path).unwrap();
    for (story, damage) in BITMAP_DAMAGES {
        fs::write(&bench.path, &sound).unwrap();
        damage(&bench);
        bench.compare(story);
    }
}

#[test]
fn a_luks_header_of_another_length_is_a_leak_or_a_corruption() {
    let luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let bench = Bench::create(4 << 20, luks).prepare(&["w 0 256k"]);
    let at = 112 + 8 + 8; // behind the header; extension type and length, offset
    let bytes = bench.get(at, 8);
    for (story, length, status) in [
        ("longer", bytes + 0x1_0000, 2),
        ("shorter", bytes - 0x1_0000, 3),
        ("longer than the file", 1 << 40, 2),
    ] {
        bench.put(at, 8, length);
        assert_eq!(bench.compare(story).status, status);
    }
}

#[test]
fn external_data_is_judged_by_copied_and_alignment_alone() {
    let bench = Bench::create(4 << 20, "data_file=DIR/data").prepare(&["w 0 256k", "w 1M 64k"]);
    let sound = fs::read(&bench.path).unwrap();
    for entry in [
        0,
        COPIED,
        COPIED | 1,
        COPIED | 2,
        3,
        0x200,
        0x201,
        COPIED | 0x200,
        COPIED | 0x900_0000,
        COPIED | 0x2_0000,
        0x2_0001,
        COPIED | 0x2_0001,
        COMPRESSED,
        COMPRESSED | COPIED | 0x5_0000,
    ] {
        for slot in [0, 3] {
            fs::write(&bench.path, &sound).unwrap();
            bench.put(bench.l2() + slot * 8, 8, entry);
            bench.compare(&format!("{entry:#x} in slot {slot}"));
        }
    }
    fs::write(&bench.path, &sound).unwrap();
    bench.put(SNAPSHOT_COUNT, 4, 1);
    bench.put(SNAPSHOTS_OFFSET, 8, 0x4_0000);
    bench.compare("a snapshot beside external data");
}

#[test]
fn references_beyond_the_width_are_told_in_order() {
    for width in [1, 2, 4, 8] {
        let options = format!("cluster_size=4096,refcount_bits={width}");
        let bench = Bench::create(4 << 20, &options).prepare(&["w 0 64k"]);
        let entry = bench.get(bench.l2(), 8);
        for slot in 16..36 {
            bench.put(bench.l2() + slot * 8, 8, entry + (slot / 30) * 4096);
        }
        bench.put(L1_ENTRIES, 4, 3);
        bench.put(bench.l1() + 8, 8, bench.l2());
        bench.compare(&format!("{width} bits"));
    }
}

/// QEMU's remark on an unaligned refcount block is told here only where the block hides the
/// refcount of a cluster of the file, not where a stray pointer leads to it.
fn without_remarks(verdict: &mut Verdict) {
    let kept = |line: &&str| !line.starts_with("qcow2: Image is corrupt");
    verdict.lines = verdict.lines.lines().filter(kept).collect::<Vec<_>>().join("\n");
}

#[test]
fn random_damage_is_reported_as_qemu_reports_it() {
    let mut random = Random(0x5eed);
    let benches = [
        lively(9, "refcount_bits=16"),
        lively(9, "refcount_bits=2"),
        lively(12, "refcount_bits=1"),
        lively(12, "refcount_bits=64"),
        lively(12, "compat=0.10"),
        lively(16, "refcount_bits=8"),
        Bench::compressed(12, "compression_type=zstd").prepare(&["snapshot one"]),
    ];
    for bench in &benches {
        let sound = fs::read(&bench.path).unwrap();
        for round in 0..60 {
            fs::write(&bench.path, &sound).unwrap();
            let pokes: Vec<_> = (0..=random.below(4)).map(|_| poke(bench, &mut random)).collect();
            let (mut ours, mut qemu) = (by_us(&bench.path), by_qemu(&bench.path, false));
            without_remarks(&mut ours);
            without_remarks(&mut qemu);
            assert_eq!(ours, qemu, "{} round {round}: {pokes:x?}", bench.dir.path().display());
        }
    }
}

/// Overwrites one entry of one table; returns where and what.
fn poke(bench: &Bench, random: &mut Random) -> (u64, u64) {
    let cluster = bench.cluster();
    let len = bench.len();
    let table = match random.below(6) {
        0 => bench.l1(),
        1 => bench.table(),
        2 => bench.block(),
        3 if bench.get(SNAPSHOT_COUNT, 4) > 0 => bench.snapshot_l1(),
        _ => bench.l2(),
    };
    // An earlier poke may have sent it anywhere.
    let table = Some(table).filter(|table| *table < len).unwrap_or(bench.l1());
    let entries = if table == bench.table() || table == bench.l1() { 3 } else { 60 };
    let at = table + random.below(entries) * 8;
    let old = bench.get(at, 8);
    let new = match random.below(6) {
        0 => old ^ COPIED,
        1 => old ^ (1 << random.below(64)),
        2 => (random.below(len / cluster) * cluster) | (random.below(2) << 63),
        3 => random.below(len * 2),
        4 => COMPRESSED | random.below(len) | random.below(2) << 56,
        _ => len + random.below(3) * cluster,
    };
    bench.put(at, 8, new);
    (at, new)
}

/// 65 536 snapshots of one L1 table that names one damaged L2 table 64 times: four million visits
/// for QEMU, one here. The report still counts each, and only the first are told.
#[test]
fn a_table_that_is_named_millions_of_times_is_read_once() {
    const SNAPSHOTS: u64 = 65_536;
    let bench = Bench::create(4 << 20, "cluster_size=65536").prepare(&["w 0 64k"]);
    bench.put(L1_ENTRIES, 4, 64);
    for slot in 1..64 {
        bench.put(bench.l1() + slot * 8, 8, bench.l2());
    }
    data_entry(&bench, 0x900_0000);
    let at = bench.len().next_multiple_of(0x1_0000);
    let mut entry = bench.l1().to_be_bytes().to_vec();
    entry.extend(64_u32.to_be_bytes());
    entry.resize(36, 0);
    entry.extend(16_u32.to_be_bytes());
    entry.resize(56, 0);
    let snapshots = entry.repeat(usize::try_from(SNAPSHOTS).unwrap());
    File::options().write(true).open(&bench.path).unwrap().write_all_at(&snapshots, at).unwrap();
    bench.put(SNAPSHOTS_OFFSET, 8, at);
    bench.put(SNAPSHOT_COUNT, 4, SNAPSHOTS);

    let storage = FileStorage::open(&bench.path, Access::Read).unwrap();
    let image = check::open(Box::new(storage)).unwrap();
    let mut told = 0;
    let report = check::check(&image, &mut |_| told += 1).unwrap();
    let visits = (SNAPSHOTS + 1) * 64;
    assert_eq!(told, MAX_PROBLEMS);
    // Each visit meets the entry outside. L1, L2 and data exceed 16 bits by all references but
    // 65 535; with what is stored, each of these clusters is a corruption of its own; and so is
    // each cluster of the snapshot table, which has no refcount.
    let overflows = (SNAPSHOTS + 1 - 65_535) + 2 * (visits - 65_535);
    let table_clusters = snapshots.len() as u64 / 0x1_0000;
    assert!(report.corruptions >= visits + overflows + 3 + table_clusters, "{report:?}");
    assert_eq!(report.problems_omitted, report.corruptions - told, "{report:?}");
}

#[test]
fn extended_entries_are_refused_by_name() {
    let bench = Bench::create(1 << 20, "extended_l2=on");
    let image = check::open(Box::new(FileStorage::open(&bench.path, Access::Read).unwrap()));
    let error = check::check(&image.unwrap(), &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::UnsupportedFeature);
    assert_eq!(error.reason(), "Images with extended L2 entries are not supported yet");
}

/// A medium that cannot be read at one place.
struct Scratched {
    inner: FileStorage,
    at: u64,
}

impl Storage for Scratched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if (offset..offset + buf.len() as u64).contains(&self.at) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.read_at(buf, offset)
    }

    fn read_durable(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        unreachable!("a check trusts the cache")
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        unreachable!("a check writes nothing")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("a check writes nothing")
    }

    fn flush(&self) -> io::Result<()> {
        unreachable!("a check writes nothing")
    }

    fn punch(&self, _: Range<u64>) -> io::Result<()> {
        unreachable!("a check writes nothing")
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        Ok(vec![within])
    }
}

#[test]
fn what_cannot_be_read_is_reported_as_qemu_reports_it() {
    let bench = small();
    let inactive_l2 = bench.get(bench.snapshot_l1(), 8) & OFFSET;
    for (what, at) in [
        ("a refcount block", bench.block()),
        ("the active L2 table", bench.l2()),
        ("a snapshot's L1 table", bench.snapshot_l1()),
        ("a snapshot's L2 table", inactive_l2),
        ("the snapshot table", bench.snapshots()),
    ] {
        let inner = FileStorage::open(&bench.path, Access::Read).unwrap();
        let ours = judged(&bench.path, Box::new(Scratched { inner, at }));
        let sector = at / 512;
        let qemu = by_qemu_with(&[
            "--image-opts",
            &format!(
                "driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename={},\
                 file.inject-error.0.event=none,file.inject-error.0.iotype=read,\
                 file.inject-error.0.sector={sector},file.inject-error.0.errno=5",
                bench.path.display()
            ),
        ]);
        assert_eq!(ours, qemu, "{what} (ours left, qemu-img's right)");
    }
}

/// Where the verdict is not QEMU's, on purpose: the header itself says so at the opening, where
/// QEMU goes on with zeros or with the header's own bytes.
#[test]
fn tables_in_the_header_or_outside_are_refused_where_qemu_goes_on() {
    #[rustfmt::skip]
    let table: [(&str, Damage, &str); 3] = [
        ("a snapshot table past the end", |b| b.put(SNAPSHOTS_OFFSET, 8, 0x900_0000),
            "ERROR snapshot table offset invalid"),
        ("a snapshot table in the header", |b| b.put(SNAPSHOTS_OFFSET, 8, 0),
            "ERROR snapshot table offset invalid"),
        ("a refcount table in the header", |b| b.put(TABLE_OFFSET, 8, 0),
            "Reference count table offset invalid"),
    ];
    let bench = small();
    let sound = fs::read(&bench.path).unwrap();
    for (story, damage, line) in table {
        fs::write(&bench.path, &sound).unwrap();
        damage(&bench);
        let (ours, qemu) = (by_us(&bench.path), by_qemu(&bench.path, false));
        assert_eq!(ours.status, 1, "{story}");
        assert!(ours.lines.contains(line), "{story}: {}", ours.lines);
        assert_eq!(qemu.status, 2, "{story}: no difference any more");
    }
}

#[test]
fn control_characters_of_names_do_not_reach_the_terminal() {
    let bench = small();
    let at = bench.snapshots();
    bench.put(at, 8, 0x9_0200);
    let name = at + 40 + bench.get(at + 36, 4) + bench.get(at + 12, 2);
    bench.put(name, 1, 0x1b);
    let ours = by_us(&bench.path);
    assert!(ours.lines.starts_with("ERROR snapshot 1 (\\u{1b}ne) l1_offset=0x90200: "), "{ours:?}");
}
