//! From what happened to a disk to the file: tables, counts, header. The only thing that is left to
//! the input here is what is allowed to be anyhow.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};

use super::disk::{COPIED, Disk, L1};
use super::shape::Shape;
use super::{Field, Generated, put, write};

/// What has been placed, and counted.
struct Builder<'a, 'b> {
    disk: Disk,
    counts: BTreeMap<u64, u64>,
    fields: Vec<Field>,
    input: &'a mut Unstructured<'b>,
}

/// A sound image of the choices that the input makes.
pub fn build(input: &mut Unstructured<'_>) -> Result<Generated> {
    let mut disk = Disk::new(Shape::draw(input)?);
    disk.live(input)?;
    let counts = disk.data_counts();
    let builder = Builder { disk, counts, fields: Vec::new(), input };
    builder.finish()
}

/// Where bitmaps are, as their header extension says it.
struct Bitmaps {
    directory: u64,
    directory_bytes: u64,
}

impl Builder<'_, '_> {
    fn finish(mut self) -> Result<Generated> {
        let shape = self.disk.shape;
        let places = self.place_tables()?;
        let snapshot_l1s = (0..self.disk.snapshots.len())
            .map(|number| {
                let l1 = self.disk.snapshots[number].l1.clone();
                self.place_l1(&l1, &places, None)
            })
            .collect::<Result<Vec<_>>>()?;
        let names = self.disk.names();
        let active = self.disk.active.clone();
        let l1_offset = self.place_l1(&active, &places, Some(&names))?;
        let snapshots_offset = self.place_snapshots(&snapshot_l1s)?;
        let bitmaps = if shape.version == 3 && self.input.ratio(1, 6)? {
            Some(self.bitmaps()?)
        } else {
            None
        };
        let (table, table_clusters) = self.place_counts()?;

        let file = &mut self.disk.file;
        let mut header = Vec::new();
        put(&mut header, 0, 0x5146_49fb, 4);
        put(&mut header, 4, shape.version.into(), 4);
        put(&mut header, 20, shape.cluster_bits.into(), 4);
        put(&mut header, 24, shape.size(), 8);
        put(&mut header, 36, shape.l1_entries(), 4);
        put(&mut header, 40, l1_offset, 8);
        put(&mut header, 48, table, 8);
        put(&mut header, 56, table_clusters, 4);
        put(&mut header, 60, self.disk.snapshots.len() as u64, 4);
        put(&mut header, 64, snapshots_offset, 8);
        for (at, bytes) in [(0, 4), (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4)] {
            self.fields.push(Field { at, bytes, count: 1 });
        }
        for (at, bytes) in [(40, 8), (48, 8), (56, 4), (60, 4), (64, 8)] {
            self.fields.push(Field { at, bytes, count: 1 });
        }
        if shape.version == 3 {
            let zstd = if shape.zstd { 1 << 3 } else { 0 };
            let extended = if shape.extended { 1 << 4 } else { 0 };
            put(&mut header, 72, zstd | extended, 8);
            put(&mut header, 80, u64::from(self.input.ratio(1, 8)?), 8);
            put(&mut header, 88, u64::from(bitmaps.is_some()), 8);
            put(&mut header, 96, shape.refcount_order.into(), 4);
            let bytes = if shape.zstd { 112 } else { *self.input.choose(&[104, 112, 112, 120])? };
            put(&mut header, 100, bytes, 4);
            header.resize(usize::try_from(bytes).expect("small"), 0);
            if shape.zstd {
                header[104] = 1;
            }
            for (at, bytes) in [(72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1)] {
                self.fields.push(Field { at, bytes, count: 1 });
            }
        }
        extensions(&mut header, bitmaps.as_ref(), &mut self.fields, self.input)?;
        write(file, 0, &header);
        // The last cluster may be cut off where it is data; here all are whole.
        let length = self.disk.end << shape.cluster_bits;
        file.resize(usize::try_from(length).expect("small"), 0);
        let Self { disk, fields, .. } = self;
        Ok(Generated { bytes: disk.file, fields, cluster_bits: shape.cluster_bits })
    }

    fn count(&mut self, offset: u64, length: u64) {
        let bits = self.disk.shape.cluster_bits;
        for cluster in offset >> bits..(offset + length).div_ceil(1 << bits) {
            *self.counts.entry(cluster).or_default() += 1;
        }
    }

    fn take(&mut self, bytes: u64) -> Result<u64> {
        let clusters = bytes.div_ceil(self.disk.shape.cluster_bytes());
        let at = self.disk.take(clusters, self.input)?;
        self.count(at, bytes);
        Ok(at)
    }

    /// Writes the L2 tables; returns where each is. Those that nobody names have no place.
    fn place_tables(&mut self) -> Result<Vec<u64>> {
        let shape = self.disk.shape;
        let names = self.disk.names();
        let mut places = Vec::new();
        for (number, &names) in names.iter().enumerate() {
            if names == 0 {
                places.push(0);
                continue;
            }
            let at = self.disk.take(1, self.input)?;
            self.counts.insert(at >> shape.cluster_bits, names);
            let is_active = self.disk.active.contains(&Some(number));
            // In a table that only snapshots name, the flag means nothing and may be stale.
            let is_stale = !is_active && self.input.ratio(1, 2)?;
            let mut bytes = Vec::new();
            for &[entry, bitmap] in &self.disk.tables[number] {
                let cluster = self.disk.owned(entry).start;
                let count = self.counts.get(&cluster).copied().unwrap_or(0);
                let is_copied = Disk::is_copied(entry, if is_stale { 1 } else { count });
                let flag = if is_copied && (is_active || is_stale) { COPIED } else { 0 };
                bytes.extend((entry | flag).to_be_bytes());
                if shape.extended {
                    bytes.extend(bitmap.to_be_bytes());
                }
            }
            write(&mut self.disk.file, at, &bytes);
            self.fields.push(Field { at, bytes: 8, count: shape.cluster_bytes() / 8 });
            places.push(at);
        }
        Ok(places)
    }

    /// Writes an L1 table; with `names` it is the active one, and has flags.
    fn place_l1(&mut self, l1: &L1, places: &[u64], names: Option<&[u64]>) -> Result<u64> {
        let at = self.take(l1.len() as u64 * 8)?;
        for (slot, number) in (0..).zip(l1) {
            let Some(number) = *number else { continue };
            let is_private = names.is_some_and(|names| names[number] == 1);
            let flag = if is_private { COPIED } else { 0 };
            put(&mut self.disk.file, at + slot * 8, places[number] | flag, 8);
        }
        self.fields.push(Field { at, bytes: 8, count: l1.len() as u64 });
        Ok(at)
    }

    fn place_snapshots(&mut self, l1s: &[u64]) -> Result<u64> {
        if l1s.is_empty() {
            return Ok(0);
        }
        let mut rows: Vec<u8> = Vec::new();
        let mut starts = Vec::new();
        for (number, &l1) in l1s.iter().enumerate() {
            let old = &self.disk.snapshots[number];
            // Version 3 asks for 16 bytes; old writers had none.
            let extras: &[usize] =
                if self.disk.shape.version == 3 { &[24, 24, 16, 40] } else { &[24, 16, 0] };
            let extra = *self.input.choose(extras)?;
            let name: &[u8] = self.input.choose(&[b"one".as_slice(), b"\xff\x01", b"1", b"x"])?;
            let (id, name) = ((number + 1).to_string(), [name, &[b'a'; 3][..number]].concat());
            let at = rows.len() as u64;
            put(&mut rows, at, l1, 8);
            put(&mut rows, at + 8, old.l1.len() as u64, 4);
            put(&mut rows, at + 12, id.len() as u64, 2);
            put(&mut rows, at + 14, name.len() as u64, 2);
            put(&mut rows, at + 16, 1_700_000_000, 4);
            put(&mut rows, at + 36, extra as u64, 4);
            let mut words = vec![0; extra];
            if extra >= 16 {
                words[8..16].copy_from_slice(&old.size.to_be_bytes());
            }
            rows.extend(words);
            rows.extend(id.as_bytes());
            rows.extend(name);
            starts.push((at, extra));
            if number + 1 < l1s.len() {
                rows.resize(rows.len().next_multiple_of(8), 0);
            }
        }
        let table = self.take(rows.len() as u64)?;
        write(&mut self.disk.file, table, &rows);
        for (start, extra) in starts {
            let mut field = |at, bytes| {
                self.fields.push(Field { at: table + start + at, bytes, count: 1 });
            };
            for (at, bytes) in [(0, 8), (8, 4), (12, 2), (14, 2), (32, 4), (36, 4)] {
                field(at, bytes);
            }
            if extra >= 16 {
                field(40, 8);
                field(48, 8);
            }
        }
        Ok(table)
    }

    /// One bitmap with one cluster of bits, or none.
    fn bitmaps(&mut self) -> Result<Bitmaps> {
        let bits = if self.input.ratio(1, 2)? { self.take(1)? } else { 0 };
        let table = self.take(8)?;
        put(&mut self.disk.file, table, bits, 8);
        let directory_bytes = 32;
        let directory = self.take(directory_bytes)?;
        let file = &mut self.disk.file;
        put(file, directory, table, 8);
        put(file, directory + 8, 1, 4);
        put(file, directory + 16, 1, 1);
        // 64 KiB a bit: the largest disk here needs one cluster of them.
        put(file, directory + 17, 16, 1);
        put(file, directory + 18, 5, 2);
        write(file, directory + 24, b"daily");
        let fields = [(0, 8), (8, 4), (12, 4), (16, 1), (17, 1), (18, 2), (20, 4)];
        let field = |(at, bytes)| Field { at: directory + at, bytes, count: 1 };
        self.fields.extend(fields.map(field));
        self.fields.push(Field { at: table, bytes: 8, count: 1 });
        Ok(Bitmaps { directory, directory_bytes })
    }

    /// Writes the counts of everything, their own clusters included.
    fn place_counts(&mut self) -> Result<(u64, u64)> {
        let Shape { cluster_bits, refcount_order, .. } = self.disk.shape;
        let cluster = self.disk.shape.cluster_bytes();
        self.count(0, 1);
        let per_block = (cluster * 8) >> refcount_order;
        let table_clusters = if self.input.ratio(1, 6)? { 2 } else { 1 };
        let table = self.take(table_clusters * cluster)?;
        let mut blocks: BTreeMap<u64, u64> = BTreeMap::new();
        // A block may need another one that counts it.
        loop {
            let wanted: Vec<_> = self.counts.keys().map(|cluster| cluster / per_block).collect();
            let missing = wanted.into_iter().find(|index| !blocks.contains_key(index));
            let Some(index) = missing else { break };
            let at = self.take(cluster)?;
            blocks.insert(index, at);
        }
        assert!(blocks.keys().all(|&index| index < table_clusters * cluster / 8), "a small image");
        let file = &mut self.disk.file;
        for (&index, &at) in &blocks {
            put(file, table + index * 8, at, 8);
            self.fields.push(Field { at, bytes: 8, count: cluster / 8 });
        }
        self.fields.push(Field { at: table, bytes: 8, count: blocks.len() as u64 });
        // Blocks that are all zeros at the end of the file still have to be there.
        file.resize(usize::try_from(self.disk.end << cluster_bits).expect("small"), 0);
        for (&number, &count) in &self.counts {
            let block = blocks[&(number / per_block)];
            let bit = (number % per_block) << refcount_order;
            let at = block + bit / 8;
            if refcount_order >= 3 {
                put(file, at, count, 1 << (refcount_order - 3));
            } else {
                let byte = &mut file[usize::try_from(at).expect("small")];
                *byte |= u8::try_from(count << (bit % 8)).expect("fits its width");
            }
        }
        Ok((table, table_clusters))
    }
}

/// Appends the extensions, and at their end sometimes the name of a backing file.
fn extensions(
    header: &mut Vec<u8>,
    bitmaps: Option<&Bitmaps>,
    fields: &mut Vec<Field>,
    input: &mut Unstructured<'_>,
) -> Result<()> {
    let has_backing = input.ratio(1, 8)?;
    let mut list: Vec<(u32, Vec<u8>)> = Vec::new();
    if has_backing {
        list.push((0xe279_2aca, b"raw".to_vec()));
    }
    if input.ratio(1, 6)? {
        list.push((0x1234_5678, vec![7; input.int_in_range(0..=24)?]));
    }
    if let Some(Bitmaps { directory, directory_bytes }) = bitmaps {
        let mut data = vec![0, 0, 0, 1, 0, 0, 0, 0];
        data.extend(directory_bytes.to_be_bytes());
        data.extend(directory.to_be_bytes());
        let at = header.len() as u64
            + list.iter().map(|(_, data)| 8 + data.len().next_multiple_of(8) as u64).sum::<u64>();
        for (more, bytes) in [(8, 4), (12, 4), (16, 8), (24, 8)] {
            fields.push(Field { at: at + more, bytes, count: 1 });
        }
        list.push((0x2385_2875, data));
    }
    for (kind, data) in list {
        let at = header.len() as u64;
        fields.push(Field { at, bytes: 4, count: 2 });
        header.extend(kind.to_be_bytes());
        header.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
        header.extend(&data);
        header.resize(header.len().next_multiple_of(8), 0);
    }
    header.extend([0; 8]);
    if has_backing {
        let name = b"base.raw";
        let at = header.len() as u64;
        header.extend(name);
        put(header, 8, at, 8);
        put(header, 16, name.len() as u64, 4);
    }
    Ok(())
}
