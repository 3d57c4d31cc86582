//! Copies of images whose counts or features are not what they should be.

use std::path::PathBuf;

use qcow2::clone::{Clone, Selection, Strategy, Wanted, clone_image};
use qcow2::storage::{Access, FileStorage};
use qcow2::{Kind, Result};

use crate::support::qemu::complaint;
use crate::tools::{MIB, QemuImage, UNKNOWN, add_extension, mapped, miscount, same_disk};

fn copy(image: &QemuImage, selection: Selection<'_>) -> Result<PathBuf> {
    let target = image.workshop.path("copy.qcow2");
    let source = FileStorage::open(&image.path, Access::Read)?;
    let targets = [target.clone()];
    let wanted = Wanted { selection, strategy: Strategy::Copy, ..Wanted::default() };
    let clones: Vec<Clone> = clone_image(&source, &targets, wanted, &mut |_, _| {})?;
    assert_eq!(clones.len(), 1);
    Ok(target)
}

/// A disk of which two data clusters are counted free, though the active disk maps them.
fn miscounted(image: &QemuImage) {
    image.poke(|image, layout| {
        for guest in [3 * layout.cluster(), 7 * layout.cluster()] {
            let (_, data) = mapped(image, layout, guest);
            miscount(image, layout, data, 0);
        }
    });
}

/// A copy took what is counted. Data clusters that were counted free, by some other program's
/// fault, were read without complaint by the source and were zeros in the clone.
#[test]
fn a_copy_of_an_image_with_uncounted_data_is_refused_and_leaves_nothing() {
    for (snapshots, selection) in [
        (0, Selection::ActiveDisk),
        (0, Selection::Everything),
        (1, Selection::Everything),
        (1, Selection::ActiveDisk),
        (1, Selection::Snapshot(b"s0")),
    ] {
        let Some(image) = QemuImage::create("compat=1.1", 4 * MIB) else { return };
        image.guest("write -P 0x11 0 1M");
        for number in 0..snapshots {
            image.snapshot(&format!("s{number}"));
        }
        miscounted(&image);
        let result = copy(&image, selection);
        if let Ok(target) = &result {
            assert!(same_disk(&image.path, target), "{selection:?}: the clone lost data");
        }
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{selection:?}");
        assert!(error.reason().ends_with("is used but counted free"), "{}", error.reason());
        assert!(error.offset.is_some());
        assert_eq!(image.neighbours(), ["image.qcow2"], "{selection:?}");
    }
}

/// Entries of 16 bytes are followed as others are: what they name is copied, what is counted free and
/// used all the same is refused.
#[test]
fn a_copy_of_an_image_with_extended_l2_entries_is_complete_or_refused() {
    let Some(image) = QemuImage::create("extended_l2=on", 4 * MIB) else { return };
    image.guest("write -P 0x11 0 1M");
    image.guest("write -P 0x22 2050k 2k");
    image.snapshot("one");
    image.guest("write -P 0x33 3M 2k");
    let target = copy(&image, Selection::ActiveDisk).unwrap();
    assert!(same_disk(&image.path, &target));
    assert_eq!(complaint(&target), None);
    std::fs::remove_file(target).unwrap();
    image.poke(|image, layout| {
        // The entry for cluster 3 stands where that for cluster 6 would.
        let (_, data) = mapped(image, layout, 6 * layout.cluster());
        miscount(image, layout, data, 0);
    });
    for selection in [Selection::ActiveDisk, Selection::Everything] {
        assert_eq!(copy(&image, selection).unwrap_err().kind(), Kind::Corrupt, "{selection:?}");
        assert_eq!(image.neighbours(), ["image.qcow2"], "{selection:?}");
    }
}

/// An extension that nobody knows may name clusters. A copy of what the known tables need would be
/// less than the image, so it has to be of everything; and then counts cannot take anything away.
#[test]
fn a_copy_of_an_image_with_an_unknown_extension_is_complete_whatever_is_counted() {
    for snapshots in [0, 1] {
        let Some(image) = QemuImage::create("compat=1.1", 4 * MIB) else { return };
        image.guest("write -P 0x11 0 1M");
        for number in 0..snapshots {
            image.snapshot(&format!("s{number}"));
        }
        image.poke(|image, layout| {
            // A cluster behind all others that only the extension names, counted or not.
            let end = image.len().next_multiple_of(layout.cluster());
            image.write(&vec![0x77; 65_536], end);
            add_extension(image, UNKNOWN, end.to_be_bytes());
        });
        miscounted(&image);
        let target = copy(&image, Selection::Everything).unwrap();
        assert!(same_disk(&image.path, &target));
        assert!(std::fs::read(&target).unwrap() == image.bytes());
    }
}
