//! A flush fails, with the cache and the medium apart afterwards; then the next command runs, and
//! the power is cut at every point of both.
//!
//! The story: a thin device runs dry. The first fdatasync fails, the second succeeds, and reads
//! return what the disk does not hold. A command that took the cache for the truth would overwrite
//! the tables that the disk still names.

use qcow2::Kind;
use qcow2::storage::{Call, Fault, Harm, Operation as Logged, RecordingStorage, SparseImage};

use crate::report::{Circumstance, label};
use crate::support::Random;
use crate::support::history::Scene;
use crate::support::layout::Layout;
use crate::support::operations::Operation;
use crate::support::oracle::Known;
use crate::support::replay::Recording;
use crate::support::unproven::{For, hides_references};
use crate::trial::{
    Done, Trial, Trials, first_look, may_refuse, may_refuse_after, moved_last, sound,
};

/// One of the flushes of a commit fails, with all, some or none of its pages on the medium; or the
/// last one and then the one that was to make the old sector durable again.
pub fn faults(random: &mut Random) -> Vec<Fault> {
    let last = 2;
    let harms = [Harm::Nothing, Harm::Half, Harm::Lost, Harm::Part(random.next())];
    let errno = *random.pick(&[libc::ENOSPC, libc::EIO]);
    let mut fault = |at| Fault::once(Call::Flush, at, errno).leaving(*random.pick(&harms));
    let both = vec![fault(last), fault(last + 1)];
    let one = vec![fault(0)];
    let at = random.below(last + 3);
    if at > last { both } else { one.into_iter().map(|fault| Fault { at, ..fault }).collect() }
}

/// Runs `operation` with failing flushes, then another one without; cuts the power in both. Returns
/// the image that a power cut at the end leaves; none where the operation is refused by its image.
pub fn fail(
    trials: &mut Trials<'_>,
    scene: &Scene,
    operation: &Operation,
    random: &mut Random,
) -> Option<SparseImage> {
    let base = scene.fixture.image.clone();
    let layout = Layout::read(&base).unwrap();
    let faults = faults(random);
    let label = label(operation, Circumstance::FailedFlush);
    let what = format!("{} with {faults:?} on {}", operation.name(), scene.fixture.name);
    let (known, before) = first_look(&base, &what);
    let undisturbed = RecordingStorage::from_image(base.clone());
    if let Err(error) = operation.run_on(&undisturbed) {
        assert!(may_refuse(scene, operation, error.kind()), "{what}: {error}");
        *trials.report.refused.entry(label).or_default() += 1;
        return None;
    }
    let without_fault = sound(&undisturbed.cached(), &known, before.leaks, &what);
    let mut views = vec![before.view.clone(), without_fault.view];
    let mut most_leaks = before.leaks;

    let storage = RecordingStorage::from_image(base.clone());
    for &fault in &faults {
        storage.inject(fault);
    }
    let result = operation.run_on(&storage);
    storage.clear_faults();
    match result.map_err(|error| error.kind()) {
        // A delete that found no space for its commit went in steps.
        Ok(_) => {
            let after = sound(&storage.cached(), &known, u64::MAX, &what);
            operation.check(&before.view, &after.view, &layout);
            views.push(after.view);
        }
        Err(Kind::Unsettled) => {}
        Err(kind) => {
            assert!(matches!(kind, Kind::NoSpace | Kind::Io), "{what}: {kind:?}");
            let now = sound(&storage.cached(), &known, before.leaks, &what);
            assert!(now.view == before.view, "{what}: said that nothing happened");
        }
    }
    let may_go_in_steps = faults.iter().any(|fault| fault.errno == libc::ENOSPC);
    if let (true, Operation::Delete(doomed)) = (may_go_in_steps, operation) {
        views.push(moved_last(&before.view, doomed));
        most_leaks = u64::MAX;
    }

    let operations = Operation::all(&before.view, &layout, random);
    let next = random.pick(&operations);
    let what = format!("{what}: then {}", next.name());
    let (ending, done) = go_on(&storage, scene, next, &known, before.leaks, &what);
    views.extend(done.iter().map(|done| done.view.clone()));
    let recording = Recording { base, operations: storage.operations() };
    let states = trials.report.states();
    let old_leaks = before.leaks;
    // The first command may have cleared what stood for it.
    let is_unproven = hides_references(&recording.base, For::Good);
    let trial = Trial {
        what,
        recording,
        known,
        views,
        most_leaks,
        old_leaks,
        damage: None,
        is_unproven,
        done,
    };
    *trials.report.operations.entry(label).or_default() += 1;
    let effort = trials.effort(scene.format);
    trials.cut(&trial, label, scene, effort, random);
    let states = trials.report.states() - states;
    *trials.report.flushes.entry(ending).or_default() += states;
    Some(storage.durable())
}

/// The next command, on a disk that works again. Returns in words how it ended, and what holds if
/// it was carried out.
fn go_on(
    storage: &RecordingStorage,
    scene: &Scene,
    next: &Operation,
    known: &Known,
    old_leaks: u64,
    what: &str,
) -> (&'static str, Option<Done>) {
    let logged = storage.operations().len();
    let kind = match next.run_on(storage) {
        Ok(_) => {
            let operations = storage.operations();
            let recording = Recording { base: SparseImage::default(), operations };
            let from_epoch = recording.settled_epoch();
            let after = sound(&storage.durable(), known, old_leaks, what);
            let done = Done { from_epoch, view: after.view, most_leaks: after.leaks };
            return ("the next command was carried out", Some(done));
        }
        Err(error) => error.kind(),
    };
    if kind != Kind::Unsettled {
        assert!(may_refuse_after(scene, next, kind), "{what}: {kind:?}");
        return ("the next command was refused by the image", None);
    }
    let is_flush = |op: &Logged| matches!(op, Logged::Flush | Logged::LostFlush { .. });
    let wrote = !storage.operations()[logged..].iter().all(is_flush);
    assert!(!wrote, "{what}: wrote, unsettled");
    ("the next command found it unsettled", None)
}
