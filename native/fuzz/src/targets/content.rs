//! The L2 walk: guest content of the disk and of snapshots, wherever a reader looks.

use qcow2::{Disk, Image};

use super::within_memory;
use crate::storage::ReadOnly;

/// Eight bytes say where to read, the rest is a file.
pub fn content(bytes: &[u8]) {
    let Some((places, file)) = bytes.split_first_chunk::<8>() else { return };
    within_memory(file.len(), || read(file, *places));
}

/// Reads the beginning, the end and some places of every content that there is.
pub fn read(file: &[u8], places: [u8; 8]) {
    let Ok(image) = Image::open(Box::new(ReadOnly::new(file))) else { return };
    let snapshots = image.snapshots().map_or(0, |entries| entries.len().min(4));
    let disks = (0..snapshots).map(Disk::Snapshot).chain([Disk::Active]);
    for disk in disks {
        let Ok(mut content) = image.content(disk) else { continue };
        let cluster = image.header().cluster_bytes();
        let mut buffer = vec![0; 700];
        let clusters = content.size().div_ceil(cluster);
        let ends = [0, 1, clusters.saturating_sub(1), clusters];
        let drawn = places.map(|place| u64::from(place) * clusters.div_ceil(256).max(1));
        for number in ends.into_iter().chain(drawn) {
            let at = number.saturating_mul(cluster).min(u64::MAX - (4 << 20));
            let _ = content.is_allocated(at);
            if content.read_at(&mut buffer, at + cluster - 100).is_err() {
                continue;
            }
            let start = at + cluster - 100;
            let beyond = usize::try_from(content.size().saturating_sub(start)).unwrap_or(700);
            assert!(buffer[beyond.min(700)..].iter().all(|&b| b == 0), "content beyond the end");
        }
    }
}
