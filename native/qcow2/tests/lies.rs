//! Counts that are too low: space that is counted free, or private, and is not.
//!
//! The story. A count is a belief. Other programs have written images in which a cluster of a
//! snapshot is counted free, or once where two use it. Who believes that overwrites the snapshot, or
//! lets a guest do it. Whatever an operation relies on must be found out before it writes anything:
//! one that was refused half-way had already emptied clusters, and written where a snapshot's
//! cluster of zeros was counted free.

mod support;

use std::collections::BTreeMap;

use qcow2::Kind;
use qcow2::storage::{Operation as Logged, RecordingStorage, SparseImage};
use support::fixtures::{Format, Past};
use support::history::Scene;
use support::layout::{COMPRESSED, COPIED, Layout, OFFSET, be32, be64, put64, table};
use support::operations::Operation;
use support::oracle::{self, View};
use support::plant::Keys;
use support::{Random, plant, seed, setting};

/// What can become of an operation.
#[derive(Debug, Default)]
struct Tally {
    refused: u64,
    done: u64,
}

/// What a cluster is, for the tallies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Header,
    RefcountTable,
    RefcountBlock,
    SnapshotTable,
    ActiveL1,
    SnapshotL1,
    ActiveL2,
    SharedL2,
    SnapshotL2,
    ActiveData,
    SharedData,
    SnapshotData,
    Compressed,
    /// Keys and bitmaps.
    Other,
}

const PARTS: usize = Part::Other as usize + 1;

/// Every cluster that is counted, with what it is.
fn parts(image: &SparseImage, layout: &Layout) -> BTreeMap<u64, Part> {
    let mut parts = BTreeMap::new();
    let counted = (0..image.len() / layout.cluster()).filter(|&c| layout.refcount(image, c) > 0);
    parts.extend(counted.map(|cluster| (cluster, Part::Other)));
    let mut put = |part, offset: u64, bytes: u64| {
        let bits = layout.cluster_bits;
        parts.extend((offset >> bits..(offset + bytes).div_ceil(1 << bits)).map(|c| (c, part)));
    };
    // The data first: what a table shares a cluster with is not told apart.
    let mut disks = vec![(layout.l1_offset, layout.l1_entries, true)];
    let rows = plant::rows(image);
    disks.extend(rows.iter().map(|&at| (be64(image, at), be32(image, at + 8).into(), false)));
    let mut users: BTreeMap<u64, (bool, bool)> = BTreeMap::new();
    let mut note = |cluster, is_active: bool| {
        let (active, snapshot) = users.entry(cluster).or_default();
        *active |= is_active;
        *snapshot |= !is_active;
    };
    let mut is_compressed = BTreeMap::new();
    for &(offset, entries, is_active) in &disks {
        for l2 in table(image, offset, entries).into_iter().map(|entry| entry & OFFSET) {
            if l2 == 0 {
                continue;
            }
            note(l2 >> layout.cluster_bits, is_active);
            is_compressed.insert(l2 >> layout.cluster_bits, None);
            for entry in layout.l2_table(image, l2) {
                for cluster in layout.owned(entry.word) {
                    note(cluster, is_active);
                    is_compressed.insert(cluster, Some(entry.word & COMPRESSED != 0));
                }
            }
        }
    }
    for (&cluster, &of) in &users {
        let part = match (is_compressed[&cluster], of) {
            (None, (true, true)) => Part::SharedL2,
            (None, (true, false)) => Part::ActiveL2,
            (None, _) => Part::SnapshotL2,
            (Some(true), _) => Part::Compressed,
            (Some(false), (true, true)) => Part::SharedData,
            (Some(false), (true, false)) => Part::ActiveData,
            (Some(false), _) => Part::SnapshotData,
        };
        put(part, cluster << layout.cluster_bits, 1);
    }
    put(Part::Header, 0, 1);
    let table_bytes = layout.refcount_table_clusters * layout.cluster();
    put(Part::RefcountTable, layout.refcount_table_offset, table_bytes);
    for block in table(image, layout.refcount_table_offset, table_bytes / 8) {
        put(Part::RefcountBlock, block, u64::from(block != 0));
    }
    for (index, &(offset, entries, _)) in disks.iter().enumerate() {
        let part = if index == 0 { Part::ActiveL1 } else { Part::SnapshotL1 };
        put(part, offset, entries * 8);
    }
    put(Part::SnapshotTable, layout.snapshots_offset, rows.len() as u64);
    parts
}

/// Sets COPIED in every entry that names `cluster`, as whoever believes its count would.
fn believe(image: &mut SparseImage, layout: &Layout, cluster: u64) {
    let mut l1_tables = vec![(layout.l1_offset, layout.l1_entries)];
    let rows = plant::rows(image);
    l1_tables.extend(rows.iter().map(|&at| (be64(image, at), be32(image, at + 8).into())));
    let names =
        |entry: u64| entry & COMPRESSED == 0 && (entry & OFFSET) >> layout.cluster_bits == cluster;
    for (offset, entries) in l1_tables {
        for (slot, entry) in (0..).zip(table(image, offset, entries)) {
            if names(entry) {
                put64(image, offset + slot * 8, entry | COPIED);
            }
            let l2 = entry & OFFSET;
            for at in (l2..l2 + layout.cluster()).step_by(8).filter(|_| l2 != 0) {
                let word = be64(image, at);
                let is_entry = (at - l2).is_multiple_of(layout.entry_bytes());
                if is_entry && names(word) {
                    put64(image, at, word | COPIED);
                }
            }
        }
    }
}

/// An image some of whose counts are wrong.
struct Lying<'a> {
    image: SparseImage,
    view: &'a View,
    layout: &'a Layout,
    /// It lies on something that can neither grow nor have holes.
    is_device: bool,
}

impl Lying<'_> {
    /// Runs `operation`. Refused, it has not written: the file is the same, byte by byte and hole by
    /// hole. Done, it has done what it says. Either way no snapshot lost a byte.
    fn run(&self, operation: &Operation, what: &str) -> Result<(), Kind> {
        let storage = RecordingStorage::from_image(self.image.clone());
        if self.is_device {
            storage.fix_len();
        }
        let result = operation.run_on(&storage);
        let after = oracle::view(&storage.durable()).unwrap();
        // The snapshots that are still listed have every byte.
        for snapshot in &after.snapshots {
            let old = self.view.snapshots.iter().find(|old| old.id == snapshot.id);
            let kept = old.is_none_or(|old| old.content == snapshot.content);
            assert!(kept, "{what}: snapshot changed");
        }
        match result {
            Ok(_) => {
                operation.check(self.view, &after, self.layout);
                Ok(())
            }
            Err(error) => {
                let wrote = storage.operations().iter().any(|op| !matches!(op, Logged::Flush));
                assert!(!wrote, "{what}: refused ({error}), but wrote");
                assert!(storage.cached() == self.image, "{what}: refused ({error}), and changed");
                Err(error.kind())
            }
        }
    }
}

#[test]
fn what_is_refused_because_of_a_count_was_refused_before_anything_was_written() {
    let mut tallies: [Tally; PARTS] = Default::default();
    for number in 0..setting("CALQUE_LIES", 100) {
        let random = &mut Random::named(seed() + number, "lies");
        let mut scene = Scene::of(random, Keys::Noise);
        let is_device = random.chance(20);
        let image = &mut scene.fixture.image;
        if is_device {
            image.set_len((image.len() + (64 << 10)).next_multiple_of(4096));
        }
        let layout = Layout::read(image).unwrap();
        let before = oracle::view(image).unwrap();
        let mut all: Vec<_> = parts(image, &layout).into_iter().collect();
        random.shuffle(&mut all);
        // A few of each part.
        let mut seen = [0; PARTS];
        all.retain(|&(_, part)| {
            seen[part as usize] += 1;
            seen[part as usize] <= 4
        });
        for (cluster, part) in all {
            let count = layout.refcount(image, cluster);
            let mut lying = image.clone();
            let low = if random.chance(50) { count - 1 } else { random.below(count) };
            layout.set_refcount(&mut lying, cluster, low).unwrap();
            if low == 1 && random.chance(70) {
                believe(&mut lying, &layout, cluster);
            }
            let lying = Lying { image: lying, view: &before, layout: &layout, is_device };
            for operation in Operation::all(&before, &layout, random) {
                let what = format!(
                    "{} on {} (number {number}), {part:?} {cluster:#x} counted {low} of {count}",
                    operation.name(),
                    scene.fixture.name,
                );
                let tally = &mut tallies[part as usize];
                match lying.run(&operation, &what) {
                    Ok(()) => tally.done += 1,
                    Err(Kind::Corrupt) => tally.refused += 1,
                    // For a reason that has nothing to do with counts.
                    Err(Kind::NoSpace) if is_device => {}
                    Err(kind) => assert!(
                        Operation::may_refuse(kind) || kind == Kind::UnsupportedFeature,
                        "{what}: {kind:?}"
                    ),
                }
            }
        }
    }
    eprintln!("counts that are too low, in the order of {:?}: {tallies:?}", Part::Header);
    assert!(tallies.iter().all(|tally| tally.refused > 20), "{tallies:?}");
}

/// Host clusters that only the first snapshot's data uses, by what its tables say.
fn data_of_first_snapshot(image: &SparseImage, layout: &Layout) -> Vec<u64> {
    let (l1, entries) =
        (be64(image, layout.snapshots_offset), u64::from(be32(image, layout.snapshots_offset + 8)));
    let mut clusters = Vec::new();
    for slot in 0..entries {
        let l2 = be64(image, l1 + slot * 8) & OFFSET;
        for index in (0..layout.l2_entries()).filter(|_| l2 != 0) {
            let entry = be64(image, l2 + index * 8) & !COPIED;
            if entry & OFFSET != 0 && entry & 1 == 0 {
                clusters.push((entry & OFFSET) >> layout.cluster_bits);
            }
        }
    }
    clusters.sort_unstable();
    clusters.dedup();
    clusters
}

/// Some counts of a snapshot's data are wrong, too low or too high. What an operation does not touch
/// must survive it.
#[test]
fn counts_that_lie_about_a_snapshot_never_cost_it_a_byte() {
    let mut random = Random::named(seed(), "lies");
    let past = Past {
        format: Format::v3(4096, 16),
        size: 1 << 20,
        writes: 30,
        snapshots: 2,
        scattered: false,
        zeros: false,
    };
    let mut tally = Tally::default();
    for lie in [0_u64, 1, 2, 3, 9] {
        for _ in 0..6 {
            let fixture = past.build(&mut random);
            let layout = Layout::read(&fixture.image).unwrap();
            let mut image = fixture.image;
            let victims = data_of_first_snapshot(&image, &layout);
            for _ in 0..3 {
                layout.set_refcount(&mut image, *random.pick(&victims), lie).unwrap();
            }
            let view = oracle::view(&image).unwrap();
            let lying = Lying { image, view: &view, layout: &layout, is_device: false };
            for operation in Operation::all(&view, &layout, &mut random) {
                let what = format!("{} with counts of {lie}", operation.name());
                match lying.run(&operation, &what) {
                    Ok(()) => tally.done += 1,
                    Err(Kind::Corrupt | Kind::RefcountOverflow) => tally.refused += 1,
                    Err(kind) => panic!("{what}: {kind:?}"),
                }
            }
        }
    }
    eprintln!("lying counts: {tally:?}, no snapshot lost a byte");
    assert!(tally.refused > 20 && tally.done > 20);
}
