//! Operations on an image, one after the other. What is refused changes no byte; what is done keeps
//! everything else, and makes nothing worse.

use qcow2::storage::{RecordingStorage, SparseImage};
use qcow2::{Bitmaps, CommitOptions, Committed, Disk, Image, Kind, NewSnapshot};

use super::check::{is_clean, verdict};
use super::ensure_memory;
use crate::allocation::peak_bytes;
use crate::storage::{Changeable, Fullness};
use crate::view::{Content, View, may_leak_beyond_end};

/// Bytes that say what is done: eight for each step.
pub const SCRIPT_BYTES: usize = 24;
/// What becomes larger than this is not looked at.
const MOST_FILE_BYTES: u64 = 4 << 20;

/// The script, then a file.
pub fn operations(bytes: &[u8]) {
    if let Some((script, file)) = bytes.split_first_chunk() {
        work(file, *script);
    }
}

/// Does what the script says to a file of these bytes.
pub fn work(file: &[u8], script: [u8; SCRIPT_BYTES]) {
    let mut image = SparseImage::default();
    image.write(file, 0);
    for step in script.as_chunks::<8>().0 {
        let mut after = None;
        let peak = peak_bytes(|| after = Step::decode(*step).run(&image));
        let length = after.as_ref().map_or(0, SparseImage::len).max(file.len() as u64);
        if length > MOST_FILE_BYTES {
            return;
        }
        // An L1 table that becomes long takes its own length, some times over.
        ensure_memory(peak, length);
        if let Some(after) = after {
            image = after;
        }
    }
}

/// One operation. An index is that of a snapshot, as far as there are some.
#[derive(Clone, Debug)]
enum Step {
    Create { name: Vec<u8> },
    Apply { index: usize, by: By, bitmaps: Bitmaps },
    Delete { index: usize, by: By, disk: Fullness },
    Rename { index: usize, by: By, name: Vec<u8> },
    Grow { bytes: u64 },
    Write { length: u64, mark: u8 },
}

/// How a snapshot is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Id,
    Name,
}

impl Step {
    fn decode([kind, index, by, choice, a, b, c, d]: [u8; 8]) -> Self {
        let number = u64::from(u32::from_be_bytes([a, b, c, d]));
        let names: [&[u8]; 8] =
            [b"new", b"one", b"1", b"", b"a\0b", b"\xff\xfe", &[b'n'; 255], &[b'n'; 256]];
        let name = names[usize::from(choice % 8)].to_vec();
        let index = usize::from(index);
        let by = if by % 2 == 0 { By::Name } else { By::Id };
        let bitmaps = if choice % 2 == 0 { Bitmaps::Drop } else { Bitmaps::Refuse };
        match kind % 8 {
            0 | 1 => Self::Create { name },
            2 => Self::Apply { index, by, bitmaps },
            3 => Self::Delete { index, by, disk: Fullness::Free },
            4 => Self::Delete { index, by, disk: Fullness::Full },
            5 => Self::Rename { index, by, name },
            // No L1 table is so long; one of megabytes is looked at elsewhere.
            6 if choice % 8 == 0 => Self::Grow { bytes: number << 48 },
            6 => Self::Grow { bytes: number % (4 << 20) },
            _ => Self::Write { length: number % (96 << 10), mark: choice },
        }
    }

    /// Does it; returns the image afterwards, or none where it was refused.
    fn run(&self, before: &SparseImage) -> Option<SparseImage> {
        let storage = Changeable::new(before.clone());
        let mut image = Image::open(Box::new(storage.clone())).ok()?;
        let entries = image.snapshots().ok()?;
        let picked = |index: &usize, by: &By| {
            let entry = entries.get(index % entries.len().max(1))?;
            Some(if *by == By::Id { entry.id_text() } else { entry.name_text() }.to_vec())
        };
        let options = &mut CommitOptions::default();
        let mut selector = Vec::new();
        let mut raw = SparseImage::default();
        let result = match self {
            Self::Create { name } => {
                let new = NewSnapshot { name, least_id: 3, date_sec: 7, date_nsec: 8 };
                image.create_snapshot(&new, options)
            }
            Self::Apply { index, by, bitmaps } => {
                selector = picked(index, by)?;
                image.apply_snapshot(&selector, *bitmaps, options)
            }
            Self::Delete { index, by, disk } => {
                selector = picked(index, by)?;
                storage.fill_up(*disk);
                match by {
                    By::Id => image.delete_snapshot_by_id(&selector, options),
                    By::Name => image.delete_snapshot(&selector, options),
                }
            }
            Self::Rename { index, by, name } => {
                selector = picked(index, by)?;
                image.rename_snapshot(&selector, name, options)
            }
            Self::Grow { bytes } => {
                let size = image.header().size.saturating_add(*bytes);
                image.grow(size, options)
            }
            Self::Write { length, mark } => {
                raw = raw_disk(*length, image.header().size, *mark);
                image.write_content(&RecordingStorage::from_image(raw.clone()), options)
            }
        };
        let done = match result {
            Ok(done) => done,
            Err(error) => {
                // Only a disk that is full is met while something is written.
                assert!(
                    !storage.has_written() || error.kind() == Kind::NoSpace,
                    "{self:?} is refused ({error}), after it has written"
                );
                for (place, after) in [("cache", storage.cached()), ("medium", storage.durable())] {
                    assert!(
                        after == *before || only_free_space_differs(&after, before),
                        "{self:?} is refused ({error}), and changes the {place}: {}",
                        difference(before, &after)
                    );
                }
                return None;
            }
        };
        let after = storage.cached();
        // A punch is not flushed, and may be lost.
        assert!(image.is_current().expect("no error to meet"), "{self:?}: another header is kept");
        if let Self::Write { .. } = self {
            reads_as(&image, &raw, self);
        }
        drop(image);
        if after.len() <= MOST_FILE_BYTES {
            self.judge(before, &after, &selector, &done);
        }
        Some(after)
    }

    /// Compares what was done with what it says.
    fn judge(&self, before: &SparseImage, after: &SparseImage, selector: &[u8], done: &Committed) {
        let again = Image::open(Box::new(Changeable::new(after.clone())));
        assert!(again.is_ok(), "{self:?}: cannot be opened any more: {again:?}");
        let old_report = verdict(&all(before));
        let new_report = verdict(&all(after));
        if let Some(old) = old_report {
            let new = new_report.expect("can be checked as before");
            // Deleting on a full disk may have to leave leaks to the next change.
            let header = again.expect("opened").header().clone();
            let may_leak = done.recount_failure.is_some() || may_leak_beyond_end(&header, before);
            let leaks = if may_leak { u64::MAX } else { old.leaks };
            let is_worse = old.corruptions == 0 && new.corruptions > 0
                || old.check_errors == 0 && new.check_errors > 0
                || old.corruptions == 0 && new.leaks > leaks;
            assert!(!is_worse, "{self:?}: {old:?} becomes {new:?}");
            assert!(!is_clean(&old) || is_clean(&new) || leaks > 0, "{self:?}: {new:?}");
        }
        if let (Some(old), Some(new)) = (View::of(before), View::of(after)) {
            self.compare(&old, &new, selector);
        }
    }

    fn compare(&self, old: &View, new: &View, selector: &[u8]) {
        let same_disk = || {
            assert!(old.size == new.size && old.active == new.active, "{self:?}: the disk changed");
            assert!(old.above == new.above, "{self:?}: VM state of the active disk changed");
        };
        let mut expected = old.snapshots.clone();
        match self {
            Self::Create { name } => {
                same_disk();
                let mut content = old.active.clone();
                content.extend(old.above.clone());
                let taken = new.snapshots.last().expect("the new one");
                assert!(taken.content == content, "{self:?}: not what the disk contains");
                assert_eq!((&taken.name, taken.size()), (name, Some(old.size)), "{self:?}");
                expected.push(taken.clone());
            }
            Self::Delete { by, .. } => {
                same_disk();
                let is_meant = |text: &[u8]| until_nul(text) == selector;
                let gone = expected
                    .iter()
                    .position(|s| is_meant(if *by == By::Id { &s.id } else { &s.name }));
                expected.remove(gone.expect("it was found"));
            }
            Self::Rename { name, .. } => {
                same_disk();
                let renamed = position(old, selector);
                expected[renamed].name.clone_from(name);
            }
            Self::Apply { .. } => {
                let applied = &old.snapshots[position(old, selector)];
                let size = applied.size().unwrap_or(old.size);
                let mut content = applied.content.clone();
                content.retain(|&cluster, _| cluster < new.disk_clusters(size));
                assert_eq!(new.size, size, "{self:?}");
                assert!(new.active == content, "{self:?}: not the snapshot's content");
                assert!(new.above.is_empty(), "{self:?}: VM state came into the disk");
            }
            Self::Grow { bytes } => {
                let size = old.size.saturating_add(*bytes).next_multiple_of(512);
                assert_eq!(new.size, size, "{self:?}");
                assert!(new.active == old.active, "{self:?}: the disk changed");
                assert!(new.above.is_empty(), "{self:?}: VM state is left");
            }
            Self::Write { .. } => {
                assert_eq!(new.size, old.size, "{self:?}");
                assert!(new.above == old.above, "{self:?}: VM state changed");
            }
        }
        assert_eq!(new.snapshots.len(), expected.len(), "{self:?}");
        for (is, was) in new.snapshots.iter().zip(&expected) {
            assert!(is.name == was.name, "{self:?}: a name changed");
            let changed = changed(&is.content, &was.content);
            assert!(changed.is_empty(), "{self:?}: a snapshot changed, clusters {changed:?}");
            assert!(is.is_same(was), "{self:?}: a row changed: {was:?} becomes {is:?}");
        }
    }
}

/// The snapshot that QEMU means: the first of that id, else of that name.
fn position(view: &View, selector: &[u8]) -> usize {
    let by = |text: fn(&crate::view::SnapshotView) -> &[u8]| {
        view.snapshots.iter().position(|s| until_nul(text(s)) == selector)
    };
    by(|s| &s.id).or_else(|| by(|s| &s.name)).expect("it was found")
}

fn changed(left: &Content, right: &Content) -> Vec<u64> {
    let keys = left.keys().chain(right.keys()).copied();
    keys.filter(|key| left.get(key) != right.get(key)).take(8).collect()
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A disk not longer than `size`, with holes and zeros in it.
fn raw_disk(length: u64, size: u64, mark: u8) -> SparseImage {
    let mut raw = SparseImage::default();
    let length = length.min(size);
    for at in (0..length.saturating_sub(512)).step_by(3 * 512) {
        raw.write(&[mark; 512], at);
    }
    raw.set_len(length);
    raw
}

/// The active disk begins with `raw`, and zeros follow.
fn reads_as(image: &Image, raw: &SparseImage, step: &Step) {
    let mut content = image.content(Disk::Active).expect("was just written");
    let length = usize::try_from(raw.len()).expect("short") + 4096;
    let (mut is, mut expected) = (vec![0; length], vec![0; length]);
    raw.read(&mut expected, 0);
    content.read_at(&mut is, 0).expect("was just written");
    assert!(is == expected, "{step:?}: not what was written");
}

fn all(image: &SparseImage) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(image.len()).expect("bounded")];
    image.read(&mut bytes, 0);
    bytes
}

/// Where two files differ first, in words.
fn difference(before: &SparseImage, after: &SparseImage) -> String {
    let at = all(before).iter().zip(all(after)).position(|(was, is)| *was != is);
    format!("{} bytes become {}, the first changed one is {at:x?}", before.len(), after.len())
}

/// Whether two files are the same image: a commit that meets a full disk has written to clusters that
/// nobody uses, and punches them.
fn only_free_space_differs(after: &SparseImage, before: &SparseImage) -> bool {
    let (is, was) = (View::of(after), View::of(before));
    let same_view = is.zip(was).is_some_and(|(is, was)| is.is_same(&was));
    same_view && after.len() == before.len() && verdict(&all(after)) == verdict(&all(before))
}
