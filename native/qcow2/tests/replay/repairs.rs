//! Repairs of damaged images, cut as every other operation is.
//!
//! A state shows the damage, no worse than it was, or none. What the disk and the snapshots contain
//! is the same in all of them. One that is still damaged is repaired as if nothing had happened, and
//! judged then.

use qcow2::storage::{Operation as Logged, RecordingStorage, SparseImage};
use qcow2::{Kind, Repair};

use crate::flushes;
use crate::report::{Circumstance, label};
use crate::support::Random;
use crate::support::damaged::{Damaged, damaged, is_marked, verdict};
use crate::support::history::Scene;
use crate::support::judge::judge_beside;
use crate::support::layout::Layout;
use crate::support::operations::Operation;
use crate::support::oracle::{self, Audit, Known};
use crate::support::replay::Recording;
use crate::support::unproven::is_repair_proven;
use crate::trial::{Done, Trial, Trials, sound};

/// Whether there is nothing to repair.
pub fn is_sound(image: &SparseImage) -> bool {
    oracle::audit(image).is_ok_and(|audit| audit.is_clean()) && !is_marked(image)
}

/// What was wrong with an image before its repair.
#[derive(Debug)]
pub struct Damage {
    what: Repair,
    audit: Audit,
    /// Corruptions and leaks, as the check counts them.
    found: (u64, u64),
}

impl Damage {
    fn of(image: &SparseImage, what: Repair) -> Self {
        let (corruptions, leaks, _) = verdict(image);
        Self { what, audit: oracle::audit(image).unwrap(), found: (corruptions, leaks) }
    }

    /// Panics where there is more than this, or content changed.
    fn ensure_no_worse(&self, image: &SparseImage, trial: &Trial, what: &str) {
        let now = Self::of(image, self.what);
        if now.is_worse(self) {
            // Where the file is longer, a damaged entry may lead to a place in it.
            let mut longer = trial.recording.base.clone();
            longer.set_len(image.len());
            let was = Self::of(&longer, self.what);
            assert!(!now.is_worse(&was), "{what}: {now:?} was {was:?}");
        }
        let view = oracle::view_beside(image, &trial.known).unwrap();
        assert!(trial.views.contains(&view), "{what}: content changed");
    }

    fn is_worse(&self, than: &Self) -> bool {
        self.audit.errors.len() > than.audit.errors.len()
            || self.audit.leaks > than.audit.leaks
            || self.found.0 > than.found.0
            || self.found.1 > than.found.1
    }

    /// A state that is still damaged, after the same repair. Panics where it is worse than before,
    /// or is not repaired.
    pub fn repaired(
        &self,
        image: &SparseImage,
        trial: &Trial,
        what: &str,
        random: &mut Random,
    ) -> SparseImage {
        self.ensure_no_worse(image, trial, what);
        if self.audit.errors.is_empty() && !is_marked(image) {
            // Space that leaks is no reason not to use the image.
            let views = &trial.views;
            judge_beside(image, &trial.known, views, self.audit.leaks, random)
                .unwrap_or_else(|damage| panic!("{what}: {damage:?}"));
        }
        let storage = RecordingStorage::from_image(image.clone());
        Operation::Repair(self.what)
            .run_on(&storage)
            .unwrap_or_else(|error| panic!("{what}: again: {error}"));
        let repaired = storage.durable();
        assert!(is_sound(&repaired), "{what}: again: {:?}", oracle::audit(&repaired));
        repaired
    }
}

/// Damages the image, repairs it, and cuts the repair everywhere. Returns the image afterwards; none
/// where it was not repaired.
pub fn repair(trials: &mut Trials<'_>, scene: &Scene, random: &mut Random) -> Option<SparseImage> {
    let Damaged { name, image: mut base, what: repair, .. } = damaged(&scene.fixture, random);
    let circumstance = match random.below(20) {
        0..3 => Circumstance::FailedFlush,
        3..5 => Circumstance::FullDisk,
        5..8 => Circumstance::Device,
        _ => Circumstance::File,
    };
    if circumstance == Circumstance::Device {
        let spare = *random.pick(&[0, 64 << 10, 1 << 20]);
        base.set_len(base.len().next_multiple_of(4096) + spare);
    }
    let operation = Operation::Repair(repair);
    let label = label(&operation, circumstance);
    let what = format!("{} ({circumstance:?}) on {name}", operation.name());
    let (known, view) = Known::of(&base).unwrap();
    let storage = RecordingStorage::from_image(base.clone());
    match circumstance {
        Circumstance::File => {}
        Circumstance::FullDisk => storage.limit_room(Some(base.data_bytes())),
        Circumstance::Device => storage.fix_len(),
        Circumstance::FailedFlush => {
            for fault in flushes::faults(random) {
                storage.inject(fault);
            }
        }
    }
    let damage = Some(Damage::of(&base, repair));
    let is_unproven = !is_repair_proven(&base, circumstance == Circumstance::Device);
    let recording = Recording { base, operations: Vec::new() };
    let views = vec![view];
    let mut trial = Trial {
        what,
        recording,
        known,
        views,
        most_leaks: 0,
        old_leaks: 0,
        damage,
        is_unproven,
        done: None,
    };

    let attempt = || operation.run_on(&storage).map(drop).map_err(|error| error.kind());
    let mut result = attempt();
    storage.clear_faults();
    storage.limit_room(None);
    if let Err(kind) = result {
        let is_expected = match circumstance {
            Circumstance::File => false,
            Circumstance::FullDisk | Circumstance::Device => kind == Kind::NoSpace,
            Circumstance::FailedFlush => {
                matches!(kind, Kind::NoSpace | Kind::Io | Kind::Unsettled)
            }
        };
        assert!(is_expected, "{}: {kind:?}", trial.what);
        if kind != Kind::Unsettled {
            let damage = trial.damage.as_ref().expect("just set");
            damage.ensure_no_worse(&storage.cached(), &trial, &trial.what);
        }
        if circumstance == Circumstance::Device {
            *trials.report.refused.entry(label).or_default() += 1;
            return None;
        }
        // The disk works again.
        result = attempt();
        let may_fail = kind == Kind::Unsettled && result == Err(Kind::Unsettled);
        assert!(result.is_ok() || may_fail, "{}: again: {result:?}", trial.what);
    }
    trial.recording.operations = storage.operations();
    if trial.recording.operations.iter().all(|op| *op == Logged::Flush) {
        // There was nothing wrong.
        return None;
    }
    if result.is_ok() {
        let after = sound(&storage.durable(), &trial.known, 0, &trial.what);
        let layout = Layout::read(&trial.recording.base).unwrap();
        operation.check(&trial.views[0], &after.view, &layout);
        assert!(!is_marked(&storage.durable()), "{}: still marked", trial.what);
        trial.views.push(after.view.clone());
        let from_epoch = trial.recording.settled_epoch();
        trial.done = Some(Done { from_epoch, view: after.view, most_leaks: 0 });
    }
    *trials.report.operations.entry(label).or_default() += 1;
    let effort = trials.effort(scene.format);
    trials.cut(&trial, label, scene, effort, random);
    result.is_ok().then(|| storage.durable())
}
