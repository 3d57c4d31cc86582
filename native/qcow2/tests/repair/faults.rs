//! A system call that fails during a repair leaves the damage as it was, and the error says so.

use qcow2::storage::{Call, Fault, Harm, RecordingStorage, SparseImage};
use qcow2::{Kind, Repair};

use crate::support::damaged::{Damaged, damaged, repair_on, verdict};
use crate::support::fixtures;
use crate::support::layout::Layout;
use crate::support::operations::Operation;
use crate::support::sweep::{Ending, Sweep};
use crate::support::{Random, oracle, seed};

#[test]
fn a_failing_call_during_a_repair_leaves_the_damage_as_it_was() {
    let once = Fault::once(Call::Any, 0, libc::EIO);
    let shapes = [
        once,
        Fault { on: Call::Write, ..once }.leaving(Harm::Half),
        Fault { on: Call::Write, errno: libc::ENOSPC, ..once }.forever(),
        Fault { on: Call::Flush, ..once }.leaving(Harm::Lost),
        Fault { on: Call::Flush, ..once }.leaving(Harm::Half).forever(),
        Fault { on: Call::Punch, ..once }.forever(),
    ];
    let mut random = Random::named(seed(), "repair and faults");
    let mut sweep = Sweep::default();
    for fixture in fixtures::with_few_calls(&mut random) {
        for _ in 0..4 {
            let damaged = damaged(&fixture, &mut random);
            for shape in shapes {
                fail_each_call(&damaged, shape, &mut sweep);
            }
        }
    }
    let all = sweep.tell("repairs: EIO, full disks, short writes, lost flushes");
    assert!(all.refused > 200 && all.done > 10 && all.unsettled > 5, "{all:?}");
}

fn fail_each_call(Damaged { name, image, what, .. }: &Damaged, shape: Fault, sweep: &mut Sweep) {
    let content = oracle::view(image).unwrap();
    let before = verdict(image);
    // The file may be longer, and a place in it that was outside.
    let is_old = |now: &SparseImage| {
        let mut longer = image.clone();
        longer.set_len(now.len());
        let now = verdict(now);
        now == before || now == verdict(&longer)
    };
    for at in 0.. {
        let how = format!("{name}: {shape:?} from {at} on");
        let storage = RecordingStorage::from_image(image.clone());
        storage.inject(Fault { at: shape.at + at, ..shape });
        let result = repair_on(&storage, *what);
        let met = storage.faults_met() > 0;
        storage.clear_faults();
        if !met {
            assert!(result.is_ok(), "{how}: not met");
            return;
        }
        for image in [storage.cached(), storage.durable()] {
            assert!(oracle::view(&image).unwrap() == content, "{how}: content changed");
        }
        let ending = match result {
            Ok(_) => {
                let durable = storage.durable();
                let now = verdict(&durable);
                // A count that could not be read is not repaired; a punch that failed costs space.
                if (now.0, now.1) != (0, 0) {
                    assert!(is_old(&durable), "{how}: {now:?}, not {before:?}");
                }
                Ending::Done
            }
            Err(error) if error.kind() == Kind::Unsettled => Ending::Unsettled,
            Err(error) => {
                assert!(matches!(error.kind(), Kind::Io | Kind::NoSpace), "{how}: {error}");
                let hint = "a repair is written beside what it replaces: make some space first";
                let expected = (error.kind() == Kind::NoSpace).then_some(hint);
                assert_eq!(error.hint.as_deref(), expected, "{how}");
                for image in [storage.cached(), storage.durable()] {
                    let now = verdict(&image);
                    assert!(is_old(&image), "{how}: {error}: {now:?}, not {before:?}");
                }
                repair_on(&storage, *what).unwrap_or_else(|error| panic!("{how}: again: {error}"));
                let now = verdict(&storage.durable());
                assert_eq!((now.0, now.1), (0, 0), "{how}: again: {:?}", now.2);
                Ending::Refused
            }
        };
        sweep.count(&Operation::Repair(*what), ending);
    }
}

/// What leaks owns the blocks that a repair needs.
#[test]
fn leaks_are_repaired_where_no_block_is_left() {
    let mut random = Random::named(seed(), "repair on a full disk");
    for fixture in fixtures::with_few_calls(&mut random) {
        let layout = Layout::read(&fixture.image).unwrap();
        let mut image = fixture.image.clone();
        // Data that nobody names any more, as after an interrupted delete.
        let first = image.len().next_multiple_of(1 << 16) / layout.cluster();
        for cluster in first..first + (256 << 10) / layout.cluster() {
            let noise = vec![7; usize::try_from(layout.cluster()).unwrap()];
            image.write(&noise, cluster * layout.cluster());
            let _ = layout.set_refcount(&mut image, cluster, 1);
        }
        let (corruptions, leaks, _) = verdict(&image);
        assert!(corruptions == 0 && leaks > 0, "{}", fixture.name);
        let content = oracle::view(&image).unwrap();
        let storage = RecordingStorage::from_image(image.clone());
        storage.limit_room(Some(image.data_bytes()));
        let done = repair_on(&storage, Repair::Leaks).unwrap().unwrap();
        assert!(done.punched_bytes > 0, "{}", fixture.name);
        let now = verdict(&storage.durable());
        assert_eq!((now.0, now.1), (0, 0), "{}: {:?}", fixture.name, now.2);
        assert!(oracle::view(&storage.durable()).unwrap() == content, "{}", fixture.name);
    }
}
