//! A guest with a plain qcow2 driver under it, as QEMU's is: it believes what the image says.
//!
//! Where COPIED is set it writes in place, else it copies; it takes the first cluster whose count
//! is zero; it changes counts in place. So whatever a crash left wrong turns into damage here.

use qcow2::storage::SparseImage;

use super::layout::{
    COMPRESSED, COPIED, Entry, Layout, OFFSET, Result, SUBCLUSTERS, ZERO, be64, bytes, put64,
};
use super::oracle::read_cluster;

/// A running guest.
pub struct Guest<'a> {
    image: &'a mut SparseImage,
    layout: Layout,
    /// Clusters are taken from here on.
    search_from: u64,
    /// From there to here all are in use.
    used_up_to: u64,
    /// Where the last compressed data end, inside a cluster that has room for more.
    half_full: Option<u64>,
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
        Ok(Self { image, layout, search_from: 0, used_up_to: 0, half_full: None })
    }

    /// The image's geometry.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The image under it.
    pub fn image(&mut self) -> &mut SparseImage {
        self.image
    }

    /// Leaves free clusters below `cluster` alone from now on, to scatter what comes next.
    pub fn search_from(&mut self, cluster: u64) {
        self.search_from = cluster;
        self.used_up_to = cluster;
    }

    /// Writes `data` at guest offset `offset`. Does not cross a cluster.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Outcome> {
        let cluster_bytes = self.layout.cluster();
        let within = usize::try_from(offset % cluster_bytes).unwrap();
        assert!(within + data.len() <= usize::try_from(cluster_bytes).unwrap());
        let Some(at) = self.entry_at(offset)? else { return Ok(Outcome::NoSpace) };
        let entry = self.layout.l2_entry(self.image, at);
        let in_place = entry.word & (COPIED | COMPRESSED) == COPIED;
        let touched = self.subclusters(within, data.len());
        let is_there = if self.layout.is_extended {
            entry.bits & touched == touched
        } else {
            entry.word & ZERO == 0
        };
        if in_place && is_there {
            self.image.write(data, (entry.word & OFFSET) + within as u64);
            return Ok(Outcome::Done);
        }
        let mut content = read_cluster(self.image, &self.layout, entry)?;
        content[within..within + data.len()].copy_from_slice(data);
        let target = if in_place { Some(entry.word & OFFSET) } else { self.allocate(1)? };
        let Some(target) = target else { return Ok(Outcome::NoSpace) };
        self.image.write(&content, target);
        // What a compressed cluster had is all there now; else the other subclusters stay what they
        // were, and what lies in the host cluster for them is nobody's.
        let before = if entry.word & COMPRESSED != 0 { u64::from(u32::MAX) } else { entry.bits };
        let bits = (before | touched) & !(touched << 32);
        self.layout.put_l2_entry(self.image, at, Entry { word: target | COPIED, bits });
        if !in_place {
            self.release(entry.word)?;
        }
        Ok(Outcome::Done)
    }

    /// A bit for each subcluster that so many bytes touch; none where there are no subclusters.
    fn subclusters(&self, within: usize, length: usize) -> u64 {
        if !self.layout.is_extended {
            return 0;
        }
        let size = usize::try_from(self.layout.cluster() / SUBCLUSTERS).unwrap();
        (within / size..(within + length).div_ceil(size)).fold(0, |bits, index| bits | 1 << index)
    }

    /// Maps the cluster at guest offset `offset` to compressed data, as `qemu-img convert -c` does:
    /// behind the last such data where they fit and the count of that cluster may rise, else from
    /// `shift` bytes into new clusters on. Data may lie across two of them.
    pub fn write_compressed(&mut self, offset: u64, packed: &[u8], shift: u64) -> Result<Outcome> {
        let (cluster_bytes, bits) = (self.layout.cluster(), self.layout.cluster_bits);
        let Some(entry_at) = self.entry_at(offset)? else { return Ok(Outcome::NoSpace) };
        let length = packed.len() as u64;
        let place = self.half_full.filter(|at| {
            let count = self.layout.refcount(self.image, at >> bits);
            at % cluster_bytes + length <= cluster_bytes && count < self.layout.max_refcount()
        });
        let place = if let Some(at) = place {
            self.count(at >> bits, 1)?;
            at
        } else {
            let clusters = (shift + length).div_ceil(cluster_bytes);
            let Some(first) = self.allocate(clusters)? else { return Ok(Outcome::NoSpace) };
            first + shift
        };
        self.image.write(packed, place);
        let end = place + length;
        // What an entry speaks of are whole sectors.
        let sectors = end.div_ceil(512) - place / 512;
        self.image.set_len(self.image.len().max(end.next_multiple_of(cluster_bytes)));
        self.half_full = (!end.is_multiple_of(cluster_bytes)).then_some(end);
        let old = be64(self.image, entry_at);
        let word = COMPRESSED | (sectors - 1) << (62 - (bits - 8)) | place;
        self.layout.put_l2_entry(self.image, entry_at, Entry { word, bits: 0 });
        self.release(old)?;
        Ok(Outcome::Done)
    }

    /// Makes the cluster at guest offset `offset` read as zeros. A private cluster is kept for
    /// later (version 3), else given up.
    pub fn write_zeros(&mut self, offset: u64) -> Result<Outcome> {
        let Some(at) = self.entry_at(offset)? else { return Ok(Outcome::NoSpace) };
        let word = be64(self.image, at);
        assert_eq!(self.layout.version, 3, "version 2 has no zero flag");
        let is_private = word & (COPIED | COMPRESSED) == COPIED;
        let kept = if is_private { word } else { 0 };
        let zeros = if self.layout.is_extended {
            Entry { word: kept, bits: u64::from(u32::MAX) << 32 }
        } else {
            Entry { word: kept | ZERO, bits: 0 }
        };
        self.layout.put_l2_entry(self.image, at, zeros);
        if !is_private {
            self.release(word)?;
        }
        Ok(Outcome::Done)
    }

    /// Gives up the cluster at guest offset `offset`.
    pub fn discard(&mut self, offset: u64) -> Result<Outcome> {
        let Some(at) = self.entry_at(offset)? else { return Ok(Outcome::NoSpace) };
        let word = be64(self.image, at);
        self.layout.put_l2_entry(self.image, at, Entry::default());
        self.release(word)?;
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
            let entries = match l2 {
                0 => vec![0; usize::try_from(cluster_bytes).unwrap()],
                _ => bytes(self.image, l2, cluster_bytes),
            };
            self.image.write(&entries, new);
            put64(self.image, l1_at, new | COPIED);
            if l2 != 0 {
                self.count(l2 >> self.layout.cluster_bits, -1)?;
            }
            l2 = new;
        }
        Ok(Some(l2 + cluster % per_table * self.layout.entry_bytes()))
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
        if new == 0 {
            self.used_up_to = self.used_up_to.min(cluster).max(self.search_from);
            self.half_full = self.half_full.filter(|at| at >> self.layout.cluster_bits != cluster);
        }
        self.layout.set_refcount(self.image, cluster, new)
    }

    /// Takes `count` neighbouring clusters whose counts are zero, the first that there are. Returns
    /// their host offset; none where the refcount table is full.
    pub fn allocate(&mut self, count: u64) -> Result<Option<u64>> {
        let mut first = self.used_up_to;
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
        if count == 1 {
            self.used_up_to = first + 1;
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
