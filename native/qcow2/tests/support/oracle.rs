//! Two independent judges: what an image contains, and whether its bookkeeping is right.
//!
//! Both are as short as they can be and trust nothing, because they look at images that a power cut
//! left behind. What is wrong comes back in words.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Read;
use std::sync::Arc;

use qcow2::storage::SparseImage;

use super::layout::{
    COMPRESSED, COPIED, Entry, Layout, OFFSET, Result, SUBCLUSTERS, ZERO, be16, be32, be64, bytes,
    table,
};

/// Header extension of the LUKS header.
pub const ENCRYPTION: u32 = 0x0537_be77;

/// Guest clusters that are not all zeros, by number.
pub type Content = BTreeMap<u64, Arc<[u8]>>;

/// Everything of an image that a user could miss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub size: u64,
    pub active: Content,
    /// What the active L1 table maps above the end of the disk: VM state that nobody sees, until
    /// the disk grows over it.
    pub above_the_end: Content,
    /// What encryption keeps beside the data, without which all of it is lost.
    pub keys: Vec<u8>,
    pub snapshots: Vec<SnapshotView>,
}

/// One snapshot: its row without table locations, and its content, VM state included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotView {
    pub id: Vec<u8>,
    pub name: Vec<u8>,
    /// Dates, clock, VM state size as the row has them.
    pub fixed: Vec<u8>,
    pub extra: Vec<u8>,
    pub content: Content,
}

impl SnapshotView {
    /// Virtual size when it was taken.
    pub fn size(&self) -> Option<u64> {
        let word = self.extra.get(8..16)?;
        Some(u64::from_be_bytes(word.try_into().unwrap()))
    }

    /// Whether this is `other`, its name aside. Rows may have been widened.
    pub fn same_but_name(&self, other: &Self) -> bool {
        let common = self.extra.len().min(other.extra.len());
        self.id == other.id
            && self.fixed == other.fixed
            && self.extra[..common] == other.extra[..common]
            && self.content == other.content
    }
}

/// A row of the snapshot table, with the location of its L1 table.
struct Row {
    l1_offset: u64,
    l1_entries: u64,
    view: SnapshotView,
}

fn rows(image: &SparseImage, layout: &Layout) -> Result<(Vec<Row>, u64)> {
    let mut at = layout.snapshots_offset;
    let mut rows = Vec::new();
    for index in 0..layout.snapshot_count {
        at = at.next_multiple_of(8);
        let (id, name) = (u64::from(be16(image, at + 12)), u64::from(be16(image, at + 14)));
        let extra = u64::from(be32(image, at + 36));
        let l1_entries = u64::from(be32(image, at + 8));
        if extra > 1024 || l1_entries > 1 << 16 || id == 0 || be64(image, at) == 0 {
            return Err(format!("row {index} of the snapshot table is garbage"));
        }
        rows.push(Row {
            l1_offset: be64(image, at),
            l1_entries,
            view: SnapshotView {
                id: bytes(image, at + 40 + extra, id),
                name: bytes(image, at + 40 + extra + id, name),
                fixed: bytes(image, at + 16, 20),
                extra: bytes(image, at + 40, extra),
                content: Content::new(),
            },
        });
        at += 40 + extra + id + name;
    }
    Ok((rows, at - layout.snapshots_offset))
}

/// What clusters contain, by L2 entry without its flag; none where all is zeros.
type Clusters = HashMap<Entry, Option<Arc<[u8]>>, Quick>;

/// An image that was read, for a faster look at variants of it: what lies in the very same pages is
/// not read again.
pub struct Known {
    image: SparseImage,
    clusters: Clusters,
}

impl Known {
    /// Nothing is known yet.
    pub fn nothing() -> Self {
        Self { image: SparseImage::default(), clusters: HashMap::default() }
    }

    /// Reads an image and keeps it.
    pub fn of(image: &SparseImage) -> Result<(Self, View)> {
        let mut known = Self::nothing();
        let (view, clusters) = read(image, &known)?;
        known = Self { image: image.clone(), clusters };
        Ok((known, view))
    }

    /// What an entry maps in `image`, if that is in the same pages here.
    fn get(
        &self,
        image: &SparseImage,
        layout: &Layout,
        entry: Entry,
    ) -> Option<&Option<Arc<[u8]>>> {
        let data = self.clusters.get(&entry)?;
        let owned = layout.owned(entry.word);
        let place = owned.start << layout.cluster_bits..owned.end << layout.cluster_bits;
        image.shares(&self.image, place).then_some(data)
    }
}

/// Reads the active disk and every snapshot.
pub fn view(image: &SparseImage) -> Result<View> {
    view_beside(image, &Known::nothing())
}

/// The same, of a variant of an image that is known.
pub fn view_beside(image: &SparseImage, known: &Known) -> Result<View> {
    Ok(read(image, known)?.0)
}

fn read(image: &SparseImage, known: &Known) -> Result<(View, Clusters)> {
    let layout = Layout::read(image)?;
    let mut reader = Reader { image, layout: &layout, known, seen: HashMap::default() };
    let disk = layout.size.div_ceil(layout.cluster());
    let mut active = reader.content(layout.l1_offset, layout.l1_entries)?;
    let above_the_end = active.split_off(&disk);
    let mut snapshots = Vec::new();
    for row in rows(image, &layout)?.0 {
        let content = reader.content(row.l1_offset, row.l1_entries)?;
        snapshots.push(SnapshotView { content, ..row.view });
    }
    let seen = reader.seen;
    let keys = keys(image, &layout);
    Ok((View { size: layout.size, active, above_the_end, keys, snapshots }, seen))
}

/// The LUKS header; nothing where there is none.
fn keys(image: &SparseImage, layout: &Layout) -> Vec<u8> {
    let found = layout.extensions.iter().find(|extension| extension.0 == ENCRYPTION);
    found.map_or(Vec::new(), |&(_, at, _)| bytes(image, be64(image, at), be64(image, at + 8)))
}

/// What one guest cluster contains.
pub fn read_cluster(image: &SparseImage, layout: &Layout, entry: Entry) -> Result<Vec<u8>> {
    let size = usize::try_from(layout.cluster()).unwrap();
    let Entry { word, .. } = entry;
    if word & COMPRESSED != 0 {
        let (offset, length) = layout.compressed_extent(word);
        return decompress(&bytes(image, offset, length), size, layout.is_zstd);
    }
    if word & OFFSET == 0 || !layout.is_extended && word & ZERO != 0 {
        return Ok(vec![0; size]);
    }
    let mut data = bytes(image, word & OFFSET, layout.cluster());
    if layout.is_extended {
        let parts = data.chunks_exact_mut(size / usize::try_from(SUBCLUSTERS).unwrap());
        for (part, index) in parts.zip(0..) {
            if entry.is_zero(index) || !entry.is_allocated(index) {
                part.fill(0);
            }
        }
    }
    Ok(data)
}

fn decompress(data: &[u8], size: usize, is_zstd: bool) -> Result<Vec<u8>> {
    let mut out = vec![0; size];
    let result = if is_zstd {
        let decoder = ruzstd::decoding::StreamingDecoder::new(data);
        decoder.map_err(|e| e.to_string())?.read_exact(&mut out)
    } else {
        flate2::read::DeflateDecoder::new(data).read_exact(&mut out)
    };
    result.map_err(|e| format!("compressed cluster: {e}"))?;
    Ok(out)
}

struct Reader<'a> {
    image: &'a SparseImage,
    layout: &'a Layout,
    known: &'a Known,
    /// Entries that several tables share are read once.
    seen: Clusters,
}

impl Reader<'_> {
    fn content(&mut self, l1_offset: u64, l1_entries: u64) -> Result<Content> {
        let mut content = Content::new();
        let per_table = self.layout.l2_entries();
        for (slot, l1) in table(self.image, l1_offset, l1_entries).into_iter().enumerate() {
            if l1 & OFFSET == 0 {
                continue;
            }
            let l2 = self.layout.l2_table(self.image, l1 & OFFSET);
            for (index, entry) in l2.into_iter().enumerate() {
                if entry.word & !COPIED == 0 {
                    continue;
                }
                let data = self.cluster(entry.without_flag())?;
                if let Some(data) = data {
                    content.insert(slot as u64 * per_table + index as u64, data);
                }
            }
        }
        Ok(content)
    }
}

impl Reader<'_> {
    /// What an entry without its flag maps; none where all is zeros.
    fn cluster(&mut self, entry: Entry) -> Result<Option<Arc<[u8]>>> {
        if let Some(data) = self.seen.get(&entry) {
            return Ok(data.clone());
        }
        let data = if let Some(data) = self.known.get(self.image, self.layout, entry) {
            data.clone()
        } else {
            let data = read_cluster(self.image, self.layout, entry)?;
            data.iter().any(|&b| b != 0).then(|| Arc::from(data))
        };
        self.seen.insert(entry, data.clone());
        Ok(data)
    }
}

/// Hashes numbers that nobody chose to collide.
pub type Quick = BuildHasherDefault<QuickHasher>;

#[derive(Default)]
pub struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What is wrong with an image's bookkeeping.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    pub errors: Vec<String>,
    /// Clusters counted more often than they are referenced.
    pub leaks: u64,
}

impl Audit {
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.leaks == 0
    }
}

/// Counts every reference anew and compares with the counts and the COPIED flags.
pub fn audit(image: &SparseImage) -> Result<Audit> {
    let layout = Layout::read(image)?;
    let mut audit = Audit::default();
    let mut references =
        References { layout: &layout, counts: HashMap::default(), tables: Vec::new() };
    references.table(0, layout.cluster());
    let table_bytes = layout.refcount_table_clusters * layout.cluster();
    references.table(layout.refcount_table_offset, table_bytes);
    let blocks = table(image, layout.refcount_table_offset, table_bytes / 8);
    for &block in blocks.iter().filter(|&&block| block != 0) {
        if !block.is_multiple_of(layout.cluster()) {
            audit.errors.push(format!("refcount block at {block:#x} is not aligned"));
        }
        references.table(block, layout.cluster());
    }
    references.extensions(image)?;
    let (rows, snapshot_bytes) = rows(image, &layout)?;
    if layout.snapshot_count > 0 {
        references.table(layout.snapshots_offset, snapshot_bytes);
    }
    references.table(layout.l1_offset, layout.l1_entries * 8);
    let active = references.mapping(image, layout.l1_offset, layout.l1_entries, &mut audit);
    for row in &rows {
        references.table(row.l1_offset, row.l1_entries * 8);
        references.mapping(image, row.l1_offset, row.l1_entries, &mut audit);
    }

    let References { counts, tables, .. } = references;
    let stored = Stored::read(image, &layout, &blocks);
    for cluster in tables {
        if counts[&cluster] != 1 {
            audit.errors.push(format!("table cluster {cluster:#x} is used for something else too"));
        }
    }
    let file_clusters = image.len().div_ceil(layout.cluster());
    for (&cluster, &count) in &counts {
        let stored = stored.count(cluster);
        if stored < count {
            audit.errors.push(format!("cluster {cluster:#x}: counted {stored}, used {count}"));
        } else if stored > count {
            audit.leaks += 1;
        }
        if cluster >= file_clusters {
            audit.errors.push(format!("cluster {cluster:#x} lies past the end of the file"));
        }
    }
    audit.leaks += unreferenced(&stored, &counts, file_clusters);
    for (entry, at) in active {
        let once = stored.count((entry & OFFSET) >> layout.cluster_bits) == 1;
        let owns = entry & OFFSET != 0 && entry & COMPRESSED == 0;
        if (entry & COPIED != 0) != (owns && once) {
            audit.errors.push(format!("entry {entry:#x} at {at:#x}: COPIED is wrong"));
        }
    }
    Ok(audit)
}

/// Clusters with a count that nothing references.
fn unreferenced(stored: &Stored<'_>, counts: &HashMap<u64, u64, Quick>, file_clusters: u64) -> u64 {
    let per_block = stored.layout.block_entries();
    let mut leaks = 0;
    for (first, block) in (0..).step_by(usize::try_from(per_block).unwrap()).zip(&stored.blocks) {
        let Some(block) = block else { continue };
        let inside = file_clusters.saturating_sub(first).min(per_block);
        for cluster in first..first + inside {
            if stored.count(cluster) != 0 && !counts.contains_key(&cluster) {
                leaks += 1;
            }
        }
        // Counts of clusters past the end of the file: all zero, and quickly seen to be.
        let rest = usize::try_from((inside * stored.layout.refcount_bits).div_ceil(8)).unwrap();
        leaks += u64::from(block[rest..].iter().any(|&byte| byte != 0));
    }
    leaks
}

/// The counts of an image, each block read once.
struct Stored<'a> {
    layout: &'a Layout,
    blocks: Vec<Option<Vec<u8>>>,
}

impl<'a> Stored<'a> {
    fn read(image: &SparseImage, layout: &'a Layout, offsets: &[u64]) -> Self {
        let used = offsets.iter().rposition(|&at| at != 0).map_or(0, |last| last + 1);
        // Nobody reads counts from a place that no block can have.
        let is_block = |at: u64| at != 0 && at.is_multiple_of(layout.cluster());
        let read = |&at: &u64| is_block(at).then(|| bytes(image, at, layout.cluster()));
        Self { layout, blocks: offsets[..used].iter().map(read).collect() }
    }

    fn count(&self, cluster: u64) -> u64 {
        let per_block = self.layout.block_entries();
        let index = usize::try_from(cluster / per_block).unwrap_or(usize::MAX);
        let Some(Some(block)) = self.blocks.get(index) else { return 0 };
        let width = self.layout.refcount_bits;
        let bit = cluster % per_block * width;
        let at = usize::try_from(bit / 8).unwrap();
        if width < 8 {
            return u64::from(block[at] >> (bit % 8)) & self.layout.max_refcount();
        }
        let length = usize::try_from(width / 8).unwrap();
        block[at..at + length].iter().fold(0, |count, &byte| count << 8 | u64::from(byte))
    }
}

/// Whether an L2 entry says what none may say.
fn is_garbage(layout: &Layout, entry: Entry) -> bool {
    let Entry { word, bits } = entry;
    if word & COMPRESSED != 0 {
        return bits != 0;
    }
    let has_zero_flag = layout.version == 3 && !layout.is_extended;
    let reserved = !(OFFSET | COPIED) & !if has_zero_flag { ZERO } else { 0 };
    let (allocated, zero) = (bits & u64::from(u32::MAX), bits >> 32);
    word & reserved != 0
        || !(word & OFFSET).is_multiple_of(layout.cluster())
        || allocated & zero != 0
        || word & OFFSET == 0 && allocated != 0
}

struct References<'a> {
    layout: &'a Layout,
    counts: HashMap<u64, u64, Quick>,
    /// Clusters of tables other than L2 tables: used for nothing else.
    tables: Vec<u64>,
}

impl References<'_> {
    fn add(&mut self, offset: u64, length: u64) {
        let bits = self.layout.cluster_bits;
        for cluster in offset >> bits..(offset + length).div_ceil(1 << bits) {
            *self.counts.entry(cluster).or_default() += 1;
        }
    }

    fn table(&mut self, offset: u64, length: u64) {
        let bits = self.layout.cluster_bits;
        self.add(offset, length);
        self.tables.extend(offset >> bits..(offset + length).div_ceil(1 << bits));
    }

    /// Counts an L1 table's paths. Returns the entries whose COPIED flag matters if it is active.
    fn mapping(
        &mut self,
        image: &SparseImage,
        l1_offset: u64,
        l1_entries: u64,
        audit: &mut Audit,
    ) -> Vec<(u64, u64)> {
        let layout = self.layout;
        let mut entries = Vec::new();
        for (slot, l1) in table(image, l1_offset, l1_entries).into_iter().enumerate() {
            let at = l1_offset + slot as u64 * 8;
            let l2 = l1 & OFFSET;
            if l1 & !(OFFSET | COPIED) != 0 || !l2.is_multiple_of(layout.cluster()) {
                audit.errors.push(format!("L1 entry {l1:#x} at {at:#x} is garbage"));
                continue;
            }
            if l1 == 0 {
                continue;
            }
            entries.push((l1, at));
            if l2 == 0 {
                continue;
            }
            self.add(l2, layout.cluster());
            for (entry, index) in layout.l2_table(image, l2).into_iter().zip(0..) {
                if entry == Entry::default() {
                    continue;
                }
                let at = l2 + index * layout.entry_bytes();
                if is_garbage(layout, entry) {
                    audit.errors.push(format!("L2 entry {entry:x?} at {at:#x} is garbage"));
                    continue;
                }
                entries.push((entry.word, at));
                let clusters = layout.owned(entry.word);
                self.add(clusters.start << layout.cluster_bits, {
                    (clusters.end - clusters.start) << layout.cluster_bits
                });
            }
        }
        entries
    }

    /// LUKS header and bitmaps.
    fn extensions(&mut self, image: &SparseImage) -> Result<()> {
        for &(kind, at, _) in &self.layout.extensions {
            match kind {
                ENCRYPTION => self.table(be64(image, at), be64(image, at + 8)),
                0x2385_2875 if self.layout.autoclear & 1 != 0 => self.bitmaps(image, at)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn bitmaps(&mut self, image: &SparseImage, extension: u64) -> Result<()> {
        let count = be32(image, extension);
        let (length, directory) = (be64(image, extension + 8), be64(image, extension + 16));
        if count > 1000 {
            return Err(format!("{count} bitmaps"));
        }
        self.table(directory, length);
        let mut at = directory;
        for _ in 0..count {
            let (offset, entries) = (be64(image, at), u64::from(be32(image, at + 8)));
            let name = u64::from(be16(image, at + 18));
            let extra = u64::from(be32(image, at + 20));
            self.table(offset, entries * 8);
            for entry in table(image, offset, entries) {
                if entry & OFFSET != 0 {
                    self.table(entry & OFFSET, self.layout.cluster());
                }
            }
            at = (at + 24 + extra + name).next_multiple_of(8);
        }
        Ok(())
    }
}
