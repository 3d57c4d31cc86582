//! A power cut at any moment of a repair leaves the damage as it was, or repaired.
//!
//! The story. `qemu-img check -r` edits counts and tables where they stand. A power cut in between
//! leaves an image that is neither the one that was damaged nor the one that is repaired; and a
//! rebuild of the refcount structure that is torn is worse than what it was to repair.

use qcow2::Repair;
use qcow2::storage::{RecordingStorage, SparseImage};

use crate::support::damaged::{Damaged, damaged, is_marked, repair_on, verdict};
use crate::support::judge::{Allowed, judge};
use crate::support::replay::{Effort, Recording};
use crate::support::{Random, fixtures, oracle, seed, setting};

#[derive(Debug, Default)]
struct Tally {
    repaired: u64,
    states: u64,
    old: u64,
    new: u64,
}

#[test]
fn a_power_cut_during_a_repair_leaves_the_damage_or_the_repaired_image() {
    let mut random = Random::named(seed(), "repair and power");
    let mut tally = Tally::default();
    for fixture in fixtures::all(&mut Random::named(seed(), "fixtures")) {
        for _ in 0..setting("CALQUE_REPAIR_ROUNDS", 3) {
            cut_everywhere(&damaged(&fixture, &mut random), &mut tally, &mut random);
        }
        let mut on_a_device = damaged(&fixture, &mut random);
        on_a_device.name += ", on a device";
        on_a_device.image.set_len((on_a_device.image.len() + (1 << 20)).next_multiple_of(1 << 20));
        on_a_device.is_device = true;
        cut_everywhere(&on_a_device, &mut tally, &mut random);
    }
    eprintln!("power cuts of repairs: {tally:?}");
    assert!(tally.repaired > 50 && tally.old > 100 && tally.new > 100, "{tally:?}");
}

fn cut_everywhere(damaged: &Damaged, tally: &mut Tally, random: &mut Random) {
    let Damaged { name, image, what, .. } = damaged;
    let content = oracle::view(image).unwrap();
    let before = verdict(image);
    let storage = damaged.storage();
    if repair_on(&storage, *what).unwrap_or_else(|error| panic!("{name}: {error}")).is_none() {
        return;
    }
    tally.repaired += 1;
    let after = verdict(&storage.cached());
    assert_eq!((after.0, after.1), (0, 0), "{name}: {:?}", after.2);
    let again = RecordingStorage::from_image(storage.cached());
    assert!(repair_on(&again, *what).unwrap().is_none(), "{name}: repaired twice");
    let recording = Recording { base: image.clone(), operations: storage.operations() };
    let done_from = recording.settled_epoch();
    let allowed = Allowed { views: vec![content.clone()], leaks: false };
    let effort = Effort { samples: setting("CALQUE_CRASH_SAMPLES", 8), enumerate: 5 };
    recording.states(effort, &mut Random::new(random.next()), |state| {
        let how = format!("{name}: {}", state.how);
        assert!(oracle::view(&state.image).unwrap() == content, "{how}: content changed");
        let now = verdict(&state.image);
        tally.states += 1;
        let is_done = state.epoch >= done_from;
        assert!(!is_done || !is_marked(&state.image), "{how}: reported done, and marked");
        if (now.0, now.1) == (0, 0) {
            judge(&state.image, &allowed, random).unwrap_or_else(|it| panic!("{how}: {it:?}"));
            tally.new += 1;
        } else {
            assert!(!is_done, "{how}: reported done, and lost");
            // The file may be longer, and a place in it that was outside.
            let mut longer = image.clone();
            longer.set_len(state.image.len());
            let is_old = now == before || now == verdict(&longer);
            assert!(is_old, "{how}: neither the damage nor the repair: {now:?}, not {before:?}");
            repairs_again(&state.image, *what, &how);
            tally.old += 1;
        }
    });
}

/// What a power cut leaves can be repaired as if nothing had happened.
fn repairs_again(image: &SparseImage, what: Repair, how: &str) {
    let storage = RecordingStorage::from_image(image.clone());
    repair_on(&storage, what).unwrap_or_else(|error| panic!("{how}: again: {error}"));
    let now = verdict(&storage.durable());
    assert_eq!((now.0, now.1), (0, 0), "{how}: again: {:?}", now.2);
}
