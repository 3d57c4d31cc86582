//! Internal snapshots: create, apply, delete, rename. Each is a goal and one commit.
//!
//! | operation | active mapping afterwards | snapshot table afterwards |
//! |---|---|---|
//! | create | the same, every cluster shared | one entry more |
//! | apply | the snapshot's | the same |
//! | delete | the same, COPIED flags anew | one entry less |
//! | rename | untouched | one name changed |

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{MAX_L1_BYTES, MAX_SNAPSHOTS, autoclear};
use crate::format::snapshot::{SnapshotEntry, too_many};
use crate::full_disk;
use crate::image::{Image, lookup};
use crate::plan::{ActiveL1, Goal, Planner, Row, SnapshotAfter, check_snapshot_l1};
use crate::transaction::{CommitOptions, Committed, commit};

/// qemu-img keeps no more of a name.
const MAX_NAME_BYTES: usize = 255;

/// A snapshot to be taken.
#[derive(Clone, Copy, Debug)]
pub struct NewSnapshot<'a> {
    /// Its name: 1 to 255 bytes without NUL, not in use.
    pub name: &'a [u8],
    /// The new id is at least this.
    pub least_id: u64,
    /// Seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
}

/// What happens to persistent bitmaps, which an apply would make wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bitmaps {
    /// An image with bitmaps is refused, as QEMU does.
    #[default]
    Refuse,
    /// They are freed and their autoclear bit is cleared, in the same commit. The header extension
    /// stays as inert bytes; QEMU drops it, with a warning, when it next opens the image.
    Drop,
}

impl Image {
    /// Takes a snapshot of the active disk. Guest content does not change.
    ///
    /// Fails without a write if the name cannot be stored or exists, if there are 65 536 snapshots,
    /// or if a reference count has reached the image's width.
    pub fn create_snapshot(
        &mut self,
        new: &NewSnapshot<'_>,
        options: &mut CommitOptions<'_>,
    ) -> Result<Committed> {
        self.ensure_changeable()?;
        if self.header.snapshot_count >= MAX_SNAPSHOTS {
            return Err(too_many());
        }
        check_name(new.name)?;
        let planner = Planner::new(self)?;
        self.ensure_free(new.name)?;
        let mut ids = Vec::new();
        self.for_snapshots(|_, entry| {
            ids.push(entry.numeric_id());
            Ok(())
        })?;
        let id = next_id(&ids, new.least_id).to_string().into_bytes();
        drop(ids);
        let date = (new.date_sec, new.date_nsec);
        let entry = SnapshotEntry::disk_only(id, new.name.to_vec(), date, self.header.size);
        let mut after = planner.carried(self.header.size);
        after.push(SnapshotAfter::New(Box::new(entry.clone())));
        let goal = Goal {
            active: Some(ActiveL1::same(&self.header)),
            snapshots: Some(after),
            ..Goal::same(&self.header)
        };
        options.snapshot = Some(entry);
        let plan = planner.plan(goal)?;
        let done = commit(self, plan, options)?;
        Ok(Committed { snapshot: options.snapshot.take(), ..done })
    }

    /// Makes the content and the size of the active disk those of a snapshot, which stays.
    /// `selector` is an id, else a name.
    ///
    /// Clusters that only the active disk used are freed. VM state that the snapshot carries stays
    /// with it and does not come into the active disk.
    pub fn apply_snapshot(
        &mut self,
        selector: &[u8],
        bitmaps: Bitmaps,
        options: &mut CommitOptions<'_>,
    ) -> Result<Committed> {
        self.ensure_changeable()?;
        let has_bitmaps = self.header.autoclear & autoclear::BITMAPS != 0;
        if has_bitmaps && bitmaps == Bitmaps::Refuse {
            let hint = "`--drop-bitmaps` gives them up: the next backup is a full one, and QEMU \
                        warns once of them";
            return Err(
                Error::new(Kind::HasBitmaps, "Device has active dirty bitmaps").with_hint(hint)
            );
        }
        let found = self.find_snapshot(selector, lookup::by_id_or_name).map_err(|error| {
            if error.kind() == Kind::SnapshotNotFound {
                Error::new(error.kind(), "Failed to load snapshot: No such file or directory")
            } else {
                error
            }
        });
        let entry = self.snapshot(found?)?;
        if let Err(error) = check_snapshot_l1(self, &entry) {
            let errno = match error.kind() {
                Kind::TooLarge => "File too large",
                _ => "Invalid argument",
            };
            return Err(Error::new(error.kind(), format!("Failed to load snapshot: {errno}"))
                .with_preface(error.reason())
                .at(entry.l1_offset));
        }
        let (size, active) = self.snapshot_disk(&entry)?;
        if size != self.header.size && self.header.version < 3 {
            return Err(Error::new(
                Kind::HasSnapshots,
                "The snapshot has another disk size, and version 2 images cannot change theirs",
            ));
        }
        let planner = Planner::new(self)?;
        // Snapshots that do not say how large their disk was mean the size of today.
        let snapshots = (size != self.header.size).then(|| planner.carried(self.header.size));
        let goal = Goal {
            size,
            active: Some(active),
            snapshots,
            drop_bitmaps: has_bitmaps,
            ..Goal::same(&self.header)
        };
        options.snapshot = Some(entry);
        let plan = planner.plan(goal)?;
        let done = commit(self, plan, options)?;
        Ok(Committed { snapshot: options.snapshot.take(), ..done })
    }

    /// Deletes the snapshot named `name` and frees what only it used. Works on a full disk: see
    /// `full_disk`.
    pub fn delete_snapshot(
        &mut self,
        name: &[u8],
        options: &mut CommitOptions<'_>,
    ) -> Result<Committed> {
        self.ensure_changeable()?;
        let index = self.find_snapshot(name, lookup::by_name)?;
        self.delete_at(index, options)
    }

    /// The same for the snapshot of that id, whatever its name is and whoever shares it.
    pub fn delete_snapshot_by_id(
        &mut self,
        id: &[u8],
        options: &mut CommitOptions<'_>,
    ) -> Result<Committed> {
        self.ensure_changeable()?;
        let index = self.find_snapshot(id, lookup::by_id)?;
        self.delete_at(index, options)
    }

    fn delete_at(&mut self, index: usize, options: &mut CommitOptions<'_>) -> Result<Committed> {
        let planner = Planner::new(self)?;
        options.snapshot = Some(self.snapshot(index)?);
        let mut after = planner.carried(self.header.size);
        after.remove(index);
        let goal = Goal {
            active: Some(ActiveL1::same(&self.header)),
            snapshots: Some(after),
            ..Goal::same(&self.header)
        };
        let plan = planner.plan(goal)?;
        let done = match commit(self, plan, options) {
            Err(error) if error.kind() == Kind::NoSpace && !options.was_refused => {
                full_disk::delete(self, index, options, error)?
            }
            result => result?,
        };
        Ok(Committed { snapshot: options.snapshot.take(), ..done })
    }

    /// Gives the snapshot that `selector` names (an id, else a name) another name. Its id stays.
    pub fn rename_snapshot(
        &mut self,
        selector: &[u8],
        name: &[u8],
        options: &mut CommitOptions<'_>,
    ) -> Result<Committed> {
        self.ensure_changeable()?;
        check_name(name)?;
        let planner = Planner::new(self)?;
        let index = self.find_snapshot(selector, lookup::by_id_or_name)?;
        let mut entry = self.snapshot(index)?;
        if entry.name != name {
            self.ensure_free(name)?;
        }
        entry.widen(self.header.size);
        entry.name = name.to_vec();
        let mut after = planner.carried(self.header.size);
        after[index] = SnapshotAfter::Kept { index, row: Row::Whole(Box::new(entry.clone())) };
        options.snapshot = Some(entry);
        let goal = Goal { snapshots: Some(after), ..Goal::same(&self.header) };
        let plan = planner.plan(goal)?;
        let done = commit(self, plan, options)?;
        Ok(Committed { snapshot: options.snapshot.take(), ..done })
    }

    /// Fails where a snapshot has that name.
    fn ensure_free(&self, name: &[u8]) -> Result<()> {
        self.for_snapshots(|_, entry| {
            if entry.name == name {
                return Err(Error::new(Kind::SnapshotExists, "A snapshot of that name exists"));
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Virtual size of a snapshot and the L1 table that an active disk of its content has. What
    /// lies above the disk's end is the snapshot's VM state and stays out.
    pub(crate) fn snapshot_disk(&self, entry: &SnapshotEntry) -> Result<(u64, ActiveL1)> {
        let size = entry.disk_size().unwrap_or(self.header.size);
        if !size.is_multiple_of(512) {
            return Err(corrupt(
                "The snapshot's disk size is not a multiple of 512",
                entry.l1_offset,
            ));
        }
        let needed = self.header.l1_entries_for(size);
        if needed.saturating_mul(8) > MAX_L1_BYTES {
            return Err(corrupt("Image is too big", entry.l1_offset));
        }
        self.ensure_l1(entry.l1_offset, entry.l1_entries)?;
        let needed = u32::try_from(needed).expect("at most 2^22 entries");
        let entries = entry.l1_entries.min(needed);
        let len = needed.max(entry.l1_entries) as usize;
        Ok((size, ActiveL1::At { offset: entry.l1_offset, entries, len }))
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    let reason = if name.is_empty() {
        "A snapshot name cannot be empty"
    } else if name.len() > MAX_NAME_BYTES {
        "A snapshot name cannot be longer than 255 bytes"
    } else if name.contains(&0) {
        "A snapshot name cannot contain NUL"
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::InvalidName, reason))
}

/// One more than the highest id, as QEMU counts, and at least `least`. Where that overflows, the
/// smallest number that no entry uses (QEMU would wrap to 0).
fn next_id(ids: &[u64], least: u64) -> u64 {
    let highest = ids.iter().copied().max().unwrap_or(0);
    if let Some(next) = highest.checked_add(1) {
        return next.max(least);
    }
    let used: std::collections::BTreeSet<_> = ids.iter().copied().collect();
    (least.max(1)..=u64::MAX).find(|id| !used.contains(id)).expect("fewer ids than numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_used_twice_even_where_qemu_would_wrap() {
        let entry =
            |id: &str| SnapshotEntry::disk_only(id.into(), Vec::new(), (0, 0), 0).numeric_id();
        assert_eq!(next_id(&[], 0), 1);
        assert_eq!(next_id(&[entry("3"), entry("12abc")], 0), 13);
        assert_eq!(next_id(&[entry("3")], 9), 9);
        assert_eq!(next_id(&[entry("-1"), entry("1"), entry("2")], 0), 3);
    }

    #[test]
    fn one_snapshot_more_than_there_may_be_is_refused_with_the_way_out() {
        use crate::storage::{RecordingStorage, Storage};
        let storage = RecordingStorage::new();
        crate::create(&storage, &crate::NewImage::default()).unwrap();
        let table = storage.len().unwrap();
        storage.set_len(table + (4 << 20)).unwrap();
        storage.write_at(&MAX_SNAPSHOTS.to_be_bytes(), 60).unwrap();
        storage.write_at(&table.to_be_bytes(), 64).unwrap();
        let mut image = Image::open(Box::new(storage)).unwrap();
        let new = NewSnapshot { name: b"more", least_id: 0, date_sec: 0, date_nsec: 0 };
        let error = image.create_snapshot(&new, &mut CommitOptions::default()).unwrap_err();
        assert_eq!((error.kind(), error.reason()), (Kind::TooManySnapshots, "File too large"));
        let hint = "an image holds 65536 snapshots and 64 MiB about them: delete one first";
        assert_eq!(error.hint.as_deref(), Some(hint));
    }
}
