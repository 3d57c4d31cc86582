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
//! | `counts` | counts in as few bits as they need |
//! | `packed` | pages of which there are very many |
//! | `page` | what is known of some neighbouring clusters |
//! | `runs` | bits as runs of clusters |
//!
//! Memory is about five bits a cluster that is counted and differs from its neighbours, and next to
//! nothing for others. Where there are very many clusters, pages are packed while nobody changes them.

mod batch;
mod bits;
mod counts;
mod packed;
mod page;
mod runs;

use std::ops::Range;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::SECTOR_BYTES;
use crate::format::mapping;
use crate::format::refcount::RefcountOrder;
use crate::image::Image;
use crate::storage::Storage;

pub(crate) use batch::Batch;
pub(crate) use bits::Bits;
pub(crate) use counts::{Counts, OutOfRange};
use packed::{Kinds, Packed};
pub(crate) use page::PAGE_CLUSTERS;
use page::{Page, Refusal, Role};
use runs::Runs;

/// A loaded refcount block.
#[derive(Debug)]
struct Block {
    /// Its pages, in order.
    pages: Box<[Known]>,
    /// NEW differs from OLD, or the block is new.
    dirty: bool,
}

/// What is known of a page.
#[derive(Debug)]
enum Known {
    /// All counts are zero.
    Nothing,
    Open(Box<Page>),
    Packed(Packed),
}

impl Known {
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// Pages are packed where more clusters are counted than this: 4 TiB in clusters of 64 KiB.
const PACKED_CLUSTERS: u64 = 1 << 26;
/// And as soon as so many of them are open: a few MiB.
const OPEN_PAGES: usize = 1024;

/// Whether pages are packed where so many clusters are counted. With debug assertions, those of every
/// other small image are, too, so that all tests try both.
pub(crate) fn packs(clusters: u64) -> bool {
    clusters > PACKED_CLUSTERS || cfg!(debug_assertions) && clusters % 2 == 1
}

/// What stands for the pages of a [`Refcounts`] that are packed.
#[derive(Debug, Default)]
struct Packing {
    kinds: Kinds,
    /// Block and page of those that are open.
    open: Vec<(u32, u32)>,
    /// References wait in many pages, which stay open until they are settled.
    waits: bool,
}

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
    /// Index into `blocks` plus one; 0 where not loaded.
    slots: Vec<u32>,
    blocks: Vec<Block>,
    /// Where pages are packed.
    packing: Option<Packing>,
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
        Self {
            order,
            cluster_bits: header.cluster_bits,
            block_bits: order.block_bits(header.cluster_bits),
            slots: vec![0; table.len()],
            table,
            blocks: Vec::new(),
            packing: packs(image.file_bytes >> header.cluster_bits).then(Packing::default),
            walk_is_complete: false,
        }
    }

    /// The same with packed pages, however few there are.
    #[cfg(test)]
    pub fn packed(mut self) -> Self {
        self.packing = Some(Packing::default());
        self
    }

    /// Gives block `index` the NEW counts `bytes`. OLD is in use where `in_use` says so, by the
    /// entry in the block: nothing is placed there.
    pub fn replace(
        &mut self,
        index: usize,
        bytes: &[u8],
        in_use: impl Fn(usize) -> bool,
    ) -> Result<()> {
        if index as u64 >= crate::format::header::MAX_REFCOUNT_TABLE_BYTES / 8 {
            return Err(Error::new(Kind::TooLarge, "File too large"));
        }
        if index >= self.table.len() {
            self.table.resize(index + 1, 0);
            self.slots.resize(index + 1, 0);
        }
        let len = self.page_entries();
        let parts = bytes.chunks_exact((len << self.order.get()) / 8);
        let page = |(part, first): (&[u8], usize)| {
            let page = Page::decode(self.order, part, len);
            let mut page = page.unwrap_or_else(|| Page::empty(len));
            page.use_where(|entry| in_use(first + entry));
            Known::Open(Box::new(page))
        };
        let pages = parts.zip((0..).step_by(len)).map(page).collect();
        self.insert(index, Block { pages, dirty: true });
        self.make_room();
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

    fn locate(&self, cluster: u64) -> (usize, usize) {
        let block = usize::try_from(cluster >> self.block_bits).unwrap_or(usize::MAX);
        let entry = usize::try_from(cluster & (self.block_entries() - 1)).expect("at most 2^24");
        (block, entry)
    }

    /// log2 of the clusters of a page.
    fn page_bits(&self) -> u32 {
        self.block_bits.min(PAGE_CLUSTERS.ilog2())
    }

    /// Clusters of a page.
    fn page_entries(&self) -> usize {
        1 << self.page_bits()
    }

    /// Loads block `index`; none where the table has no such block.
    fn block(&mut self, storage: &dyn Storage, index: usize) -> Result<Option<&mut Block>> {
        let Some(&offset) = self.table.get(index) else { return Ok(None) };
        if self.slots[index] == 0 {
            if offset == 0 {
                return Ok(None);
            }
            self.make_room();
            let mut bytes = vec![0; 1 << self.cluster_bits];
            storage.read_at(&mut bytes, offset)?;
            let len = self.page_entries();
            let parts = bytes.chunks_exact((len << self.order.get()) / 8);
            let page = |part| match Page::decode(self.order, part, len) {
                Some(page) => Known::Open(Box::new(page)),
                None => Known::Nothing,
            };
            self.insert(index, Block { pages: parts.map(page).collect(), dirty: false });
        }
        Ok(Some(&mut self.blocks[self.slots[index] as usize - 1]))
    }

    /// A block that was loaded or made by this command.
    #[inline]
    fn loaded(&self, index: usize) -> Option<&Block> {
        let slot = self.slots.get(index).copied().unwrap_or(0) as usize;
        slot.checked_sub(1).map(|slot| &self.blocks[slot])
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

    fn insert(&mut self, index: usize, block: Block) {
        let slot = u32::try_from(self.blocks.len()).expect("at most 2^20 blocks");
        if let Some(packing) = &mut self.packing {
            let pages = (0..).zip(&block.pages).filter(|(_, page)| matches!(page, Known::Open(_)));
            packing.open.extend(pages.map(|(nth, _)| (slot, nth)));
        }
        if self.blocks.len() == self.blocks.capacity() {
            self.blocks.reserve_exact(self.blocks.len() / 8 + 16);
        }
        self.blocks.push(block);
        self.slots[index] = slot + 1;
    }

    /// Packs the open pages, if they are many and nothing waits in them.
    fn make_room(&mut self) {
        let is_full = |packing: &Packing| packing.open.len() >= OPEN_PAGES && !packing.waits;
        if self.packing.as_ref().is_some_and(is_full) {
            self.pack();
        }
    }

    fn pack(&mut self) {
        let Some(Packing { kinds, open, .. }) = &mut self.packing else { return };
        for (slot, nth) in std::mem::take(open) {
            let known = &mut self.blocks[slot as usize].pages[nth as usize];
            if let Known::Open(page) = known
                && let Some(packed) = Packed::of(page, kinds)
            {
                *known = Known::Packed(packed);
            }
        }
    }

    /// Shows a page to `look`, where something is known of it.
    fn view<T>(&self, known: &Known, look: impl FnOnce(&Page) -> T) -> Option<T> {
        match known {
            Known::Nothing => None,
            Known::Open(page) => Some(look(page)),
            Known::Packed(packed) => Some(look(&self.unpack(packed))),
        }
    }

    fn unpack(&self, packed: &Packed) -> Page {
        let kinds = &self.packing.as_ref().expect("it was packed").kinds;
        packed.unpack(kinds, self.order, self.page_entries())
    }

    /// NEW count of `cluster`, 0 where no block counts it, and whether the state after the commit was
    /// seen to reference it more than once.
    fn known(&mut self, storage: &dyn Storage, cluster: u64) -> Result<(u64, bool)> {
        let (index, entry) = self.locate(cluster);
        let (len, bits) = (self.page_entries(), self.page_bits());
        let (page, entry) = (entry >> bits, entry & (len - 1));
        if self.loaded(index).is_none() && self.block(storage, index)?.is_none() {
            return Ok((0, false));
        }
        Ok(match &self.loaded(index).expect("just now").pages[page] {
            Known::Nothing => (0, false),
            Known::Open(page) => (page.counts.get(entry), page.is_shared(entry)),
            Known::Packed(page) => {
                page.count(&self.packing.as_ref().expect("it was packed").kinds, entry)
            }
        })
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

    /// Calls `apply` on each page that `clusters` touch: with the part of it, and whether NEW
    /// changes. Fails as corrupt where no block counts them, and where `apply` refuses one.
    fn for_pages(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
        changes: Changes,
        mut apply: impl FnMut(&mut Page, Range<usize>) -> Result<(), (usize, Refusal)>,
    ) -> Result<()> {
        let (bits, order, len) = (self.cluster_bits, self.order, self.page_entries());
        let page_bits = self.page_bits();
        let mut first = clusters.start;
        while first < clusters.end {
            let (index, entry) = self.locate(first);
            let (page, entry) = (entry >> page_bits, entry & (len - 1));
            let count = ((len - entry) as u64).min(clusters.end - first);
            let offset = first << bits;
            let block = self
                .block(storage, index)?
                .ok_or_else(|| corrupt(format!("Cluster at {offset:#x} is not counted"), offset))?;
            block.dirty |= changes == Changes::Counts;
            if !matches!(block.pages[page], Known::Open(_)) {
                self.open(index, page);
            }
            let slot = self.slots[index] as usize - 1;
            let Known::Open(page) = &mut self.blocks[slot].pages[page] else {
                unreachable!("opened")
            };
            let end = entry + usize::try_from(count).expect("at most a page");
            apply(page, entry..end).map_err(|(index, why)| {
                refused(order, first - entry as u64 + index as u64, bits, why)
            })?;
            first += count;
        }
        Ok(())
    }

    /// Opens a page of a block that is loaded.
    fn open(&mut self, index: usize, page: usize) {
        self.make_room();
        let slot = self.slots[index] - 1;
        let opened = match &self.blocks[slot as usize].pages[page] {
            Known::Open(_) => return,
            Known::Nothing => Page::empty(self.page_entries()),
            Known::Packed(packed) => self.unpack(packed),
        };
        self.blocks[slot as usize].pages[page] = Known::Open(Box::new(opened));
        if let Some(packing) = &mut self.packing {
            packing.open.push((slot, u32::try_from(page).expect("few in a block")));
        }
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

    /// Registers data that an L2 entry owns, now or when [`settle`](Self::settle) is called:
    /// before, nothing may be asked. Fails where it overlaps a table, or is counted free.
    pub fn reference_data(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
        change: Change,
    ) -> Result<()> {
        if self.waits(&clusters, change) {
            return Ok(());
        }
        if let Some(packing) = &mut self.packing {
            packing.waits = true;
        }
        let order = self.order;
        self.for_pages(storage, clusters, change.into(), |page, range| {
            page.reference_later(range, change, order)
        })
    }

    /// The usual case of it: `clusters` can join others that wait. Returns whether they do now.
    #[inline]
    fn waits(&mut self, clusters: &Range<u64>, change: Change) -> bool {
        let (index, entry) = self.locate(clusters.start);
        let bits = self.page_bits();
        let slot = self.slots.get(index).copied().unwrap_or(0) as usize;
        let Some(block) = slot.checked_sub(1).map(|slot| &mut self.blocks[slot]) else {
            return false;
        };
        let Known::Open(page) = &mut block.pages[entry >> bits] else { return false };
        page.waits(entry & ((1 << bits) - 1), clusters.end - clusters.start, change)
    }

    /// Registers the data that wait for it, and gives back the memory of counts that have become
    /// alike. Fails as [`reference_data`](Self::reference_data).
    pub fn settle(&mut self) -> Result<()> {
        let (order, bits, len) = (self.order, self.cluster_bits, self.page_entries());
        for (index, &slot) in self.slots.iter().enumerate().filter(|&(_, &slot)| slot != 0) {
            let first = (index as u64) << self.block_bits;
            let pages = &mut self.blocks[slot as usize - 1].pages;
            for (page, first) in pages.iter_mut().zip((first..).step_by(len)) {
                let Known::Open(known) = page else { continue };
                known
                    .settle(order)
                    .map_err(|(index, why)| refused(order, first + index as u64, bits, why))?;
                known.counts.squeeze();
                if let Some(packing) = &mut self.packing
                    && let Some(packed) = Packed::of(known, &mut packing.kinds)
                {
                    *page = Known::Packed(packed);
                }
            }
        }
        if let Some(packing) = &mut self.packing {
            packing.open.clear();
            packing.waits = false;
        }
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
        let limit = crate::format::header::MAX_REFCOUNT_TABLE_BYTES / 8;
        if last as u64 >= limit {
            return Err(Error::new(Kind::TooLarge, "File too large"));
        }
        if last >= self.table.len() {
            self.table.resize(last + 1, 0);
            self.slots.resize(last + 1, 0);
        }
        for index in first..=last {
            if let Some(block) = self.block(storage, index)? {
                block.dirty = true;
            } else {
                let pages = self.block_entries() / self.page_entries() as u64;
                let pages = (0..pages).map(|_| Known::Nothing).collect();
                self.insert(index, Block { pages, dirty: true });
            }
        }
        Ok(())
    }

    /// Indices of the blocks that a commit has to write, ascending.
    pub fn dirty_blocks(&self) -> impl Iterator<Item = usize> {
        let is_dirty = |&index: &usize| self.loaded(index).is_some_and(|block| block.dirty);
        (0..self.slots.len()).filter(is_dirty)
    }

    /// A loaded block as it will be on disk.
    pub fn block_bytes(&self, index: usize) -> Vec<u8> {
        let mut bytes = vec![0; 1 << self.cluster_bits];
        let block = self.loaded(index).expect("loaded");
        let parts = bytes.chunks_exact_mut((self.page_entries() << self.order.get()) / 8);
        for (page, part) in block.pages.iter().zip(parts) {
            self.view(page, |page| page.counts.encode(self.order, part));
        }
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
            if self.slots[index] == 0 && self.is_empty_block(storage, index)? {
                continue;
            }
            if self.block(storage, index)?.is_none() {
                continue;
            }
            let slot = self.slots[index] as usize - 1;
            self.blocks[slot].dirty = true;
            for nth in 0..self.blocks[slot].pages.len() {
                if self.blocks[slot].pages[nth].is_nothing() {
                    continue;
                }
                self.open(index, nth);
                if let Known::Open(page) = &mut self.blocks[slot].pages[nth] {
                    page.clear();
                }
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
                Some(block) => block.pages.iter().any(|page| {
                    let any = |page: &Page| {
                        (0..page.words()).any(|n| page.in_use.word(n) & !page.seen.word(n) != 0)
                    };
                    self.view(page, any).unwrap_or(false)
                }),
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
        let len = self.page_entries();
        let mut runs = Runs::new(visit);
        for index in 0..self.table.len() {
            // A block of zeros is not worth keeping: a sparse file may name very many of them.
            if self.slots[index] == 0 && self.is_empty_block(storage, index)? {
                continue;
            }
            let first = (index as u64) << self.block_bits;
            if self.block(storage, index)?.is_none() {
                continue;
            }
            let pages = &self.loaded(index).expect("just now").pages;
            for (page, first) in pages.iter().zip((first..).step_by(len)) {
                let push = |page: &Page| {
                    (0..page.words())
                        .try_for_each(|word| runs.push(first + word as u64 * 64, bits(page, word)))
                };
                self.view(page, push).transpose()?;
            }
        }
        runs.finish()
    }

    /// Shows the runs of clusters that the commit frees, ascending: OLD in use, NEW zero. Fails as
    /// corrupt where the state after the commit still references one: its count lied.
    pub fn for_freed(&self, visit: impl FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        let len = self.page_entries();
        let mut runs = Runs::new(visit);
        for index in self.dirty_blocks() {
            let first = (index as u64) << self.block_bits;
            let pages = &self.loaded(index).expect("dirty").pages;
            for (page, first) in pages.iter().zip((first..).step_by(len)) {
                let push = |page: &Page| {
                    for word in 0..page.words() {
                        let in_use = page.in_use.word(word);
                        if in_use == 0 {
                            continue;
                        }
                        let zero = in_use & !page.counts.non_zero(word);
                        let first = first + word as u64 * 64;
                        let lied = zero & page.kept.word(word);
                        if lied != 0 {
                            let cluster = first + u64::from(lied.trailing_zeros());
                            return Err(too_low(cluster << self.cluster_bits));
                        }
                        runs.push(first, zero)?;
                    }
                    Ok(())
                };
                self.view(page, push).transpose()?;
            }
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
        let (block_entries, len) = (self.block_entries(), self.page_entries());
        let mut start = within.start.next_multiple_of(align);
        let mut at = start;
        let mut unpacked: Option<(usize, usize, Page)> = None;
        while start.checked_add(count).is_some_and(|end| end <= within.end) {
            if at == start + count {
                return Ok(Some(start));
            }
            let (index, entry) = self.locate(at);
            if self.block(storage, index)?.is_none() {
                at += (block_entries - entry as u64).min(start + count - at);
                continue;
            }
            let left = ((len - entry % len) as u64).min(start + count - at);
            let nth = entry / len;
            let page = match &self.loaded(index).expect("just now").pages[nth] {
                Known::Nothing => {
                    at += left;
                    continue;
                }
                Known::Open(page) => &**page,
                Known::Packed(packed) => {
                    if unpacked.as_ref().is_none_or(|it| (it.0, it.1) != (index, nth)) {
                        unpacked = Some((index, nth, self.unpack(packed)));
                    }
                    &unpacked.as_ref().expect("just now").2
                }
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
