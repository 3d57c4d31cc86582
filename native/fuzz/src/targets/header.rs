//! Header, extensions, bitmaps and snapshot list, as everybody reads them who opens a file.

use qcow2::format::header::{Header, Purpose};
use qcow2::{Image, check};

use super::within_memory;
use crate::storage::ReadOnly;

/// `bytes` are a file.
pub fn header(bytes: &[u8]) {
    within_memory(bytes.len(), || {
        parse(bytes);
        show(bytes);
    });
}

/// Reads the first cluster. What was read and not changed is written as it was.
fn parse(bytes: &[u8]) {
    let mut sector = [0; 512];
    let present = bytes.len().min(512);
    sector[..present].copy_from_slice(&bytes[..present]);
    let Ok(bits) = Header::peek_cluster_bits(&sector) else { return };
    let mut cluster = vec![0; 1 << bits];
    let present = bytes.len().min(cluster.len());
    cluster[..present].copy_from_slice(&bytes[..present]);
    let read = [Purpose::Use, Purpose::Check].map(|purpose| Header::read(&cluster, purpose));
    let sound = Header::parse(&cluster, bytes.len() as u64);
    if let Ok(header) = &sound {
        assert!(read.iter().all(Result::is_ok), "sound, and yet not to be shown: {header:?}");
        assert!(header.refcount_table_offset > 0);
    }
    if read[0].is_ok() {
        assert!(read[1].is_ok(), "can be used and not be checked");
    }
    for header in read.iter().flatten().chain(&sound) {
        assert_eq!(header.sector(), sector, "what nobody changed is changed");
        assert!((9..=21).contains(&header.cluster_bits) && header.refcount_order <= 6);
        assert!(header.header_bytes as usize <= cluster.len());
        let longest = "x".repeat(1023);
        for name in ["", "a", &longest] {
            for (at, bytes) in header.with_backing_file(name.as_bytes()).into_iter().flatten() {
                assert!(at + bytes.len() as u64 <= header.cluster_bytes());
            }
            if header.version == 2 {
                let Some(upgraded) = header.upgraded(Some(name.as_bytes())) else { continue };
                let mut cluster = upgraded;
                cluster.resize(1 << bits, 0);
                let after = Header::read(&cluster, Purpose::Check);
                let extensions = after.map(|after| after.extensions);
                assert_eq!(extensions.expect("a header of version 3"), header.extensions);
            }
        }
    }
}

/// Opens the file as `info`, `snapshot -l`, `check` and changes do.
fn show(bytes: &[u8]) {
    let file = ReadOnly::new(bytes);
    let shown = Image::open_to_show(Box::new(file.clone()));
    if let Ok(image) = &shown {
        assert!(image.is_current().expect("no error to meet"));
        let listed = image.listed_snapshots();
        let all = image.snapshots();
        if let (Ok(listed), Ok(all)) = (listed, all) {
            assert!(listed.is_empty() || listed == all, "two lists of snapshots");
        }
        let _ = image.ensure_changeable();
    }
    let _ = check::open(Box::new(file.clone()));
    let _ = Image::open(Box::new(file));
}
