//! Two independent judges: what an image contains, and whether its bookkeeping is right.
//!
//! Both are as short as they can be and trust nothing, because they look at images that a power cut
//! left behind. What is wrong comes back in words.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

use qcow2::storage::SparseImage;

use super::layout::{
    COMPRESSED, COPIED, Layout, OFFSET, Result, ZERO, be16, be32, be64, bytes, table,
};

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

/// Reads the active disk and every snapshot.
pub fn view(image: &SparseImage) -> Result<View> {
    let layout = Layout::read(image)?;
    let mut reader = Reader { image, layout: &layout, seen: HashMap::new() };
    let disk = layout.size.div_ceil(layout.cluster());
    let mut active = reader.content(layout.l1_offset, layout.l1_entries)?;
    let above_the_end = active.split_off(&disk);
    let mut snapshots = Vec::new();
    for row in rows(image, &layout)?.0 {
        let content = reader.content(row.l1_offset, row.l1_entries)?;
        snapshots.push(SnapshotView { content, ..row.view });
    }
    Ok(View { size: layout.size, active, above_the_end, snapshots })
}

/// What one guest cluster contains.
pub fn read_cluster(image: &SparseImage, layout: &Layout, entry: u64) -> Result<Vec<u8>> {
    let size = usize::try_from(layout.cluster()).unwrap();
    if entry & COMPRESSED != 0 {
        let (offset, length) = layout.compressed_extent(entry);
        return decompress(&bytes(image, offset, length), size, layout.is_zstd);
    }
    if entry & ZERO != 0 || entry & OFFSET == 0 {
        return Ok(vec![0; size]);
    }
    Ok(bytes(image, entry & OFFSET, layout.cluster()))
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
    /// Entries that several tables share are read once.
    seen: HashMap<u64, Option<Arc<[u8]>>>,
}

impl Reader<'_> {
    fn content(&mut self, l1_offset: u64, l1_entries: u64) -> Result<Content> {
        let mut content = Content::new();
        let per_table = self.layout.l2_entries();
        for (slot, l1) in table(self.image, l1_offset, l1_entries).into_iter().enumerate() {
            if l1 & OFFSET == 0 {
                continue;
            }
            let l2 = table(self.image, l1 & OFFSET, per_table);
            for (index, entry) in l2.into_iter().enumerate() {
                if entry & !COPIED == 0 {
                    continue;
                }
                let known = self.seen.get(&(entry & !COPIED)).cloned();
                let data = if let Some(data) = known {
                    data
                } else {
                    let data = read_cluster(self.image, self.layout, entry)?;
                    let data = data.iter().any(|&b| b != 0).then(|| Arc::from(data));
                    self.seen.insert(entry & !COPIED, data.clone());
                    data
                };
                if let Some(data) = data {
                    content.insert(slot as u64 * per_table + index as u64, data);
                }
            }
        }
        Ok(content)
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
    let mut references = References { layout: &layout, counts: HashMap::new(), tables: Vec::new() };
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
    for cluster in tables {
        if counts[&cluster] != 1 {
            audit.errors.push(format!("table cluster {cluster:#x} is used for something else too"));
        }
    }
    let file_clusters = image.len().div_ceil(layout.cluster());
    for (&cluster, &count) in &counts {
        let stored = layout.refcount(image, cluster);
        if stored < count {
            audit.errors.push(format!("cluster {cluster:#x}: counted {stored}, used {count}"));
        } else if stored > count {
            audit.leaks += 1;
        }
        if cluster >= file_clusters {
            audit.errors.push(format!("cluster {cluster:#x} lies past the end of the file"));
        }
    }
    audit.leaks += unreferenced(image, &layout, &blocks, &counts, file_clusters);
    for (entry, at) in active {
        let once = layout.refcount(image, (entry & OFFSET) >> layout.cluster_bits) == 1;
        let owns = entry & OFFSET != 0 && entry & COMPRESSED == 0;
        if (entry & COPIED != 0) != (owns && once) {
            audit.errors.push(format!("entry {entry:#x} at {at:#x}: COPIED is wrong"));
        }
    }
    Ok(audit)
}

/// Clusters with a count that nothing references.
fn unreferenced(
    image: &SparseImage,
    layout: &Layout,
    blocks: &[u64],
    counts: &HashMap<u64, u64>,
    file_clusters: u64,
) -> u64 {
    let per_block = layout.block_entries();
    let mut leaks = 0;
    for (index, &block) in blocks.iter().enumerate().filter(|&(_, &block)| block != 0) {
        let first = index as u64 * per_block;
        let inside = file_clusters.saturating_sub(first).min(per_block);
        for cluster in first..first + inside {
            if !counts.contains_key(&cluster) && layout.refcount(image, cluster) != 0 {
                leaks += 1;
            }
        }
        // Counts of clusters past the end of the file: all zero, and quickly seen to be.
        let start = (inside * layout.refcount_bits).div_ceil(8);
        leaks += u64::from(
            bytes(image, block + start, layout.cluster() - start).iter().any(|&b| b != 0),
        );
    }
    leaks
}

struct References<'a> {
    layout: &'a Layout,
    counts: HashMap<u64, u64>,
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
            for (index, entry) in table(image, l2, layout.l2_entries()).into_iter().enumerate() {
                if entry == 0 {
                    continue;
                }
                let at = l2 + index as u64 * 8;
                let reserved = !(OFFSET | COPIED) & !if layout.version == 3 { ZERO } else { 0 };
                let unaligned = !(entry & OFFSET).is_multiple_of(layout.cluster());
                if entry & COMPRESSED == 0 && (entry & reserved != 0 || unaligned) {
                    audit.errors.push(format!("L2 entry {entry:#x} at {at:#x} is garbage"));
                    continue;
                }
                entries.push((entry, at));
                let clusters = layout.owned(entry);
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
                0x0537_be77 => self.table(be64(image, at), be64(image, at + 8)),
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
