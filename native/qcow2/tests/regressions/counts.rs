//! Counts that lie, and clusters that only somebody else knows.

use qcow2::storage::{Access, FileStorage, RecordingStorage, SparseImage};
use qcow2::{CommitOptions, Kind, NewSnapshot, check};

use crate::support::fixtures::{Fixture, Format, Past, pattern};
use crate::support::layout::{Layout, bytes, put64};
use crate::support::operations::Operation;
use crate::support::{Random, oracle, seed};
use crate::tools::{MIB, QemuImage, UNKNOWN, add_extension, mapped, miscount};

/// Deletes `a` of an image that snapshot `b` shares with a guest, then lets the guest write.
/// Whatever the answer is, `b` has to read as before; and here the answer has to be that counts are
/// too low.
fn delete_beside(image: &QemuImage, offset: u64) {
    let (before, snapshot) = (image.bytes(), image.read_snapshot("b"));
    let result = image.open().delete_snapshot(b"a", &mut CommitOptions::default());
    let after = image.bytes();
    image.guest("write -P 0x99 0 64k");
    assert!(image.read_snapshot("b") == snapshot, "the guest wrote into a snapshot");
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert_eq!(error.reason(), format!("The reference count at {offset:#x} is too low"));
    assert_eq!(error.offset, Some(offset));
    assert!(after == before, "refused, and changed");
}

/// Two snapshots and the disk shared a cluster that was counted twice instead of three times.
/// Deleting one made the count 1, which was taken for "nobody else", and set COPIED: the guest's
/// next write went into the cluster that the other snapshot reads.
#[test]
fn a_count_of_one_does_not_set_copied_where_the_walk_saw_another_reference() {
    let Some(image) = QemuImage::create("compat=1.1", MIB) else { return };
    image.guest("write -P 0x11 0 512k");
    image.snapshot("a");
    image.snapshot("b");
    // The disk has an L2 table of its own from here on.
    image.guest("write -P 0x22 256k 64k");
    let mut cluster = 0;
    image.poke(|image, layout| {
        cluster = mapped(image, layout, 0).1;
        miscount(image, layout, cluster, 2);
    });
    delete_beside(&image, cluster);
}

/// The same for an L2 table: counted 1, it was edited in place, and the snapshot's mapping with it.
#[test]
fn a_count_of_one_does_not_make_an_l2_table_private_that_a_snapshot_names() {
    let Some(image) = QemuImage::create("compat=1.1", MIB) else { return };
    image.guest("write -P 0x11 0 512k");
    image.snapshot("a");
    image.snapshot("b");
    let mut table = 0;
    image.poke(|image, layout| {
        table = mapped(image, layout, 0).0;
        miscount(image, layout, table, 2);
    });
    delete_beside(&image, table);
}

/// New content is placed before the tables are walked, in holes that are counted free. One of them
/// was a snapshot's cluster of zeros, whose count lied: the snapshot read the new data from then
/// on.
#[test]
fn new_content_is_not_placed_in_a_hole_that_a_snapshot_reads() {
    let Some(image) = QemuImage::create("compat=1.1", MIB) else { return };
    image.guest("write -P 0x11 0 512k");
    image.snapshot("s0");
    let mut cluster = 0;
    image.poke(|image, layout| cluster = mapped(image, layout, 0).1);
    image.guest("write -P 0x22 0 512k");
    image.poke(|image, layout| {
        image.punch(cluster..cluster + layout.cluster());
        miscount(image, layout, cluster, 0);
    });
    let (before, snapshot) = (image.bytes(), image.read_snapshot("s0"));
    let mut raw = SparseImage::default();
    raw.write(&vec![0x33; 65_536], 0);
    let raw = RecordingStorage::from_image(raw);
    let result = image.open().write_content(&raw, &mut CommitOptions::default());
    assert!(image.read_snapshot("s0") == snapshot, "new data came into a snapshot");
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    let reason = format!("Cluster at {cluster:#x} is used but counted free");
    assert_eq!((error.reason(), error.offset), (reason.as_str(), Some(cluster)));
    assert!(image.bytes() == before, "refused, and changed");
    image.guest("read -P 0x22 0 512k");
}

/// A cluster at the end of the file, counted once, that only a header field behind those of today
/// names. The field is there only if `header_bytes` says so; the compatible bit only if it is set.
fn from_the_future(header_bytes: u64, compatible: u64, random: &mut Random) -> (Fixture, u64) {
    let past = Past {
        format: Format::v3(4096, 16),
        size: MIB,
        writes: 20,
        snapshots: 2,
        scattered: true,
        zeros: false,
    };
    let mut image = past.build(random).image;
    let layout = Layout::read(&image).unwrap();
    let end = image.len() / layout.cluster();
    let unused = |&cluster: &u64| layout.refcount(&image, cluster) == 0;
    let cluster = (end..end + layout.block_entries()).find(unused).unwrap();
    layout.set_refcount(&mut image, cluster, 1).unwrap();
    let offset = cluster * layout.cluster();
    image.write(&pattern(layout.cluster(), random), offset);
    let extensions = bytes(&image, 112, 1024);
    image.write(&extensions, header_bytes);
    if header_bytes >= 120 {
        put64(&mut image, 112, offset);
    }
    image.write(&u32::try_from(header_bytes).unwrap().to_be_bytes(), 100);
    put64(&mut image, 80, compatible);
    (Fixture { name: format!("header of {header_bytes} bytes, {compatible:#x}"), image }, offset)
}

/// A format of tomorrow: a compatible bit and a field in a longer header name a cluster. Who does
/// not know the bit may ignore it, but not the cluster: it was taken for a leak and punched.
#[test]
fn a_cluster_that_only_an_unknown_header_field_names_is_left_alone() {
    let mut random = Random::named(seed(), "from the future");
    for (header_bytes, compatible) in [(120, 1 << 7), (120, 0), (112, 1 << 7), (112, 1 << 7 | 1)] {
        let (fixture, offset) = from_the_future(header_bytes, compatible, &mut random);
        let layout = Layout::read(&fixture.image).unwrap();
        let content = bytes(&fixture.image, offset, layout.cluster());
        let view = oracle::view(&fixture.image).unwrap();
        for operation in Operation::all(&view, &layout, &mut random) {
            let what = format!("{} on {}", operation.name(), fixture.name);
            let storage = RecordingStorage::from_image(fixture.image.clone());
            operation.run_on(&storage).unwrap_or_else(|error| panic!("{what}: {error}"));
            let image = storage.durable();
            let after = Layout::read(&image).unwrap();
            assert_eq!(after.refcount(&image, offset / layout.cluster()), 1, "{what}");
            assert!(bytes(&image, offset, layout.cluster()) == content, "{what}: overwritten");
            operation.check(&view, &oracle::view(&image).unwrap(), &layout);
        }
    }
}

/// An image whose first cluster behind the end is counted, once, and that is clean all the same: no
/// check looks there. With an extension that nobody knows, it may be that extension's.
fn counted_beyond_the_end(is_known: bool) -> Option<QemuImage> {
    let image = QemuImage::create("compat=1.1", MIB)?;
    image.guest("write -P 0x11 0 256k");
    image.snapshot("a");
    image.guest("write -P 0x22 0 64k");
    image.poke(|image, layout| {
        miscount(image, layout, image.len().next_multiple_of(layout.cluster()), 1);
        if !is_known {
            add_extension(image, UNKNOWN, [0x5a; 8]);
        }
    });
    assert_eq!(image.complaint(), None);
    Some(image)
}

/// A change makes the file longer, over a cluster that was counted before. Where all references are
/// known the count is put right; else it has to stay, and both checks call the cluster a leak, as
/// they do after a change of QEMU's.
#[test]
fn a_count_beyond_the_end_is_put_right_unless_somebody_unknown_may_have_the_cluster() {
    for is_known in [true, false] {
        let Some(image) = counted_beyond_the_end(is_known) else { return };
        let new = NewSnapshot { name: b"b", least_id: 0, date_sec: 0, date_nsec: 0 };
        image.open().create_snapshot(&new, &mut CommitOptions::default()).unwrap();
        assert_eq!(leaks(&image), if is_known { (0, 0) } else { (1, 1) });
    }
    let Some(image) = counted_beyond_the_end(false) else { return };
    image.snapshot("b");
    image.snapshot("c");
    assert_eq!(leaks(&image), (1, 1), "QEMU's own change leaves the same");
}

/// How many clusters are leaked and nothing worse, as we see it and as `qemu-img check` does.
fn leaks(image: &QemuImage) -> (u64, usize) {
    let file = FileStorage::open(image.name(), Access::Read).unwrap();
    let report = check::check(&check::open(Box::new(file)).unwrap(), &mut |_| {}).unwrap();
    assert_eq!((report.corruptions, report.check_errors), (0, 0));
    let complaint = image.complaint().unwrap_or_default();
    assert!(!complaint.contains("ERROR"), "{complaint}");
    (report.leaks, complaint.matches("Leaked cluster ").count())
}
