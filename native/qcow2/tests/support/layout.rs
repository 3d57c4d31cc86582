//! The format as plainly as possible: header fields and reference counts, straight from the bytes.

use qcow2::storage::SparseImage;

pub const COPIED: u64 = 1 << 63;
pub const COMPRESSED: u64 = 1 << 62;
pub const ZERO: u64 = 1;
/// Parts of a cluster that an extended L2 entry tells apart.
pub const SUBCLUSTERS: u64 = 32;
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What is wrong, in words.
pub type Result<T> = std::result::Result<T, String>;

pub fn be16(image: &SparseImage, at: u64) -> u16 {
    let mut bytes = [0; 2];
    image.read(&mut bytes, at);
    u16::from_be_bytes(bytes)
}

pub fn be32(image: &SparseImage, at: u64) -> u32 {
    let mut bytes = [0; 4];
    image.read(&mut bytes, at);
    u32::from_be_bytes(bytes)
}

pub fn be64(image: &SparseImage, at: u64) -> u64 {
    let mut bytes = [0; 8];
    image.read(&mut bytes, at);
    u64::from_be_bytes(bytes)
}

pub fn put64(image: &mut SparseImage, at: u64, value: u64) {
    image.write(&value.to_be_bytes(), at);
}

pub fn bytes(image: &SparseImage, at: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    image.read(&mut bytes, at);
    bytes
}

pub fn table(image: &SparseImage, at: u64, entries: u64) -> Vec<u64> {
    let bytes = bytes(image, at, entries * 8);
    bytes.as_chunks::<8>().0.iter().map(|&entry| u64::from_be_bytes(entry)).collect()
}

/// An L2 entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What every entry has.
    pub word: u64,
    /// What extended ones have besides: a bit for each subcluster that is allocated, above them a
    /// bit for each that reads as zeros.
    pub bits: u64,
}

impl Entry {
    pub fn without_flag(self) -> Self {
        Self { word: self.word & !COPIED, ..self }
    }

    /// Whether subcluster `index` reads as zeros, or is in the host cluster.
    pub fn is_zero(self, index: u64) -> bool {
        self.bits >> (32 + index) & 1 != 0
    }

    pub fn is_allocated(self, index: u64) -> bool {
        self.bits >> index & 1 != 0
    }
}

/// The header's fields.
#[derive(Clone, Debug)]
pub struct Layout {
    pub version: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub l1_entries: u64,
    pub l1_offset: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_clusters: u64,
    pub snapshot_count: u64,
    pub snapshots_offset: u64,
    pub autoclear: u64,
    pub refcount_bits: u64,
    pub is_zstd: bool,
    pub is_extended: bool,
    /// Type, offset and length of each header extension.
    pub extensions: Vec<(u32, u64, u64)>,
}

impl Layout {
    pub fn read(image: &SparseImage) -> Result<Self> {
        if be32(image, 0) != 0x5146_49fb {
            return Err("no magic".into());
        }
        let version = be32(image, 4);
        let v3 = version == 3;
        let header_bytes = if v3 { u64::from(be32(image, 100)) } else { 72 };
        let mut layout = Self {
            version,
            cluster_bits: be32(image, 20),
            size: be64(image, 24),
            l1_entries: be32(image, 36).into(),
            l1_offset: be64(image, 40),
            refcount_table_offset: be64(image, 48),
            refcount_table_clusters: be32(image, 56).into(),
            snapshot_count: be32(image, 60).into(),
            snapshots_offset: be64(image, 64),
            autoclear: if v3 { be64(image, 88) } else { 0 },
            refcount_bits: if v3 { 1 << be32(image, 96) } else { 16 },
            is_zstd: v3 && header_bytes > 104 && bytes(image, 104, 1)[0] == 1,
            is_extended: v3 && be64(image, 72) & 1 << 4 != 0,
            extensions: Vec::new(),
        };
        if !matches!(version, 2 | 3) || !(9..=21).contains(&layout.cluster_bits) {
            return Err(format!("version {version}, cluster bits {}", layout.cluster_bits));
        }
        if layout.l1_entries > 1 << 16
            || layout.refcount_table_clusters > 1 << 10
            || layout.snapshot_count > 1 << 10
        {
            return Err("absurd header".into());
        }
        let mut at = header_bytes;
        while at + 8 <= layout.cluster() {
            let (kind, length) = (be32(image, at), u64::from(be32(image, at + 4)));
            if kind == 0 {
                break;
            }
            layout.extensions.push((kind, at + 8, length));
            at += 8 + length.next_multiple_of(8);
        }
        Ok(layout)
    }

    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub fn l2_entries(&self) -> u64 {
        self.cluster() / self.entry_bytes()
    }

    /// Bytes of an L2 entry.
    pub fn entry_bytes(&self) -> u64 {
        if self.is_extended { 16 } else { 8 }
    }

    /// The L2 table at a host offset.
    pub fn l2_table(&self, image: &SparseImage, at: u64) -> Vec<Entry> {
        let words = table(image, at, self.cluster() / 8);
        if self.is_extended {
            let pair = |&[word, bits]: &[u64; 2]| Entry { word, bits };
            return words.as_chunks::<2>().0.iter().map(pair).collect();
        }
        words.into_iter().map(|word| Entry { word, bits: 0 }).collect()
    }

    /// The L2 entry at a host offset.
    pub fn l2_entry(&self, image: &SparseImage, at: u64) -> Entry {
        let bits = if self.is_extended { be64(image, at + 8) } else { 0 };
        Entry { word: be64(image, at), bits }
    }

    pub fn put_l2_entry(&self, image: &mut SparseImage, at: u64, entry: Entry) {
        put64(image, at, entry.word);
        if self.is_extended {
            put64(image, at + 8, entry.bits);
        }
    }

    /// L1 entries that the disk needs; those beyond are VM state.
    pub fn disk_l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_entries() * self.cluster())
    }

    /// Clusters that one refcount block counts.
    pub fn block_entries(&self) -> u64 {
        self.cluster() * 8 / self.refcount_bits
    }

    pub fn max_refcount(&self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits)
    }

    /// Host offset of the block that counts `cluster`; 0 where there is none.
    pub fn block_of(&self, image: &SparseImage, cluster: u64) -> u64 {
        let index = cluster / self.block_entries();
        if index >= self.refcount_table_clusters * self.cluster() / 8 {
            return 0;
        }
        be64(image, self.refcount_table_offset + index * 8)
    }

    pub fn refcount(&self, image: &SparseImage, cluster: u64) -> u64 {
        match self.block_of(image, cluster) {
            0 => 0,
            block => {
                let (at, shift) = self.position(block, cluster);
                let width = self.refcount_bits;
                if width < 8 {
                    u64::from(bytes(image, at, 1)[0] >> shift) & self.max_refcount()
                } else {
                    bytes(image, at, width / 8).iter().fold(0, |n, &b| n << 8 | u64::from(b))
                }
            }
        }
    }

    /// Sets a count in place. There has to be a block for it.
    pub fn set_refcount(&self, image: &mut SparseImage, cluster: u64, count: u64) -> Result<()> {
        if count > self.max_refcount() {
            return Err(format!("refcount {count} does not fit {} bits", self.refcount_bits));
        }
        let block = self.block_of(image, cluster);
        if block == 0 {
            return Err(format!("no refcount block for cluster {cluster}"));
        }
        let (at, shift) = self.position(block, cluster);
        if self.refcount_bits < 8 {
            let mask = u8::try_from(self.max_refcount()).unwrap() << shift;
            let value = u8::try_from(count).unwrap() << shift;
            let byte = bytes(image, at, 1)[0] & !mask | value;
            image.write(&[byte], at);
        } else {
            let length = usize::try_from(self.refcount_bits / 8).unwrap();
            image.write(&count.to_be_bytes()[8 - length..], at);
        }
        Ok(())
    }

    fn position(&self, block: u64, cluster: u64) -> (u64, u64) {
        let bit = cluster % self.block_entries() * self.refcount_bits;
        (block + bit / 8, bit % 8)
    }

    /// Offset and length in bytes of a compressed cluster.
    pub fn compressed_extent(&self, entry: u64) -> (u64, u64) {
        let x = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << x) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> x) + 1;
        (offset, sectors * 512 - offset % 512)
    }

    /// Host clusters that an L2 entry owns.
    pub fn owned(&self, entry: u64) -> std::ops::Range<u64> {
        let (offset, length) = if entry & COMPRESSED != 0 {
            self.compressed_extent(entry)
        } else if entry & OFFSET != 0 {
            (entry & OFFSET, self.cluster())
        } else {
            (0, 0)
        };
        offset >> self.cluster_bits..(offset + length).div_ceil(self.cluster())
    }
}
