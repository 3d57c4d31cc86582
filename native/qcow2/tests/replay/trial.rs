//! One operation on one image: recorded, cut everywhere, each state judged.

use qcow2::Kind;
use qcow2::storage::{Operation as Logged, RecordingStorage, SparseImage};

use crate::arguments::Arguments;
use crate::clones;
use crate::flushes;
use crate::repairs::{self, Damage, is_sound};
use crate::report::{Circumstance, Report, label};
use crate::second::Second;
use crate::support::Random;
use crate::support::fixtures::Format;
use crate::support::history::{Feature, Scene};
use crate::support::judge::judge_beside;
use crate::support::layout::Layout;
use crate::support::operations::Operation;
use crate::support::oracle::{self, Known, View};
use crate::support::qemu::Workshop;
use crate::support::replay::{Effort, Recording, State};
use crate::support::unproven::{For, first_touched, hides_references as hides_in};

/// Operations on one image, one after the other.
const STEPS: usize = 4;
/// A commit has so many; what has more went in steps.
const COMMIT_FLUSHES: u32 = 3;
/// On one state in this many another command is run.
const GO_ON_EVERY: u64 = 20;
/// One image in this many is cloned.
const CLONES_EVERY: u64 = 20;

/// Where an image lies while it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    File,
    /// A file on a file system without a free block.
    FullDisk,
    /// A device with so many bytes behind the image.
    Device(u64),
}

impl Place {
    fn circumstance(self) -> Circumstance {
        match self {
            Self::File => Circumstance::File,
            Self::FullDisk => Circumstance::FullDisk,
            Self::Device(_) => Circumstance::Device,
        }
    }
}

/// What a recording is judged by.
pub struct Trial {
    /// Operation, image, seed: for messages.
    pub what: String,
    pub recording: Recording,
    /// The image before.
    pub known: Known,
    /// Before success was reported: each with what may leak.
    pub views: Vec<View>,
    pub most_leaks: u64,
    /// What leaked before the operation. A cluster that is counted too often and used is found only
    /// where everything is counted anew.
    pub old_leaks: u64,
    /// What was wrong before, where this is a repair.
    pub damage: Option<Damage>,
    /// Nobody can say who uses what: of what the file had, only the first sector may change.
    pub is_unproven: bool,
    /// From this epoch on, only this: success was reported.
    pub done: Option<Done>,
}

/// What holds once success was reported.
pub struct Done {
    pub from_epoch: usize,
    pub view: View,
    pub most_leaks: u64,
}

/// The trials of one seed.
pub struct Trials<'a> {
    arguments: &'a Arguments,
    second: &'a mut Second,
    workshop: Option<Workshop>,
    pub report: Report,
}

impl<'a> Trials<'a> {
    pub fn new(arguments: &'a Arguments, second: &'a mut Second) -> Self {
        Self { arguments, second, workshop: None, report: Report::default() }
    }

    pub fn run(&mut self, seed: u64) {
        let random = &mut Random::named(seed, "replay");
        let mut scene = Scene::of(random, self.second.keys());
        scene.fixture.name = format!("{} (seed {seed})", scene.fixture.name);
        self.report.seeds += 1;
        if random.below(CLONES_EVERY) == 0 {
            let workshop = self.workshop.get_or_insert_with(Workshop::new);
            self.report.clones += clones::clone(&scene, workshop, random);
        }
        for step in 0..STEPS {
            let Some(after) = self.step(&scene, random) else { continue };
            scene.fixture.image = after;
            scene.go_on(step, random);
        }
    }

    /// One operation, cut everywhere. Returns the image afterwards; none where it was refused.
    fn step(&mut self, scene: &Scene, random: &mut Random) -> Option<SparseImage> {
        if random.chance(15) {
            return repairs::repair(self, scene, random);
        }
        let view = oracle::view(&scene.fixture.image).unwrap();
        let layout = Layout::read(&scene.fixture.image).unwrap();
        let operations = Operation::all(&view, &layout, random);
        let operation = random.pick(&operations).clone();
        if random.chance(15) {
            return flushes::fail(self, scene, &operation, random);
        }
        let place = match (&operation, random.below(10)) {
            (Operation::Delete(_), 0..4) => Place::FullDisk,
            (_, 9) => Place::Device(*random.pick(&[0, 64 << 10, 1 << 20])),
            _ => Place::File,
        };
        let mut scene = scene.clone();
        if let Place::Device(spare) = place {
            let image = &mut scene.fixture.image;
            image.set_len(image.len().next_multiple_of(4096) + spare);
        }
        let base = scene.fixture.image.clone();
        let storage = RecordingStorage::from_image(base.clone());
        match place {
            Place::File => {}
            Place::FullDisk => storage.limit_room(Some(base.data_bytes())),
            Place::Device(_) => storage.fix_len(),
        }
        let label = label(&operation, place.circumstance());
        let what = format!("{} ({place:?}) on {}", operation.name(), scene.fixture.name);
        let (known, before) = first_look(&base, &what);
        let committed = match operation.run_on(&storage) {
            Ok(committed) => committed,
            Err(error) => {
                let no_space = error.kind() == Kind::NoSpace && place != Place::File;
                assert!(
                    no_space || may_refuse(&scene, &operation, error.kind()),
                    "{what}: {error}"
                );
                assert!(no_space || wrote_nothing(&storage), "{what}: refused, but wrote");
                assert!(oracle::view(&storage.durable()).unwrap() == before.view, "{what}");
                *self.report.refused.entry(label).or_default() += 1;
                return None;
            }
        };
        let waits = committed.recount_failure.is_some();
        let most_leaks = if waits { u64::MAX } else { before.leaks };
        let after = sound(&storage.cached(), &known, most_leaks, &what);
        operation.check(&before.view, &after.view, &layout);
        let recording = Recording { base, operations: storage.operations() };
        let old_leaks = before.leaks;
        let mut views = vec![before.view, after.view.clone()];
        let mut most_leaks = old_leaks;
        match &operation {
            // Between the steps of a delete there are leaks; the last epoch is the last step's.
            Operation::Delete(doomed) if committed.flushes > COMMIT_FLUSHES || waits => {
                views.push(moved_last(&views[0], doomed));
                most_leaks = u64::MAX;
            }
            _ => {}
        }
        let from_epoch = recording.settled_epoch();
        let done = Done { from_epoch, view: after.view, most_leaks: after.leaks };
        let is_unproven = hides_in(&recording.base, For::Now);
        let trial = Trial {
            what,
            recording,
            known,
            views,
            most_leaks,
            old_leaks,
            damage: None,
            is_unproven,
            done: Some(done),
        };
        *self.report.operations.entry(label).or_default() += 1;
        self.cut(&trial, label, &scene, self.effort(scene.format), random);
        Some(storage.durable())
    }

    /// Fewer states of images whose states are large.
    pub fn effort(&self, format: Format) -> Effort {
        let share = match format.cluster_bytes {
            0..=16_384 => 1,
            16_385..=65_536 => 2,
            _ => 4,
        };
        let samples = self.arguments.samples.div_ceil(share);
        Effort { samples, enumerate: self.arguments.enumerate }
    }

    /// Judges every state of a recording.
    pub fn cut(
        &mut self,
        trial: &Trial,
        label: &'static str,
        scene: &Scene,
        effort: Effort,
        random: &mut Random,
    ) {
        let mut states = 0;
        let (mut still_damaged, mut went_on) = (0, 0);
        let second = &mut *self.second;
        let choices = &mut Random::new(random.next());
        let repeated = trial.recording.distinct_states(effort, choices, |state| {
            states += 1;
            trial.ensure_untouched(&state);
            let state = match trial.repaired(&state, random) {
                Some(repaired) => {
                    still_damaged += 1;
                    repaired
                }
                None => state,
            };
            trial.ensure_untouched(&state);
            trial.judge(&state, random);
            let may_leak = trial.most_leaks > 0;
            second.look(&state.image, may_leak, &|| format!("{}: {}", trial.what, state.how));
            if random.below(GO_ON_EVERY) == 0 {
                trial.go_on(&state, scene, random);
                went_on += 1;
            }
        });
        self.report.count(label, scene.format, scene.features.iter().copied(), states);
        self.report.repeated += repeated;
        self.report.still_damaged += still_damaged;
        self.report.went_on += went_on;
    }
}

impl Trial {
    /// A state that a repair was to leave and that is still damaged, after another repair.
    fn repaired(&self, state: &State, random: &mut Random) -> Option<State> {
        let damage = self.damage.as_ref()?;
        if is_sound(&state.image) {
            return None;
        }
        let how = format!("{}, repaired", state.how);
        let what = format!("{}: {}", self.what, state.how);
        let is_done = self.done.as_ref().is_some_and(|done| state.epoch >= done.from_epoch);
        assert!(!is_done, "{what}: reported done, and lost");
        let image = damage.repaired(&state.image, self, &what, random);
        Some(State { image, how, ..*state })
    }

    /// Panics where something was written or punched that somebody may own.
    fn ensure_untouched(&self, state: &State) {
        let base = &self.recording.base;
        if self.is_unproven
            && let Some(at) = first_touched(base, &state.image)
        {
            panic!("{}: {}: changed at {at:#x}, which may be somebody's", self.what, state.how);
        }
    }

    fn judge(&self, state: &State, random: &mut Random) {
        let done = self.done.as_ref().filter(|done| state.epoch >= done.from_epoch);
        let verdict = match done {
            Some(done) => {
                let views = std::slice::from_ref(&done.view);
                judge_beside(&state.image, &self.known, views, done.most_leaks, random)
            }
            None => judge_beside(&state.image, &self.known, &self.views, self.most_leaks, random),
        };
        if let Err(damage) = verdict {
            let kept = std::env::temp_dir().join("calque-replay-state.qcow2");
            let _ = state.image.save(&kept);
            panic!("{}: {}: {damage:?}, image kept as {}", self.what, state.how, kept.display());
        }
    }

    /// The next command needs no repair before it, and leaves nothing of the power cut behind.
    fn go_on(&self, state: &State, scene: &Scene, random: &mut Random) {
        let image = &state.image;
        let what = format!("{}: {}", self.what, state.how);
        let before = sound(image, &self.known, self.most_leaks, &what);
        let layout = Layout::read(image).unwrap();
        let operations = Operation::all(&before.view, &layout, random);
        let next = random.pick(&operations);
        let what = format!("{what}: then {}", next.name());
        let storage = RecordingStorage::from_image(image.clone());
        match next.run_on(&storage) {
            Ok(_) => {
                // What leaks between the steps of a delete is found by a walk over everything.
                let is_proven = !hides_references(scene);
                let most_leaks = if is_proven { self.old_leaks } else { self.most_leaks };
                let after = sound(&storage.durable(), &self.known, most_leaks, &what);
                next.check(&before.view, &after.view, &layout);
            }
            Err(error) => {
                assert!(may_refuse_after(scene, next, error.kind()), "{what}: {error}");
                assert!(wrote_nothing(&storage), "{what}: refused, but wrote");
            }
        }
    }
}

/// A view, and how many clusters leak.
pub struct Sound {
    pub view: View,
    pub leaks: u64,
}

/// What an image shows that has no errors, and no more leaks than this.
pub fn sound(image: &SparseImage, known: &Known, most_leaks: u64, what: &str) -> Sound {
    let audit = oracle::audit(image).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(audit.errors, [""; 0], "{what}");
    assert!(audit.leaks <= most_leaks, "{what}: {} leaks", audit.leaks);
    Sound { view: oracle::view_beside(image, known).unwrap(), leaks: audit.leaks }
}

/// The image before an operation.
pub fn first_look(image: &SparseImage, what: &str) -> (Known, Sound) {
    let known = Known::of(image).unwrap().0;
    let sound = sound(image, &known, u64::MAX, what);
    (known, sound)
}

/// A view with one snapshot at the end of the table: where a delete in steps moves it.
pub fn moved_last(view: &View, doomed: &[u8]) -> View {
    let mut moved = view.clone();
    moved.snapshots.sort_by_key(|snapshot| snapshot.name == *doomed);
    moved
}

/// Nothing but flushes reached the storage.
pub fn wrote_nothing(storage: &RecordingStorage) -> bool {
    let is_flush = |op: &Logged| matches!(op, Logged::Flush | Logged::LostFlush { .. });
    storage.operations().iter().all(is_flush)
}

/// What is refused on a sound image, and only for a reason that the image gives.
pub fn may_refuse(scene: &Scene, operation: &Operation, kind: Kind) -> bool {
    let is_unreadable = [Feature::Luks, Feature::ExtendedL2].iter().any(|f| scene.has(*f));
    let replaces = matches!(operation, Operation::Write(_));
    // Or a device, and references that nobody knows.
    let is_unsupported = replaces && is_unreadable || hides_references(scene);
    Operation::may_refuse(kind) || kind == Kind::UnsupportedFeature && is_unsupported
}

/// The same where an operation has been before, whose names may be taken.
pub fn may_refuse_after(scene: &Scene, operation: &Operation, kind: Kind) -> bool {
    may_refuse(scene, operation, kind)
        || matches!(kind, Kind::SnapshotExists | Kind::SnapshotNotFound)
}

/// Whether something in the image could refer to clusters in ways that a walk does not know.
pub fn hides_references(scene: &Scene) -> bool {
    let hiding = [Feature::UnknownExtension, Feature::UnknownFeatures, Feature::Bitmaps];
    hiding.iter().any(|feature| scene.has(*feature))
}
