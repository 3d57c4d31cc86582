//! Refcount blocks of all seven widths (qcow2 specification, "Host cluster management").
//!
//! A block is kept as its on-disk bytes, so memory is what the format needs and nothing more.

/// Width of the reference counts in an image, as log2 of bits: 0 (1 bit) to 6 (64 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefcountOrder(u32);

impl RefcountOrder {
    /// `order` is at most 6; the header's parser saw to it.
    pub fn new(order: u32) -> Self {
        assert!(order <= 6, "refcount order {order}");
        Self(order)
    }

    /// log2 of the width in bits.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The largest count that fits.
    pub fn max(self) -> u64 {
        u64::MAX >> (64 - (1_u32 << self.0))
    }

    /// log2 of the number of counts in a block of one cluster.
    pub fn block_bits(self, cluster_bits: u32) -> u32 {
        cluster_bits + 3 - self.0
    }

    /// Count `index` of `block`. Counts below 8 bits fill a byte from its least significant bit.
    #[inline]
    pub fn get_count(self, block: &[u8], index: usize) -> u64 {
        match self.0 {
            0..=2 => {
                let width = 1 << self.0;
                let bit = index << self.0;
                u64::from(block[bit / 8] >> (bit % 8)) & ((1 << width) - 1)
            }
            3 => u64::from(block[index]),
            4 => u64::from(super::be16(block, index * 2)),
            5 => u64::from(super::be32(block, index * 4)),
            _ => super::be64(block, index * 8),
        }
    }

    /// Sets count `index` of `block`. `count` fits the width.
    #[inline]
    pub fn set_count(self, block: &mut [u8], index: usize, count: u64) {
        debug_assert!(count <= self.max());
        let bytes = count.to_be_bytes();
        match self.0 {
            0..=2 => {
                let width = 1 << self.0;
                let bit = index << self.0;
                let mask = ((1_u8 << width) - 1) << (bit % 8);
                let value = bytes[7] << (bit % 8);
                block[bit / 8] = block[bit / 8] & !mask | value;
            }
            3 => block[index] = bytes[7],
            4 => block[index * 2..][..2].copy_from_slice(&bytes[6..]),
            5 => block[index * 4..][..4].copy_from_slice(&bytes[4..]),
            _ => block[index * 8..][..8].copy_from_slice(&bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_counts_fill_a_byte_from_the_low_end() {
        let mut block = [0_u8; 4];
        RefcountOrder::new(0).set_count(&mut block, 9, 1);
        assert_eq!(block, [0, 0b10, 0, 0]);
        RefcountOrder::new(1).set_count(&mut block, 2, 3);
        assert_eq!(block, [0b11_0000, 0b10, 0, 0]);
        RefcountOrder::new(2).set_count(&mut block, 7, 0xa);
        assert_eq!(block, [0b11_0000, 0b10, 0, 0xa0]);
    }

    #[test]
    fn every_width_reads_back_what_it_wrote_and_leaves_its_neighbours() {
        for order in 0..=6 {
            let order = RefcountOrder::new(order);
            let mut block = vec![0_u8; 64];
            let count = (64 * 8) >> order.get();
            for index in 0..count {
                order.set_count(&mut block, index, index as u64 & order.max());
            }
            order.set_count(&mut block, 1, order.max());
            for index in 0..count {
                let expected = if index == 1 { order.max() } else { index as u64 & order.max() };
                assert_eq!(order.get_count(&block, index), expected, "{order:?} {index}");
            }
        }
    }
}
