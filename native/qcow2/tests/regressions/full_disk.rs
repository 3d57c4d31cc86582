//! Deletes without space, and the caller's say in them.

use std::cell::Cell;

use qcow2::storage::{Operation as Logged, RecordingStorage};
use qcow2::{
    Bitmaps, CommitOptions, Committed, Error, Image, Kind, NewSnapshot, PlannedCommit, Result,
};

use crate::support::fixtures::{Fixture, overwritten};
use crate::support::{Random, oracle, seed};
use crate::tools::MIB;

fn fixtures() -> Vec<Fixture> {
    let all = overwritten(&mut Random::named(seed(), "full disk"));
    all.into_iter().filter(|f| oracle::view(&f.image).unwrap().snapshots.len() == 2).collect()
}

fn open(fixture: &Fixture, is_full: bool) -> (RecordingStorage, Image) {
    let (storage, image) = fixture.open();
    storage.limit_room(is_full.then(|| fixture.image.data_bytes()));
    (storage, image)
}

/// Deletes `name`; `prepared` answers with `answer` and is counted.
fn delete(image: &mut Image, name: &str, answer: fn() -> Result<()>) -> (Result<Committed>, u32) {
    let calls = Cell::new(0);
    let mut prepared = |_: &PlannedCommit<'_>| {
        calls.set(calls.get() + 1);
        answer()
    };
    let result = image.delete_snapshot(name.as_bytes(), &mut CommitOptions::asking(&mut prepared));
    (result, calls.get())
}

fn no_space() -> Result<()> {
    Err(Error::new(Kind::NoSpace, "the record could not be written"))
}

/// The caller had no space for a record of its own and said so: ENOSPC. That was taken for the
/// image's, and the delete that had been refused was done by the other way, without asking or
/// asking twice.
#[test]
fn a_caller_without_space_has_refused_and_is_not_asked_again() {
    for fixture in fixtures() {
        let before = oracle::view(&fixture.image).unwrap();
        for is_full in [false, true] {
            for name in ["s0", "s1"] {
                let what = format!("{name} on {}, full: {is_full}", fixture.name);
                let (storage, mut image) = open(&fixture, is_full);
                let (result, calls) = delete(&mut image, name, no_space);
                let error = result.expect_err(&what);
                assert_eq!(error.kind(), Kind::NoSpace, "{what}");
                // Where the disk is so full that there is no way, there is nothing to ask.
                let never = is_full && error.reason() == "No space left on device";
                assert_eq!(calls, u32::from(!never), "{what}: {error}");
                for image in [storage.cached(), storage.durable()] {
                    assert!(oracle::view(&image).unwrap() == before, "{what}: changed");
                    assert!(oracle::audit(&image).unwrap().is_clean(), "{what}");
                }
                let header = |o: &Logged| matches!(o, Logged::Write { offset: 0, .. });
                assert!(!storage.operations().iter().any(header), "{what}: wrote the header");
            }
        }
    }
}

/// The step-wise way ends with an ordinary commit, which is not the caller's business any more: it
/// has been asked about the header that no longer lists the snapshot.
#[test]
fn a_delete_on_a_full_disk_asks_once() {
    let mut done = 0;
    for fixture in fixtures() {
        for name in ["s0", "s1"] {
            let what = format!("{name} on {}", fixture.name);
            let (storage, mut image) = open(&fixture, true);
            let (result, calls) = delete(&mut image, name, || Ok(()));
            match result {
                Ok(committed) => {
                    assert_eq!(calls, 1, "{what}");
                    assert!(committed.punch_failure.is_none(), "{what}");
                    assert!(committed.recount_failure.is_none(), "{what}");
                    assert!(oracle::audit(&storage.durable()).unwrap().is_clean(), "{what}");
                    done += 1;
                }
                Err(error) => {
                    assert_eq!((error.kind(), calls), (Kind::NoSpace, 0), "{what}: {error}");
                }
            }
        }
    }
    assert!(done > 2, "{done} deletes on a full disk");
}

/// Who writes a record in the callback would write two.
#[test]
fn every_operation_asks_once() {
    type Change = fn(&mut Image, &mut CommitOptions<'_>) -> Result<Committed>;
    let changes: [(&str, Change); 6] = [
        ("create", |image, options| {
            let new = NewSnapshot { name: b"new", least_id: 0, date_sec: 0, date_nsec: 0 };
            image.create_snapshot(&new, options)
        }),
        ("apply", |image, options| image.apply_snapshot(b"s0", Bitmaps::Refuse, options)),
        ("delete", |image, options| image.delete_snapshot(b"s0", options)),
        ("rename", |image, options| image.rename_snapshot(b"s0", b"renamed", options)),
        ("grow", |image, options| image.grow(8 * MIB, options)),
        ("write", |image, options| image.write_content(&RecordingStorage::new(), options)),
    ];
    for fixture in fixtures() {
        for (name, change) in changes {
            let (_, mut image) = fixture.open();
            let mut calls = 0;
            let mut prepared = |_: &PlannedCommit<'_>| {
                calls += 1;
                Ok(())
            };
            let result = change(&mut image, &mut CommitOptions::asking(&mut prepared));
            match result {
                Ok(_) => assert_eq!(calls, 1, "{name} on {}", fixture.name),
                Err(error) => {
                    assert_eq!((error.kind(), calls), (Kind::HasSnapshots, 0), "{name}: {error}");
                }
            }
        }
    }
}
