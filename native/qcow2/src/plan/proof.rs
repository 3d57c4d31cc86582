//! The walk: who references what, before and after, as the tables themselves say it.
//!
//! A walk that covers every L1 table is a proof: what it did not see is nobody's, whatever its
//! count says. Without that proof space is taken only from holes and past the end of the file, and
//! nothing is punched.

use crate::error::{Error, Kind, Result};
use crate::format::header::{Header, NEW_HEADER_BYTES, autoclear, compatible, extension};
use crate::format::mapping;
use crate::refcounts::Change;

use super::goal::{Goal, Unchanged};
use super::planner::Planner;
use super::uses::{Marks, Names, Use, Uses, signed};
use super::walk::{References, reference_tables};

/// All L2 tables are read, as a proof, while those that nothing else asks for take at most this many
/// bytes.
const PROOF_BYTES: u64 = 256 << 20;
/// And this many where something may be freed: only what is proven free is given back.
const FREEING_PROOF_BYTES: u64 = 2 << 30;

/// What the walk does to NEW counts on its way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counting {
    /// Adds what changes between before and after.
    Differences,
    /// Nothing: no count changes, or all will be counted anew.
    Nothing,
    /// Adds what there is after, where nothing is counted yet.
    Anew,
}

impl Counting {
    /// How a table with these names changes what it maps.
    pub fn change(self, names: Names) -> Change {
        let delta = match self {
            Self::Differences => signed(names.after) - signed(names.before),
            Self::Nothing => 0,
            Self::Anew => signed(names.after),
        };
        Change { delta, after: names.after.min(2), fresh: false }
    }
}

/// What the walk showed.
pub(super) struct Walked {
    /// For each use, whether an entry of the table carries COPIED.
    pub any_copied: Marks,
    /// Whether every reference of the state on disk was seen that could matter.
    pub complete: bool,
    /// Whether clusters are in use that nobody references, as far as a complete walk showed.
    pub leaks: bool,
}

/// Whether nothing in an image with this header could refer to clusters in ways that a walk over its
/// tables does not know.
pub(crate) fn knows_all_references(header: &Header) -> bool {
    let known = [
        extension::BACKING_FORMAT,
        extension::FEATURE_NAMES,
        extension::ENCRYPTION,
        extension::DATA_FILE,
    ];
    header.autoclear & !autoclear::KNOWN == 0
        && header.compatible & !compatible::LAZY_REFCOUNTS == 0
        && header.header_bytes <= NEW_HEADER_BYTES
        && header.extensions.iter().all(|e| {
            known.contains(&e.kind)
                || e.kind == extension::BITMAPS && header.autoclear & autoclear::BITMAPS != 0
        })
}

impl Planner<'_> {
    /// Whether nothing in the image could refer to clusters in ways that the walk does not know.
    pub fn knows_all_references(&self) -> bool {
        knows_all_references(&self.image.header)
    }

    /// Registers every L2 table, reads those whose references change, and all of them as long as
    /// they are few enough, and registers what they map.
    pub(super) fn walk(&mut self, goal: &Goal, uses: &Uses, counting: Counting) -> Result<Walked> {
        let header = &self.image.header;
        let (storage, refcounts) = (self.storage, &mut self.refcounts);
        for u in uses.iter() {
            self.image.ensure_inside(u.offset, header.cluster_bytes(), "L2 table")?;
            // Whether the place itself stays in use is known only when the moves are chosen.
            let change = Change { after: 0, ..counting.change(u.names) };
            refcounts.claim_table(storage, u.place(header), change)?;
        }
        let needed = |u: &Use| u.names.before != u.names.after || u.names.movable != 0;
        let rest = uses.iter().filter(|u| !needed(u)).count() as u64;
        let may_free = uses.iter().any(|u| u.names.after < u.names.before);
        let most = if may_free { FREEING_PROOF_BYTES } else { PROOF_BYTES };
        // A device has no holes and no end to grow at: only what is proven free can be written.
        let worth_it = rest * header.cluster_bytes() <= most || storage.has_fixed_len();
        let worth_it = worth_it && goal.unchanged != Unchanged::Stay;
        let complete = worth_it && self.knows_all_references() || goal.recount;
        if self.storage.has_fixed_len() && !complete {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "The image has features that Calque does not know, and lies on a block device",
            ));
        }
        let wanted = |u: &Use| complete || needed(u);
        let change = |names| counting.change(names);
        // Of a disk that is walked in parts, each table is heard several times.
        let mut any_copied = Marks::none(uses.len());
        let hear = |index, copied| {
            if copied {
                any_copied.set(index);
            }
        };
        reference_tables(self.image, &mut self.refcounts, uses, wanted, change, hear)?;
        let fresh = Names { before: 0, after: 1, movable: 1 };
        self.reference_fresh(goal, counting.change(fresh))?;
        let leaks = complete && self.refcounts.has_unseen(storage)?;
        // What nobody references in the state on disk may be written, whatever its count says.
        // Snapshots that a recount drops belong to that state, and were not walked.
        if complete && (!goal.recount || goal.snapshots.is_none()) {
            self.refcounts.trust_walk();
        }
        Ok(Walked { any_copied, complete, leaks })
    }

    /// Registers what the L2 tables map that do not exist yet.
    pub(super) fn reference_fresh(&mut self, goal: &Goal, change: Change) -> Result<()> {
        if goal.fresh.is_empty() {
            return Ok(());
        }
        let change = Change { fresh: true, ..change };
        let mut references = References::new(self.image, &mut self.refcounts);
        for table in &goal.fresh {
            references.table(&mapping::encode_table(table, 0), 0, change)?;
        }
        references.finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::storage::{RecordingStorage, Storage};
    use crate::{CommitOptions, Image, NewImage, NewSnapshot, create};

    const CLUSTER: u64 = 2 << 20;
    const OTHER_TABLES: u64 = 130;

    /// A disk of which `size` bytes are this, and the rest zeros.
    fn disk(byte: u8, size: u64) -> RecordingStorage {
        let disk = RecordingStorage::new();
        disk.write_at(&[byte; 4096], 0).unwrap();
        disk.set_len(size).unwrap();
        disk
    }

    /// A snapshot of 65 TiB whose L2 tables, all in a hole, take 260 MiB.
    fn with_large_snapshot(size: u64) -> RecordingStorage {
        let storage = RecordingStorage::new();
        let new = NewImage { size, cluster_bytes: CLUSTER, ..NewImage::default() };
        create(&storage, &new).unwrap();
        let mut image = Image::open(Box::new(storage.clone())).unwrap();
        let name = |name| NewSnapshot { name, least_id: 0, date_sec: 0, date_nsec: 0 };
        image.create_snapshot(&name(b"large"), &mut CommitOptions::default()).unwrap();
        let first = storage.len().unwrap().div_ceil(CLUSTER);
        let l1 = image.snapshots().unwrap()[0].l1_offset;
        let mut block = [0; 8];
        storage.read_at(&mut block, image.header.refcount_table_offset).unwrap();
        for table in first..first + OTHER_TABLES {
            storage.write_at(&(table * CLUSTER).to_be_bytes(), l1 + (table - first) * 8).unwrap();
            let count = u64::from_be_bytes(block) + table * 2;
            storage.write_at(&1_u16.to_be_bytes(), count).unwrap();
        }
        storage.set_len((first + OTHER_TABLES) * CLUSTER).unwrap();
        storage
    }

    /// Whoever deletes a snapshot wants its space back. On a disk of a terabyte with four snapshots
    /// that had come to differ, the file stayed as large as it was.
    #[test]
    fn a_deletion_gives_space_back_beside_snapshots_with_very_many_tables() {
        let size = OTHER_TABLES * (CLUSTER / 8) * CLUSTER;
        let storage = with_large_snapshot(size);
        let mut image = Image::open(Box::new(storage)).unwrap();
        let options = &mut CommitOptions::default();
        image.write_content(&disk(1, size), options).unwrap();
        let new = NewSnapshot { name: b"small", least_id: 0, date_sec: 0, date_nsec: 0 };
        let created = image.create_snapshot(&new, options).unwrap();
        assert_eq!(created.punched_bytes, 0, "not worth the walk");
        image.write_content(&disk(2, size), options).unwrap();
        let deleted = image.delete_snapshot(b"small", options).unwrap();
        // Its data, its tables, and what the commit replaced.
        assert!(deleted.punched_bytes > 4 * CLUSTER, "{}", deleted.punched_bytes);
    }
}
