//! Headers that QEMU shows and that nothing may be written by: who reads sees what QEMU shows, who
//! changes or copies is refused before anything is written. The sentences and the order in which
//! QEMU finds mistakes are compared with it by the differential tests of the command line.

mod support;

use qcow2::check;
use qcow2::storage::{RecordingStorage, SparseImage};
use qcow2::{CommitOptions, Image, NewSnapshot};

use support::fixtures::{self, Format};
use support::layout::put64;

/// One way to damage an image of 64 KiB clusters with a snapshot.
type Damage = fn(&mut SparseImage);

fn put32(image: &mut SparseImage, at: u64, value: u32) {
    image.write(&value.to_be_bytes(), at);
}

/// Puts `list` where the extensions begin.
fn extensions(image: &mut SparseImage, list: &[(u32, &[u8; 8])]) {
    let mut bytes = Vec::new();
    for (kind, data) in list {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(8_u32.to_be_bytes());
        bytes.extend(*data);
    }
    bytes.extend([0; 8]);
    image.write(&bytes, 112);
}

#[rustfmt::skip]
const SHOWN_AND_REFUSED: &[(&str, Damage, &str)] = &[
    ("a header of an odd length", |i| { put32(i, 100, 105); image_without_extensions(i); },
        "Invalid qcow2 header length"),
    ("a name of the backing file in the header", |i| { put64(i, 8, 16); put32(i, 16, 4); },
        "Invalid backing file offset"),
    ("an extension twice", |i| extensions(i, &[(7, b"one say "), (7, b"another ")]),
        "Duplicate header extension"),
    ("a refcount table in the header", |i| put64(i, 48, 0),
        "Reference count table offset invalid"),
    ("a refcount table beyond the format", |i| put64(i, 48, 1 << 56),
        "Reference count table offset invalid"),
    ("an L1 table in the header", |i| put64(i, 40, 0),
        "Active L1 table offset invalid"),
    ("an L1 table beyond the format", |i| put64(i, 40, 1 << 56),
        "Active L1 table offset invalid"),
    ("a snapshot table in the header", |i| put64(i, 64, 0),
        "Snapshot table offset invalid"),
    ("a snapshot table beyond the format", |i| put64(i, 64, 1 << 56),
        "Snapshot table offset invalid"),
    ("a snapshot table past the end", |i| put64(i, 64, 0x900_0000),
        "Snapshot table offset invalid"),
    ("a file that ends inside its header", |i| i.set_len(108),
        "qcow2 header too short"),
];

fn image_without_extensions(image: &mut SparseImage) {
    image.write(&[0; 600], 105);
}

fn image() -> SparseImage {
    fixtures::snapshot(fixtures::empty(Format::v3(65_536, 16), 1 << 20), "one")
}

#[test]
fn what_a_reader_may_look_at_a_writer_need_not_accept() {
    for (story, damage, sentence) in SHOWN_AND_REFUSED {
        let mut image = image();
        damage(&mut image);
        let storage = RecordingStorage::from_image(image);
        Image::open_to_show(Box::new(storage.clone()))
            .and_then(|image| image.listed_snapshots())
            .unwrap_or_else(|error| panic!("{story}: {error}"));
        check::open(Box::new(storage.clone())).unwrap_or_else(|error| panic!("{story}: {error}"));
        let refused = Image::open(Box::new(storage.clone())).unwrap_err();
        assert_eq!(refused.reason(), *sentence, "{story}");
    }
}

#[test]
fn a_snapshot_table_that_the_end_of_the_file_cuts_off_is_listed_and_not_changed() {
    let mut image = image();
    let table = support::layout::be64(&image, 64);
    image.set_len(table + 50);
    let storage = RecordingStorage::from_image(image.clone());
    let shown = Image::open_to_show(Box::new(storage.clone())).unwrap();
    let listed = shown.listed_snapshots().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].shown_name(), b"", "the name is behind the end");

    let mut changed = Image::open(Box::new(storage.clone())).unwrap();
    assert_eq!(changed.snapshots().unwrap_err().reason(), "Snapshot table exceeds the file");
    let new = NewSnapshot { name: b"two", least_id: 0, date_sec: 0, date_nsec: 0 };
    let error = changed.create_snapshot(&new, &mut CommitOptions::default()).unwrap_err();
    assert_eq!(error.reason(), "Snapshot table exceeds the file");
    assert_eq!(storage.operations().len(), 0, "nothing is written");
}

#[test]
fn ids_and_names_end_where_a_string_of_c_ends_and_where_qemu_cuts_them() {
    let mut image = image();
    let table = support::layout::be64(&image, 64);
    let name = table + 40 + 24 + 1;
    image.write(&[0], name + 1);
    let open = |image| Image::open(Box::new(RecordingStorage::from_image(image))).unwrap();
    let entries = open(image).snapshots().unwrap();
    assert_eq!((entries[0].shown_id(), entries[0].shown_name()), (&b"1"[..], &b"o"[..]));
    assert_eq!(entries[0].name, b"o\0e", "the table keeps it");
    assert_eq!(qcow2::lookup::by_name(&entries, b"o").unwrap(), 0);

    let mut long = entries[0].clone();
    (long.id, long.name) = (vec![b'7'; 300], vec![b'n'; 300]);
    assert_eq!((long.shown_id().len(), long.shown_name().len()), (127, 255));
    assert_eq!(qcow2::lookup::by_id_or_name(&[long], &[b'7'; 300]).unwrap(), 0);
}

/// A list of extensions that takes the work of its square is a way to make a reader hang.
#[test]
fn a_cluster_full_of_extensions_is_read_at_once() {
    let mut image = fixtures::empty(Format::v3(2 << 20, 16), 1 << 20);
    let count = ((2 << 20) - 112) / 8;
    let list: Vec<u8> =
        (1..=count).flat_map(|kind: u32| [kind.to_be_bytes(), [0; 4]].concat()).collect();
    image.write(&list, 112);
    let started = std::time::Instant::now();
    let opened = Image::open(Box::new(RecordingStorage::from_image(image))).unwrap();
    assert_eq!(opened.header().extensions.len(), list.len() / 8);
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
