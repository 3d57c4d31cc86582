//! Clones and conversions of a generated image. They work on files, so these are real ones; in
//! memory, where the system has such a place.

use std::fs;
use std::path::Path;

use arbitrary::{Result, Unstructured};
use qcow2::clone::{Selection, Strategy, Version, Wanted, clone_image};
use qcow2::convert::{Backing, Chain, Format, Source, convert};
use qcow2::lock::{ImageLock, Intent, LockPolicy};
use qcow2::storage::{Access, FileStorage, SparseImage};
use qcow2::{Disk, Image};

use super::check::{is_clean, verdict};
use super::within_memory;
use crate::generate;
use crate::storage::ReadOnly;
use crate::view::{View, may_leak_beyond_end};

/// Content of larger disks is not compared byte by byte.
const MOST_COMPARED_BYTES: u64 = 4 << 20;

/// `bytes` are choices.
pub fn files(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let _ = all(&mut input);
}

/// What is done to an image, and the image.
struct Choice {
    /// Whether it is cloned or converted, and how.
    how: u8,
    /// Which snapshot is meant.
    index: usize,
    file: Vec<u8>,
}

impl Choice {
    fn draw(input: &mut Unstructured<'_>) -> Result<Self> {
        let (how, index) = (input.arbitrary()?, input.int_in_range(0..=3)?);
        Ok(Self { how, index, file: generate::image(input)?.0 })
    }
}

/// The image that these choices make.
pub fn image(bytes: &[u8]) -> Option<Vec<u8>> {
    Choice::draw(&mut Unstructured::new(bytes)).ok().map(|choice| choice.file)
}

fn all(input: &mut Unstructured<'_>) -> Result<()> {
    let Choice { how, index, file } = Choice::draw(input)?;
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let place = place.expect("a directory");
    let source = place.path().join("source");
    fs::write(&source, &file).expect("a file");
    within_memory(file.len(), || match how % 4 {
        0 | 1 => cloned(&file, &source, place.path(), how >> 2, index),
        2 => converted(&file, &source, place.path(), Format::Raw, index),
        _ => converted(&file, &source, place.path(), Format::Qcow2, index),
    });
    assert_eq!(fs::read(&source).expect("a file"), file, "the source was written to");
    Ok(())
}

/// A snapshot's id, where the image has so many.
fn id_of(file: &[u8], index: usize) -> Option<Vec<u8>> {
    let image = Image::open(Box::new(ReadOnly::new(file))).ok()?;
    let entries = image.snapshots().ok()?;
    // The first of that id is the one that is meant.
    let id = entries.get(index)?.id_text().to_vec();
    let is_first = entries.iter().position(|entry| entry.id_text() == id) == Some(index);
    is_first.then_some(id)
}

fn cloned(file: &[u8], source: &Path, place: &Path, choice: u8, index: usize) {
    let id = id_of(file, index);
    let selection = match (choice % 3, &id) {
        (0, Some(id)) => Selection::Snapshot(id),
        (1, _) => Selection::Everything,
        _ => Selection::ActiveDisk,
    };
    let strategy = if choice & 8 == 0 { Strategy::Copy } else { Strategy::Auto };
    let version = if choice & 16 == 0 { Version::Kept } else { Version::Upgraded };
    let wanted = Wanted { selection, strategy, version };
    let targets = [place.join("one"), place.join("two")];
    let targets = &targets[..=usize::from(choice >> 5 & 1)];
    let storage = FileStorage::open(source, Access::Read).expect("a file");
    if clone_image(&storage, targets, wanted, &mut |_, _| {}).is_err() {
        assert!(targets.iter().all(|target| !target.exists()), "{wanted:?}: something is left");
        return;
    }
    let image = sparse(file);
    let opened = Image::open(Box::new(ReadOnly::new(file))).expect("it was cloned");
    let was_clean = verdict(file).is_some_and(|report| is_clean(&report));
    let was_clean = was_clean && !may_leak_beyond_end(opened.header(), &image);
    let before = View::of(&image);
    for target in targets {
        let bytes = fs::read(target).expect("a clone");
        let report = verdict(&bytes);
        let is_sound = report.is_some_and(|report| is_clean(&report));
        assert!(!was_clean || is_sound, "{wanted:?}: {report:?}");
        if let (Some(before), Some(after)) = (&before, View::of(&sparse(&bytes))) {
            compare(before, &after, wanted, index);
        }
    }
}

fn compare(before: &View, after: &View, wanted: Wanted<'_>, index: usize) {
    match wanted.selection {
        Selection::Everything => {
            assert!(after.active == before.active, "{wanted:?}: the disk differs");
            assert!(after.above == before.above, "{wanted:?}: VM state differs");
            let mut pairs = after.snapshots.iter().zip(&before.snapshots);
            assert!(pairs.all(|(is, was)| is.is_same(was) && is.name == was.name), "{wanted:?}");
            assert_eq!(after.snapshots.len(), before.snapshots.len(), "{wanted:?}");
        }
        Selection::ActiveDisk => {
            assert!(after.active == before.active, "{wanted:?}: the disk differs");
            assert!(after.snapshots.is_empty(), "{wanted:?}");
        }
        Selection::Snapshot(_) => {
            let snapshot = &before.snapshots[index];
            let size = snapshot.size().unwrap_or(before.size);
            let mut content = snapshot.content.clone();
            content.retain(|&cluster, _| cluster < after.disk_clusters(size));
            assert!(after.active == content, "{wanted:?}: not the snapshot's content");
            assert!(after.size == size && after.snapshots.is_empty(), "{wanted:?}");
        }
    }
}

fn converted(file: &[u8], source: &Path, place: &Path, format: Format, index: usize) {
    let id = id_of(file, index);
    let disk = if id.is_some() { Disk::Snapshot(index) } else { Disk::Active };
    let snapshot = id.as_deref();
    let backing = Backing::Refuse;
    let source = Source { path: source, format: Format::Qcow2, snapshot, backing };
    let target = place.join("target");
    let mut lock =
        |file: &FileStorage| ImageLock::acquire(file, Intent::Share, LockPolicy::default());
    let result = Chain::open(&source, &mut lock)
        .and_then(|mut chain| convert(&mut chain, &target, format, &mut |_, _| {}));
    let Ok(done) = result else {
        assert!(!target.exists(), "something is left of a target");
        return;
    };
    if done.virtual_size > MOST_COMPARED_BYTES {
        return;
    }
    let bytes = fs::read(&target).expect("a target");
    let made = match format {
        Format::Raw => bytes,
        Format::Qcow2 => {
            let report = verdict(&bytes);
            assert!(report.is_some_and(|report| is_clean(&report)), "made anew: {report:?}");
            read_all(&bytes, Disk::Active).expect("made anew")
        }
    };
    // Of this kind the library has one reader only.
    if let Some(mut expected) = read_all(file, disk) {
        // A new disk has whole sectors.
        expected.resize(expected.len().next_multiple_of(512), 0);
        let at = made.iter().zip(&expected).position(|(is, was)| is != was);
        assert!(
            made == expected,
            "{disk:?}, {format:?}: two readers, two disks, of {} and {} bytes, from {at:?} on",
            made.len(),
            expected.len()
        );
    }
}

fn read_all(file: &[u8], disk: Disk) -> Option<Vec<u8>> {
    let image = Image::open(Box::new(ReadOnly::new(file))).ok()?;
    let mut content = image.content(disk).ok()?;
    let size = usize::try_from(content.size().min(MOST_COMPARED_BYTES)).ok()?;
    let mut bytes = vec![0; size];
    content.read_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

fn sparse(bytes: &[u8]) -> SparseImage {
    let mut image = SparseImage::default();
    image.write(bytes, 0);
    image
}
