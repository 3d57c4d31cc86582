//! What an image contains, read without the library: so much as tells whether anything was lost.
//!
//! Nothing is decompressed and no L2 entry judged: where an operation leaves a cluster alone, its
//! kind and its bytes are the same afterwards. Looks at damaged images too, with bounded work.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use qcow2::format::header::Header;
use qcow2::storage::SparseImage;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// L2 entries and bytes of names that are looked at; an image with more has no view.
const MOST: u64 = 1 << 20;

/// What a guest cluster reads as, and the hash of its bytes where it has some.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// In the header's cluster or beyond the end of the file, which is corruption: equals anything,
    /// because both change where nobody looks at the table that names it.
    Outside,
    /// Zeros, with or without space of its own.
    Zero,
    /// Its own host cluster; of an extended entry with the word about its subclusters.
    Data { bytes: u64, bitmap: u64 },
    /// Compressed: the sectors that it may take.
    Packed { bytes: u64 },
    /// No host cluster, but something is said about its parts.
    Parts { bitmap: u64 },
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Outside, _) | (_, Self::Outside) | (Self::Zero, Self::Zero) => true,
            (Self::Packed { bytes }, Self::Packed { bytes: others }) => bytes == others,
            (Self::Parts { bitmap }, Self::Parts { bitmap: others }) => bitmap == others,
            (Self::Data { bytes, bitmap }, Self::Data { bytes: others, bitmap: other }) => {
                (bytes, bitmap) == (others, other)
            }
            _ => false,
        }
    }
}

/// Guest clusters that are not unallocated, by number.
pub type Content = BTreeMap<u64, Cell>;

/// Everything that a user could miss.
#[derive(Clone, Debug)]
pub struct View {
    pub size: u64,
    pub active: Content,
    /// What L1 entries above those that the disk needs map: VM state.
    pub above: Content,
    pub snapshots: Vec<SnapshotView>,
    /// Guest clusters that one L1 entry maps.
    pub span: u64,
    pub cluster_bits: u32,
}

/// One snapshot: its row without its L1 table's place, and its content with its VM state.
#[derive(Clone, Debug)]
pub struct SnapshotView {
    pub id: Vec<u8>,
    pub name: Vec<u8>,
    /// Dates, clock, short VM state size.
    pub fixed: Vec<u8>,
    pub extra: Vec<u8>,
    pub content: Content,
}

impl SnapshotView {
    /// Virtual size when it was taken.
    pub fn size(&self) -> Option<u64> {
        Some(u64::from_be_bytes(*self.extra.get(8..)?.first_chunk()?))
    }

    /// Whether this is `other`, their names aside. A rewrite widens the extra data, and drops what
    /// is only part of a number.
    pub fn is_same(&self, other: &Self) -> bool {
        let common = self.extra.len().min(other.extra.len());
        let common = if common < 24 { common / 8 * 8 } else { common };
        (&self.id, &self.fixed, &self.content) == (&other.id, &other.fixed, &other.content)
            && self.extra[..common] == other.extra[..common]
    }
}

struct Reader<'a> {
    image: &'a SparseImage,
    version: u64,
    cluster_bits: u32,
    entry_words: u64,
    left: u64,
}

impl View {
    /// Clusters of the disk's L1 entries that lie at or above `size` belong to VM state.
    pub fn disk_clusters(&self, size: u64) -> u64 {
        size.div_ceil(self.span << self.cluster_bits) * self.span
    }

    /// Whether everything in it is the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let mut pairs = self.snapshots.iter().zip(&other.snapshots);
        self.size == other.size
            && (&self.active, &self.above) == (&other.active, &other.above)
            && self.snapshots.len() == other.snapshots.len()
            && pairs.all(|(is, was)| is.is_same(was) && is.name == was.name)
    }

    /// Reads an image; none where its header is none or it is too much work.
    pub fn of(image: &SparseImage) -> Option<Self> {
        let be = |at, count| number(image, at, count);
        let cluster_bits = u32::try_from(be(20, 4)).ok().filter(|bits| (9..=21).contains(bits))?;
        let version = be(4, 4);
        let is_extended = version == 3 && be(72, 8) & 1 << 4 != 0;
        let entry_words = if is_extended { 2 } else { 1 };
        let mut reader = Reader { image, version, cluster_bits, entry_words, left: MOST };
        let span = reader.entries();
        let (size, snapshots) = (be(24, 8), be(60, 4));
        let mut active = reader.content(be(40, 8), be(36, 4))?;
        let mut view = Self {
            size,
            active: Content::new(),
            above: Content::new(),
            snapshots: Vec::new(),
            span,
            cluster_bits,
        };
        view.above = active.split_off(&view.disk_clusters(size));
        view.active = active;
        let mut at = be(64, 8);
        for _ in 0..snapshots {
            at = at.checked_next_multiple_of(8).filter(|at| *at < 1 << 62)?;
            let (id, name, extra) = (be(at + 12, 2), be(at + 14, 2), be(at + 36, 4));
            reader.spend(64 + id + name + extra)?;
            view.snapshots.push(SnapshotView {
                id: bytes(image, at + 40 + extra, id),
                name: bytes(image, at + 40 + extra + id, name),
                fixed: bytes(image, at + 16, 20),
                extra: bytes(image, at + 40, extra),
                content: reader.content(be(at, 8), be(at + 8, 4))?,
            });
            at += 40 + extra + id + name;
        }
        Some(view)
    }
}

impl Reader<'_> {
    /// Entries of an L2 table.
    fn entries(&self) -> u64 {
        (1 << self.cluster_bits) / (8 * self.entry_words)
    }

    fn spend(&mut self, work: u64) -> Option<()> {
        self.left = self.left.checked_sub(work)?;
        Some(())
    }

    fn content(&mut self, l1_offset: u64, l1_entries: u64) -> Option<Content> {
        let mut content = Content::new();
        self.spend(l1_entries)?;
        for slot in 0..l1_entries {
            let l2 = number(self.image, l1_offset.checked_add(slot * 8)?, 8) & OFFSET;
            if l2 == 0 {
                continue;
            }
            self.spend(self.entries())?;
            for index in 0..self.entries() {
                let at = l2 + index * 8 * self.entry_words;
                let entry = number(self.image, at, 8) & !COPIED;
                let bitmap = if self.entry_words == 2 { number(self.image, at + 8, 8) } else { 0 };
                if let Some(cell) = self.cell(entry, bitmap) {
                    content.insert(slot * self.entries() + index, cell);
                }
            }
        }
        Some(content)
    }

    fn cell(&self, entry: u64, bitmap: u64) -> Option<Cell> {
        if entry & COMPRESSED != 0 {
            let x = 62 - (self.cluster_bits - 8);
            let offset = entry & ((1 << x) - 1);
            let length = (((entry & (COMPRESSED - 1)) >> x) + 1) * 512 - offset % 512;
            return Some(self.inside(offset, length, |bytes| Cell::Packed { bytes }));
        }
        let is_zero = self.entry_words == 1 && self.version == 3 && entry & 1 != 0;
        match entry & OFFSET {
            _ if is_zero => Some(Cell::Zero),
            0 if bitmap != 0 => Some(Cell::Parts { bitmap }),
            0 => None,
            at => {
                let cluster = 1 << self.cluster_bits;
                Some(self.inside(at, cluster, |bytes| Cell::Data { bytes, bitmap }))
            }
        }
    }

    /// A cell of the bytes there.
    fn inside(&self, at: u64, length: u64, cell: impl FnOnce(u64) -> Cell) -> Cell {
        let cluster = 1 << self.cluster_bits;
        let end = self.image.len().next_multiple_of(cluster);
        if at < cluster || at.checked_add(length).is_none_or(|reached| reached > end) {
            return Cell::Outside;
        }
        let mut hasher = DefaultHasher::new();
        bytes(self.image, at, length).hash(&mut hasher);
        cell(hasher.finish())
    }
}

/// Whether an operation may have to leave a count of a cluster beyond the end of the file, which is
/// a leak when the file has grown over it: something in the header may refer to that cluster in a
/// way that nobody knows.
pub fn may_leak_beyond_end(header: &Header, image: &SparseImage) -> bool {
    let known = [0xe279_2aca, 0x6803_f857, 0x0537_be77, 0x4441_5441];
    let is_known = |kind| known.contains(&kind) || kind == 0x2385_2875 && header.autoclear & 1 != 0;
    let has_strangers = header.header_bytes > 112
        || header.compatible & !1 != 0
        || header.autoclear & !3 != 0
        || header.extensions.iter().any(|extension| !is_known(extension.kind));
    has_strangers && counts_beyond_end(image)
}

/// Whether any cluster beyond the end of the file is counted as used.
fn counts_beyond_end(image: &SparseImage) -> bool {
    let (cluster_bits, version) = (number(image, 20, 4), number(image, 4, 4));
    let order = if version == 3 { number(image, 96, 4) } else { 4 };
    let (table, entries) = (number(image, 48, 8), number(image, 56, 4) << cluster_bits >> 3);
    let cluster = 1_u64 << cluster_bits;
    let per_block = (cluster * 8) >> order;
    let clusters = image.len().div_ceil(cluster);
    let inside = |index: u64| clusters.saturating_sub(index * per_block).min(per_block);
    (0..entries.min(MOST)).any(|index| {
        let block = number(image, table + index * 8, 8);
        let start = (inside(index) << order).div_ceil(8);
        block != 0 && bytes(image, block + start, cluster - start).iter().any(|&b| b != 0)
    })
}

/// Bytes of an image; zeros beyond its end.
fn bytes(image: &SparseImage, at: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).expect("bounded")];
    // So far no file reaches.
    if at.checked_add(length).is_some() {
        image.read(&mut bytes, at);
    }
    bytes
}

fn number(image: &SparseImage, at: u64, count: u64) -> u64 {
    bytes(image, at, count).iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
}
