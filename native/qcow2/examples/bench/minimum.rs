//! What the format makes an operation read and write, whoever does it: the tables that decide, and
//! those whose bytes differ afterwards. Data does not count: no operation here needs any.
//!
//! A refcount block that changes counts both ways, as does an L2 table whose COPIED flags change.
//! Where a table goes, and what that costs in further blocks, is the program's own matter.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use qcow2::Image;
use qcow2::format::mapping::{COPIED, OFFSET_MASK};
use qcow2::format::refcount::RefcountOrder;
use qcow2::format::snapshot::encode_table;
use qcow2::storage::{Access, FileStorage};

use crate::Result;
use crate::tables::{Disk, disks, l2_table, read_table};

/// Says what create, apply, delete, check or info reads and writes at least.
pub fn run(path: &str, operation: &str, name: &str) -> Result<String> {
    let file = FileStorage::open(Path::new(path), Access::Read)?;
    let image = Image::open(Box::new(file))?;
    let mut minimum = Minimum::new(&image)?;
    match operation {
        "create" => minimum.create()?,
        "apply" => minimum.apply(name)?,
        "delete" => minimum.delete(name)?,
        "check" => minimum.check()?,
        // The header and the snapshot table, which every operation reads.
        "info" => {}
        other => return Err(format!("no operation {other}").into()),
    }
    let flushes = if matches!(operation, "check" | "info") { 0 } else { 2 };
    let (read, written) = (minimum.read, minimum.written);
    Ok(format!(r#"{{"readBytes":{read},"writtenBytes":{written},"flushes":{flushes}}}"#))
}

struct Minimum<'a> {
    image: &'a Image,
    disks: Vec<Disk>,
    /// Offsets of the refcount blocks.
    blocks: Vec<u64>,
    /// Blocks read so far, by index; each is read once.
    counts: HashMap<usize, Vec<u8>>,
    read: u64,
    written: u64,
}

impl<'a> Minimum<'a> {
    fn new(image: &'a Image) -> Result<Self> {
        let header = image.header();
        let cluster = header.cluster_bytes();
        let entries = u64::from(header.refcount_table_clusters) * cluster / 8;
        let blocks = read_table(image, header.refcount_table_offset, entries)?;
        let snapshots = encode_table(&image.snapshots()?).len() as u64;
        Ok(Self {
            image,
            disks: disks(image)?,
            blocks,
            counts: HashMap::new(),
            read: cluster + snapshots,
            written: 0,
        })
    }

    /// Every cluster of the disk gets one reference more, so every table of the disk is read and
    /// those with COPIED flags lose them. The L1 table is written twice, for the disk and as a
    /// copy.
    fn create(&mut self) -> Result<()> {
        let mut changed = HashSet::new();
        for l1_entry in self.disks[0].l1.clone() {
            let table = self.table(l1_entry)?;
            if table.iter().any(|entry| entry & COPIED != 0) {
                self.written += self.image.header().cluster_bytes();
            }
            changed.extend(references(l1_entry, &table));
        }
        let l1 = self.l1_bytes(0);
        self.read += l1;
        self.written += 2 * l1;
        self.change(&changed)?;
        self.commit();
        Ok(())
    }

    /// Only tables that differ are read: theirs count down, the snapshot's count up.
    fn apply(&mut self, name: &str) -> Result<()> {
        let index = self.snapshot(name)?;
        let (old, new) = (self.disks[0].l1.clone(), self.disks[index].l1.clone());
        let mut changed = HashSet::new();
        for slot in 0..old.len().max(new.len()) {
            let [old, new] = [&old, &new].map(|l1| l1.get(slot).copied().unwrap_or(0));
            if old & OFFSET_MASK == new & OFFSET_MASK {
                continue;
            }
            let (old_table, new_table) = (self.table(old)?, self.table(new)?);
            if new_table.iter().any(|entry| entry & COPIED != 0) {
                self.written += self.image.header().cluster_bytes();
            }
            // A cluster that both disks have keeps its count.
            let old: HashSet<u64> = references(old, &old_table).collect();
            let new: HashSet<u64> = references(new, &new_table).collect();
            changed.extend(old.symmetric_difference(&new));
        }
        self.read += self.l1_bytes(0) + self.l1_bytes(index);
        self.written += self.l1_bytes(0);
        self.change(&changed)?;
        self.commit();
        Ok(())
    }

    /// Every cluster of the snapshot loses one reference; what the active disk then has to itself
    /// gets its COPIED flag.
    fn delete(&mut self, name: &str) -> Result<()> {
        let index = self.snapshot(name)?;
        let mut dropped = HashSet::new();
        for l1_entry in self.disks[index].l1.clone() {
            let table = self.table(l1_entry)?;
            dropped.extend(references(l1_entry, &table));
        }
        let mut flagged_l1 = false;
        for (slot, l1_entry) in self.disks[0].l1.clone().into_iter().enumerate() {
            let same = self.disks[index].l1.get(slot).copied().unwrap_or(0) & OFFSET_MASK;
            let shared = l1_entry & OFFSET_MASK == same;
            let table =
                if shared { l2_table(self.image, l1_entry)? } else { self.table(l1_entry)? };
            let mut becomes_private = |offset: u64| -> Result<bool> {
                Ok(dropped.contains(&offset) && self.count(offset)? == 2)
            };
            flagged_l1 |= becomes_private(l1_entry & OFFSET_MASK)?;
            let mut changes = false;
            for entry in &table {
                changes = changes || becomes_private(entry & OFFSET_MASK)?;
            }
            if changes {
                self.written += self.image.header().cluster_bytes();
            }
        }
        self.read += self.l1_bytes(0) + self.l1_bytes(index);
        self.written += if flagged_l1 { self.l1_bytes(0) } else { 0 };
        self.change(&dropped)?;
        self.commit();
        Ok(())
    }

    /// Every table and every block.
    fn check(&mut self) -> Result<()> {
        let mut seen = HashSet::new();
        for index in 0..self.disks.len() {
            self.read += self.l1_bytes(index);
            for l1_entry in self.disks[index].l1.clone() {
                if seen.insert(l1_entry & OFFSET_MASK) {
                    self.table(l1_entry)?;
                }
            }
        }
        for index in 0..self.blocks.len() {
            self.block(index)?;
        }
        Ok(())
    }

    fn snapshot(&self, name: &str) -> Result<usize> {
        let found = self.disks.iter().position(|disk| disk.snapshot.as_deref() == Some(name));
        found.ok_or_else(|| format!("no snapshot {name}").into())
    }

    fn l1_bytes(&self, disk: usize) -> u64 {
        self.disks[disk].l1.len() as u64 * 8
    }

    /// Reads an L2 table.
    fn table(&mut self, l1_entry: u64) -> Result<Vec<u64>> {
        let table = l2_table(self.image, l1_entry)?;
        self.read += table.len() as u64 * 8;
        Ok(table)
    }

    /// Reads and writes the blocks that count these clusters.
    fn change(&mut self, clusters: &HashSet<u64>) -> Result<()> {
        let blocks: HashSet<usize> = clusters.iter().map(|&offset| self.block_of(offset)).collect();
        for &index in &blocks {
            self.block(index)?;
            self.written += self.image.header().cluster_bytes();
        }
        Ok(())
    }

    /// The header's sector, and the snapshot table where the operation is about one.
    fn commit(&mut self) {
        self.written += 512 + self.image.header().cluster_bytes();
    }

    fn block_of(&self, offset: u64) -> usize {
        let (cluster, block_bits) = self.place(offset);
        usize::try_from(cluster >> block_bits).expect("an index")
    }

    fn place(&self, offset: u64) -> (u64, u32) {
        let header = self.image.header();
        let order = RefcountOrder::new(header.refcount_order);
        (offset >> header.cluster_bits, order.block_bits(header.cluster_bits))
    }

    fn count(&mut self, offset: u64) -> Result<u64> {
        let (cluster, block_bits) = self.place(offset);
        let index = self.block_of(offset);
        self.block(index)?;
        let order = RefcountOrder::new(self.image.header().refcount_order);
        let within = usize::try_from(cluster & ((1 << block_bits) - 1))?;
        Ok(order.get_count(&self.counts[&index], within))
    }

    /// Reads a refcount block once.
    fn block(&mut self, index: usize) -> Result<()> {
        let offset = self.blocks.get(index).copied().unwrap_or(0);
        if offset == 0 || self.counts.contains_key(&index) {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(self.image.header().cluster_bytes())?];
        self.image.storage().read_at(&mut bytes, offset)?;
        self.read += bytes.len() as u64;
        self.counts.insert(index, bytes);
        Ok(())
    }
}

/// Offsets of the clusters that a table and its L1 entry refer to.
fn references(l1_entry: u64, table: &[u64]) -> impl Iterator<Item = u64> {
    std::iter::once(l1_entry)
        .chain(table.iter().copied())
        .map(|entry| entry & OFFSET_MASK)
        .filter(|&offset| offset != 0)
}
