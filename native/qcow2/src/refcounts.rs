//! Reference counts in memory: OLD as the disk has them, NEW as a commit will write them.
//!
//! Blocks are loaded when first asked for; what is kept of them is NEW, and of OLD only "in use or
//! not", because that is what allocation needs. Beside it stand bits for what this command has
//! seen: who is a table, who is referenced, and who still will be after the commit. A count is a
//! belief; a walk is knowledge. Nothing here writes.
//!
//! | file | knows |
//! |---|---|
//! | `batch` | references that are counted place by place |
//! | `bits` | one bit for each of some clusters |
//! | `blocks` | the blocks that are loaded, page by page |
//! | `counts` | counts in as few bits as they need |
//! | `packed` | pages of which there are very many |
//! | `page` | what is known of some neighbouring clusters |
//! | `runs` | bits as runs of clusters |
//!
//! Memory is about five bits a cluster that is counted and differs from its neighbours, and next to
//! nothing for others. Where there are very many clusters, pages are packed while nobody changes them.

mod batch;
mod bits;
mod blocks;
mod counts;
mod packed;
mod page;
mod runs;

use std::ops::Range;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{MAX_REFCOUNT_TABLE_BYTES, SECTOR_BYTES};
use crate::format::mapping;
use crate::format::refcount::RefcountOrder;
use crate::image::Image;
use crate::storage::Storage;

pub(crate) use batch::{Batch, Clusters};
pub(crate) use bits::{Bits, masks, runs};
use blocks::{Blocks, Room, Slot};
pub(crate) use counts::{Counts, OutOfRange};
pub(crate) use page::PAGE_CLUSTERS;
use page::{Page, Refusal, Role};
use runs::Runs;

/// A sector that is replaced where it stands.
#[derive(Debug)]
pub(crate) struct EditedSector {
    /// Where, in bytes.
    pub offset: u64,
    /// What it holds.
    pub old: [u8; SECTOR_BYTES],
    /// What it shall hold.
    pub new: [u8; SECTOR_BYTES],
}

/// How a reference changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Added to the count of each cluster.
    pub delta: i64,
    /// References of this kind in the state after the commit; 2 for more of them, so that there are
    /// few kinds.
    pub after: u64,
    /// Whether a table of this command makes the reference, and may name what was taken.
    pub fresh: bool,
}

/// The reference counts of an image.
#[derive(Debug)]
pub(crate) struct Refcounts {
    order: RefcountOrder,
    cluster_bits: u32,
    block_bits: u32,
    /// Host offset of each block on disk; 0 where there is none.
    table: Vec<u64>,
    /// Where each is in `blocks`, once it is loaded.
    slots: Vec<Option<Slot>>,
    blocks: Blocks,
    /// The walk saw every reference of the state on disk.
    walk_is_complete: bool,
}

impl Refcounts {
    /// Reads the refcount table. Fails where an entry has reserved bits, lies outside the file, or
    /// is named twice.
    pub fn load(image: &Image) -> Result<Self> {
        let header = image.header();
        let cluster_bytes = header.cluster_bytes();
        let length = u64::from(header.refcount_table_clusters) * cluster_bytes;
        let bytes =
            image.read_table_bytes(header.refcount_table_offset, length, "Refcount table")?;
        let mut table = mapping::decode_table(&bytes);
        let used = table.iter().rposition(|&offset| offset != 0).map_or(0, |last| last + 1);
        table.truncate(used);
        for &offset in table.iter().filter(|&&offset| offset != 0) {
            image.ensure_inside(offset, cluster_bytes, "Refcount block")?;
        }
        let mut sorted: Vec<_> = table.iter().copied().filter(|&offset| offset != 0).collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(corrupt("Refcount block named twice", twice[0]));
        }
        Ok(Self::standing(image, table))
    }

    /// Counts whose blocks stand where `table` says, for a repair that has looked at all of them.
    pub fn standing(image: &Image, table: Vec<u64>) -> Self {
        let header = image.header();
        let order = RefcountOrder::new(header.refcount_order);
        let block_bits = order.block_bits(header.cluster_bits);
        let packs = blocks::packs(image.file_bytes >> header.cluster_bits);
        Self {
            order,
            cluster_bits: header.cluster_bits,
            block_bits,
            slots: vec![None; table.len()],
            table,
            blocks: Blocks::new(order, block_bits, packs),
            walk_is_complete: false,
        }
    }

    /// The same, before anything was loaded, with packed pages or without, however few there are.
    #[cfg(test)]
    pub fn packed(mut self, packs: bool) -> Self {
        self.blocks = Blocks::new(self.order, self.block_bits, packs);
        self
    }

    /// Whether pages are packed as long as nobody changes them.
    pub fn packs(&self) -> bool {
        self.blocks.packs()
    }

    /// Gives block `index` the NEW counts `bytes`. OLD is in use where `in_use` says so, by the
    /// entry in the block: nothing is placed there.
    pub fn replace(
        &mut self,
        index: usize,
        bytes: &[u8],
        in_use: impl Fn(usize) -> bool,
    ) -> Result<()> {
        self.reach(index)?;
        self.slots[index] = Some(self.blocks.replace(bytes, in_use));
        Ok(())
    }

    /// Makes the table long enough for block `index`.
    fn reach(&mut self, index: usize) -> Result<()> {
        if index as u64 >= MAX_REFCOUNT_TABLE_BYTES / 8 {
            return Err(Error::new(Kind::TooLarge, "File too large"));
        }
        if index >= self.table.len() {
            self.table.resize(index + 1, 0);
            self.slots.resize(index + 1, None);
        }
        Ok(())
    }

    /// Where block `index` stands on disk, which the table has; none where there is no such block.
    pub fn block_offset(&self, index: usize) -> Option<u64> {
        Some(self.table[index]).filter(|&offset| offset != 0)
    }

    /// Clusters that one block counts.
    pub fn block_entries(&self) -> u64 {
        1 << self.block_bits
    }

    /// Entries of the table that are in use, without trailing empty ones.
    pub fn table_entries(&self) -> usize {
        self.table.len()
    }

    /// The block that counts `cluster`, and which one there that is.
    #[inline]
    fn locate(&self, cluster: u64) -> (usize, usize) {
        let block = usize::try_from(cluster >> self.block_bits).unwrap_or(usize::MAX);
        let entry = usize::try_from(cluster & (self.block_entries() - 1)).expect("at most 2^24");
        (block, entry)
    }

    /// Loads block `index`; none where the table has no such block.
    fn block(&mut self, storage: &dyn Storage, index: usize) -> Result<Option<Slot>> {
        if let Some(slot) = self.loaded(index) {
            return Ok(Some(slot));
        }
        let offset = self.table.get(index).copied().unwrap_or(0);
        if offset == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; 1 << self.cluster_bits];
        storage.read_at(&mut bytes, offset)?;
        let slot = self.blocks.load(&bytes);
        self.slots[index] = Some(slot);
        Ok(Some(slot))
    }

    /// A block that was loaded or made by this command.
    #[inline]
    fn loaded(&self, index: usize) -> Option<Slot> {
        self.slots.get(index).copied().flatten()
    }

    /// Whether a block counts nothing. One in a hole is not even read: a sparse file of a few pages
    /// may name very many.
    fn is_empty_block(&self, storage: &dyn Storage, index: usize) -> Result<bool> {
        let offset = self.table[index];
        let end = offset.saturating_add(1 << self.cluster_bits);
        if offset == 0 || storage.data_ranges(offset..end)?.is_empty() {
            return Ok(true);
        }
        let mut bytes = vec![0; 1 << self.cluster_bits];
        storage.read_at(&mut bytes, offset)?;
        Ok(bytes.iter().all(|&byte| byte == 0))
    }

    /// NEW count of `cluster`, 0 where no block counts it, and whether the state after the commit was
    /// seen to reference it more than once.
    fn known(&mut self, storage: &dyn Storage, cluster: u64) -> Result<(u64, bool)> {
        let (index, entry) = self.locate(cluster);
        let (page, entry) = self.blocks.locate(entry);
        let slot = self.block(storage, index)?;
        Ok(slot.map_or((0, false), |slot| self.blocks.count(slot, page, entry)))
    }

    /// NEW count of `cluster`; 0 where no block counts it.
    pub fn count(&mut self, storage: &dyn Storage, cluster: u64) -> Result<u64> {
        Ok(self.known(storage, cluster)?.0)
    }

    /// Whether `cluster` is referenced exactly once after the commit. Fails as corrupt where its
    /// count says so and the walk saw more: a guest would write into what others read.
    pub fn is_private(&mut self, storage: &dyn Storage, cluster: u64) -> Result<bool> {
        match self.known(storage, cluster)? {
            (1, true) => Err(too_low(cluster << self.cluster_bits)),
            (count, _) => Ok(count == 1),
        }
    }

    /// The page of `cluster`, to be changed. Fails as corrupt where no block counts it.
    fn page(&mut self, storage: &dyn Storage, cluster: u64, changes: Changes) -> Result<&mut Page> {
        let offset = cluster << self.cluster_bits;
        let (index, entry) = self.locate(cluster);
        let slot = self
            .block(storage, index)?
            .ok_or_else(|| corrupt(format!("Cluster at {offset:#x} is not counted"), offset))?;
        if changes == Changes::Counts {
            self.blocks.set_dirty(slot);
        }
        let (page, _) = self.blocks.locate(entry);
        Ok(self.blocks.open(slot, page))
    }

    /// Calls `apply` on each page that `clusters` touch: with the part of it, and whether NEW
    /// changes. Fails as corrupt where no block counts them, and where `apply` refuses one.
    fn for_pages(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
        changes: Changes,
        mut apply: impl FnMut(&mut Page, Range<usize>) -> Result<(), (usize, Refusal)>,
    ) -> Result<()> {
        let (bits, order, len) = (self.cluster_bits, self.order, self.blocks.page_len());
        let mut first = clusters.start;
        while first < clusters.end {
            let (_, entry) = self.blocks.locate(self.locate(first).1);
            let count = ((len - entry) as u64).min(clusters.end - first);
            let end = entry + usize::try_from(count).expect("at most a page");
            apply(self.page(storage, first, changes)?, entry..end).map_err(|(index, why)| {
                refused(order, first - entry as u64 + index as u64, bits, why)
            })?;
            first += count;
        }
        Ok(())
    }

    /// Registers a table of the image. Fails where it overlaps another, or is counted free.
    pub fn claim_table(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
        change: Change,
    ) -> Result<()> {
        let order = self.order;
        self.for_pages(storage, clusters, change.into(), |page, range| {
            page.reference(range, Role::Table, change, order)
        })
    }

    /// Registers data that L2 entries own, now or when [`settle`](Self::settle) is called: before,
    /// nothing may be asked. Fails where they overlap a table, or are counted free.
    pub fn reference_data(
        &mut self,
        storage: &dyn Storage,
        clusters: Clusters<'_>,
        change: Change,
    ) -> Result<()> {
        self.blocks.expect_waiting();
        let (bits, order) = (self.cluster_bits, self.order);
        let (first, words) = match clusters {
            Clusters::Run(run) => {
                return self.for_pages(storage, run, change.into(), |page, range| {
                    page.reference_later(masks(range), change, order)
                });
            }
            Clusters::Set { first, words } => (first, words),
        };
        let most = self.blocks.page_len() / 64;
        for (words, first) in words.chunks(most).zip((first..).step_by(most * 64)) {
            let Some(any) = words.iter().position(|&word| word != 0) else { continue };
            let lowest = first + any as u64 * 64 + u64::from(words[any].trailing_zeros());
            let named = words.iter().copied().enumerate().filter(|it| it.1 != 0);
            self.page(storage, lowest, change.into())?
                .reference_later(named, change, order)
                .map_err(|(index, why)| refused(order, first + index as u64, bits, why))?;
        }
        Ok(())
    }

    /// Registers the data that wait for it, and gives back the memory of counts that have become
    /// alike. Fails as [`reference_data`](Self::reference_data).
    pub fn settle(&mut self) -> Result<()> {
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(slot) = *slot else { continue };
            let first = (index as u64) << self.block_bits;
            self.blocks.settle(slot).map_err(|(entry, why)| {
                refused(self.order, first + entry as u64, self.cluster_bits, why)
            })?;
        }
        self.blocks.have_settled();
        Ok(())
    }

    /// Changes counts without registering anything: for tables that a commit frees or takes.
    pub fn add(&mut self, storage: &dyn Storage, clusters: Range<u64>, delta: i64) -> Result<()> {
        let order = self.order;
        let change = Change { delta, after: 0, fresh: false };
        self.for_pages(storage, clusters, change.into(), |page, range| {
            let refused = |(index, why)| (index, Refusal::Count(why));
            page.counts.add(range, delta, order).map_err(refused)
        })
    }

    /// Marks clusters as taken, so that nothing else is placed there, and creates the blocks that
    /// count them where there are none.
    pub fn take(&mut self, storage: &dyn Storage, clusters: Range<u64>) -> Result<()> {
        self.cover(storage, clusters.clone())?;
        self.for_pages(storage, clusters, Changes::Marks, |page, range| {
            page.take(range);
            Ok(())
        })
    }

    /// Counts free clusters as used once and returns the sectors of the blocks on disk that change
    /// by it: where they stand, as they are, as they shall be.
    pub fn raised_sectors(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
    ) -> Result<Vec<EditedSector>> {
        let mut places = Vec::new();
        for cluster in clusters.clone() {
            let (index, entry) = self.locate(cluster);
            let sector = (entry << self.order.get()) / 8 / SECTOR_BYTES;
            if places.last() != Some(&(index, sector)) {
                places.push((index, sector));
            }
        }
        let sectors = |this: &Self| -> Vec<(u64, [u8; SECTOR_BYTES])> {
            let sector = |&(index, sector): &(usize, usize)| {
                let (bytes, offset) = (this.block_bytes(index), this.table[index]);
                let at = sector * SECTOR_BYTES;
                let bytes = bytes[at..at + SECTOR_BYTES].try_into().expect("a sector");
                (offset + at as u64, bytes)
            };
            places.iter().map(sector).collect()
        };
        // Loads the blocks, and fails where there is none.
        self.add(storage, clusters.clone(), 0)?;
        let old = sectors(self);
        self.add(storage, clusters, 1)?;
        let edited = |((offset, old), (_, new))| EditedSector { offset, old, new };
        Ok(old.into_iter().zip(sectors(self)).map(edited).collect())
    }

    /// Makes sure that blocks exist for `clusters` and that they will be written.
    pub fn cover(&mut self, storage: &dyn Storage, clusters: Range<u64>) -> Result<()> {
        if clusters.is_empty() {
            return Ok(());
        }
        let (first, last) = (self.locate(clusters.start).0, self.locate(clusters.end - 1).0);
        self.reach(last)?;
        for index in first..=last {
            if let Some(slot) = self.block(storage, index)? {
                self.blocks.set_dirty(slot);
            } else {
                self.slots[index] = Some(self.blocks.make(self.block_entries()));
            }
        }
        Ok(())
    }

    /// Indices of the blocks that a commit has to write, ascending.
    pub fn dirty_blocks(&self) -> impl Iterator<Item = usize> {
        let is_dirty =
            |&index: &usize| self.loaded(index).is_some_and(|slot| self.blocks.is_dirty(slot));
        (0..self.slots.len()).filter(is_dirty)
    }

    /// A loaded block as it will be on disk.
    pub fn block_bytes(&self, index: usize) -> Vec<u8> {
        let mut bytes = vec![0; 1 << self.cluster_bits];
        self.blocks.encode(self.loaded(index).expect("loaded"), &mut bytes);
        bytes
    }

    /// The table with `moved` blocks at their new places.
    pub fn table_with(&self, moved: &[(usize, u64)]) -> Vec<u64> {
        let mut table = self.table.clone();
        for &(index, offset) in moved {
            table[index] = offset;
        }
        table
    }

    /// Sets every NEW count to zero, for a recount.
    pub fn clear(&mut self, storage: &dyn Storage) -> Result<()> {
        for index in 0..self.table.len() {
            if self.slots[index].is_none() && self.is_empty_block(storage, index)? {
                continue;
            }
            if let Some(slot) = self.block(storage, index)? {
                self.blocks.clear(slot);
            }
        }
        Ok(())
    }

    /// Notes that the state after the commit references `clusters`.
    pub fn keep(&mut self, storage: &dyn Storage, clusters: Range<u64>) -> Result<()> {
        self.for_pages(storage, clusters, Changes::Marks, |page, range| {
            page.keep(range);
            Ok(())
        })
    }

    /// Whether clusters are in use that nobody was seen to reference. Only after a complete walk
    /// are these leaks.
    pub fn has_unseen(&self, storage: &dyn Storage) -> Result<bool> {
        for index in 0..self.table.len() {
            let any = match self.loaded(index) {
                Some(slot) => {
                    let look = |_, page: &Page| {
                        let unseen = |n| page.in_use.word(n) & !page.seen.word(n) != 0;
                        if (0..page.words()).any(unseen) { Err(()) } else { Ok(()) }
                    };
                    self.blocks.for_pages(slot, look).is_err()
                }
                None => !self.is_empty_block(storage, index)?,
            };
            if any {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Shows the runs of these clusters, ascending.
    pub fn for_unseen(
        &mut self,
        storage: &dyn Storage,
        visit: impl FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        self.for_runs(storage, visit, |page, n| page.in_use.word(n) & !page.seen.word(n))
    }

    /// Shows the runs of clusters that a copy needs to become the planned state, ascending: what is
    /// in use and either a table, or still counted.
    pub fn for_needed(
        &mut self,
        storage: &dyn Storage,
        visit: impl FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        self.for_runs(storage, visit, |page, n| {
            page.in_use.word(n) & (page.metadata.word(n) | page.counts.non_zero(n))
        })
    }

    /// Shows the runs of clusters that `bits` says of each word of all pages.
    fn for_runs(
        &mut self,
        storage: &dyn Storage,
        visit: impl FnMut(Range<u64>) -> Result<()>,
        bits: impl Fn(&Page, usize) -> u64,
    ) -> Result<()> {
        let mut runs = Runs::new(visit);
        for index in 0..self.table.len() {
            // A block of zeros is not worth keeping: a sparse file may name very many of them.
            if self.slots[index].is_none() && self.is_empty_block(storage, index)? {
                continue;
            }
            let Some(slot) = self.block(storage, index)? else { continue };
            let first = (index as u64) << self.block_bits;
            self.blocks.for_pages(slot, |entry, page| {
                let first = first + entry as u64;
                (0..page.words())
                    .try_for_each(|word| runs.push(first + word as u64 * 64, bits(page, word)))
            })?;
        }
        runs.finish()
    }

    /// Shows the runs of clusters that the commit frees, ascending: OLD in use, NEW zero. Fails as
    /// corrupt where the state after the commit still references one: its count lied.
    pub fn for_freed(&self, visit: impl FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        let mut runs = Runs::new(visit);
        for index in self.dirty_blocks() {
            let first = (index as u64) << self.block_bits;
            self.blocks.for_pages(self.loaded(index).expect("dirty"), |entry, page| {
                for word in 0..page.words() {
                    let in_use = page.in_use.word(word);
                    if in_use == 0 {
                        continue;
                    }
                    let zero = in_use & !page.counts.non_zero(word);
                    let first = first + entry as u64 + word as u64 * 64;
                    let lied = zero & page.kept.word(word);
                    if lied != 0 {
                        let cluster = first + u64::from(lied.trailing_zeros());
                        return Err(too_low(cluster << self.cluster_bits));
                    }
                    runs.push(first, zero)?;
                }
                Ok(())
            })?;
        }
        runs.finish()
    }

    /// From now on what the walk did not see is free, even if it is counted: a leak. Without this,
    /// a full disk whose leaks give no block back would stay full.
    pub fn trust_walk(&mut self) {
        self.walk_is_complete = true;
    }

    /// First run of `count` clusters inside `within` that starts on a multiple of `align`, was free
    /// on disk (unless the walk is to be trusted), and was seen by nobody. Clusters that no block
    /// counts are free.
    pub fn find_free(
        &mut self,
        storage: &dyn Storage,
        within: Range<u64>,
        count: u64,
        align: u64,
    ) -> Result<Option<u64>> {
        let trusts_walk = self.walk_is_complete;
        let (block_entries, len) = (self.block_entries(), self.blocks.page_len());
        let mut start = within.start.next_multiple_of(align);
        let mut at = start;
        let mut room = Room::default();
        while start.checked_add(count).is_some_and(|end| end <= within.end) {
            if at == start + count {
                return Ok(Some(start));
            }
            let (index, entry) = self.locate(at);
            let Some(slot) = self.block(storage, index)? else {
                at += (block_entries - entry as u64).min(start + count - at);
                continue;
            };
            let left = ((len - entry % len) as u64).min(start + count - at);
            let Some(page) = self.blocks.view(slot, entry / len, &mut room) else {
                at += left;
                continue;
            };
            let word = entry % len / 64;
            let believed = if trusts_walk { 0 } else { page.in_use.word(word) };
            let word = believed | page.seen.word(word) | page.taken.word(word);
            let bit = entry % 64;
            let in_word = (64 - bit as u64).min(left);
            let free = u64::from((word >> bit).trailing_zeros()).min(in_word);
            if free == in_word {
                at += in_word;
            } else {
                // Skip the used clusters that follow in this word.
                let used = u64::from((!(word >> bit >> free)).trailing_zeros()).max(1);
                let used = used.min(64 - bit as u64 - free);
                start = (at + free + used).next_multiple_of(align);
                at = start;
            }
        }
        Ok(None)
    }
}

/// What is changed about a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    /// NEW counts: the block has to be written.
    Counts,
    /// Only what is known of the clusters.
    Marks,
}

impl From<Change> for Changes {
    fn from(change: Change) -> Self {
        if change.delta == 0 { Self::Marks } else { Self::Counts }
    }
}

/// Why `cluster` cannot be referenced, or counted.
fn refused(order: RefcountOrder, cluster: u64, cluster_bits: u32, why: Refusal) -> Error {
    let offset = cluster << cluster_bits;
    match why {
        Refusal::Overlap(Role::Table) => corrupt(format!("Tables overlap at {offset:#x}"), offset),
        Refusal::Overlap(Role::Data) => {
            corrupt(format!("Data overlaps a table at {offset:#x}"), offset)
        }
        Refusal::CountedFree => {
            corrupt(format!("Cluster at {offset:#x} is used but counted free"), offset)
        }
        Refusal::Count(OutOfRange::Negative) => too_low(offset),
        Refusal::Count(OutOfRange::TooLarge) => overflow(order),
    }
}

pub(crate) fn too_low(offset: u64) -> Error {
    corrupt(format!("The reference count at {offset:#x} is too low"), offset)
}

fn overflow(order: RefcountOrder) -> Error {
    Error::new(Kind::RefcountOverflow, "Invalid argument").with_hint(format!(
        "the image counts references with {} bits, and this would need more",
        1 << order.get()
    ))
}
