//! Changes to disks that are as large as they can be.

use crate::check::{four_million_tables, scattered};
use crate::process::{assert_bounded, is_child};

/// Each table took 32 bytes, beside an L1 table that was kept all the while.
#[test]
fn a_change_of_four_million_l2_tables_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    let (_directory, path) = four_million_tables().finish();
    assert_bounded(&path, &["create old", "create", "rename", "apply", "clone", "delete"]);
}

/// Counts of clusters that are nowhere like their neighbours took 163 MiB, and no reference changes.
#[test]
fn growing_a_disk_of_268_million_small_clusters_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    let (image, ..) = scattered(16, 1);
    let (_directory, path) = image.finish();
    assert_bounded(&path, &["grow", "check"]);
}
