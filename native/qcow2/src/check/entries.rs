//! What one L1 or L2 entry refers to, and what is wrong with it.
//!
//! Said to a [`Sink`], so that counting and telling cannot disagree. A damaged entry is followed as
//! far as `qemu-img check` follows it: an unaligned offset still refers to the clusters it touches.

use super::problem::Problem;
use super::stored::Counts;
use crate::format::header::{Header, incompatible};
use crate::format::mapping::{
    COMPRESSED, COPIED, L1_RESERVED, L2_RESERVED, OFFSET_MASK, SUBCLUSTERS, ZERO,
    compressed_extent, without_misplaced_cluster,
};

/// What every judgement needs to know about the image.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub cluster_bits: u32,
    /// Length of the file in whole sectors of 512 bytes, which is how QEMU measures it.
    pub file_bytes: u64,
    /// Guest data lives in another file; offsets of data mean nothing here.
    pub external_data: bool,
    /// L2 entries have a second word, about subclusters.
    pub extended: bool,
    /// The largest count that a refcount can hold.
    pub max_refcount: u64,
}

impl Geometry {
    pub fn new(header: &Header, file_bytes: u64) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            file_bytes: file_bytes.next_multiple_of(512),
            external_data: header.has(incompatible::DATA_FILE),
            extended: header.extended_l2(),
            max_refcount: u64::MAX >> (64 - header.refcount_bits()),
        }
    }

    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub fn is_aligned(&self, offset: u64) -> bool {
        offset & (self.cluster_bytes() - 1) == 0
    }

    /// Whether a region reaches a whole cluster or more past the end of the file. The last cluster
    /// may be cut off, and a table may end in the one after it.
    pub fn is_beyond_end(&self, offset: u64, bytes: u64) -> bool {
        offset.saturating_add(bytes) >= self.file_bytes.saturating_add(self.cluster_bytes())
    }

    /// Numbers of the clusters that a region touches; `bytes` is not 0.
    pub fn clusters(&self, offset: u64, bytes: u64) -> std::ops::Range<u64> {
        offset >> self.cluster_bits..((offset + bytes - 1) >> self.cluster_bits) + 1
    }
}

/// An L2 entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct L2Entry {
    /// Where the cluster is, and flags.
    pub word: u64,
    /// Of an extended entry, which subclusters are allocated (low half) and which read as zeros
    /// (high half); else 0.
    pub subclusters: u64,
}

impl L2Entry {
    /// All entries of a table.
    pub fn all<'a>(geometry: &Geometry, table: &'a [u8]) -> impl Iterator<Item = Self> + use<'a> {
        let extended = geometry.extended;
        table.chunks_exact(if extended { 16 } else { 8 }).map(move |bytes| {
            let word = |at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().expect("8 bytes"));
            Self { word: word(0), subclusters: if extended { word(8) } else { 0 } }
        })
    }

    /// Whether some subcluster is said to be both allocated and zero.
    pub fn is_contradictory(self) -> bool {
        self.subclusters >> SUBCLUSTERS & self.allocated() != 0
    }

    /// The subclusters that are allocated.
    pub fn allocated(self) -> u64 {
        self.subclusters & ((1 << SUBCLUSTERS) - 1)
    }
}

/// Who is told.
pub(super) trait Sink {
    /// Something is wrong.
    fn problem(&mut self, problem: Problem);
    /// The entry refers to these bytes. They may be anywhere.
    fn reference(&mut self, offset: u64, bytes: u64);
    /// A guest cluster with a host cluster of its own at `offset`.
    fn allocated(&mut self, offset: u64);
    /// A compressed guest cluster.
    fn compressed(&mut self);
}

/// Judges an L1 entry that is not 0; returns where its L2 table is.
pub(super) fn l1_entry(geometry: &Geometry, entry: u64, sink: &mut impl Sink) -> u64 {
    let offset = entry & OFFSET_MASK;
    if entry & L1_RESERVED != 0 {
        sink.problem(Problem::L1Reserved { entry });
    }
    sink.reference(offset, geometry.cluster_bytes());
    if !geometry.is_aligned(offset) {
        sink.problem(Problem::L2Unaligned { offset });
    }
    offset
}

/// Judges entry `index` of an L2 table.
pub(super) fn l2_entry(geometry: &Geometry, index: u64, whole: L2Entry, sink: &mut impl Sink) {
    let entry = whole.word;
    if entry & COMPRESSED != 0 {
        let (offset, bytes) = compressed_extent(entry, geometry.cluster_bits);
        if entry & COPIED != 0 {
            sink.problem(Problem::CompressedCopied { offset });
        }
        if geometry.external_data {
            sink.problem(Problem::CompressedExternal { index, entry: entry & !COPIED });
            return;
        }
        if whole.subclusters != 0 {
            sink.problem(Problem::CompressedSubclusters { index, entry: entry & !COPIED });
            return;
        }
        sink.reference(offset, bytes);
        sink.compressed();
        return;
    }
    if entry & L2_RESERVED != 0 {
        sink.problem(Problem::L2Reserved { entry });
    }
    let Some(offset) = owned_cluster(geometry, entry) else {
        if whole.allocated() != 0 {
            sink.problem(Problem::UnallocatedSubclusters);
        }
        return;
    };
    if whole.is_contradictory() {
        sink.problem(Problem::SubclustersContradictory { offset });
    }
    if !geometry.is_aligned(offset) {
        let has_data = if geometry.extended { whole.allocated() != 0 } else { entry & ZERO == 0 };
        sink.problem(if has_data {
            Problem::DataUnaligned { offset }
        } else {
            Problem::PreallocatedUnaligned { offset }
        });
    }
    sink.allocated(offset);
    if !geometry.external_data {
        sink.reference(offset, geometry.cluster_bytes());
    }
}

/// Whether a repair can leave out the cluster, which is misplaced and has no data.
pub(super) fn can_be_mended(geometry: &Geometry, whole: L2Entry) -> bool {
    let subclusters = geometry.extended.then_some(whole.subclusters);
    without_misplaced_cluster(whole.word, subclusters, geometry.cluster_bits).is_some()
}

/// Judges an entry that is being mended; returns where its cluster was to be.
pub(super) fn mended_entry(entry: u64, sink: &mut impl Sink) -> u64 {
    if entry & L2_RESERVED != 0 {
        sink.problem(Problem::L2Reserved { entry });
    }
    let offset = entry & OFFSET_MASK;
    sink.problem(Problem::PreallocatedDropped { offset });
    offset
}

/// Where the cluster of an entry that is not compressed is. In an external data file, offset 0 is
/// a place like any other, and COPIED says that it is meant.
fn owned_cluster(geometry: &Geometry, entry: u64) -> Option<u64> {
    let offset = entry & OFFSET_MASK;
    let at_zero = geometry.external_data && entry & COPIED != 0 && entry & ZERO == 0;
    (offset != 0 || at_zero).then_some(offset)
}

/// The refcount that contradicts COPIED of an active L2 entry, if it does. A refcount that cannot
/// be read contradicts nothing.
pub(super) fn copied_contradiction(
    geometry: &Geometry,
    entry: u64,
    counts: &impl Counts,
) -> Option<u64> {
    if entry & COMPRESSED != 0 {
        return None;
    }
    let offset = owned_cluster(geometry, entry)?;
    let refcount =
        if geometry.external_data { 1 } else { counts.count(offset >> geometry.cluster_bits)? };
    ((refcount == 1) != (entry & COPIED != 0)).then_some(refcount)
}
