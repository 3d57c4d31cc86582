//! Which L2 tables a repair mends: those in which a zero cluster keeps a place that is none.
//!
//! Such an entry loses the place, which nobody reads, and with it its references. The table is written
//! anew, and every L1 table that names it; so all of these have to be tables that can be.

use super::entries::Geometry;
use super::names::Named;

/// Whose L2 tables are mended. What somebody names whose L1 table stays is left as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mending {
    /// The active disk's.
    pub active: bool,
    /// Those of snapshots.
    pub snapshots: bool,
}

impl Mending {
    /// Whether a table is mended, if anything in it can be.
    pub fn covers(self, geometry: &Geometry, named: &Named) -> bool {
        let Named { offset, times, active_times } = *named;
        // At offset 0 there is no table, whatever follows such an entry: the header is there.
        offset != 0
            && geometry.is_aligned(offset)
            && offset < geometry.file_bytes
            // Else no count can say how often the new one is named.
            && times <= geometry.max_refcount
            && (self.active || active_times == 0)
            && (self.snapshots || active_times == times)
    }
}

/// The tables that are mended.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// Ascending.
    pub tables: Vec<Named>,
    /// Their entries that lose a place.
    pub entries: u64,
    /// Lines about these entries: there may be a second one, which is settled by that, too.
    pub lines: u64,
}

impl Mended {
    /// Position of the table at `offset`; none where that one is not mended.
    pub fn position(&self, offset: u64) -> Option<usize> {
        self.tables.binary_search_by_key(&offset, |table| table.offset).ok()
    }

    /// The table at `offset`, if it is mended.
    pub fn table(&self, offset: u64) -> Option<&Named> {
        self.position(offset).map(|position| &self.tables[position])
    }
}
