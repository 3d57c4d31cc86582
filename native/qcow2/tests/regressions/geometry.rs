//! New images of odd sizes.

use qcow2::storage::RecordingStorage;
use qcow2::{Image, NewImage};

use crate::support::qemu::{self, Workshop};
use crate::tools::MIB;

/// Creates an image in memory; says what the library's own check has against it.
fn complaint(new: &NewImage) -> (RecordingStorage, Option<String>) {
    let storage = RecordingStorage::new();
    if let Err(error) = qcow2::create(&storage, new) {
        return (storage, Some(error.to_string()));
    }
    let mut problems = Vec::new();
    let checked = Image::open(Box::new(storage.clone())).and_then(|image| {
        qcow2::check::check(&image, &mut |problem| problems.push(problem.clone()))
    });
    let complaint = match checked {
        Err(error) => Some(error.to_string()),
        Ok(report) => (report.corruptions + report.leaks + report.check_errors > 0)
            .then(|| format!("{report:?} {:?}", problems.first())),
    };
    (storage, complaint)
}

fn new(cluster_bytes: u64, refcount_bits: u32, size: u64) -> NewImage {
    NewImage { size, cluster_bytes, refcount_bits, ..NewImage::default() }
}

/// A larger refcount table moves the blocks, and its own clusters need counting: where both numbers
/// stepped at once, the table had one cluster too few, and its last entries lay in the first block.
#[test]
fn the_size_that_broke_and_its_neighbours_are_clean_for_qemu_too() {
    const SIZE: u64 = 67_637_346_304;
    let span = 512 / 8 * 512;
    let workshop = qemu::is_installed().then(Workshop::new);
    for steps in (0..3).chain([63, 64, 65, 128, 4096]) {
        for size in [SIZE + steps * span, SIZE - steps * span] {
            let (storage, complaint) = complaint(&new(512, 64, size));
            assert_eq!(complaint, None, "size {size}");
            if let Some(workshop) = &workshop {
                let path = workshop.put("image.qcow2", &storage.cached());
                assert_eq!(qemu::complaint(&path), None, "size {size}");
            }
        }
    }
}

/// Largest L1 table, in clusters, whose image gets by with `blocks` refcount blocks.
fn l1_clusters_for(blocks: u64, cluster_bytes: u64, refcount_bits: u32) -> u64 {
    let counted = blocks * cluster_bytes * 8 / u64::from(refcount_bits);
    let table = (blocks * 8).div_ceil(cluster_bytes);
    counted.saturating_sub(1 + table + blocks)
}

/// The same mistake was possible wherever block and table counts step.
#[test]
fn every_step_of_blocks_and_tables_gives_a_clean_image() {
    let mut images = 0;
    for cluster_bytes in [512, 1024, 2048, 4096] {
        let limit = 32 * MIB / cluster_bytes;
        let per_table = cluster_bytes / 8;
        for refcount_bits in [1, 2, 4, 8, 16, 32, 64] {
            // Where a table is full, a block more or less; and the first blocks.
            let full = (1..=20).map(|tables| tables * per_table);
            let blocks = full.flat_map(|blocks| blocks - 1..=blocks + 1).chain(1..4);
            for blocks in blocks {
                let edge = l1_clusters_for(blocks, cluster_bytes, refcount_bits);
                for l1_clusters in edge.saturating_sub(1)..=edge + 2 {
                    if l1_clusters == 0 || l1_clusters > limit {
                        continue;
                    }
                    let size = l1_clusters * per_table * per_table * cluster_bytes;
                    let new = new(cluster_bytes, refcount_bits, size);
                    assert_eq!(complaint(&new).1, None, "{new:?}");
                    images += 1;
                }
            }
        }
    }
    assert!(images > 300, "{images} images");
}
