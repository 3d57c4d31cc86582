//! One mistake at a time, in every table.

use std::fs;

use qcow2::Repair;

use crate::bench::{Bench, change, lively, small};
use crate::damages::DAMAGES;
use crate::outcome::{Contents, Outcome, is_as_good, repair_by_qemu, repair_by_us, word};
use crate::support::layout::OFFSET;
use crate::verdict::by_qemu;

/// Damages after which the two say different things, and why that is meant.
#[rustfmt::skip]
const MEANT: &[(&str, &[Repair])] = &[
    // QEMU reads the header as a table, which a commit changes.
    ("COPIED on an L1 entry without a table", &[Repair::Leaks, Repair::All]),
    ("a second L2 table in the header", &[Repair::Leaks, Repair::All]),
    ("a snapshot's L2 table in the header", &[Repair::Leaks, Repair::All]),
    ("a snapshot's long L1 table in the header", &[Repair::Leaks, Repair::All]),
    // QEMU gives up, and marks the image as corrupt.
    ("a damaged L2 table that a snapshot shares", &[Repair::All]),
    ("an unaligned preallocated cluster and a snapshot with the disk's L1 table", &[Repair::All]),
    ("an L2 table in the rest of the header", &[Repair::All]),
    ("an L2 table in its L1 table", &[Repair::All]),
    ("reserved bits in the refcount table", &[Repair::All]),
    ("an unaligned refcount block", &[Repair::Leaks, Repair::All]),
    ("a snapshot entry without sizes", &[Repair::All]),
    // QEMU mends where things are; we leave what cannot be written elsewhere.
    (LEFT, &[Repair::All]),
    ("an unaligned preallocated cluster in an L2 table that is unaligned", &[Repair::All]),
    // QEMU tells the counts that it cannot read twice.
    ("a refcount block that no file could have", &[Repair::Leaks, Repair::All]),
    // QEMU makes the file longer, up to where the block would be, or tries to.
    ("a refcount block outside", &[Repair::All]),
    ("the only refcount block outside", &[Repair::All]),
    ("a refcount block beyond the format", &[Repair::All]),
    ("the refcount table in the header", &[Repair::All]),
    // QEMU says that it cannot free a snapshot table that is nowhere.
    ("a snapshot table past the end", &[Repair::All]),
    // The snapshot that is left out shares clusters; QEMU misses a flag that has to be set again.
    ("a snapshot entry without sizes in version 2", &[Repair::All]),
    ("a snapshot with a long id", &[Repair::All]),
    // The file grows over the place where data were, and they are counted.
    ("a file that ends before its snapshot table", &[Repair::Leaks, Repair::All]),
];

/// Where QEMU is content, and we are not.
const LEFT: &str = "an unaligned preallocated cluster, and L1 tables of snapshots that overlap";

/// Where the file grows over what was lost, of which `-r leaks` is told by the next one.
const LATER: &str = "a file that ends before its snapshot table";

#[test]
fn every_damage_is_repaired_as_qemu_repairs_it() {
    let bench = small();
    let sound = fs::read(&bench.path).unwrap();
    let (mut differ, mut wrong) = (Vec::new(), Vec::new());
    for (story, damage) in DAMAGES {
        for what in [Repair::Leaks, Repair::All] {
            fs::write(&bench.path, &sound).unwrap();
            damage(&bench);
            let (ours, qemus) = both(&bench, what, &format!("{story}, -r {}", word(what)));
            let is_meant = MEANT.iter().any(|it| it.0 == *story && it.1.contains(&what));
            if ours != qemus {
                differ.push((*story, what));
            }
            if (ours != qemus) != is_meant {
                wrong.push((*story, word(what), ours, qemus));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(MEANT.iter().all(|it| it.1.iter().all(|&what| differ.contains(&(it.0, what)))));
}

/// One bit cannot say that a block has a second owner; whoever counts where the block stands writes
/// into that owner's data.
#[test]
fn a_block_of_one_bit_counts_that_data_name_is_made_anew_elsewhere_or_not_written() {
    let bench = lively(12, "refcount_bits=1");
    change(&bench, bench.l2(), |entry| entry & !OFFSET | bench.block());
    let damaged = fs::read(&bench.path).unwrap();
    let leaks = repair_by_us(&bench.path, Repair::Leaks);
    assert!(leaks.lines.contains("need to rebuild refcount structures"), "{leaks:?}");
    assert_eq!(leaks.status, 1);
    assert!(fs::read(&bench.path).unwrap() == damaged);

    let before = Contents::of(&bench.path, &[]);
    assert_eq!(repair_by_us(&bench.path, Repair::All).status, 0);
    assert_eq!(by_qemu(&bench.path, false).status, 0);
    assert!(before.is_kept_by(&Contents::of(&bench.path, &[])));

    fs::write(&bench.path, &damaged).unwrap();
    assert_eq!(repair_by_qemu(&bench.path, Repair::All).status, 2, "qemu-img makes it anew, too");
}

/// Repairs two copies of the image, looks at both, and returns what was said.
fn both(bench: &Bench, what: Repair, story: &str) -> (Outcome, Outcome) {
    let other = tempfile::tempdir().unwrap();
    let theirs = other.path().join("image.qcow2");
    fs::copy(&bench.path, &theirs).unwrap();
    let before = Contents::of(&bench.path, &["one", "two"]);
    let (ours, qemus) = (repair_by_us(&bench.path, what), repair_by_qemu(&theirs, what));
    let after = Contents::of(&bench.path, &["one", "two"]);
    assert!(before.is_kept_by(&after), "{story}: content changed");
    let (a, b) = (by_qemu(&bench.path, false), by_qemu(&theirs, false));
    let is_left = what == Repair::All && story.starts_with(LEFT);
    assert!(
        is_as_good(a.status, b.status) != is_left,
        "{story}: {a:#?} after us, {b:#?} after qemu-img"
    );
    repeat(bench, what, story);
    (ours, qemus.about(&theirs, &bench.path))
}

/// Repairs again what a repair left, and sees that there is nothing to do.
fn repeat(bench: &Bench, what: Repair, story: &str) {
    let left = fs::read(&bench.path).unwrap();
    repair_by_us(&bench.path, what);
    let again = fs::read(&bench.path).unwrap();
    if story.contains(LATER) && what == Repair::Leaks {
        repair_by_us(&bench.path, what);
        assert!(fs::read(&bench.path).unwrap() == again, "{story}: a third repair wrote something");
        return;
    }
    let (was, is) = (left.len(), again.len());
    assert!(left == again, "{story}: the same repair of what it left wrote: {was} bytes are {is}");
}
