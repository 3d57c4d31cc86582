//! What is done to fixtures, and what it has to lead to. The expectation is worked out from the
//! view before, never from what the library did.

use std::collections::BTreeSet;
use std::sync::Arc;

use qcow2::storage::{RecordingStorage, SparseImage};
use qcow2::{Bitmaps, CommitOptions, Committed, Image, Kind, NewSnapshot, Repair, check, repair};

use super::Random;
use super::layout::Layout;
use super::oracle::View;

/// One operation of the library.
#[derive(Clone, Debug)]
pub enum Operation {
    Create,
    Apply(Vec<u8>),
    /// The same, giving up bitmaps.
    ApplyDropping(Vec<u8>),
    Delete(Vec<u8>),
    /// From, to.
    Rename(Vec<u8>, Vec<u8>),
    Grow(u64),
    /// Replaces the content of the disk by that of a raw image.
    Write(Arc<SparseImage>),
    /// Puts counts and flags right.
    Repair(Repair),
}

impl Operation {
    /// Every operation that makes sense on a sound image with this view.
    pub fn all(view: &View, layout: &Layout, random: &mut Random) -> Vec<Self> {
        let mut operations = vec![
            Self::Create,
            Self::Grow(view.size + 512),
            Self::Grow(view.size * 2 + layout.cluster() * layout.l2_entries()),
            Self::Write(Arc::new(Self::raw(view, layout, random))),
        ];
        for snapshot in &view.snapshots {
            operations.push(Self::Apply(snapshot.name.clone()));
            operations.push(Self::Delete(snapshot.name.clone()));
        }
        if let Some(last) = view.snapshots.last() {
            operations.push(Self::ApplyDropping(last.name.clone()));
            operations.push(Self::Rename(last.name.clone(), b"renamed".to_vec()));
        }
        operations
    }

    /// A raw disk that shares most of its content with the active one.
    fn raw(view: &View, layout: &Layout, random: &mut Random) -> SparseImage {
        let mut raw = SparseImage::default();
        let cluster = layout.cluster();
        for (&number, data) in view.active.iter().filter(|_| random.chance(70)) {
            raw.write(data, number * cluster);
        }
        let sectors = if view.size == 0 { 0 } else { 6 };
        for _ in 0..sectors {
            let at = random.below(view.size.div_ceil(512)) * 512;
            raw.write(&super::fixtures::pattern(512, random), at);
        }
        raw.set_len(view.size);
        raw
    }

    /// What it does, whatever to.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Apply(_) | Self::ApplyDropping(_) => "apply",
            Self::Delete(_) => "delete",
            Self::Rename(..) => "rename",
            Self::Grow(_) => "grow",
            Self::Write(_) => "replace",
            Self::Repair(Repair::Leaks) => "repair leaks",
            Self::Repair(Repair::All) => "repair all",
        }
    }

    pub fn name(&self) -> String {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        match self {
            Self::Create => "create".into(),
            Self::Apply(name) => format!("apply {}", text(name)),
            Self::ApplyDropping(name) => format!("apply {} without bitmaps", text(name)),
            Self::Delete(name) => format!("delete {}", text(name)),
            Self::Rename(name, new) => format!("rename {} to {}", text(name), text(new)),
            Self::Grow(size) => format!("grow to {size}"),
            Self::Write(_) => "write content".into(),
            Self::Repair(Repair::Leaks) => "repair leaks".into(),
            Self::Repair(Repair::All) => "repair all".into(),
        }
    }

    /// Does it to an open image.
    pub fn run(&self, image: &mut Image) -> qcow2::Result<Committed> {
        let options = &mut CommitOptions::default();
        match self {
            Self::Create => {
                let new = NewSnapshot {
                    name: b"new",
                    least_id: 7,
                    date_sec: 1_800_000_000,
                    date_nsec: 99,
                };
                image.create_snapshot(&new, options)
            }
            Self::Apply(name) => image.apply_snapshot(name, Bitmaps::Refuse, options),
            Self::ApplyDropping(name) => image.apply_snapshot(name, Bitmaps::Drop, options),
            Self::Delete(name) => image.delete_snapshot(name, options),
            Self::Rename(name, new) => image.rename_snapshot(name, new, options),
            Self::Grow(size) => image.grow(*size, options),
            Self::Write(raw) => {
                let source = RecordingStorage::from_image(SparseImage::clone(raw));
                image.write_content(&source, options)
            }
            Self::Repair(what) => repair::repair(image, *what, options, &mut |_| {})
                .map(|repaired| repaired.committed.unwrap_or_default()),
        }
    }

    /// Opens `storage` and does it.
    pub fn run_on(&self, storage: &RecordingStorage) -> qcow2::Result<Committed> {
        let storage = Box::new(storage.clone());
        let is_repair = matches!(self, Self::Repair(_));
        let mut image = if is_repair { check::open(storage)? } else { Image::open(storage)? };
        self.run(&mut image)
    }

    /// Checks the view afterwards against the one before.
    pub fn check(&self, before: &View, after: &View, layout: &Layout) {
        let what = self.name();
        let unchanged = |a: &View| {
            a.snapshots.len() == before.snapshots.len()
                && a.snapshots
                    .iter()
                    .zip(&before.snapshots)
                    .all(|(a, b)| a.same_but_name(b) && a.name == b.name)
        };
        let same_disk = after.active == before.active
            && after.above_the_end == before.above_the_end
            && after.size == before.size;
        let no_vm_state = after.above_the_end.is_empty();
        assert!(after.keys == before.keys, "{what}: keys changed");
        match self {
            Self::Create => {
                assert!(same_disk, "{what}: the active disk changed");
                let (new, old) = after.snapshots.split_last().unwrap();
                assert_eq!(old.len(), before.snapshots.len());
                assert!(old.iter().zip(&before.snapshots).all(|(a, b)| a.same_but_name(b)));
                assert_eq!((new.name.as_slice(), new.size()), (&b"new"[..], Some(before.size)));
                // VM state above the disk belongs to the new snapshot too.
                let mut content = before.active.clone();
                content.extend(before.above_the_end.clone());
                assert!(new.content == content, "{what}: not what the disk contains");
            }
            Self::Apply(name) | Self::ApplyDropping(name) => {
                assert!(unchanged(after), "{what}: snapshots changed");
                let snapshot = before.snapshots.iter().find(|s| s.name == *name).unwrap();
                let size = snapshot.size().unwrap_or(before.size);
                assert_eq!(after.size, size, "{what}");
                let mut content = snapshot.content.clone();
                content.retain(|&cluster, _| cluster < size.div_ceil(layout.cluster()));
                assert!(after.active == content, "{what}: not the snapshot's content");
                assert!(no_vm_state, "{what}: VM state came into the active disk");
            }
            Self::Delete(name) => {
                assert!(same_disk, "{what}: the active disk changed");
                let mut rest = before.snapshots.clone();
                let gone = rest.iter().position(|s| s.name == *name).unwrap();
                rest.remove(gone);
                assert_eq!(after.snapshots.len(), rest.len(), "{what}");
                let pairs = after.snapshots.iter().zip(&rest);
                assert!(pairs.clone().all(|(a, b)| a.same_but_name(b) && a.name == b.name));
            }
            Self::Rename(name, new) => {
                assert!(same_disk, "{what}: the active disk changed");
                for (a, b) in after.snapshots.iter().zip(&before.snapshots) {
                    assert!(a.same_but_name(b), "{what}: more than a name changed");
                    let expected = if b.name == *name { new } else { &b.name };
                    assert_eq!(&a.name, expected, "{what}");
                }
                assert_eq!(after.snapshots.len(), before.snapshots.len(), "{what}");
            }
            Self::Repair(_) => assert!(unchanged(after) && same_disk, "{what}: content changed"),
            Self::Grow(size) => {
                assert!(unchanged(after), "{what}: snapshots changed");
                let difference = || super::judge::difference(after, std::slice::from_ref(before));
                assert!(after.active == before.active, "{what}: {}", difference());
                assert!(no_vm_state, "{what}: VM state stayed in the active disk");
                assert_eq!(after.size, size.next_multiple_of(512), "{what}");
            }
            Self::Write(raw) => {
                assert!(unchanged(after), "{what}: snapshots changed");
                assert_eq!(after.size, before.size);
                let cluster = layout.cluster();
                let written = raw.data_ranges(0..raw.len()).into_iter();
                let mut numbers: BTreeSet<u64> = written
                    .flat_map(|range| range.start / cluster..range.end.div_ceil(cluster))
                    .collect();
                numbers.extend(after.active.keys());
                for number in numbers {
                    let mut data = vec![0; usize::try_from(cluster).unwrap()];
                    raw.read(&mut data, number * cluster);
                    let valid =
                        usize::try_from((before.size - number * cluster).min(cluster)).unwrap();
                    let is = after.active.get(&number);
                    let zeros = || data[..valid].iter().all(|&b| b == 0);
                    assert!(
                        is.map_or_else(zeros, |is| is[..valid] == data[..valid]),
                        "{what}: cluster {number} is not the source's"
                    );
                }
            }
        }
    }

    /// Whether the library may refuse to do this to a sound image, and how.
    pub fn may_refuse(kind: Kind) -> bool {
        matches!(kind, Kind::RefcountOverflow | Kind::HasSnapshots | Kind::HasBitmaps)
    }
}
