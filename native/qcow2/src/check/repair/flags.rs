//! Which COPIED flags of the active mapping will be wrong, once the counts are right.
//!
//! A check compares them with the counts on disk; a repair has to compare them with the counts that
//! it is about to write.

use crate::check::census;
use crate::check::entries::{self, Geometry, L2Entry};
use crate::check::mending::Mended;
use crate::check::steps::L1;
use crate::check::stored::Counts;
use crate::error::Result;
use crate::format::mapping::OFFSET_MASK;
use crate::image::Reader;

/// An L2 table of the active disk with wrong flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Miscopied {
    /// Host offset.
    pub offset: u64,
    /// Entries of the active L1 table that name it.
    pub times: u64,
}

/// How often the flags of a table are told that several L1 entries name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    /// Each time.
    EachTime,
    /// Once: after that they are repaired.
    Once,
}

/// What is wrong.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// Wrong entries of the active L1 table.
    pub l1: u64,
    /// L2 tables with wrong entries, ascending.
    pub tables: Vec<Miscopied>,
    /// Wrong entries of both, as often as they are told.
    pub count: u64,
}

impl Flags {
    /// Reads every L2 table of the active disk once, in ascending order.
    pub fn find(
        geometry: Geometry,
        reader: Reader<'_>,
        counts: &impl Counts,
        active: L1,
        mended: &Mended,
        times: Times,
    ) -> Result<Self> {
        let mut flags = Self::default();
        let mut named: Vec<Miscopied> = Vec::new();
        census::sweep(reader, &[active], |_, entry, _, _| {
            let offset = entry & OFFSET_MASK;
            if census::l1_contradiction(&geometry, entry, counts).is_some() {
                flags.l1 += 1;
            }
            // What does not start on a cluster cannot be written anew, and stays an error.
            let can_move = geometry.is_aligned(offset) || times == Times::EachTime;
            if offset != 0 && offset < geometry.file_bytes && can_move {
                named.push(Miscopied { offset, times: 1 });
            }
            Ok(())
        })?;
        named.sort_unstable_by_key(|table| table.offset);
        named.dedup_by(|next, kept| {
            let same = next.offset == kept.offset;
            kept.times += if same { next.times } else { 0 };
            same
        });
        flags.count = flags.l1;
        let mut bytes = vec![0; 1 << geometry.cluster_bits];
        for table in named {
            let is_unknown = counts.count(table.offset >> geometry.cluster_bits).is_none();
            let is_named_too_often = table.times > geometry.max_refcount && times == Times::Once;
            if is_unknown || is_named_too_often {
                continue;
            }
            reader.fill(&mut bytes, table.offset)?;
            let is_mended = mended.table(table.offset).is_some();
            let is_wrong = |entry: &L2Entry| {
                let word = entry.word;
                let stays = !is_mended || !entries::can_be_mended(&geometry, *entry);
                stays
                    && word != 0
                    && entries::copied_contradiction(&geometry, word, counts).is_some()
            };
            let wrong = L2Entry::all(&geometry, &bytes).filter(is_wrong).count() as u64;
            if wrong > 0 {
                flags.count += if times == Times::Once { wrong } else { wrong * table.times };
                flags.tables.push(table);
            }
        }
        Ok(flags)
    }

    /// Offsets of the tables, ascending.
    pub fn offsets(&self) -> Vec<u64> {
        self.tables.iter().map(|table| table.offset).collect()
    }
}
