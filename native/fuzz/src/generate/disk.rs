//! What a guest and its owner did: writes, zeros, compressed clusters, discards, snapshots. Tables
//! are copied before they change where a snapshot names them too.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Range;

use arbitrary::{Result, Unstructured};
use flate2::{Compression, write::DeflateEncoder};

use super::shape::Shape;
use super::write;

pub const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An L2 entry without COPIED, and its second word.
pub type Entry = [u64; 2];

/// L2 tables by number, one for each L1 entry.
pub type L1 = Vec<Option<usize>>;

pub struct Snapshot {
    pub l1: L1,
    pub size: u64,
}

/// Disk and snapshots, the data already in the file.
pub struct Disk {
    pub shape: Shape,
    pub file: Vec<u8>,
    /// The cluster after the last one taken.
    pub end: u64,
    pub tables: Vec<Vec<Entry>>,
    pub active: L1,
    pub snapshots: Vec<Snapshot>,
    /// Where compressed data may go on, in bytes.
    packing: Range<u64>,
}

impl Disk {
    /// An empty disk behind a header.
    pub fn new(shape: Shape) -> Self {
        let slots = usize::try_from(shape.l1_entries()).expect("few");
        Self {
            shape,
            file: Vec::new(),
            end: 1,
            tables: Vec::new(),
            active: vec![None; slots],
            snapshots: Vec::new(),
            packing: 0..0,
        }
    }

    /// Takes `count` clusters at the end, now and then after a gap.
    pub fn take(&mut self, count: u64, input: &mut Unstructured<'_>) -> Result<u64> {
        if input.ratio(1, 12)? {
            self.end += input.int_in_range(1..=9)?;
        }
        let first = self.end;
        self.end += count;
        Ok(first << self.shape.cluster_bits)
    }

    /// Works for a while and takes snapshots in between.
    pub fn live(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        // Each snapshot is one reference more to everything.
        let most = self.shape.max_refcount().min(4) - 1;
        let snapshots = input.int_in_range(0..=most)?;
        let most_writes = if self.shape.extended { 4 } else { 14 };
        for number in 0..=snapshots {
            for _ in 0..input.int_in_range(0..=most_writes)? {
                self.change(input)?;
            }
            if number < snapshots {
                let size = self.shape.size();
                self.snapshots.push(Snapshot { l1: self.active.clone(), size });
            }
        }
        Ok(())
    }

    fn change(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let per_table = self.shape.l2_entries();
        // Above the disk's end is VM state.
        let clusters = self.shape.clusters + self.shape.vm_state_slots * per_table.min(40);
        let guest = input.int_in_range(0..=clusters - 1)?;
        let entry = self.entry(input)?;
        let slot = usize::try_from(guest / per_table).expect("few");
        let index = usize::try_from(guest % per_table).expect("few");
        let table = self.private_table(slot);
        self.tables[table][index] = entry;
        Ok(())
    }

    /// The table of an L1 entry, made or copied where it is not the active disk's alone.
    fn private_table(&mut self, slot: usize) -> usize {
        let old = self.active[slot];
        let is_shared = |number| self.snapshots.iter().any(|s| s.l1.contains(&Some(number)));
        if let Some(number) = old.filter(|&number| !is_shared(number)) {
            return number;
        }
        let entries = usize::try_from(self.shape.l2_entries()).expect("few");
        let content = old.map_or(vec![[0; 2]; entries], |number| self.tables[number].clone());
        self.tables.push(content);
        self.active[slot] = Some(self.tables.len() - 1);
        self.tables.len() - 1
    }

    fn entry(&mut self, input: &mut Unstructured<'_>) -> Result<Entry> {
        let Shape { version, extended, .. } = self.shape;
        // Data of their own: COPIED needs a count of exactly one, which compressed ones exceed.
        let can_pack = self.shape.max_refcount() >= 255;
        match input.int_in_range(0..=9)? {
            0 => Ok([0; 2]),
            1 if extended => Ok([0, input.arbitrary::<u64>()? & 0xffff_ffff << 32]),
            1 if version == 3 => Ok([ZERO, 0]),
            2 if !extended && version == 3 => Ok([self.data(input)? | ZERO, 0]),
            3 | 4 if can_pack => Ok([self.compressed(input)?, 0]),
            _ if extended => {
                let (allocated, zero) = (input.arbitrary::<u32>()?, input.arbitrary::<u32>()?);
                let bitmap = u64::from(zero & !allocated) << 32 | u64::from(allocated);
                Ok([self.data(input)?, bitmap])
            }
            _ => Ok([self.data(input)?, 0]),
        }
    }

    /// A new cluster that looks like no other.
    fn data(&mut self, input: &mut Unstructured<'_>) -> Result<u64> {
        let at = self.take(1, input)?;
        let mark = (at >> 9).to_be_bytes();
        let size = usize::try_from(self.shape.cluster_bytes()).expect("small");
        write(&mut self.file, at, &mark.repeat(size / mark.len()));
        Ok(at)
    }

    /// A compressed cluster behind the last one, in the same host clusters while they have room.
    fn compressed(&mut self, input: &mut Unstructured<'_>) -> Result<u64> {
        let fill: u8 = input.arbitrary()?;
        let size = usize::try_from(self.shape.cluster_bytes()).expect("small");
        let data = if self.shape.zstd { repeated_zstd(fill, size) } else { deflated(fill, size) };
        if self.packing.end - self.packing.start < data.len() as u64 {
            let at = self.take(2, input)?;
            self.packing = at..at + 2 * self.shape.cluster_bytes();
        }
        let at = self.packing.start;
        self.packing.start += data.len() as u64 + input.int_in_range(0..=300)?;
        self.packing.start = self.packing.start.min(self.packing.end);
        write(&mut self.file, at, &data);
        let sectors = (at % 512 + data.len() as u64).div_ceil(512);
        let x = 62 - (self.shape.cluster_bits - 8);
        Ok(COMPRESSED | (sectors - 1) << x | at)
    }

    /// Host clusters that an entry owns.
    pub fn owned(&self, entry: u64) -> Range<u64> {
        let bits = self.shape.cluster_bits;
        let (start, length) = if entry & COMPRESSED != 0 {
            let x = 62 - (bits - 8);
            let start = entry & ((1 << x) - 1);
            (start, (((entry & (COMPRESSED - 1)) >> x) + 1) * 512 - start % 512)
        } else if entry & OFFSET != 0 {
            (entry & OFFSET, 1 << bits)
        } else {
            (0, 0)
        };
        start >> bits..(start + length).div_ceil(1 << bits)
    }

    /// L1 tables that name each L2 table.
    pub fn names(&self) -> Vec<u64> {
        let mut names = vec![0; self.tables.len()];
        let l1s = self.snapshots.iter().map(|s| &s.l1).chain([&self.active]);
        for number in l1s.flatten().flatten() {
            names[*number] += 1;
        }
        names
    }

    /// References to data clusters.
    pub fn data_counts(&self) -> BTreeMap<u64, u64> {
        let mut counts = BTreeMap::new();
        for (table, names) in self.tables.iter().zip(self.names()) {
            for &[entry, _] in table {
                for cluster in self.owned(entry) {
                    *counts.entry(cluster).or_default() += names;
                }
            }
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    /// Whether COPIED belongs to an entry whose cluster has this count.
    pub fn is_copied(entry: u64, count: u64) -> bool {
        entry & COMPRESSED == 0 && entry & OFFSET != 0 && count == 1
    }
}

fn deflated(fill: u8, size: usize) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&vec![fill; size]).expect("to memory");
    encoder.finish().expect("to memory")
}

/// A Zstandard frame of one block that repeats one byte (RFC 8878, 3.1.1).
fn repeated_zstd(fill: u8, size: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
    let size = u32::try_from(size).expect("small");
    frame.extend(size.to_le_bytes());
    frame.extend(&(size << 3 | 0b011).to_le_bytes()[..3]);
    frame.push(fill);
    frame
}
