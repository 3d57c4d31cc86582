//! Small files must not be expensive, and many targets not impossible.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qcow2::clone::{Selection, Strategy, Wanted, clone_image};
use qcow2::storage::{Access, FileStorage, RecordingStorage, SparseImage, Storage};
use qcow2::{Bitmaps, CommitOptions, Image, NewImage, NewSnapshot, create};

use crate::support::fixtures::{Format, empty};
use crate::support::layout::{Layout, put64};
use crate::support::qemu::{Workshop, complaint, img_ok};
use crate::tools::{KIB, MIB};

const CLUSTER: u64 = 64 * KIB;

/// An image of 64 KiB clusters: header, refcount table, one block, L1 table.
fn small() -> SparseImage {
    empty(Format::v3(CLUSTER, 16), MIB)
}

fn put32(image: &mut SparseImage, at: u64, value: u32) {
    image.write(&value.to_be_bytes(), at);
}

/// Counts clusters as used once.
fn count(image: &mut SparseImage, clusters: Range<u64>) {
    let layout = Layout::read(image).unwrap();
    clusters.for_each(|cluster| layout.set_refcount(image, cluster, 1).unwrap());
}

/// A storage that counts the bytes read from it, and notes what it is told to begin with.
#[derive(Clone)]
struct Counting {
    inner: Arc<dyn Storage>,
    read: Arc<AtomicU64>,
    /// Written since the last flush.
    written: Arc<Mutex<Vec<Range<u64>>>>,
    begun: Arc<Mutex<Vec<Range<u64>>>>,
}

impl Counting {
    fn new(inner: impl Storage + 'static) -> Self {
        Self {
            inner: Arc::new(inner),
            read: Arc::default(),
            written: Arc::default(),
            begun: Arc::default(),
        }
    }

    fn read_bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl Storage for Counting {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn has_fixed_len(&self) -> bool {
        self.inner.has_fixed_len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.read_at(buf, offset)
    }

    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.read_durable(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.written.lock().unwrap().push(offset..offset + buf.len() as u64);
        self.inner.write_at(buf, offset)
    }

    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        let written = self.written.lock().unwrap();
        let mut at = range.start;
        while at < range.end {
            at = written.iter().find(|it| it.contains(&at)).expect("written before").end;
        }
        self.begun.lock().unwrap().push(range);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.written.lock().unwrap().clear();
        self.inner.flush()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.punch(range)
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.inner.data_ranges(within)
    }
}

/// A table of two clusters that names 16 000 blocks, all but the first in one large hole. The
/// cluster of the old table leaks.
fn many_blocks() -> SparseImage {
    const BLOCKS: u64 = 16_000;
    let mut image = small();
    let (table, first) = (4 * CLUSTER, 6 * CLUSTER);
    let block = Layout::read(&image).unwrap().block_of(&image, 0);
    put64(&mut image, table, block);
    for index in 1..BLOCKS {
        put64(&mut image, table + index * 8, first + index * CLUSTER);
    }
    count(&mut image, 4..6);
    count(&mut image, 7..6 + BLOCKS);
    put64(&mut image, 48, table);
    put32(&mut image, 56, 2);
    image.set_len(first + BLOCKS * CLUSTER);
    image
}

/// A file of a few hundred KiB named 16 000 refcount blocks in a hole. With a leak to be counted
/// anew, every one of them was written: a gigabyte, for a snapshot of nothing.
#[test]
fn a_snapshot_does_not_write_refcount_blocks_that_count_nothing() {
    let workshop = Workshop::new();
    let path = workshop.put("image.qcow2", &many_blocks());
    let storage = FileStorage::open(&path, Access::Write).unwrap();
    let actual = storage.actual_bytes().unwrap();
    assert!(actual < MIB / 2, "{actual} bytes of blocks");
    let counting = Counting::new(storage.try_clone().unwrap());
    let mut image = Image::open(Box::new(counting.clone())).unwrap();
    let new = NewSnapshot { name: b"new", least_id: 0, date_sec: 0, date_nsec: 0 };
    let begin = Instant::now();
    let done = image.create_snapshot(&new, &mut CommitOptions::default()).unwrap();
    let duration = begin.elapsed();
    assert!(done.written_bytes <= MIB, "{} bytes written", done.written_bytes);
    assert!(storage.actual_bytes().unwrap() <= actual + MIB);
    assert!(counting.read_bytes() < 16 * MIB, "{} bytes read", counting.read_bytes());
    assert!(duration < Duration::from_secs(1), "{duration:?}");
}

/// A copy of that file looked at each of the blocks too, several times.
#[test]
fn a_copy_does_not_write_refcount_blocks_that_count_nothing() {
    let workshop = Workshop::new();
    let path = workshop.put("image.qcow2", &many_blocks());
    let source = FileStorage::open(&path, Access::Read).unwrap();
    for (name, selection) in [("1", Selection::ActiveDisk), ("2", Selection::Everything)] {
        let targets = [workshop.path(name)];
        let begin = Instant::now();
        let wanted = Wanted { selection, strategy: Strategy::Copy, ..Wanted::default() };
        let clones = clone_image(&source, &targets, wanted, &mut |_, _| {}).unwrap();
        let duration = begin.elapsed();
        assert!(clones[0].copied_bytes <= MIB, "{} bytes copied", clones[0].copied_bytes);
        let target = FileStorage::open(&targets[0], Access::Read).unwrap();
        assert!(target.actual_bytes().unwrap() <= MIB);
        assert!(duration < Duration::from_secs(1), "{duration:?}");
    }
}

/// Snapshots whose L1 tables have the largest size that there is and lie in a hole.
fn many_l1_tables(snapshots: u64) -> SparseImage {
    const L1_BYTES: u64 = 32 * MIB;
    let mut image = small();
    let (rows, first) = (8, 9);
    let each = L1_BYTES / CLUSTER;
    let end = first + snapshots * each;
    let layout = Layout::read(&image).unwrap();
    image.set_len(end * CLUSTER);
    for index in 1..end.div_ceil(layout.block_entries()) {
        let cluster = 3 + index;
        assert!(cluster < rows);
        put64(&mut image, layout.refcount_table_offset + index * 8, cluster * CLUSTER);
        count(&mut image, cluster..cluster + 1);
    }
    count(&mut image, rows..end);
    let mut at = rows * CLUSTER;
    for number in 0..snapshots {
        // L1 table, lengths of id and name, no date, 24 bytes of extra data.
        put64(&mut image, at, (first + number * each) * CLUSTER);
        put32(&mut image, at + 8, u32::try_from(L1_BYTES / 8).unwrap());
        put32(&mut image, at + 12, 4 << 16 | 4);
        put32(&mut image, at + 36, 24);
        put64(&mut image, at + 48, MIB);
        image.write(format!("{number:04}s{number:03}").as_bytes(), at + 64);
        at += 72;
    }
    put32(&mut image, 60, u32::try_from(snapshots).unwrap());
    put64(&mut image, 64, rows * CLUSTER);
    image
}

/// 150 snapshots with L1 tables of 32 MiB, all of them holes: a file of less than a megabyte. Each
/// rename read five gigabytes of zeros to find that they name nothing.
#[test]
fn a_rename_does_not_read_l1_tables_that_are_holes() {
    const SNAPSHOTS: u64 = 150;
    let image = many_l1_tables(SNAPSHOTS);
    assert!(image.data_bytes() < MIB);
    let storage = Counting::new(RecordingStorage::from_image(image));
    let mut image = Image::open(Box::new(storage.clone())).unwrap();
    image.rename_snapshot(b"s007", b"renamed", &mut CommitOptions::default()).unwrap();
    assert!(storage.read_bytes() < 4 * MIB, "{} bytes read", storage.read_bytes());
    let entries = Image::open(Box::new(storage)).unwrap().snapshots().unwrap();
    assert_eq!((entries.len() as u64, entries[7].name.as_slice()), (SNAPSHOTS, &b"renamed"[..]));
}

/// The flush at the end of a large disk's snapshot found all of its L2 tables still to be written.
#[test]
fn the_disk_begins_with_many_tables_before_they_are_flushed() {
    const CLUSTER: u64 = 2 * MIB;
    const TABLES: u64 = 9;
    /// What one table maps.
    const EACH: u64 = CLUSTER * CLUSTER / 8;
    let workshop = Workshop::new();
    let path = workshop.path("image.qcow2");
    let size = (TABLES * EACH).to_string();
    let name = path.to_str().unwrap();
    img_ok(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", name, &size]);
    let storage = Counting::new(FileStorage::open(&path, Access::Write).unwrap());
    let mut image = Image::open(Box::new(storage.clone())).unwrap();
    let disk = RecordingStorage::new();
    disk.set_len(TABLES * EACH).unwrap();
    for table in 0..TABLES {
        disk.write_at(&[7; 512], table * EACH).unwrap();
    }
    image.write_content(&disk, &mut CommitOptions::default()).unwrap();
    storage.begun.lock().unwrap().clear();
    let new = NewSnapshot { name: b"new", least_id: 0, date_sec: 0, date_nsec: 0 };
    let done = image.create_snapshot(&new, &mut CommitOptions::default()).unwrap();
    let begun = storage.begun.lock().unwrap();
    let bytes: u64 = begun.iter().map(|range| range.end - range.start).sum();
    assert!((16 * MIB..=done.written_bytes).contains(&bytes), "{begun:?}");
    assert_eq!(complaint(&path), None);
}

const LARGEST_L1: &str = "CALQUE_TEST_LARGEST_L1";

/// The L1 table of a disk of 128 GiB with clusters of 512 bytes has 32 MiB. A snapshot kept seven
/// of it in memory at once: the table, what it shall be, for the disk and for the snapshot, and
/// both as bytes.
#[test]
fn a_change_keeps_the_longest_l1_table_in_memory_once() {
    if let Some(path) = std::env::var_os(LARGEST_L1) {
        let options = &mut CommitOptions::default();
        let storage = FileStorage::open(path, Access::Write).unwrap();
        let mut image = Image::open(Box::new(storage)).unwrap();
        let new = NewSnapshot { name: b"new", least_id: 0, date_sec: 0, date_nsec: 0 };
        image.create_snapshot(&new, options).unwrap();
        image.rename_snapshot(b"new", b"renamed", options).unwrap();
        image.apply_snapshot(b"renamed", Bitmaps::Refuse, options).unwrap();
        image.delete_snapshot(b"renamed", options).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
        return;
    }
    let workshop = Workshop::new();
    let path = workshop.path("image.qcow2");
    let storage = FileStorage::from_file(File::create(&path).unwrap()).unwrap();
    let new = NewImage { size: 128 << 30, cluster_bytes: 512, ..NewImage::default() };
    create(&storage, &new).unwrap();
    // The memory belongs to a process, so the work is done by one of its own: this test, again.
    let this = std::thread::current().name().unwrap().to_owned();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &this, "--nocapture"])
        .env(LARGEST_L1, &path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let peak = text.split_once("VmHWM:").expect(&text).1.split_whitespace().next().unwrap();
    let peak = peak.parse::<u64>().unwrap() * KIB;
    assert!(peak < 64 * MIB, "{peak} bytes of memory");
}

const TARGETS: usize = 1000;
const IN_CHILD: &str = "CALQUE_TEST_FEW_DESCRIPTORS";

/// Every target is open until all are complete, and a shell gives a process 1024 descriptors: a
/// thousand clones failed with "Too many open files".
#[test]
fn a_thousand_clones_need_no_more_descriptors_than_a_shell_gives() {
    if let Some(directory) = std::env::var_os(IN_CHILD) {
        let directory = std::path::PathBuf::from(directory);
        let source = FileStorage::open(directory.join("image.qcow2"), Access::Read).unwrap();
        let target = |number| directory.join(format!("clone-{number:04}"));
        let targets: Vec<_> = (0..TARGETS).map(target).collect();
        let clones = clone_image(&source, &targets, Wanted::default(), &mut |_, _| {});
        assert_eq!(clones.unwrap().len(), TARGETS);
        return;
    }
    let workshop = Workshop::new();
    let path = workshop.put("image.qcow2", &empty(Format::v3(4096, 16), MIB));
    let directory = path.parent().unwrap();
    // The limit belongs to a process, so the clones are made by one of their own: this test, again.
    let this = std::thread::current().name().unwrap().to_owned();
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -S -n 1024 && test "$(ulimit -n)" = 1024 && exec "$@""#, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &this, "--nocapture"])
        .env(IN_CHILD, directory)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    let source = std::fs::read(&path).unwrap();
    let clones = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let clones: Vec<_> = clones.filter(|clone| *clone != path).collect();
    assert_eq!(clones.len(), TARGETS);
    assert!(clones.iter().all(|clone| std::fs::read(clone).unwrap() == source));
}
