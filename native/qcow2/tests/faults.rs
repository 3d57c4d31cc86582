//! A system call that fails leaves the image as it was, and the error says so.
//!
//! The story. One EIO on the flush after the header update of `qemu-img snapshot -c` loses *all*
//! snapshots: the error path zeroes the table that the header on disk already names. Error paths
//! are where nobody looks; so here each call of each operation fails once, in each way a call can
//! fail, and afterwards the image has to be what it was, in the cache and on the disk, without a
//! leak. Only when the second flush fails and the old sector cannot be made durable again may the
//! answer be "unsettled"; then the next command must not touch anything.

mod support;

use qcow2::storage::{
    Call, Fault, Harm, Operation as Logged, RecordingStorage, SparseImage, Storage,
};
use qcow2::{CommitOptions, Error, Image, Kind, NewSnapshot};
use support::fixtures::{self, Fixture};
use support::judge::{Allowed, boot, judge};
use support::layout::{Layout, be64};
use support::operations::Operation;
use support::oracle::{self, View};
use support::replay::{Effort, Recording};
use support::sweep::{Ending, Sweep};
use support::{Random, seed};

/// Small images whose operations make few calls, and one of everything.
fn subjects() -> Vec<Fixture> {
    fixtures::with_few_calls(&mut Random::named(seed(), "faults"))
}

fn sound_view(image: &SparseImage, what: &str) -> View {
    let audit = oracle::audit(image).unwrap();
    assert!(audit.is_clean(), "{what}: {audit:?}");
    oracle::view(image).unwrap()
}

/// The errors of a failing disk; everything else the library says on top would be a surprise.
fn is_the_disks(kind: Kind) -> bool {
    matches!(kind, Kind::Io | Kind::NoSpace)
}

/// What fails together; each fault counts from the call whose turn it is.
type Shape = Vec<Fault>;

/// Lets call number 0, 1, 2 … fail until the operation does not come that far.
fn fail_each_call(fixture: &Fixture, operation: &Operation, shape: &Shape, sweep: &mut Sweep) {
    let before = sound_view(&fixture.image, &fixture.name);
    let layout = Layout::read(&fixture.image).unwrap();
    for at in 0.. {
        let what = format!("{} on {}, {shape:?} from {at} on", operation.name(), fixture.name);
        let storage = RecordingStorage::from_image(fixture.image.clone());
        for fault in shape {
            storage.inject(Fault { at: fault.at + at, ..*fault });
        }
        let result = operation.run_on(&storage);
        let met = storage.faults_met() > 0;
        storage.clear_faults();
        if !met {
            assert!(result.is_ok(), "{what}: not met");
            return;
        }
        let ending = match result {
            Ok(committed) => {
                // A punch that failed, or a delete that found another way.
                let after = sound_view_unless(&storage.cached(), &what, {
                    committed.recount_failure.is_some()
                });
                operation.check(&before, &after, &layout);
                assert!(oracle::view(&storage.durable()).unwrap() == after, "{what}: not durable");
                Ending::Done
            }
            Err(error) if error.kind() == Kind::Unsettled => {
                next_after_unsettled(&storage, &fixture.image, operation, &what);
                Ending::Unsettled
            }
            Err(error) => {
                assert!(is_the_disks(error.kind()), "{what}: {:?} {error}", error.kind());
                for (image, place) in [(storage.cached(), "cache"), (storage.durable(), "medium")] {
                    let now = sound_view(&image, &format!("{what}, {place}"));
                    assert!(now == before, "{what}: {error}, but the {place} changed");
                }
                works_again(&storage, operation, &before, &layout, &what);
                Ending::Refused
            }
        };
        sweep.count(operation, ending);
    }
}

/// Leaks are allowed where the report says that nothing was counted anew.
fn sound_view_unless(image: &SparseImage, what: &str, leaks_allowed: bool) -> View {
    let audit = oracle::audit(image).unwrap();
    assert_eq!(audit.errors, [""; 0], "{what}");
    assert!(audit.leaks == 0 || leaks_allowed, "{what}: {} leaks", audit.leaks);
    oracle::view(image).unwrap()
}

/// Once the disk works again, the same command does.
fn works_again(
    storage: &RecordingStorage,
    operation: &Operation,
    before: &View,
    layout: &Layout,
    what: &str,
) {
    operation.run_on(storage).unwrap_or_else(|error| panic!("{what}: again: {error}"));
    let after = sound_view(&storage.durable(), what);
    operation.check(before, &after, layout);
}

/// Cache and medium may disagree: the next command finds that out and writes nothing, or they
/// agree, and it may go on. Either way a power cut at any moment shows an old or a new state.
fn next_after_unsettled(
    storage: &RecordingStorage,
    base: &SparseImage,
    operation: &Operation,
    what: &str,
) {
    let undisturbed = RecordingStorage::from_image(base.clone());
    operation.run_on(&undisturbed).unwrap();
    let mut views = vec![oracle::view(base).unwrap(), oracle::view(&undisturbed.cached()).unwrap()];
    let logged = storage.operations().len();
    let size = oracle::view(&storage.cached()).unwrap().size + 4096;
    match Operation::Grow(size).run_on(storage) {
        Ok(_) => views.push(sound_view(&storage.durable(), what)),
        Err(error) if error.kind() == Kind::HasSnapshots => {}
        Err(error) => {
            assert_eq!(error.kind(), Kind::Unsettled, "{what}: next: {error}");
            let later = &storage.operations()[logged..];
            assert!(later.iter().all(|op| *op == Logged::Flush), "{what}: wrote, unsettled");
        }
    }
    let recording = Recording { base: base.clone(), operations: storage.operations() };
    let allowed = Allowed { views, leaks: false };
    let effort = Effort { samples: 2, enumerate: 2 };
    let random = &mut Random::new(seed());
    recording.states(effort, &mut random.clone(), |state| {
        let verdict = judge(&state.image, &allowed, random);
        assert!(verdict.is_ok(), "{what}: {}: {verdict:?}", state.how);
    });
}

fn header(image: &SparseImage) -> [u8; 512] {
    let mut sector = [0; 512];
    image.read(&mut sector, 0);
    sector
}

fn fail_everything(shapes: &[Shape]) -> Sweep {
    let mut sweep = Sweep::default();
    let mut random = Random::named(seed(), "operations");
    for fixture in subjects() {
        let view = oracle::view(&fixture.image).unwrap();
        let layout = Layout::read(&fixture.image).unwrap();
        for operation in Operation::all(&view, &layout, &mut random) {
            // Refused before it begins, by the format.
            if operation.run_on(&RecordingStorage::from_image(fixture.image.clone())).is_err() {
                continue;
            }
            for shape in shapes {
                fail_each_call(&fixture, &operation, shape, &mut sweep);
            }
        }
    }
    sweep
}

#[test]
fn an_input_or_output_error_at_any_call_leaves_the_image_as_it_was() {
    let sweep = fail_everything(&[vec![Fault::once(Call::Any, 0, libc::EIO)]]);
    let all = sweep.tell("EIO once at each call");
    assert!(all.refused > 500 && all.done > 0, "{all:?}");
}

#[test]
fn a_full_disk_at_any_call_leaves_the_image_as_it_was() {
    let once = Fault::once(Call::Any, 0, libc::ENOSPC);
    let sweep = fail_everything(&[
        vec![Fault { on: Call::Write, ..once }],
        vec![Fault { on: Call::Write, ..once }.leaving(Harm::Half)],
        vec![Fault { on: Call::Write, ..once }.forever()],
        vec![Fault { on: Call::SetLen, ..once }],
        vec![Fault { on: Call::Flush, ..once }],
    ]);
    let all = sweep.tell("ENOSPC at each write, whole, short, and for good");
    assert!(all.refused > 50, "{all:?}");
}

#[test]
fn short_writes_and_lost_flushes_leave_the_image_as_it_was() {
    let once = Fault::once(Call::Write, 0, libc::EIO);
    let sweep = fail_everything(&[
        vec![once.leaving(Harm::Half)],
        vec![Fault { on: Call::Flush, ..once }.leaving(Harm::Lost)],
        vec![Fault { on: Call::Flush, ..once }.leaving(Harm::Half)],
        vec![Fault { on: Call::WriteBack, ..once }.leaving(Harm::Lost)],
        vec![Fault { on: Call::Punch, ..once }.forever()],
    ]);
    let all = sweep.tell("short writes, lost flushes, failing punches");
    assert!(all.refused > 50 && all.done > 10, "{all:?}");
}

/// The kernel may write less than it was asked to, and say so only at the next call. What is in the
/// cache then is any part of the write, its first byte alone or all of it.
#[test]
fn a_write_that_ends_anywhere_leaves_the_image_as_it_was() {
    let once = Fault::once(Call::Write, 0, libc::ENOSPC);
    let lengths = [1, 24, 40, 511, 512, 513, 4096, 6000, u64::MAX];
    let shapes = lengths.map(|length| vec![once.leaving(Harm::Part(length))]);
    let sweep = fail_everything(&shapes);
    let all = sweep.tell("ENOSPC at each write, after some bytes of it or all");
    assert!(all.refused > 300 && all.unsettled == 0, "{all:?}");
}

/// A file repeats a call that a signal interrupted. Where a storage does not, that is an error like
/// any other, and no reason to believe that half of something was done.
#[test]
fn an_interrupted_call_that_nobody_repeats_leaves_the_image_as_it_was() {
    let once = Fault::once(Call::Any, 0, libc::EINTR);
    let sweep = fail_everything(&[
        vec![once],
        vec![Fault { on: Call::Write, ..once }.leaving(Harm::Half)],
        vec![Fault { on: Call::Flush, ..once }],
    ]);
    let all = sweep.tell("EINTR once at each call");
    assert!(all.refused > 500 && all.unsettled == 0, "{all:?}");
}

#[test]
fn a_flush_that_brings_any_part_of_its_pages_leaves_the_image_as_it_was() {
    let once = Fault::once(Call::Flush, 0, libc::EIO);
    let shapes: Vec<_> = (0..8).map(|choice| vec![once.leaving(Harm::Part(choice))]).collect();
    let sweep = fail_everything(&shapes);
    let all = sweep.tell("flushes that bring a part");
    assert!(all.refused > 100 && all.unsettled == 0, "{all:?}");
}

/// A delete on a full disk goes in steps, and a call fails in one of them. Before the list is
/// shorter nothing happened; from then on the snapshot is gone, whatever else could not be done.
#[test]
fn a_call_that_fails_in_any_step_of_a_delete_leaves_the_snapshot_whole_or_gone() {
    let mut random = Random::named(seed(), "steps");
    let mut fixtures = fixtures::overwritten(&mut random);
    fixtures.truncate(6);
    let mut sweep = Sweep::default();
    let faults = [
        Fault::once(Call::Any, 0, libc::EIO),
        Fault::once(Call::Write, 0, libc::EIO).leaving(Harm::Half),
        Fault::once(Call::Flush, 0, libc::EIO).leaving(Harm::Part(3)),
    ];
    for fixture in fixtures {
        let before = sound_view(&fixture.image, &fixture.name);
        let layout = Layout::read(&fixture.image).unwrap();
        for (snapshot, fault) in before.snapshots.iter().flat_map(|s| faults.map(|f| (s, f))) {
            let operation = Operation::Delete(snapshot.name.clone());
            for at in 0.. {
                let fault = Fault { at, ..fault };
                let what = format!("{} on {}, {fault:?}", operation.name(), fixture.name);
                let storage = RecordingStorage::from_image(fixture.image.clone());
                storage.limit_room(Some(fixture.image.data_bytes()));
                storage.inject(fault);
                let result = operation.run_on(&storage);
                let met = storage.faults_met() > 0;
                storage.clear_faults();
                if !met {
                    break;
                }
                let ending = match result {
                    Ok(committed) => {
                        let waits = committed.recount_failure.is_some();
                        let after = sound_view_unless(&storage.durable(), &what, waits);
                        operation.check(&before, &after, &layout);
                        Ending::Done
                    }
                    Err(error) if error.kind() == Kind::Unsettled => {
                        // Gone or not, and no error either way.
                        let after = sound_view_unless(&storage.durable(), &what, true);
                        if after.snapshots.len() < before.snapshots.len() {
                            operation.check(&before, &after, &layout);
                        }
                        Ending::Unsettled
                    }
                    Err(error) => {
                        assert!(is_the_disks(error.kind()), "{what}: {:?} {error}", error.kind());
                        for image in [storage.cached(), storage.durable()] {
                            let now = sound_view(&image, &what);
                            assert!(now == before, "{what}: {error}, but it changed");
                        }
                        Ending::Refused
                    }
                };
                sweep.count(&operation, ending);
            }
        }
    }
    let all = sweep.tell("each call of a delete in steps");
    assert!(all.refused > 100 && all.done > 20, "{all:?}");
}

#[test]
fn a_disk_that_dies_for_good_settles_or_says_that_it_is_unsettled() {
    let flush = |at| Fault::once(Call::Flush, at, libc::EIO);
    let sweep = fail_everything(&[
        vec![Fault::once(Call::Write, 0, libc::EIO).forever()],
        vec![Fault::once(Call::Any, 0, libc::EIO).forever()],
        vec![flush(0).forever()],
        vec![flush(0).leaving(Harm::Half).forever()],
        vec![flush(0).leaving(Harm::Lost).forever()],
        // The new sector came to the disk although the flush failed; the old one does not.
        vec![flush(0).leaving(Harm::Half), flush(1).leaving(Harm::Lost).forever()],
        vec![flush(0).leaving(Harm::Half), Fault::once(Call::Write, 2, libc::EIO).forever()],
    ]);
    let all = sweep.tell("dead from some write or flush on");
    assert!(all.refused > 50 && all.unsettled > 10, "{all:?}");
}

#[test]
fn an_earlier_writer_whose_header_never_reached_the_disk_is_found_before_anything_is_written() {
    for fixture in subjects() {
        let storage = RecordingStorage::from_image(fixture.image.clone());
        // Another program made the disk smaller; the flush of its header was lost, and it ended.
        let size = be64(&fixture.image, 24) - 512;
        storage.write_at(&size.to_be_bytes(), 24).unwrap();
        storage.inject(Fault::once(Call::Flush, 0, libc::EIO).leaving(Harm::Lost));
        storage.flush().unwrap_err();
        storage.clear_operations();
        let mut random = Random::new(seed());
        let view = oracle::view(&storage.cached()).unwrap();
        let layout = Layout::read(&fixture.image).unwrap();
        for operation in Operation::all(&view, &layout, &mut random) {
            let error = operation.run_on(&storage).unwrap_err();
            let name = format!("{} on {}", operation.name(), fixture.name);
            let is_refused = error.kind() == Kind::Unsettled || Operation::may_refuse(error.kind());
            assert!(is_refused, "{name}: {:?} {error}", error.kind());
            let wrote = storage.operations().iter().any(|op| *op != Logged::Flush);
            assert!(!wrote, "{name}: wrote to an unsettled image");
        }
    }
}

/// What stands in the cache alone is not to be written down anywhere else.
#[test]
fn an_image_is_settled_only_if_the_medium_has_its_header() {
    for fixture in subjects() {
        let storage = RecordingStorage::from_image(fixture.image.clone());
        let settled = || Image::open(Box::new(storage.clone())).unwrap().ensure_settled();
        settled().unwrap();
        let size = be64(&fixture.image, 24) - 512;
        storage.write_at(&size.to_be_bytes(), 24).unwrap();
        storage.inject(Fault::once(Call::Flush, 0, libc::EIO).leaving(Harm::Lost));
        assert_eq!(settled().unwrap_err().kind(), Kind::Io, "{}", fixture.name);
        assert_eq!(settled().unwrap_err().kind(), Kind::Unsettled, "{}", fixture.name);
        // Written again, it reaches the medium.
        storage.write_at(&size.to_be_bytes(), 24).unwrap();
        settled().unwrap();
    }
}

#[test]
fn a_callback_that_fails_means_that_nothing_happened() {
    for fixture in subjects() {
        let before = sound_view(&fixture.image, &fixture.name);
        let (storage, mut image) = fixture.open();
        let mut planned = None;
        let mut prepared = |commit: &qcow2::PlannedCommit<'_>| {
            planned = Some((commit.before, commit.snapshot.cloned()));
            Err(Error::new(Kind::InvalidArgument, "the record could not be written"))
        };
        let new = NewSnapshot { name: b"n", least_id: 1, date_sec: 0, date_nsec: 0 };
        let mut options = CommitOptions::asking(&mut prepared);
        let error = image.create_snapshot(&new, &mut options).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let (fields, snapshot) = planned.unwrap();
        assert_eq!(fields, header(&fixture.image)[24..72]);
        assert_eq!(snapshot.unwrap().name, b"n");
        for image in [storage.cached(), storage.durable()] {
            assert!(sound_view(&image, &fixture.name) == before);
        }
        // The same handle still works.
        image.create_snapshot(&new, &mut CommitOptions::default()).unwrap();
        let after = header(&storage.durable());
        assert_eq!(
            sound_view(&storage.durable(), &fixture.name).snapshots.len(),
            before.snapshots.len() + 1
        );
        assert_ne!(after[24..72], fields);
    }
}

/// After a fault a guest goes on, and the snapshots do not notice.
#[test]
fn a_guest_goes_on_after_a_refused_command_without_harm() {
    let mut random = Random::named(seed(), "go on");
    for fixture in subjects() {
        for at in 0..4 {
            let storage = RecordingStorage::from_image(fixture.image.clone());
            storage.inject(Fault::once(Call::Write, at, libc::EIO).leaving(Harm::Half));
            let _ = Operation::Create.run_on(&storage);
            let image = storage.durable();
            let view = oracle::view(&image).unwrap();
            let after = boot(&image, &view, &mut random);
            let after = after.unwrap_or_else(|damage| panic!("{}: {damage:?}", fixture.name));
            assert!(oracle::audit(&after).unwrap().is_clean(), "{}", fixture.name);
            assert!(Image::open(Box::new(RecordingStorage::from_image(after))).is_ok());
        }
    }
}
