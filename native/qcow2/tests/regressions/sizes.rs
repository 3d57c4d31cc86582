//! Changes of the virtual size.

use qcow2::{Bitmaps, CommitOptions, Kind};

use crate::support::layout::put64;
use crate::support::qemu;
use crate::tools::{MIB, QemuImage, row, strip_extra_data};

/// A persistent bitmap covers a disk of one size. Grown beneath it, the image had a bitmap table
/// that was too short, and QEMU refused to open the image at all.
#[test]
fn grow_under_a_persistent_bitmap_is_refused_and_the_image_stays_as_it_is() {
    let Some(image) = QemuImage::create("compat=1.1", 64 * MIB) else { return };
    image.guest("write -P 0x11 0 1M");
    qemu::img_ok(&["bitmap", "--add", "-g", "512", image.name(), "daily"]);
    let before = image.bytes();
    let result = image.open().grow(1024 * MIB, &mut CommitOptions::default());
    image.guest("read -P 0x11 0 1M");
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::HasBitmaps);
    assert_eq!(error.reason(), "Device has active dirty bitmaps");
    assert_eq!(error.hint.as_deref(), Some("the bitmaps describe a disk of the present size"));
    assert!(image.bytes() == before, "refused, and changed");
    assert_eq!(image.complaint(), None);
}

/// What lies beyond the end of an overlay is not zeros but whatever its backing file has there.
/// Grown, the disk showed the guest data that was never its own.
#[test]
fn grow_of_an_overlay_does_not_let_its_backing_file_show_through() {
    let Some(base) = QemuImage::create("compat=1.1", 4 * MIB) else { return };
    base.guest("write -P 0x5e 0 4M");
    let path = base.workshop.path("overlay.qcow2");
    let arguments = ["create", "-q", "-f", "qcow2", "-b", base.name(), "-F", "qcow2"];
    qemu::img_ok(&[&arguments[..], &[path.to_str().unwrap(), "2M"]].concat());
    let overlay = QemuImage { path, workshop: base.workshop };
    let before = overlay.bytes();
    let result = overlay.open().grow(4 * MIB, &mut CommitOptions::default());
    if result.is_ok() {
        overlay.guest("read -P 0 2M 2M");
    }
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::UnsupportedFeature);
    assert_eq!(
        error.reason(),
        "What the backing file has beyond the end of the disk would come into it"
    );
    assert!(overlay.bytes() == before, "refused, and changed");
}

/// A row without a disk size means "the size of the disk now". When the size of the disk changed,
/// so did the size of every such snapshot.
#[test]
fn a_snapshot_that_does_not_say_its_size_keeps_it_when_the_disk_grows() {
    let Some(image) = QemuImage::create("compat=1.1", MIB) else { return };
    image.guest("write -P 0x11 0 1M");
    image.snapshot("old");
    image.poke(|image, _| strip_extra_data(image, 0));
    let options = &mut CommitOptions::default();
    image.open().grow(3 * MIB, options).unwrap();
    assert_eq!(image.virtual_size(), 3 * MIB);
    image.open().apply_snapshot(b"old", Bitmaps::Refuse, options).unwrap();
    assert_eq!(image.virtual_size(), MIB);
    image.guest("read -P 0x11 0 1M");
    assert_eq!(image.complaint(), None);
}

/// The same by way of an apply: going back to a snapshot of another size changed the size of those
/// that do not say theirs.
#[test]
fn a_snapshot_that_does_not_say_its_size_keeps_it_when_another_one_is_applied() {
    let Some(image) = QemuImage::create("compat=1.1", MIB) else { return };
    let options = &mut CommitOptions::default();
    image.guest("write -P 0x11 0 1M");
    image.snapshot("small");
    image.open().grow(2 * MIB, options).unwrap();
    image.guest("write -P 0x22 1M 1M");
    image.snapshot("large");
    image.poke(|image, _| strip_extra_data(image, 1));
    image.open().apply_snapshot(b"small", Bitmaps::Refuse, options).unwrap();
    assert_eq!(image.virtual_size(), MIB);
    image.open().apply_snapshot(b"large", Bitmaps::Refuse, options).unwrap();
    assert_eq!(image.virtual_size(), 2 * MIB);
    image.guest("read -P 0x11 0 1M");
    image.guest("read -P 0x22 1M 1M");
    assert_eq!(image.complaint(), None);
}

/// A disk size of half a sector came into the header, where neither QEMU nor we can use it.
#[test]
fn a_snapshot_of_half_a_sector_is_not_applied() {
    let Some(image) = QemuImage::create("compat=1.1", MIB) else { return };
    image.guest("write -P 0x11 0 1M");
    image.snapshot("odd");
    image.guest("write -P 0x22 0 1M");
    for size in [1, 511, MIB - 1, MIB + 256] {
        image.poke(|image, _| {
            let at = row(image, 0);
            put64(image, at + 40 + 8, size);
        });
        let before = image.bytes();
        let options = &mut CommitOptions::default();
        let error = image.open().apply_snapshot(b"odd", Bitmaps::Refuse, options).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{size}");
        assert_eq!(error.reason(), "The snapshot's disk size is not a multiple of 512");
        assert!(image.bytes() == before, "{size}: refused, and changed");
        image.guest("read -P 0x22 0 1M");
    }
}
