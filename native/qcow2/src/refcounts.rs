//! Reference counts in memory: OLD as the disk has them, NEW as a commit will write them.
//!
//! Blocks are loaded when first asked for and kept as their on-disk bytes (NEW). Of OLD only "in
//! use or not" is kept, one bit a cluster, because that is what allocation needs. Beside it stand
//! bits for what this command has seen: who is a table, who is referenced, and who still will be
//! after the commit. A count is a belief; a walk is knowledge. Nothing here writes.

use std::ops::Range;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::SECTOR_BYTES;
use crate::format::mapping;
use crate::format::refcount::RefcountOrder;
use crate::image::Image;
use crate::storage::Storage;

/// One bit per cluster of a refcount block.
#[derive(Debug)]
struct Bits(Box<[u64]>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)].into())
    }

    fn get(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 != 0
    }

    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }
}

/// A loaded refcount block.
#[derive(Debug)]
struct Block {
    /// NEW counts as they will be written.
    bytes: Vec<u8>,
    /// OLD count is not zero.
    in_use: Bits,
    /// A table of the image; nothing else may name the cluster.
    metadata: Bits,
    /// Referenced by something in the image that this command saw.
    seen: Bits,
    /// Placed by this command; nothing in the image may reference it.
    taken: Bits,
    /// Referenced by the state after the commit.
    kept: Bits,
    /// And more than once.
    shared: Bits,
    /// NEW differs from OLD, or the block is new.
    dirty: bool,
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// Added to the count of each cluster.
    pub delta: i64,
    /// References of this kind in the state after the commit.
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
        let order = RefcountOrder::new(header.refcount_order);
        Ok(Self {
            order,
            cluster_bits: header.cluster_bits,
            block_bits: order.block_bits(header.cluster_bits),
            slots: vec![0; table.len()],
            table,
            blocks: Vec::new(),
            walk_is_complete: false,
        })
    }

    /// Host offsets of the blocks on disk.
    pub fn block_offsets(&self) -> impl Iterator<Item = u64> {
        self.table.iter().copied().filter(|&offset| offset != 0)
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

    /// Loads block `index`; none where the table has no such block.
    fn block(&mut self, storage: &dyn Storage, index: usize) -> Result<Option<&mut Block>> {
        let Some(&offset) = self.table.get(index) else { return Ok(None) };
        if self.slots[index] == 0 {
            if offset == 0 {
                return Ok(None);
            }
            let mut bytes = vec![0; 1 << self.cluster_bits];
            storage.read_at(&mut bytes, offset)?;
            self.insert(index, bytes, false);
        }
        Ok(Some(&mut self.blocks[self.slots[index] as usize - 1]))
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

    fn insert(&mut self, index: usize, bytes: Vec<u8>, dirty: bool) {
        let entries = 1_usize << self.block_bits;
        let mut in_use = Bits::new(entries);
        if bytes.iter().any(|&byte| byte != 0) {
            for entry in 0..entries {
                if self.order.get_count(&bytes, entry) != 0 {
                    in_use.set(entry);
                }
            }
        }
        let bits = || Bits::new(entries);
        let (metadata, seen, taken, kept, shared) = (bits(), bits(), bits(), bits(), bits());
        self.blocks.push(Block { bytes, in_use, metadata, seen, taken, kept, shared, dirty });
        self.slots[index] = u32::try_from(self.blocks.len()).expect("at most 2^20 blocks");
    }

    /// NEW count of `cluster`; 0 where no block counts it.
    pub fn count(&mut self, storage: &dyn Storage, cluster: u64) -> Result<u64> {
        let order = self.order;
        let (index, entry) = self.locate(cluster);
        let block = self.block(storage, index)?;
        Ok(block.map_or(0, |block| order.get_count(&block.bytes, entry)))
    }

    /// Whether `cluster` is referenced exactly once after the commit. Fails as corrupt where its
    /// count says so and the walk saw more: a guest would write into what others read.
    pub fn is_private(&mut self, storage: &dyn Storage, cluster: u64) -> Result<bool> {
        if self.count(storage, cluster)? != 1 {
            return Ok(false);
        }
        let (index, entry) = self.locate(cluster);
        if self.block(storage, index)?.is_some_and(|block| block.shared.get(entry)) {
            return Err(too_low(cluster << self.cluster_bits));
        }
        Ok(true)
    }

    /// Calls `apply` on each block that `clusters` touch, with the entries inside it. Fails as
    /// corrupt where a cluster has no block: everything that is referenced must be counted.
    fn for_blocks(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
        mut apply: impl FnMut(&mut Block, Range<usize>, u64) -> Result<()>,
    ) -> Result<()> {
        let mut first = clusters.start;
        while first < clusters.end {
            let (index, entry) = self.locate(first);
            let count = (self.block_entries() - entry as u64).min(clusters.end - first);
            let offset = first << self.cluster_bits;
            let block = self
                .block(storage, index)?
                .ok_or_else(|| corrupt(format!("Cluster at {offset:#x} is not counted"), offset))?;
            let end = entry + usize::try_from(count).expect("at most 2^24");
            apply(block, entry..end, first)?;
            first += count;
        }
        Ok(())
    }

    /// Calls `apply` on each of `clusters`: its block, its entry there, its host offset.
    fn for_entries(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
        mut apply: impl FnMut(&mut Block, usize, u64) -> Result<()>,
    ) -> Result<()> {
        let bits = self.cluster_bits;
        self.for_blocks(storage, clusters, |block, entries, first| {
            entries
                .zip(first..)
                .try_for_each(|(entry, cluster)| apply(block, entry, cluster << bits))
        })
    }

    /// Registers a table of the image. Fails where it overlaps another, or is counted free.
    pub fn claim_table(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
        change: Change,
    ) -> Result<()> {
        let order = self.order;
        self.for_entries(storage, clusters, |block, entry, offset| {
            if block.metadata.get(entry) {
                return Err(corrupt(format!("Tables overlap at {offset:#x}"), offset));
            }
            block.metadata.set(entry);
            touch(order, block, entry, offset, change)
        })
    }

    /// Registers data that an L2 entry owns. Fails where it overlaps a table, or is counted free.
    pub fn reference_data(
        &mut self,
        storage: &dyn Storage,
        clusters: Range<u64>,
        change: Change,
    ) -> Result<()> {
        let order = self.order;
        self.for_entries(storage, clusters, |block, entry, offset| {
            if block.metadata.get(entry) {
                return Err(corrupt(format!("Data overlaps a table at {offset:#x}"), offset));
            }
            touch(order, block, entry, offset, change)
        })
    }

    /// Changes counts without registering anything: for tables that a commit frees or takes.
    pub fn add(&mut self, storage: &dyn Storage, clusters: Range<u64>, delta: i64) -> Result<()> {
        let order = self.order;
        self.for_entries(storage, clusters, |block, entry, offset| {
            shift(order, block, entry, offset, delta)
        })
    }

    /// Marks clusters as taken, so that nothing else is placed there, and creates the blocks that
    /// count them where there are none.
    pub fn take(&mut self, storage: &dyn Storage, clusters: Range<u64>) -> Result<()> {
        self.cover(storage, clusters.clone())?;
        self.for_blocks(storage, clusters, |block, entries, _| {
            for entry in entries {
                block.taken.set(entry);
                block.kept.set(entry);
            }
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
                let (bytes, offset) = this.block_bytes(index);
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
                self.insert(index, vec![0; 1 << self.cluster_bits], true);
            }
        }
        Ok(())
    }

    /// Indices of the blocks that a commit has to write, ascending.
    pub fn dirty_blocks(&self) -> Vec<usize> {
        (0..self.slots.len())
            .filter(|&index| {
                let slot = self.slots[index];
                slot != 0 && self.blocks[slot as usize - 1].dirty
            })
            .collect()
    }

    /// On-disk bytes of a loaded block, and where it stands now (0: nowhere yet).
    pub fn block_bytes(&self, index: usize) -> (&[u8], u64) {
        (&self.blocks[self.slots[index] as usize - 1].bytes, self.table[index])
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
            if let Some(block) = self.block(storage, index)? {
                block.bytes.fill(0);
                block.dirty = true;
                block.kept.0.fill(0);
                block.shared.0.fill(0);
            }
        }
        Ok(())
    }

    /// Notes that the state after the commit references `clusters`.
    pub fn keep(&mut self, storage: &dyn Storage, clusters: Range<u64>) -> Result<()> {
        self.for_blocks(storage, clusters, |block, entries, _| {
            entries.for_each(|entry| block.kept.set(entry));
            Ok(())
        })
    }

    /// Runs of clusters in use that nobody was seen to reference, ascending. Only after a complete
    /// walk are these leaks.
    pub fn unseen(&mut self, storage: &dyn Storage) -> Result<Vec<Range<u64>>> {
        let mut runs = Vec::new();
        for index in 0..self.table.len() {
            // A block of zeros is not worth keeping: a sparse file may name very many of them.
            if self.slots[index] == 0 && self.is_empty_block(storage, index)? {
                continue;
            }
            let first = (index as u64) << self.block_bits;
            let Some(block) = self.block(storage, index)? else { continue };
            for (word, (in_use, seen)) in block.in_use.0.iter().zip(&block.seen.0).enumerate() {
                push_bits(&mut runs, first + word as u64 * 64, in_use & !seen);
            }
        }
        Ok(runs)
    }

    /// Runs of clusters that a copy needs to become the planned state, ascending: what is in use
    /// and either a table, or still counted.
    pub fn needed(&mut self, storage: &dyn Storage) -> Result<Vec<Range<u64>>> {
        let order = self.order;
        let mut runs = Vec::new();
        for index in 0..self.table.len() {
            if self.slots[index] == 0 && self.is_empty_block(storage, index)? {
                continue;
            }
            let first = (index as u64) << self.block_bits;
            let Some(block) = self.block(storage, index)? else { continue };
            for word in 0..block.in_use.0.len() {
                let in_use = block.in_use.0[word];
                let mut needed = in_use & block.metadata.0[word];
                for bit in (0..64).filter(|bit| (in_use >> bit) & 1 != 0) {
                    let count = order.get_count(&block.bytes, word * 64 + bit);
                    needed |= u64::from(count != 0) << bit;
                }
                push_bits(&mut runs, first + word as u64 * 64, needed);
            }
        }
        Ok(runs)
    }

    /// Runs of clusters that the commit frees, ascending: OLD in use, NEW zero. Fails as corrupt
    /// where the state after the commit still references one: its count lied.
    pub fn freed(&self) -> Result<Vec<Range<u64>>> {
        let mut runs = Vec::new();
        for (index, &slot) in self.slots.iter().enumerate() {
            let Some(block) = (slot as usize).checked_sub(1).map(|slot| &self.blocks[slot]) else {
                continue;
            };
            if !block.dirty {
                continue;
            }
            for (word, (&in_use, &kept)) in block.in_use.0.iter().zip(&block.kept.0).enumerate() {
                if in_use == 0 {
                    continue;
                }
                let first = ((index as u64) << self.block_bits) + word as u64 * 64;
                let mut zero = 0;
                for bit in (0..64).filter(|bit| in_use >> bit & 1 != 0) {
                    let count = self.order.get_count(&block.bytes, word * 64 + bit);
                    zero |= u64::from(count == 0) << bit;
                }
                if zero & kept != 0 {
                    let cluster = first + u64::from((zero & kept).trailing_zeros());
                    let offset = cluster << self.cluster_bits;
                    return Err(too_low(offset));
                }
                push_bits(&mut runs, first, zero);
            }
        }
        Ok(runs)
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
        let mut start = within.start.next_multiple_of(align);
        let mut at = start;
        while start.checked_add(count).is_some_and(|end| end <= within.end) {
            if at == start + count {
                return Ok(Some(start));
            }
            let (index, entry) = self.locate(at);
            let left = (self.block_entries() - entry as u64).min(start + count - at);
            let Some(block) = self.block(storage, index)? else {
                at += left;
                continue;
            };
            let believed = if trusts_walk { 0 } else { block.in_use.0[entry / 64] };
            let word = believed | block.seen.0[entry / 64] | block.taken.0[entry / 64];
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

/// Appends the clusters whose bits are set in `word`, which stands for 64 clusters from `first`.
fn push_bits(runs: &mut Vec<Range<u64>>, first: u64, mut word: u64) {
    while word != 0 {
        let cluster = first + u64::from(word.trailing_zeros());
        word &= word - 1;
        match runs.last_mut() {
            Some(run) if run.end == cluster => run.end += 1,
            _ => runs.push(cluster..cluster + 1),
        }
    }
}

/// Registers a reference and changes its count.
fn touch(
    order: RefcountOrder,
    block: &mut Block,
    entry: usize,
    offset: u64,
    change: Change,
) -> Result<()> {
    let may_be_named = block.in_use.get(entry) || change.fresh && block.taken.get(entry);
    if !may_be_named {
        return Err(corrupt(format!("Cluster at {offset:#x} is used but counted free"), offset));
    }
    block.seen.set(entry);
    if change.after > 1 || change.after == 1 && block.kept.get(entry) && !block.taken.get(entry) {
        block.shared.set(entry);
    }
    if change.after > 0 {
        block.kept.set(entry);
    }
    shift(order, block, entry, offset, change.delta)
}

/// Changes one NEW count, within zero and the largest count of the width.
fn shift(
    order: RefcountOrder,
    block: &mut Block,
    entry: usize,
    offset: u64,
    delta: i64,
) -> Result<()> {
    if delta == 0 {
        return Ok(());
    }
    let count = order.get_count(&block.bytes, entry);
    let Some(count) = count.checked_add_signed(delta) else {
        return Err(if delta < 0 { too_low(offset) } else { overflow(order) });
    };
    if count > order.max() {
        return Err(overflow(order));
    }
    order.set_count(&mut block.bytes, entry, count);
    block.dirty = true;
    Ok(())
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
