//! Changes to disks that are as large as they can be.

use qcow2::format::snapshot::SnapshotEntry;

use crate::check::{four_million_tables, scattered};
use crate::process::{KIB, MIB, assert_bounded, is_child};
use crate::sparse::Sparse;

/// Each table took 32 bytes, beside an L1 table that was kept all the while.
#[test]
fn a_change_of_four_million_l2_tables_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    let (_directory, path) = four_million_tables().finish();
    assert_bounded(&path, &["create old", "create", "rename", "apply", "clone", "delete"]);
}

/// Counts of clusters that are nowhere like their neighbours took 246 MiB.
#[test]
fn a_change_of_268_million_small_clusters_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    let (image, ..) = scattered(16, 1);
    let (_directory, path) = image.finish();
    let all = ["grow", "create old", "rename", "apply", "clone", "delete", "check"];
    assert_bounded(&path, &all);
}

/// A leak in a quarter of the pages of counts: each of these changes.
#[test]
fn a_repair_of_268_million_small_clusters_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    let (mut image, ..) = scattered(16, 1);
    let count = 30_000;
    for nth in 0..count {
        let leak = (nth + 80) * 2048 + (nth + 7) % 2048;
        image.count(leak..leak + 1, 1);
    }
    let (_directory, path) = image.finish();
    assert_bounded(&path, &[&format!("repair leaks {count}"), "check"]);
}

/// As long a table as there may be, in very many rows and in a few with the longest names and
/// ids. It was kept once, as rows.
#[test]
fn a_change_beside_a_snapshot_table_of_62_mib_takes_at_most_64_mib() {
    if is_child() {
        return;
    }
    for (rows, text_bytes, extra_bytes) in [(65_535_u64, 6, 930), (495, 65_535, 24)] {
        let mut image = Sparse::blank(64 * KIB);
        let row = |nth: u64| {
            let text = |text: String| {
                let mut text = text.into_bytes();
                text.resize(text_bytes.max(text.len()), b'x');
                text
            };
            let name = if nth == 77 { b"old".to_vec() } else { text(format!("n{nth}")) };
            let id = text(format!("{}", nth + 1));
            let mut row = SnapshotEntry::disk_only(id, name, (1, 0), MIB);
            row.l1_offset = 64 * KIB;
            row.extra.resize(extra_bytes, 7);
            row
        };
        image.set_snapshots(&(0..rows).map(row).collect::<Vec<_>>());
        let (_directory, path) = image.finish();
        assert_bounded(&path, &["create", "rename", "apply", "clone", "delete", "grow", "check"]);
    }
}
