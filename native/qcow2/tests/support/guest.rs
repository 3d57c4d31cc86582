//! A guest with a plain qcow2 driver under it, as QEMU's is: it believes what the image says.
//!
//! Where COPIED is set it writes in place, else it copies; it takes the first cluster whose count
//! is zero; it changes counts in place. So whatever a crash left wrong turns into damage here.

use qcow2::storage::SparseImage;

use super::layout::{COMPRESSED, COPIED, Layout, OFFSET, Result, ZERO, be64, put64, table};
use super::oracle::read_cluster;

/// A running guest.
pub struct Guest<'a> {
    image: &'a mut SparseImage,
    layout: Layout,
    /// Clusters are taken from here on.
    search_from: u64,
}

/// Whether a write was done or found no space (the refcount table is full).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    NoSpace,
}

impl<'a> Guest<'a> {
    pub fn boot(image: &'a mut SparseImage) -> Result<Self> {
        let layout = Layout::read(image)?;
        Ok(Self { image, layout, search_from: 0 })
    }

    /// The image's geometry.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Leaves free clusters below `cluster` alone from now on, to scatter what comes next.
    pub fn search_from(&mut self, cluster: u64) {
        self.search_from = cluster;
    }

    /// Writes `data` at guest offset `offset`. Does not cross a cluster.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Outcome> {
        let cluster_bytes = self.layout.cluster();
        let within = usize::try_from(offset % cluster_bytes).unwrap();
        assert!(within + data.len() <= usize::try_from(cluster_bytes).unwrap());
        let Some(at) = self.entry_at(offset)? else { return Ok(Outcome::NoSpace) };
        let entry = be64(self.image, at);
        if entry & (COPIED | COMPRESSED | ZERO) == COPIED {
            self.image.write(data, (entry & OFFSET) + within as u64);
            return Ok(Outcome::Done);
        }
        let mut content = read_cluster(self.image, &self.layout, entry)?;
        content[within..within + data.len()].copy_from_slice(data);
        let in_place = entry & (COPIED | COMPRESSED) == COPIED;
        let target = if in_place { Some(entry & OFFSET) } else { self.allocate(1)? };
        let Some(target) = target else { return Ok(Outcome::NoSpace) };
        self.image.write(&content, target);
        put64(self.image, at, target | COPIED);
        if !in_place {
            self.release(entry)?;
        }
        Ok(Outcome::Done)
    }

    /// Makes the cluster at guest offset `offset` read as zeros. A private cluster is kept for
    /// later (version 3), else given up.
    pub fn write_zeros(&mut self, offset: u64) -> Result<Outcome> {
        let Some(at) = self.entry_at(offset)? else { return Ok(Outcome::NoSpace) };
        let entry = be64(self.image, at);
        assert_eq!(self.layout.version, 3, "version 2 has no zero flag");
        if entry & (COPIED | COMPRESSED) == COPIED {
            put64(self.image, at, entry | ZERO);
        } else {
            put64(self.image, at, ZERO);
            self.release(entry)?;
        }
        Ok(Outcome::Done)
    }

    /// Gives up the cluster at guest offset `offset`.
    pub fn discard(&mut self, offset: u64) -> Result<Outcome> {
        let Some(at) = self.entry_at(offset)? else { return Ok(Outcome::NoSpace) };
        let entry = be64(self.image, at);
        put64(self.image, at, 0);
        self.release(entry)?;
        Ok(Outcome::Done)
    }

    /// Host offset of the L2 entry for a guest offset, in a table that is private to the active
    /// disk.
    fn entry_at(&mut self, offset: u64) -> Result<Option<u64>> {
        let (cluster_bytes, per_table) = (self.layout.cluster(), self.layout.l2_entries());
        let cluster = offset / cluster_bytes;
        let l1_at = self.layout.l1_offset + cluster / per_table * 8;
        assert!(cluster / per_table < self.layout.l1_entries, "beyond the L1 table");
        let l1 = be64(self.image, l1_at);
        let mut l2 = l1 & OFFSET;
        if l1 & COPIED == 0 {
            let Some(new) = self.allocate(1)? else { return Ok(None) };
            let entries = if l2 == 0 {
                vec![0; usize::try_from(per_table).unwrap()]
            } else {
                table(self.image, l2, per_table)
            };
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.image.write(&bytes, new);
            put64(self.image, l1_at, new | COPIED);
            if l2 != 0 {
                self.count(l2 >> self.layout.cluster_bits, -1)?;
            }
            l2 = new;
        }
        Ok(Some(l2 + cluster % per_table * 8))
    }

    fn release(&mut self, entry: u64) -> Result<()> {
        for cluster in self.layout.owned(entry) {
            self.count(cluster, -1)?;
        }
        Ok(())
    }

    fn count(&mut self, cluster: u64, change: i64) -> Result<()> {
        let old = self.layout.refcount(self.image, cluster);
        let new = old
            .checked_add_signed(change)
            .ok_or_else(|| format!("count of cluster {cluster:#x} falls below zero"))?;
        self.layout.set_refcount(self.image, cluster, new)
    }

    /// Takes `count` neighbouring clusters whose counts are zero, the first that there are.
    fn allocate(&mut self, count: u64) -> Result<Option<u64>> {
        let mut first = self.search_from;
        let mut at = first;
        while at < first + count {
            if self.layout.refcount(self.image, at) != 0 {
                first = at + 1;
            }
            at += 1;
        }
        for cluster in first..first + count {
            if self.layout.block_of(self.image, cluster) == 0 {
                // A new block takes the first place that it counts itself, as QEMU's often does.
                if !self.add_block(cluster)? {
                    return Ok(None);
                }
                return self.allocate(count);
            }
        }
        for cluster in first..first + count {
            self.layout.set_refcount(self.image, cluster, 1)?;
        }
        Ok(Some(first << self.layout.cluster_bits))
    }

    fn add_block(&mut self, cluster: u64) -> Result<bool> {
        let index = cluster / self.layout.block_entries();
        if index >= self.layout.refcount_table_clusters * self.layout.cluster() / 8 {
            return Ok(false);
        }
        let zeros = vec![0; usize::try_from(self.layout.cluster()).unwrap()];
        let offset = cluster << self.layout.cluster_bits;
        self.image.write(&zeros, offset);
        put64(self.image, self.layout.refcount_table_offset + index * 8, offset);
        self.layout.set_refcount(self.image, cluster, 1)?;
        Ok(true)
    }
}
