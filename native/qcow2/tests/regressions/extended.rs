//! Extended L2 entries. The second word of an entry has neither flags nor an offset, and an entry
//! that names no cluster may still say that parts of it read as zeros.

use qcow2::{Bitmaps, CommitOptions, NewSnapshot};

use crate::support::qemu::img_ok;
use crate::tools::{KIB, MIB, QemuImage};

/// Every change of an image, with writes below the size of a cluster between them.
#[test]
fn every_operation_keeps_what_qemu_reads_of_subclusters() {
    for cluster in [16 * KIB, 64 * KIB, 2 * MIB] {
        let options = format!("extended_l2=on,cluster_size={cluster}");
        let Some(image) = QemuImage::create(&options, 64 * cluster) else { return };
        let part = cluster / 32;
        image.guest(&format!("write -P 1 0 {}", 5 * cluster));
        image.guest(&format!("write -P 2 {} {part}", 8 * cluster + part));
        image.guest(&format!("write -z {} {part}", 10 * cluster));
        let one = read(&image);
        create(&image, "one");
        image.guest(&format!("write -P 3 {} {part}", 3 * part));
        image.guest(&format!("write -P 4 {} {part}", 8 * cluster));
        image.guest(&format!("write -P 5 {} {part}", 10 * cluster + 7 * part));
        image.guest(&format!("write -z {} {}", cluster, 2 * part));
        let two = read(&image);
        create(&image, "two");
        image.guest(&format!("discard {} {cluster}", 2 * cluster));
        image.guest(&format!("write -P 6 {} {part}", 40 * cluster));
        let options = &mut CommitOptions::default();

        let is_clean = |what: &str| assert_eq!(image.complaint(), None, "{cluster}: {what}");
        image.open().apply_snapshot(b"one", Bitmaps::Refuse, options).unwrap();
        is_clean("apply");
        assert!(read(&image) == one, "{cluster}: what was applied");
        assert!(image.read_snapshot("two") == two, "{cluster}: the other one");
        image.guest(&format!("write -P 7 0 {}", 4 * cluster));
        assert!(image.read_snapshot("one") == one, "{cluster}: written over");

        image.open().apply_snapshot(b"two", Bitmaps::Refuse, options).unwrap();
        image.open().delete_snapshot(b"one", options).unwrap();
        is_clean("delete");
        assert!(read(&image) == two, "{cluster}: what stays of a deletion");
        image.open().grow(65 * cluster, options).unwrap();
        is_clean("grow");
        image.guest(&format!("write -P 8 {} {part}", 64 * cluster));
        image.open().rename_snapshot(b"two", b"three", options).unwrap();
        is_clean("rename");
        assert!(image.read_snapshot("three")[..two.len()] == two, "{cluster}: renamed");
        image.open().delete_snapshot(b"three", options).unwrap();
        is_clean("the last one");
        assert!(read(&image)[..two.len()] == two, "{cluster}: without snapshots");
    }
}

/// What the active disk contains, as QEMU reads it.
fn read(image: &QemuImage) -> Vec<u8> {
    let raw = image.workshop.path("active.raw");
    let target = raw.to_str().unwrap();
    img_ok(&["convert", "-f", "qcow2", "-O", "raw", image.name(), target]);
    std::fs::read(raw).unwrap()
}

fn create(image: &QemuImage, name: &str) {
    let new = NewSnapshot { name: name.as_bytes(), least_id: 0, date_sec: 1, date_nsec: 2 };
    image.open().create_snapshot(&new, &mut CommitOptions::default()).unwrap();
    assert_eq!(image.complaint(), None, "{name}");
}
