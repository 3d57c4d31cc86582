//! Commits that are wrong in one thing are found.
//!
//! `calibration.rs` shows that the harness finds what is known to be wrong with another program's
//! writes. Here it gets the library's own, with one mistake put in: a flush left out, the header in
//! parts, a table over the one that it replaces, a flag that stayed, a count that was
//! forgotten, a cache that is taken for the disk. Each is the mistake that a change of the commit
//! could make. The same writes without it are sound.

mod support;

use std::io;
use std::ops::Range;

use qcow2::storage::{
    Call, Fault, Harm, Operation as Logged, RecordingStorage, SparseImage, Storage,
};
use qcow2::{Image, Kind};
use support::fixtures::{Fixture, Format, Past};
use support::judge::{Allowed, Damage, judge};
use support::layout::{COPIED, Layout, OFFSET};
use support::operations::Operation;
use support::oracle::{self, View};
use support::replay::{Effort, Recording};
use support::{Random, seed};

const EFFORT: Effort = Effort { samples: 30, enumerate: 8 };

/// Fields of the header.
const L1_OFFSET_AT: usize = 40;

/// A commit as the library made it.
struct Commit {
    what: String,
    recording: Recording,
    views: Vec<View>,
    old: Layout,
    new: Layout,
}

/// Each operation on images of three formats.
fn commits(wanted: impl Fn(&Operation) -> bool) -> Vec<Commit> {
    let mut random = Random::named(seed(), "mutants");
    let formats = [Format::v3(4096, 16), Format::v3(512, 8), Format::v2(1024)];
    let mut commits = Vec::new();
    for format in formats {
        let past = Past {
            format,
            size: 200 * format.cluster_bytes,
            writes: 40,
            snapshots: 2,
            scattered: false,
            zeros: false,
        };
        let Fixture { name, image } = past.build(&mut random);
        let before = oracle::view(&image).unwrap();
        let old = Layout::read(&image).unwrap();
        for operation in Operation::all(&before, &old, &mut random) {
            let storage = RecordingStorage::from_image(image.clone());
            if !wanted(&operation) || operation.run_on(&storage).is_err() {
                continue;
            }
            let after = storage.durable();
            commits.push(Commit {
                what: format!("{} on {name}", operation.name()),
                recording: Recording { base: image.clone(), operations: storage.operations() },
                views: vec![before.clone(), oracle::view(&after).unwrap()],
                old: old.clone(),
                new: Layout::read(&after).unwrap(),
            });
        }
    }
    assert!(commits.len() >= 3);
    commits
}

/// The damage in all states of a recording.
fn damage(recording: &Recording, views: &[View]) -> Vec<Damage> {
    let mut random = Random::named(seed(), "mutants");
    let allowed = Allowed { views: views.to_vec(), leaks: false };
    let mut found = Vec::new();
    recording.states(EFFORT, &mut random.clone(), |state| {
        found.extend(judge(&state.image, &allowed, &mut random).err());
    });
    found
}

/// Puts a mistake into each commit; fails where the harness does not find it, or finds something
/// in the commit without it.
fn is_found(
    commits: &[Commit],
    mistake: impl Fn(&Commit, &mut Vec<Logged>),
    expected: impl Fn(&Damage) -> bool,
) {
    for commit in commits {
        let what = &commit.what;
        assert_eq!(damage(&commit.recording, &commit.views), [], "{what}, as it is");
        let mut wrong = commit.recording.clone();
        mistake(commit, &mut wrong.operations);
        assert!(wrong.operations != commit.recording.operations, "{what}: no mistake");
        let found = damage(&wrong, &commit.views);
        eprintln!("{what}: {} states damaged", found.len());
        assert!(found.iter().any(&expected), "{what}: found {found:?}");
    }
}

/// The flush that the header waits for, and the flush of the header, counted from the last one.
const OF_TABLES: usize = 1;
const OF_HEADER: usize = 0;

/// Takes a flush out.
fn leave_flush_out(operations: &mut Vec<Logged>, from_last: usize) {
    let mut flushes = operations.iter().enumerate().rev().filter(|(_, op)| **op == Logged::Flush);
    let (at, _) = flushes.nth(from_last).expect("three flushes");
    operations.remove(at);
}

#[test]
fn a_header_that_may_reach_the_disk_before_its_tables_is_found() {
    is_found(
        &commits(|_| true),
        |_, operations| leave_flush_out(operations, OF_TABLES),
        |damage| matches!(damage, Damage::Unreadable(_) | Damage::Mixed(_)),
    );
}

#[test]
fn holes_that_may_be_punched_before_the_header_is_durable_are_found() {
    // What only the active disk used goes with an apply, what only the snapshot used with it.
    is_found(
        &commits(|op| matches!(op, Operation::Apply(_) | Operation::Delete(_))),
        |_, operations| leave_flush_out(operations, OF_HEADER),
        |damage| !matches!(damage, Damage::Leaks(_)),
    );
}

#[test]
fn a_success_that_was_reported_before_the_last_flush_is_found() {
    // Here nothing is damaged: the old state is whole. It is what was promised that is broken.
    for commit in commits(|op| matches!(op, Operation::Create | Operation::Rename(..))) {
        let mut wrong = commit.recording.clone();
        leave_flush_out(&mut wrong.operations, OF_HEADER);
        let mut old_after_done = 0;
        let mut random = Random::named(seed(), "mutants");
        let last = wrong.epochs() - 1;
        wrong.states(EFFORT, &mut random, |state| {
            let is_old = oracle::view(&state.image).is_ok_and(|view| view == commit.views[0]);
            old_after_done += u64::from(state.epoch == last && is_old);
        });
        assert!(old_after_done > 0, "{}", commit.what);
        assert!(wrong.settled_epoch() < commit.recording.settled_epoch(), "{}", commit.what);
    }
}

#[test]
fn a_header_written_in_three_parts_is_found() {
    is_found(
        &commits(|op| matches!(op, Operation::Create | Operation::Apply(_) | Operation::Delete(_))),
        |_, operations| {
            let is_header = |op: &Logged| matches!(op, Logged::Write { offset: 0, .. });
            let at = operations.iter().position(is_header).expect("the header is written");
            let Logged::Write { data, .. } = operations[at].clone() else { unreachable!() };
            // Size and L1 table, refcount table, snapshot table.
            let part = |range: Range<usize>| Logged::Write {
                offset: range.start as u64,
                data: data[range].into(),
            };
            operations.splice(at..=at, [part(0..48), part(48..60), part(60..512)]);
        },
        |damage| !matches!(damage, Damage::Leaks(_)),
    );
}

/// Changes what is written at `range`, in all writes that touch it.
fn rewrite(
    operations: &mut [Logged],
    range: Range<u64>,
    mut change: impl FnMut(u64, &mut [u8; 8]),
) {
    for operation in operations {
        let Logged::Write { offset, data } = operation else { continue };
        let mut bytes = data.to_vec();
        for (word, at) in bytes.as_chunks_mut::<8>().0.iter_mut().zip((*offset..).step_by(8)) {
            if range.contains(&at) {
                change(at, word);
            }
        }
        *data = bytes.into();
    }
}

#[test]
fn a_table_written_over_the_one_that_it_replaces_is_found() {
    is_found(
        &commits(|op| matches!(op, Operation::Apply(_) | Operation::Write(_))),
        |commit, operations| {
            let (old, new) = (commit.old.l1_offset, commit.new.l1_offset);
            let length = usize::try_from(commit.new.l1_entries * 8).unwrap();
            assert_ne!(old, new, "{}", commit.what);
            let mut l1 = vec![0; length];
            for operation in operations.iter() {
                let Logged::Write { offset, data } = operation else { continue };
                if (*offset..offset + data.len() as u64).contains(&new) {
                    let start = usize::try_from(new - offset).unwrap();
                    l1.copy_from_slice(&data[start..start + length]);
                }
            }
            let header = |op: &Logged| matches!(op, Logged::Write { offset: 0, .. });
            let at = operations.iter().position(header).unwrap();
            let Logged::Write { data, .. } = &mut operations[at] else { unreachable!() };
            let mut sector = data.to_vec();
            sector[L1_OFFSET_AT..L1_OFFSET_AT + 8].copy_from_slice(&old.to_be_bytes());
            *data = sector.into();
            // Before the flush that the header waits for.
            operations.insert(at - 1, Logged::Write { offset: old, data: l1.into() });
        },
        |damage| matches!(damage, Damage::Mixed(_) | Damage::Unreadable(_)),
    );
}

#[test]
fn a_copied_flag_that_stays_on_what_a_snapshot_shares_lets_a_guest_change_it_and_is_found() {
    is_found(
        &commits(|op| matches!(op, Operation::Create | Operation::Apply(_))),
        |commit, operations| {
            let l1 = commit.new.l1_offset..commit.new.l1_offset + commit.new.l1_entries * 8;
            let mut tables = Vec::new();
            rewrite(operations, l1, |_, word| {
                let entry = u64::from_be_bytes(*word);
                if entry != 0 {
                    tables.push(entry & OFFSET);
                    *word = (entry | COPIED).to_be_bytes();
                }
            });
            for table in tables {
                rewrite(operations, table..table + commit.new.cluster(), |_, word| {
                    let entry = u64::from_be_bytes(*word);
                    if entry & OFFSET != 0 {
                        *word = (entry | COPIED).to_be_bytes();
                    }
                });
            }
        },
        |damage| matches!(damage, Damage::SnapshotChanged(_)),
    );
}

#[test]
fn a_reference_that_is_not_counted_is_found() {
    is_found(
        &commits(|op| matches!(op, Operation::Create)),
        |commit, operations| {
            // The blocks as they were: what was taken is free, what was shared is not.
            let old = &commit.recording.base;
            let index = 0;
            let block_at = |image: &SparseImage, layout: &Layout| {
                let mut word = [0; 8];
                image.read(&mut word, layout.refcount_table_offset + index * 8);
                u64::from_be_bytes(word)
            };
            let mut after = commit.recording.base.clone();
            for operation in operations.iter() {
                if let Logged::Write { offset, data } = operation {
                    after.write(data, *offset);
                }
            }
            let (from, to) = (block_at(old, &commit.old), block_at(&after, &commit.new));
            rewrite(operations, to..to + commit.new.cluster(), |at, word| {
                old.read(word, from + (at - to));
            });
        },
        |damage| !matches!(damage, Damage::Leaks(_) | Damage::Unreadable(_)),
    );
}

/// A storage whose cache is taken for the disk.
struct Gullible(RecordingStorage);

impl Storage for Gullible {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.0.punch(range)
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.0.data_ranges(within)
    }
}

/// The last flush fails although the new header came to the disk, and the old one does not come
/// there either. The next command has to ask the disk; one that asks the cache writes over the
/// tables that the disk names.
#[test]
fn a_command_that_takes_the_cache_for_the_disk_after_a_failed_flush_is_found() {
    for commit in commits(|op| matches!(op, Operation::Create)) {
        let what = &commit.what;
        let storage = RecordingStorage::from_image(commit.recording.base.clone());
        let fault = |at, harm| Fault::once(Call::Flush, at, libc::EIO).leaving(harm);
        storage.inject(fault(2, Harm::Half));
        storage.inject(fault(3, Harm::Lost));
        let error = Operation::Create.run_on(&storage).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsettled, "{what}");
        storage.clear_faults();

        let next = Operation::Rename(b"s0".to_vec(), b"renamed".to_vec());
        assert_eq!(next.run_on(&storage).unwrap_err().kind(), Kind::Unsettled, "{what}");

        let mut image = Image::open(Box::new(Gullible(storage.clone()))).unwrap();
        next.run(&mut image).unwrap();
        let mut views = commit.views.clone();
        views.push(oracle::view(&storage.durable()).unwrap());
        let base = commit.recording.base.clone();
        let wrong = Recording { base, operations: storage.operations() };
        let found = damage(&wrong, &views);
        eprintln!("{what}: {} states damaged", found.len());
        assert!(found.iter().any(|damage| !matches!(damage, Damage::Leaks(_))), "{what}");
    }
}
