//! A power cut at any moment leaves the old image or the new one.
//!
//! The story. `qemu-img snapshot -a` overwrites the active L1 table in place with a copy whose
//! COPIED flags are stale, and puts them right at the very end. A power cut in between leaves an
//! image that opens and reads as it should; then the next boot writes in place into clusters that
//! the snapshot shares, and the snapshot is no longer what it was. Nobody notices until it is
//! needed.
//!
//! So here every operation is recorded on images of all kinds, cut in every way in which a disk may
//! lose writes, and each state is judged: it opens, it is old or new as a whole, nothing leaks, and
//! after a guest has worked on it every snapshot is still what it was.
//!
//! These are images that somebody thought of; `replay` cuts those that nobody did, as many as asked
//! for. `CALQUE_SEED` and `CALQUE_CRASH_SAMPLES` choose other and more states.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use qcow2::Kind;
use qcow2::storage::{Call, Fault, Harm, Operation as Logged, RecordingStorage, SparseImage};
use support::fixtures::{self, Fixture};
use support::guest::Guest;
use support::judge::{Allowed, judge};
use support::layout::Layout;
use support::operations::Operation;
use support::oracle::{self, View};
use support::qemu::{self, Workshop};
use support::replay::{Effort, Recording};
use support::{Random, seed, setting};

static STATES: AtomicU64 = AtomicU64::new(0);

fn effort() -> Effort {
    Effort { samples: setting("CALQUE_CRASH_SAMPLES", 8), enumerate: 5 }
}

/// One state in this many is shown to qemu-img too.
const QEMU_EVERY: u64 = 150;
/// On one state in this many another command is run.
const GO_ON_EVERY: u64 = 10;

/// What one operation on one fixture is judged with.
struct Trial<'a> {
    name: String,
    recording: Recording,
    allowed: Allowed,
    /// From this epoch on, only the last allowed view is right: success was reported.
    done_from: usize,
    workshop: Option<&'a Workshop>,
}

impl Trial<'_> {
    fn run(&self, random: &mut Random) {
        self.run_with(effort(), random);
    }

    fn run_with(&self, effort: Effort, random: &mut Random) {
        self.recording.states(effort, &mut Random::new(random.next()), |state| {
            let number = STATES.fetch_add(1, Ordering::Relaxed);
            let shown = judge(&state.image, &self.allowed, random);
            let shown = shown.unwrap_or_else(|damage| {
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash-state.qcow2");
                let _ = state.image.save(&kept);
                panic!(
                    "{}: {}: {damage:?} (seed {}, image kept as {})",
                    self.name,
                    state.how,
                    seed(),
                    kept.display()
                );
            });
            if state.epoch >= self.done_from {
                let last = self.allowed.views.len() - 1;
                assert!(
                    self.allowed.views[shown] == self.allowed.views[last],
                    "{}: {}: reported done, and lost",
                    self.name,
                    state.how
                );
            }
            if number.is_multiple_of(GO_ON_EVERY) {
                self.go_on(&state.image, &state.how);
            }
            if let Some(workshop) = self.workshop.filter(|_| number.is_multiple_of(QEMU_EVERY)) {
                let path = workshop.put(&format!("state-{number}"), &state.image);
                let complaint = qemu::complaint(&path).filter(|_| !self.allowed.leaks);
                assert_eq!(complaint, None, "{}: {}", self.name, state.how);
                std::fs::remove_file(path).unwrap();
            }
        });
    }

    /// The next command needs no repair before it, and leaves nothing of the power cut behind.
    fn go_on(&self, image: &SparseImage, how: &str) {
        let before = oracle::view(image).unwrap();
        let layout = Layout::read(image).unwrap();
        let storage = RecordingStorage::from_image(image.clone());
        let next = before.snapshots.first().map_or(Operation::Grow(before.size), |first| {
            Operation::Rename(first.name.clone(), b"after the power cut".to_vec())
        });
        let what = format!("{}: {how}: then {}", self.name, next.name());
        next.run_on(&storage).unwrap_or_else(|error| panic!("{what}: {error}"));
        let after = sound_view(&storage.durable(), &what);
        next.check(&before, &after, &layout);
    }
}

fn sound_view(image: &SparseImage, what: &str) -> View {
    let audit = oracle::audit(image).unwrap();
    assert!(audit.is_clean(), "{what}: {audit:?}");
    oracle::view(image).unwrap()
}

/// Does `operation` to the fixture and judges every state on the way. Returns whether it was done,
/// or refused for a reason that is allowed.
fn cut_everywhere(
    fixture: &Fixture,
    operation: &Operation,
    workshop: Option<&Workshop>,
    random: &mut Random,
) -> bool {
    let name = format!("{} on {}", operation.name(), fixture.name);
    let before = sound_view(&fixture.image, &fixture.name);
    let layout = Layout::read(&fixture.image).unwrap();
    let (storage, mut image) = fixture.open();
    let recording = |storage: &RecordingStorage| Recording {
        base: fixture.image.clone(),
        operations: storage.operations(),
    };
    if let Err(error) = operation.run(&mut image) {
        assert!(Operation::may_refuse(error.kind()), "{name}: {error}");
        let wrote = storage.operations().iter().any(|op| *op != Logged::Flush);
        assert!(!wrote, "{name}: refused ({error}), but not before it wrote");
        return false;
    }
    let after = sound_view(&storage.cached(), &name);
    operation.check(&before, &after, &layout);
    let recording = recording(&storage);
    let done_from = recording.settled_epoch();
    let allowed = Allowed { views: vec![before, after], leaks: false };
    Trial { name, recording, allowed, done_from, workshop }.run(random);
    true
}

/// Every operation on every fixture that `wanted` lets through.
fn pairs(
    fixtures: Vec<Fixture>,
    random: &mut Random,
    wanted: impl Fn(&Operation) -> bool,
) -> Vec<(Fixture, Operation)> {
    let mut pairs = Vec::new();
    for fixture in fixtures {
        let view = oracle::view(&fixture.image).unwrap();
        let layout = Layout::read(&fixture.image).unwrap();
        let operations = Operation::all(&view, &layout, random);
        pairs.extend(operations.into_iter().filter(&wanted).map(|op| (fixture.clone(), op)));
    }
    pairs
}

fn all_fixtures() -> Vec<Fixture> {
    fixtures::all(&mut Random::named(seed(), "fixtures"))
}

/// Runs one kind of operation over all fixtures; says what was seen.
fn over_all_fixtures(test: &str, wanted: impl Fn(&Operation) -> bool) {
    let started = Instant::now();
    let mut random = Random::named(seed(), test);
    let workshop = qemu::is_installed().then(Workshop::new);
    let (mut done, mut refused) = (0, 0);
    for (fixture, operation) in pairs(all_fixtures(), &mut random, wanted) {
        let was_done = cut_everywhere(&fixture, &operation, workshop.as_ref(), &mut random);
        *(if was_done { &mut done } else { &mut refused }) += 1;
    }
    assert!(done > 0);
    let states = STATES.load(Ordering::Relaxed);
    eprintln!(
        "{test}: {done} operations cut, {refused} refused, {:.1} s; {states} states so far",
        started.elapsed().as_secs_f64()
    );
}

#[test]
fn a_power_cut_during_create_leaves_old_or_new() {
    over_all_fixtures("create", |op| matches!(op, Operation::Create));
}

#[test]
fn a_power_cut_during_apply_leaves_old_or_new() {
    over_all_fixtures("apply", |op| {
        matches!(op, Operation::Apply(_) | Operation::ApplyDropping(_))
    });
}

#[test]
fn a_power_cut_during_delete_leaves_old_or_new() {
    over_all_fixtures("delete", |op| matches!(op, Operation::Delete(_)));
}

#[test]
fn a_power_cut_during_rename_leaves_old_or_new() {
    over_all_fixtures("rename", |op| matches!(op, Operation::Rename(..)));
}

#[test]
fn a_power_cut_during_grow_leaves_old_or_new() {
    over_all_fixtures("grow", |op| matches!(op, Operation::Grow(_)));
}

#[test]
fn a_power_cut_while_content_is_replaced_leaves_old_or_new() {
    over_all_fixtures("write", |op| matches!(op, Operation::Write(_)));
}

/// A thin device runs dry: the first fdatasync fails, the second succeeds, reads return what the
/// disk does not hold. A command that then took the cache for the truth would overwrite the tables
/// that the disk still names. So: a flush fails, the next command runs, the power goes.
#[test]
fn a_failed_flush_and_the_next_command_and_a_power_cut_leave_old_or_new() {
    let mut random = Random::named(seed(), "flush");
    let (mut settled, mut unsettled) = (0, 0);
    let plans = flush_faults();
    for (index, (fixture, operation)) in
        pairs(all_fixtures(), &mut random, |_| true).into_iter().enumerate()
    {
        match fail_flushes(&fixture, &operation, &plans[index % plans.len()], &mut random) {
            Some(true) => settled += 1,
            Some(false) => unsettled += 1,
            None => {}
        }
    }
    eprintln!("failed flushes: {settled} settled by the next command, {unsettled} left unsettled");
    assert!(settled > 50 && unsettled > 5);
}

/// One of the three flushes of a commit fails in one of three ways; or the second one and then the
/// one that was to make the old sector durable again.
fn flush_faults() -> Vec<Vec<Fault>> {
    let fault = |at, harm| Fault::once(Call::Flush, at, libc::ENOSPC).leaving(harm);
    let all = [Harm::Nothing, Harm::Half, Harm::Lost];
    let mut plans = Vec::new();
    for harm in all {
        plans.extend((0..3).map(|at| vec![fault(at, harm)]));
        plans.extend(all.map(|second| vec![fault(2, harm), fault(3, second)]));
    }
    plans
}

/// Returns whether the next command was carried out; none if the first one was refused anyway, or
/// did not come to that flush.
fn fail_flushes(
    fixture: &Fixture,
    operation: &Operation,
    faults: &[Fault],
    random: &mut Random,
) -> Option<bool> {
    let name = format!("{} on {} with {faults:?}", operation.name(), fixture.name);
    let before = sound_view(&fixture.image, &fixture.name);
    let undisturbed = RecordingStorage::from_image(fixture.image.clone());
    operation.run_on(&undisturbed).ok()?;
    let without_fault = oracle::view(&undisturbed.cached()).unwrap();

    let (storage, mut image) = fixture.open();
    for &fault in faults {
        storage.inject(fault);
    }
    let Err(error) = operation.run(&mut image) else {
        // Steps on a full disk: what the flush refused was tried another way.
        let after = sound_view(&storage.durable(), &name);
        operation.check(&before, &after, &Layout::read(&fixture.image).unwrap());
        return None;
    };
    storage.clear_faults();
    assert!(
        matches!(error.kind(), Kind::NoSpace | Kind::Unsettled),
        "{name}: {:?} {error}",
        error.kind()
    );
    if error.kind() != Kind::Unsettled {
        let now = sound_view(&storage.cached(), &name);
        assert!(now == before, "{name}: said that nothing happened");
    }
    let logged = storage.operations().len();
    let next = before.snapshots.first().map_or(Operation::Create, |first| {
        Operation::Rename(first.name.clone(), b"after the failure".to_vec())
    });
    let mut views = vec![before, without_fault];
    let mut done_from = usize::MAX;
    let result = next.run_on(&storage);
    let recording = Recording { base: fixture.image.clone(), operations: storage.operations() };
    match &result {
        Ok(_) => {
            views.push(sound_view(&storage.durable(), &name));
            done_from = recording.settled_epoch();
        }
        Err(error) if error.kind() == Kind::Unsettled => {
            let later = &storage.operations()[logged..];
            assert!(later.iter().all(|op| *op == Logged::Flush), "{name}: wrote, unsettled");
        }
        Err(error) if Operation::may_refuse(error.kind()) => {}
        Err(error) => panic!("{name}: then {}: {error}", next.name()),
    }
    let allowed = Allowed { views, leaks: false };
    Trial { name, recording, allowed, done_from, workshop: None }
        .run_with(Effort { samples: 2, enumerate: 2 }, random);
    Some(result.is_ok())
}

/// Delete is how space comes back, so it has to work where no block is left. It goes in steps;
/// between them there may be leaks, never errors, and the next command finishes what a power cut
/// interrupted.
#[test]
fn a_delete_on_a_full_disk_is_safe_to_interrupt() {
    let mut random = Random::named(seed(), "full");
    let mut tally = Tally::default();
    let mut fixtures = fixtures::overwritten(&mut random);
    fixtures.extend(all_fixtures());
    for (fixture, operation) in
        pairs(fixtures, &mut random, |op| matches!(op, Operation::Delete(_)))
    {
        let storage = RecordingStorage::from_image(fixture.image.clone());
        storage.limit_room(Some(fixture.image.data_bytes()));
        cut_a_tight_delete(&fixture, &storage, &operation, &mut tally, &mut random);
    }
    eprintln!("delete on a full disk: {tally:?}");
    assert!(tally.in_steps > 5 && tally.space_to_come > 0);
}

#[derive(Debug, Default)]
struct Tally {
    at_once: u64,
    in_steps: u64,
    space_to_come: u64,
    refused: u64,
}

/// A delete where there may be no space for a commit. `storage` holds the fixture's image.
fn cut_a_tight_delete(
    fixture: &Fixture,
    storage: &RecordingStorage,
    operation: &Operation,
    tally: &mut Tally,
    random: &mut Random,
) {
    let Operation::Delete(doomed) = operation else { unreachable!("only deletes") };
    let name = format!("{} on {}, full", operation.name(), fixture.name);
    let before = sound_view(&fixture.image, &fixture.name);
    let committed = match operation.run_on(storage) {
        Ok(committed) => committed,
        Err(error) => {
            assert_eq!(error.kind(), Kind::NoSpace, "{name}: {error}");
            let newest = before.snapshots.last().unwrap();
            assert!(newest.name != *doomed, "{name}: the newest snapshot always can go");
            assert!(sound_view(&storage.durable(), &name) == before, "{name}");
            tally.refused += 1;
            return;
        }
    };
    let recording = Recording { base: fixture.image.clone(), operations: storage.operations() };
    // Small clusters that lie scattered give no block back: then the space waits for the next
    // change, and the report says so.
    let audit = oracle::audit(&storage.durable()).unwrap();
    assert_eq!(audit.errors, [""; 0], "{name}");
    let waits = committed.recount_failure.is_some();
    assert!(audit.leaks == 0 || waits, "{name}: {} leaks, and nobody says so", audit.leaks);
    *(match (waits, committed.flushes > 3) {
        (true, _) => &mut tally.space_to_come,
        (false, true) => &mut tally.in_steps,
        (false, false) => &mut tally.at_once,
    }) += 1;
    let after = oracle::view(&storage.durable()).unwrap();
    operation.check(&before, &after, &Layout::read(&fixture.image).unwrap());
    let done_from = recording.settled_epoch();
    // On its way out the snapshot may move to the end of the table.
    let mut moved = before.clone();
    moved.snapshots.sort_by_key(|snapshot| snapshot.name == *doomed);
    let allowed = Allowed { views: vec![before, moved, after], leaks: true };
    Trial { name, recording, allowed, done_from, workshop: None }.run(random);
}

/// A block device cannot grow: everything has to fit, or is refused before the first write.
#[test]
fn a_block_device_is_changed_within_its_length() {
    let mut random = Random::named(seed(), "device");
    let (mut done, mut refused) = (0, 0);
    let mut tally = Tally::default();
    for (index, (fixture, operation)) in
        pairs(all_fixtures(), &mut random, |_| true).into_iter().enumerate()
    {
        let mut device = fixture.image.clone();
        let spare = [0, 64 << 10, 1 << 20][index % 3];
        device.set_len(device.len().next_multiple_of(4096) + spare);
        let name = format!("{}, device with {spare} spare", fixture.name);
        let fixture = Fixture { name, image: device };
        let storage = RecordingStorage::from_image(fixture.image.clone());
        storage.fix_len();
        if matches!(operation, Operation::Delete(_)) {
            cut_a_tight_delete(&fixture, &storage, &operation, &mut tally, &mut random);
            continue;
        }
        let name = format!("{} on {}", operation.name(), fixture.name);
        let before = sound_view(&fixture.image, &name);
        match operation.run_on(&storage) {
            Ok(_) => {
                let recording =
                    Recording { base: fixture.image.clone(), operations: storage.operations() };
                let after = sound_view(&storage.durable(), &name);
                operation.check(&before, &after, &Layout::read(&fixture.image).unwrap());
                let done_from = recording.settled_epoch();
                let allowed = Allowed { views: vec![before, after], leaks: false };
                Trial { name, recording, allowed, done_from, workshop: None }
                    .run_with(Effort { samples: 2, enumerate: 2 }, &mut random);
                done += 1;
            }
            Err(error) => {
                let kind = error.kind();
                assert!(kind == Kind::NoSpace || Operation::may_refuse(kind), "{name}: {error}");
                assert!(sound_view(&storage.cached(), &name) == before, "{name}");
                refused += 1;
            }
        }
    }
    eprintln!("block devices: {done} done, {refused} refused; deletes {tally:?}");
    assert!(done > 50 && refused > 5);
}

/// A disk whose free clusters lie one by one between others: no two tables have a place side by
/// side.
fn with_single_free_clusters(random: &mut Random) -> Fixture {
    let format = fixtures::Format::v3(4096, 16);
    let mut image = fixtures::empty(format, 4 << 20);
    let mut write = |image: &mut SparseImage, clusters: std::ops::Range<u64>| {
        let mut guest = Guest::boot(image).unwrap();
        for cluster in clusters {
            guest.write(cluster * 4096, &fixtures::pattern(4096, random)).unwrap();
        }
    };
    write(&mut image, 0..30);
    image = fixtures::snapshot(image, "s0");
    write(&mut image, 20..600);
    image = fixtures::snapshot(image, "s1");
    write(&mut image, 590..720);
    let mut guest = Guest::boot(&mut image).unwrap();
    for cluster in (620..720).step_by(2) {
        guest.discard(cluster * 4096).unwrap();
    }
    let layout = Layout::read(&image).unwrap();
    let end = image.len() / layout.cluster();
    let free: Vec<_> = (0..end).filter(|&n| layout.refcount(&image, n) == 0).collect();
    assert!(free.len() > 30 && free.windows(2).all(|pair| pair[0] + 1 < pair[1]), "{free:?}");
    Fixture { name: "single free clusters".into(), image }
}

/// A snapshot on a nearly full device was refused for want of fourteen free clusters in a row. Now
/// tables lie wherever there is a place for each, and a power cut among them is as harmless.
#[test]
fn a_device_without_two_free_clusters_in_a_row_is_changed_as_any_other() {
    let mut random = Random::named(seed(), "single");
    let fixture = with_single_free_clusters(&mut random);
    let before = sound_view(&fixture.image, &fixture.name);
    let mut done = 0;
    // Replacing the content takes new data from holes alone, and a device has none.
    for (fixture, operation) in
        pairs(vec![fixture], &mut random, |op| !matches!(op, Operation::Write(_)))
    {
        let name = format!("{} on {}", operation.name(), fixture.name);
        let storage = RecordingStorage::from_image(fixture.image.clone());
        storage.fix_len();
        if let Err(error) = operation.run_on(&storage) {
            assert!(Operation::may_refuse(error.kind()), "{name}: {error}");
            continue;
        }
        let recording = Recording { base: fixture.image.clone(), operations: storage.operations() };
        let after = sound_view(&storage.durable(), &name);
        operation.check(&before, &after, &Layout::read(&fixture.image).unwrap());
        let done_from = recording.settled_epoch();
        let allowed = Allowed { views: vec![before.clone(), after], leaks: false };
        Trial { name, recording, allowed, done_from, workshop: None }.run(&mut random);
        done += 1;
    }
    assert!(done > 6, "{done}");
}
