//! Images on storage whose length is fixed, such as a block device.

use qcow2::storage::{Operation as Logged, RecordingStorage, SparseImage};
use qcow2::{CommitOptions, Image, Kind, NewSnapshot, Result};

use crate::support::fixtures::{Format, Past};
use crate::support::layout::Layout;
use crate::support::operations::Operation;
use crate::support::{Random, oracle, seed};
use crate::tools::{KIB, UNKNOWN, add_extension};

fn past(random: &mut Random) -> SparseImage {
    let past = Past {
        format: Format::v3(4096, 16),
        size: 512 * KIB,
        writes: 20,
        snapshots: 2,
        scattered: false,
        zeros: false,
    };
    past.build(random).image
}

fn device(mut image: SparseImage, bytes: u64) -> RecordingStorage {
    image.set_len(bytes);
    let storage = RecordingStorage::from_image(image);
    storage.fix_len();
    storage
}

/// A device has no holes and no end to grow at, and what an unknown extension names cannot be told
/// from what is free. Commits went on there without giving anything back: every delete leaked,
/// until the device was full.
#[test]
fn an_unknown_extension_on_a_device_is_refused_by_name_and_nothing_is_written() {
    let mut random = Random::named(seed(), "devices");
    let mut image = past(&mut random);
    add_extension(&mut image, UNKNOWN, [0; 8]);
    let (view, layout) = (oracle::view(&image).unwrap(), Layout::read(&image).unwrap());
    let operations = Operation::all(&view, &layout, &mut random);
    // Replacing the content places data before it plans.
    for operation in operations.iter().filter(|o| !matches!(o, Operation::Write(_))) {
        let storage = device(image.clone(), image.len() + 256 * KIB);
        let error = operation.run_on(&storage).unwrap_err();
        let what = operation.name();
        assert_eq!(error.kind(), Kind::UnsupportedFeature, "{what}");
        assert_eq!(
            error.reason(),
            "The image has features that Calque does not know, and lies on a block device",
            "{what}"
        );
        let wrote = storage.operations().iter().any(|o| !matches!(o, Logged::Flush));
        assert!(!wrote, "{what}: refused, but wrote");
    }
}

/// Takes a snapshot, renames it and deletes it.
fn cycle(image: &mut Image) -> Result<()> {
    let new = NewSnapshot { name: b"new", least_id: 0, date_sec: 0, date_nsec: 0 };
    image.create_snapshot(&new, &mut CommitOptions::default())?;
    image.rename_snapshot(b"new", b"renamed", &mut CommitOptions::default())?;
    let done = image.delete_snapshot(b"renamed", &mut CommitOptions::default())?;
    assert!(done.punch_failure.is_none(), "{:?}", done.punch_failure);
    assert!(done.recount_failure.is_none(), "{:?}", done.recount_failure);
    Ok(())
}

/// The counterpart: with features that are known, a device has room for no cycle or for any number
/// of them; and where there is no room, nothing leaks.
#[test]
fn snapshots_come_and_go_for_ever_on_a_nearly_full_device() {
    const ENOUGH: u64 = 16;
    let mut random = Random::named(seed(), "devices");
    let image = past(&mut random);
    let before = oracle::view(&image).unwrap();
    let mut refused = 0;
    for clusters in 0..2 * ENOUGH {
        let what = format!("{clusters} clusters");
        let storage = device(image.clone(), image.len() + clusters * 4096);
        let mut open = Image::open(Box::new(storage.clone())).unwrap();
        let result = (0..50).try_for_each(|_| cycle(&mut open));
        if let Err(error) = result {
            assert_eq!(error.kind(), Kind::NoSpace, "{what}: {error}");
            assert!(clusters < ENOUGH, "{what}: {error}");
            refused += 1;
        }
        let after = storage.durable();
        let audit = oracle::audit(&after).unwrap();
        assert!(audit.is_clean(), "{what}: {audit:?}");
        let view = oracle::view(&after).unwrap();
        assert!(view.active == before.active, "{what}");
        assert!(view.snapshots[..2] == before.snapshots, "{what}");
    }
    assert!(refused > 0, "the device was never full");
}
