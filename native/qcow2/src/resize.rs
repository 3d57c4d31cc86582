//! Growing the virtual size.

use crate::error::{Error, Kind, Result};
use crate::format::header::{MAX_L1_BYTES, autoclear};
use crate::image::Image;
use crate::plan::{ActiveL1, Goal, Planner, Unchanged};
use crate::transaction::{CommitOptions, Committed, commit};

impl Image {
    /// Makes the virtual disk `size` bytes long; what is added reads as zeros. `size` is rounded up
    /// to whole sectors of 512. One commit: size and, where needed, a longer L1 table.
    ///
    /// L1 entries above the old end (VM state that QEMU left in the active disk) are dropped first:
    /// they would become disk content. Version 2 images with snapshots are refused, as QEMU does,
    /// because their entries mean "the size of the disk now"; images with bitmaps, which cover a
    /// disk of this size and no other; images with a backing file, which would show through.
    pub fn grow(&mut self, size: u64, options: &mut CommitOptions<'_>) -> Result<Committed> {
        self.ensure_changeable()?;
        let size = size
            .checked_next_multiple_of(512)
            .ok_or_else(|| Error::new(Kind::TooLarge, "Image is too big"))?;
        if size < self.header.size {
            return Err(Error::new(
                Kind::CannotShrink,
                format!("The disk has {} bytes and cannot shrink", self.header.size),
            ));
        }
        if self.header.version < 3 && self.header.snapshot_count > 0 && size != self.header.size {
            return Err(Error::new(
                Kind::HasSnapshots,
                "Version 2 images with snapshots cannot change their size",
            ));
        }
        if self.header.autoclear & autoclear::BITMAPS != 0 && size != self.header.size {
            return Err(Error::new(Kind::HasBitmaps, "Device has active dirty bitmaps")
                .with_hint("the bitmaps describe a disk of the present size"));
        }
        if self.header.backing_file.is_some() && size != self.header.size {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "What the backing file has beyond the end of the disk would come into it",
            ));
        }
        let needed = self.header.l1_entries_for(size);
        if needed.saturating_mul(8) > MAX_L1_BYTES {
            return Err(Error::new(Kind::TooLarge, "Image is too big"));
        }
        let planner = Planner::new(self)?;
        let used = u32::try_from(self.header.l1_entries_for(self.header.size)).unwrap_or(u32::MAX);
        let needed = u32::try_from(needed).expect("at most 2^22 entries");
        let entries = self.header.l1_entries.min(used);
        let vm_state_slots = self.header.l1_entries - entries;
        let len = needed.max(used.saturating_add(vm_state_slots)) as usize;
        let active = ActiveL1::At { offset: self.header.l1_offset, entries, len };
        // Snapshots that do not say how large their disk was mean the size of today.
        let is_stated = size == self.header.size || self.header.snapshot_count == 0;
        let snapshots = (!is_stated).then(|| planner.carried(self.header.size));
        let goal = Goal {
            size,
            active: Some(active),
            snapshots,
            unchanged: Unchanged::ReadAtOnce,
            ..Goal::same(&self.header)
        };
        let plan = planner.plan(goal)?;
        commit(self, plan, options)
    }
}
