//! What an image is made with.

use arbitrary::{Result, Unstructured};

/// The format's options.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub version: u32,
    pub cluster_bits: u32,
    /// log2 of the refcount width in bits.
    pub refcount_order: u32,
    pub extended: bool,
    pub zstd: bool,
    /// Guest clusters of the disk.
    pub clusters: u64,
    /// Bytes of the last of them that the disk does not have, a multiple of 512.
    pub missing_bytes: u64,
    /// L1 entries above the disk's end, for VM state.
    pub vm_state_slots: u64,
}

impl Shape {
    pub fn draw(input: &mut Unstructured<'_>) -> Result<Self> {
        let extended = input.ratio(1, 8)?;
        let cluster_bits = if extended { 14 } else { input.int_in_range(9..=12)? };
        let version = if !extended && input.ratio(1, 5)? { 2 } else { 3 };
        let order = *input.choose(&[4, 4, 4, 0, 1, 2, 3, 5, 6])?;
        let sectors = 1_u64 << (cluster_bits - 9);
        Ok(Self {
            version,
            cluster_bits,
            refcount_order: if version == 2 { 4 } else { order },
            extended,
            zstd: version == 3 && input.ratio(1, 4)?,
            clusters: input.int_in_range(1..=200)?,
            missing_bytes: input.int_in_range(0..=sectors - 1)? * 512,
            vm_state_slots: u64::from(input.ratio(1, 4)?),
        })
    }

    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub fn size(&self) -> u64 {
        self.clusters * self.cluster_bytes() - self.missing_bytes
    }

    pub fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / if self.extended { 16 } else { 8 }
    }

    pub fn l1_entries(&self) -> u64 {
        self.clusters.div_ceil(self.l2_entries()) + self.vm_state_slots
    }

    pub fn max_refcount(&self) -> u64 {
        u64::MAX >> (64 - (1 << self.refcount_order))
    }
}
