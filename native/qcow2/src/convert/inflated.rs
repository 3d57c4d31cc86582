//! Decompressed clusters: the last few, because a cluster below may show through an overlay of
//! smaller ones piece by piece.

use std::collections::VecDeque;

use super::piece::CompressedCluster;
use crate::error::Result;
use crate::image::Image;

/// What is kept at most: eight of the largest clusters.
const BUDGET_BYTES: usize = 16 << 20;

/// Which cluster of which file of the chain.
type Key = (usize, CompressedCluster);

#[derive(Debug, Default)]
pub(super) struct Inflated {
    /// The latest first.
    kept: VecDeque<(Key, Vec<u8>)>,
    kept_bytes: usize,
}

impl Inflated {
    /// The content of `cluster` of `image`, which is file `layer` of the chain.
    pub(super) fn get(
        &mut self,
        layer: usize,
        image: &Image,
        cluster: CompressedCluster,
    ) -> Result<&[u8]> {
        let key = (layer, cluster);
        if let Some(index) = self.kept.iter().position(|(known, _)| *known == key) {
            self.kept.swap(0, index);
        } else {
            let bytes = image.inflate(cluster.offset, cluster.bytes)?;
            self.kept_bytes += bytes.len();
            self.kept.push_front((key, bytes));
            while self.kept_bytes > BUDGET_BYTES {
                let Some((_, oldest)) = self.kept.pop_back() else { break };
                self.kept_bytes -= oldest.len();
            }
        }
        Ok(&self.kept[0].1)
    }
}
