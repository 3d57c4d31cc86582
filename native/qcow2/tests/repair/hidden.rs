//! What a repair cannot follow, it leaves alone.
//!
//! The story. An entry of an L1 table loses a bit. The table that it named, and all that this one maps,
//! is nobody's now, and counted: it leaks. Whoever looks for leaks and has nothing else to go by gives
//! it back to the file system, or writes new tables over it, and what could have been put right by
//! hand is gone.

use qcow2::storage::{Operation, RecordingStorage, SparseImage};
use qcow2::{CommitOptions, Kind, Repair, check};

use crate::support::damaged::{self, is_marked, repair_on, verdict};
use crate::support::fixtures;
use crate::support::guest::Guest;
use crate::support::layout::{COPIED, Entry, Layout, OFFSET, ZERO, be64, bytes, put64, table};
use crate::support::oracle::audit;
use crate::support::plant;
use crate::support::replay::{Effort, Recording};
use crate::support::unproven::first_touched;
use crate::support::{Random, seed};

/// Does it. Returns whether there was anything to do it with.
type Hide = fn(&mut SparseImage, &Layout, &mut Random) -> bool;

/// Damage to what leads to clusters, or something that nobody knows and that may own some.
const REFERENCES: [(&str, Hide); 8] = [
    ("an L1 entry past the end of the file", |image, layout, random| {
        move_entry(image, l1_entry(image, layout, random), past_the_end)
    }),
    ("an unaligned L1 entry", |image, layout, random| {
        layout.cluster() > 512 && move_entry(image, l1_entry(image, layout, random), unaligned)
    }),
    ("an L2 entry past the end of the file", |image, layout, random| {
        move_entry(image, l2_entry(image, layout, random), past_the_end)
    }),
    ("an unaligned L2 entry", |image, layout, random| {
        layout.cluster() > 512 && move_entry(image, l2_entry(image, layout, random), unaligned)
    }),
    ("an L1 entry of a snapshot past the end of the file", |image, layout, _| {
        move_entry(image, l1_entry_of_a_snapshot(image, layout), past_the_end)
    }),
    ("a snapshot whose L1 table is unaligned", |image, _, _| {
        let Some(&row) = plant::rows(image).first() else { return false };
        put64(image, row, be64(image, row) + 8);
        true
    }),
    ("an unknown extension", |image, _, random| plant::unknown_extension(image, random)),
    ("unknown features", |image, layout, random| {
        let is_possible = layout.version == 3;
        if is_possible {
            plant::unknown_features(image, random);
        }
        is_possible
    }),
];

/// Damage to counts, which says that there may be more.
const COUNTS: [(&str, Hide); 3] = [
    ("a cluster that is counted free and in use", |image, layout, random| {
        let Some(entry) = l2_entry(image, layout, random) else { return false };
        let cluster = (be64(image, entry) & OFFSET) >> layout.cluster_bits;
        layout.set_refcount(image, cluster, 0).is_ok()
    }),
    ("a refcount block that is nowhere", |image, layout, _| {
        put64(image, layout.refcount_table_offset, layout.l1_offset | 1);
        true
    }),
    ("the mark of who found it corrupt", |image, layout, _| {
        let is_possible = layout.version == 3;
        if is_possible {
            put64(image, 72, be64(image, 72) | 2);
        }
        is_possible
    }),
];

/// What is mended, and nobody knows what else was lost with it.
const PLACES: [(&str, Hide); 2] = [
    ("a zero cluster that keeps an unaligned place", |image, layout, random| {
        layout.version == 3 && damaged::misplace(image, layout, random).is_some()
    }),
    ("a zero cluster that keeps a place past the end of the file", |image, layout, random| {
        let at = l2_entry(image, layout, random).filter(|_| layout.version == 3);
        let Some(at) = at.filter(|_| layout.cluster() > 512) else { return false };
        let flag = if layout.is_extended { 0 } else { ZERO };
        let word = (past_the_end(image, 0) + 512) | COPIED | flag;
        layout.put_l2_entry(image, at, Entry { word, bits: 0 });
        true
    }),
];

/// Where an L1 entry of the active disk is that names a table.
fn l1_entry(image: &SparseImage, layout: &Layout, random: &mut Random) -> Option<u64> {
    let entries = table(image, layout.l1_offset, layout.l1_entries);
    let used = |&it: &u64| entries[usize::try_from(it).unwrap()] & OFFSET != 0;
    let used: Vec<u64> = (0..layout.l1_entries).filter(used).collect();
    (!used.is_empty()).then(|| layout.l1_offset + random.pick(&used) * 8)
}

fn l1_entry_of_a_snapshot(image: &SparseImage, layout: &Layout) -> Option<u64> {
    plant::rows(image).into_iter().find_map(|row| {
        let (l1, entries) = (be64(image, row), be64(image, row + 8) >> 32);
        let used = |slot: &u64| be64(image, l1 + slot * 8) & OFFSET != 0;
        assert!(entries <= layout.l1_entries.max(64));
        (0..entries).find(used).map(|slot| l1 + slot * 8)
    })
}

/// Where an L2 entry of the active disk is that names a whole cluster.
fn l2_entry(image: &SparseImage, layout: &Layout, random: &mut Random) -> Option<u64> {
    let l2 = be64(image, l1_entry(image, layout, random)?) & OFFSET;
    let owns = |at: &u64| be64(image, *at) & OFFSET != 0 && be64(image, *at) >> 62 & 1 == 0;
    let step = usize::try_from(layout.entry_bytes()).unwrap();
    (l2..l2 + layout.cluster()).step_by(step).find(owns)
}

/// Changes where an entry points.
fn move_entry(image: &mut SparseImage, at: Option<u64>, to: fn(&SparseImage, u64) -> u64) -> bool {
    let Some(at) = at else { return false };
    let entry = be64(image, at);
    let offset = to(image, entry & OFFSET);
    put64(image, at, entry & !OFFSET | offset);
    true
}

/// Where the next table would go, if nobody kept that place free.
fn past_the_end(image: &SparseImage, _: u64) -> u64 {
    let cluster = Layout::read(image).unwrap().cluster();
    image.len().next_multiple_of(cluster.max(4096)) + cluster
}

fn unaligned(_: &SparseImage, offset: u64) -> u64 {
    offset + 512
}

/// What there is to repair in any case: a leak, a flag that is wrong, and the mark of who did not come
/// to the end.
fn break_books(image: &mut SparseImage, layout: &Layout, random: &mut Random) {
    let end = image.len() / layout.cluster();
    let is_free = |cluster: &u64| layout.refcount(image, *cluster) == 0;
    if let Some(free) = (0..end).find(is_free) {
        let _ = layout.set_refcount(image, free, 1);
    }
    if let Some(at) = l2_entry(image, layout, random) {
        put64(image, at, be64(image, at) ^ COPIED);
    }
    if layout.version == 3 {
        put64(image, 72, be64(image, 72) | 1);
    }
}

/// What the disk under it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// Holes, and growing.
    File,
    /// The same, without a free block.
    Full,
    /// Neither.
    Device,
}

#[test]
fn nothing_that_may_be_hidden_is_written_over_or_given_back() {
    let mut random = Random::named(seed(), "hidden");
    let hides = || REFERENCES.iter().chain(&COUNTS).chain(&PLACES);
    let mut done = vec![0; hides().count()];
    for fixture in fixtures::all(&mut Random::named(seed(), "fixtures")) {
        let layout = Layout::read(&fixture.image).unwrap();
        for ((story, hide), done) in hides().zip(&mut done) {
            for disk in [Disk::File, Disk::Full, Disk::Device] {
                let mut image = fixture.image.clone();
                if disk == Disk::Device {
                    image.set_len(image.len().next_multiple_of(1 << 20));
                }
                break_books(&mut image, &layout, &mut random);
                if !hide(&mut image, &layout, &mut random) {
                    continue;
                }
                for what in [Repair::Leaks, Repair::All] {
                    let name = format!("{}: {story}, {what:?}, {disk:?}", fixture.name);
                    *done += u64::from(repair_and_look(&image, what, disk, &name, &mut random));
                }
            }
        }
    }
    for ((story, _), done) in hides().zip(done) {
        assert!(done >= 10, "{story}: {done} repairs");
    }
}

/// Returns whether something was repaired.
fn repair_and_look(
    base: &SparseImage,
    what: Repair,
    disk: Disk,
    name: &str,
    random: &mut Random,
) -> bool {
    let storage = RecordingStorage::from_image(base.clone());
    match disk {
        Disk::File => {}
        Disk::Full => storage.limit_room(Some(base.data_bytes())),
        Disk::Device => storage.fix_len(),
    }
    let before = verdict(base);
    let result = repair_on(&storage, what);
    let committed = match result {
        Ok(committed) => committed.is_some(),
        Err(error) => {
            assert!(disk != Disk::File && error.kind() == Kind::NoSpace, "{name}: {error}");
            false
        }
    };
    let operations = storage.operations();
    let gave_back = operations.iter().any(|it| matches!(it, Operation::Punch(_)));
    assert!(disk != Disk::Device || !gave_back, "{name}: gave something back");
    // On a device, whoever can follow every reference may write what nobody counts.
    let is_mended = what == Repair::All && PLACES.iter().any(|(story, _)| name.contains(story));
    let is_followed = is_mended || COUNTS.iter().any(|(story, _)| name.contains(story));
    if disk != Disk::Device || !is_followed {
        let recording = Recording { base: base.clone(), operations: operations.clone() };
        let effort = Effort { samples: 2, enumerate: 2 };
        recording.states(effort, random, |state| {
            let touched = first_touched(base, &state.image);
            assert!(touched.is_none(), "{name}: {}: changed at {touched:x?}", state.how);
        });
    }
    if !committed {
        let wrote = operations.iter().any(|it| matches!(it, Operation::Write { .. }));
        assert!(!wrote || storage.durable().data_bytes() == base.data_bytes(), "{name}");
        return false;
    }
    let after = verdict(&storage.durable());
    // Who repairs leaks does not count the place that a damaged entry names once the file is longer,
    // and leaves flags alone.
    let is_better = after.0 <= before.0 || what == Repair::Leaks;
    assert!(is_better, "{name}: {:?} was {:?}", after.2, before.2);
    let repaired = storage.durable();
    // What grew over such a place is counted by a second commit.
    let miscounted = after.2.iter().any(|line| line.starts_with("ERROR cluster"));
    assert!(what == Repair::Leaks || !miscounted, "{name}: {:?}", after.2);
    let layout = Layout::read(&repaired).unwrap();
    assert_eq!(layout.autoclear & !3, 0, "{name}: a bit that nobody kept true");
    // Who opens it has to hear of what stayed wrong.
    let stays_marked = layout.version == 3 && after.0 > 0;
    assert_eq!(is_marked(&repaired), stays_marked, "{name}: {:?}", after.2);
    assert_eq!(after.1, 0, "{name}: {:?} was {:?}", after.2, before.2);
    // Nothing new is where an entry points.
    let twice = |image: &SparseImage| {
        let errors = audit(image).unwrap().errors;
        errors.iter().filter(|error| error.contains("is used for something else")).count()
    };
    assert!(twice(&storage.durable()) <= twice(base), "{name}: a table where an entry points");
    true
}

/// The places that damaged entries name are kept free, those too that are not told.
#[test]
fn nothing_is_put_where_entries_point_that_are_too_many_to_be_told() {
    const TABLES: u64 = 1100;
    let format = fixtures::Format::v3(512, 16);
    let mut image = fixtures::empty(format, TABLES * 64 * 512);
    let mut guest = Guest::boot(&mut image).unwrap();
    for table in 0..TABLES {
        guest.write(table * 64 * 512, &[7; 512]).unwrap();
    }
    let layout = Layout::read(&image).unwrap();
    let end = image.len() / 512;
    let mut place = end + TABLES * 63;
    for l1 in table(&image, layout.l1_offset, layout.l1_entries) {
        for nth in 1..64 {
            // Those that are told last are where the next table would go.
            place -= 1;
            put64(&mut image, (l1 & OFFSET) + nth * 8, place * 512);
        }
    }
    let mut random = Random::new(1);
    break_books(&mut image, &layout, &mut random);
    let before = verdict(&image);
    assert!(before.0 > check::MAX_PROBLEMS, "{} places", before.0);
    let storage = RecordingStorage::from_image(image.clone());
    // There is no hole to write into, and the file ends where they begin.
    let mut opened = check::open(Box::new(storage.clone())).unwrap();
    let options = &mut CommitOptions::default();
    let repaired = check::repair::repair(&mut opened, Repair::All, options, &mut |_| {}).unwrap();
    assert_eq!(repaired.lost_clusters, TABLES * 63);
    let after = storage.durable();
    assert!(after.len() > (end + TABLES * 63) * 512);
    let named = bytes(&after, end * 512, TABLES * 63 * 512);
    assert!(named.iter().all(|&byte| byte == 0));
    assert_eq!(verdict(&after).0, 0);
}

/// Counts that cannot be read may be anything; what they say of flags, and of what leaks beside them,
/// is not known.
#[test]
fn while_a_block_cannot_be_read_leaks_are_left_alone() {
    for fixture in fixtures::with_few_calls(&mut Random::named(seed(), "fixtures")) {
        let layout = Layout::read(&fixture.image).unwrap();
        let mut image = fixture.image.clone();
        break_books(&mut image, &layout, &mut Random::new(1));
        // Where no file can have it; of clusters that the file has.
        image.set_len((layout.block_entries() + 8) * layout.cluster());
        let beyond = i64::MAX.unsigned_abs() & !(layout.cluster() - 1);
        put64(&mut image, layout.refcount_table_offset + 8, beyond);
        let storage = RecordingStorage::from_image(image.clone());
        let done = repair_on(&storage, Repair::Leaks).unwrap();
        assert!(done.is_none(), "{}: {done:?}", fixture.name);
    }
}
