//! Images as large as a benchmark needs them, without the data: the metadata is written straight,
//! the data clusters are holes. 64 KiB clusters, 16-bit reference counts, every cluster allocated.
//!
//! Clusters are handed out in the order in which a guest wrote, as QEMU does it: an L2 table before
//! the first cluster that it maps, a refcount block where its range begins. So the layout follows
//! from the order of the writes.

use std::fs::File;
use std::ops::Range;

use qcow2::format::mapping::{COPIED, encode_table};
use qcow2::format::snapshot::{SnapshotEntry, encode_table as encode_snapshots};
use qcow2::storage::{FileStorage, Storage};
use qcow2::{NewImage, create};

use crate::Result;

const CLUSTER_BYTES: u64 = 65_536;
/// Entries of an L2 table.
const TABLE_ENTRIES: usize = 8192;
/// Counts of a refcount block.
const BLOCK_ENTRIES: usize = 32_768;
/// Where `create` puts them.
const REFCOUNT_TABLE: usize = 1;
const FIRST_BLOCK: usize = 2;
const L1: usize = 3;

/// In an aged image, what a guest writes at once when the disk is filled: 8 MiB on average.
const FILL_CLUSTERS: usize = 128;
/// And what it changes at once later: 512 KiB on average.
const CHANGE_CLUSTERS: usize = 8;
/// How many snapshots an aged image has; after each, an eighth of the disk is written again.
const AGED_SNAPSHOTS: usize = 3;

/// Makes the image. `layout`:
///
/// - `sequential`: the guest wrote its disk from the beginning to the end;
/// - `shuffled`: in random order, cluster by cluster, which is the worst case;
/// - `aged`: in long runs, then three times a snapshot (`aged-1` …) and changes in short runs.
pub fn run(path: &str, bytes: &str, layout: &str) -> Result<String> {
    let size: u64 = bytes.parse()?;
    let clusters = usize::try_from(size / CLUSTER_BYTES)?;
    // The model's L1 table is one cluster, which is enough for 4 TiB.
    if clusters > TABLE_ENTRIES * TABLE_ENTRIES {
        return Err("at most 4 TiB".into());
    }
    let mut random = Random(0x5eed);
    let mut model = Model::new(clusters);
    match layout {
        "sequential" => model.write(0..clusters),
        "shuffled" => {
            let mut order: Vec<usize> = (0..clusters).collect();
            random.shuffle(&mut order);
            for cluster in order {
                model.write(cluster..cluster + 1);
            }
        }
        "aged" => age(&mut model, clusters, &mut random),
        other => return Err(format!("no layout {other}").into()),
    }
    let storage = FileStorage::from_file(File::create_new(path)?)?;
    create(&storage, &NewImage { size, ..NewImage::default() })?;
    let file_bytes = model.encode(&storage, size)?;
    storage.flush()?;
    Ok(format!(
        r#"{{"size":{size},"fileBytes":{file_bytes},"snapshots":{}}}"#,
        model.snapshots.len()
    ))
}

fn age(model: &mut Model, clusters: usize, random: &mut Random) {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < clusters {
        let end = (at + random.length(FILL_CLUSTERS)).min(clusters);
        runs.push(at..end);
        at = end;
    }
    random.shuffle(&mut runs);
    for run in runs {
        model.write(run);
    }
    for _ in 0..AGED_SNAPSHOTS {
        model.take_snapshot();
        let mut written = 0;
        while written < clusters / 8 {
            let start = random.below(clusters);
            let end = (start + random.length(CHANGE_CLUSTERS)).min(clusters);
            written += end - start;
            model.write(start..end);
        }
    }
}

/// A disk: for each L2 table and each guest cluster the host cluster, 0 for none.
#[derive(Clone)]
struct Disk {
    l1: usize,
    tables: Vec<usize>,
    data: Vec<usize>,
}

struct Model {
    next: usize,
    blocks: Vec<usize>,
    active: Disk,
    /// Tables and clusters at or beyond these came after the last snapshot: written in place.
    owned_from: usize,
    snapshots: Vec<Disk>,
}

impl Model {
    fn new(clusters: usize) -> Self {
        let tables = vec![0; clusters.div_ceil(TABLE_ENTRIES)];
        Self {
            next: L1 + 1,
            blocks: vec![FIRST_BLOCK],
            active: Disk { l1: L1, tables, data: vec![0; clusters] },
            owned_from: 0,
            snapshots: Vec::new(),
        }
    }

    fn allocate(&mut self) -> usize {
        if self.next.is_multiple_of(BLOCK_ENTRIES) {
            self.blocks.push(self.next);
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }

    fn write(&mut self, guest: Range<usize>) {
        for cluster in guest {
            let table = cluster / TABLE_ENTRIES;
            if self.active.tables[table] < self.owned_from.max(1) {
                self.active.tables[table] = self.allocate();
            }
            if self.active.data[cluster] < self.owned_from.max(1) {
                self.active.data[cluster] = self.allocate();
            }
        }
    }

    fn take_snapshot(&mut self) {
        let l1 = self.allocate();
        self.snapshots.push(Disk { l1, ..self.active.clone() });
        self.owned_from = self.next;
    }

    fn encode(&mut self, storage: &FileStorage, size: u64) -> Result<u64> {
        let at = |cluster: usize| cluster as u64 * CLUSTER_BYTES;
        let snapshot_table = if self.snapshots.is_empty() { 0 } else { self.allocate() };
        storage.set_len(at(self.next))?;
        let counts = self.counts(snapshot_table);
        let copied = |cluster: usize| if counts[cluster] == 1 { COPIED } else { 0 };

        // The active disk's tables last: where it shares one with a snapshot, both say the same.
        let active = std::iter::once((&self.active, true));
        for (disk, active) in self.snapshots.iter().map(|disk| (disk, false)).chain(active) {
            let entry = |&cluster: &usize| at(cluster) | if active { copied(cluster) } else { 0 };
            for (&table, data) in disk.tables.iter().zip(disk.data.chunks(TABLE_ENTRIES)) {
                let entries: Vec<u64> = data.iter().map(entry).collect();
                storage.write_at(&encode_table(&entries, cluster_bytes()), at(table))?;
            }
            let l1: Vec<u64> = disk.tables.iter().map(entry).collect();
            storage.write_at(&encode_table(&l1, cluster_bytes()), at(disk.l1))?;
        }
        for (&block, counts) in self.blocks.iter().zip(counts.chunks(BLOCK_ENTRIES)) {
            let mut bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
            bytes.resize(cluster_bytes(), 0);
            storage.write_at(&bytes, at(block))?;
        }
        let blocks: Vec<u64> = self.blocks.iter().map(|&block| at(block)).collect();
        storage.write_at(&encode_table(&blocks, cluster_bytes()), at(REFCOUNT_TABLE))?;
        if snapshot_table > 0 {
            let mut table = encode_snapshots(&self.entries(size)?);
            table.resize(cluster_bytes(), 0);
            storage.write_at(&table, at(snapshot_table))?;
            // The header's fields 60 to 71: number of snapshots, and where they are.
            storage.write_at(&u32::try_from(self.snapshots.len())?.to_be_bytes(), 60)?;
            storage.write_at(&at(snapshot_table).to_be_bytes(), 64)?;
        }
        Ok(at(self.next))
    }

    /// Reference counts by host cluster. What a disk maps counts once for each disk that does.
    fn counts(&self, snapshot_table: usize) -> Vec<u16> {
        let mut counts = vec![0_u16; self.next];
        let single = [0, REFCOUNT_TABLE, self.active.l1].into_iter().chain(self.blocks.clone());
        for cluster in single.chain((snapshot_table > 0).then_some(snapshot_table)) {
            counts[cluster] = 1;
        }
        for disk in &self.snapshots {
            counts[disk.l1] = 1;
        }
        for disk in self.snapshots.iter().chain([&self.active]) {
            for &cluster in disk.tables.iter().chain(&disk.data) {
                counts[cluster] += 1;
            }
        }
        counts
    }

    fn entries(&self, size: u64) -> Result<Vec<SnapshotEntry>> {
        let entry = |(index, disk): (usize, &Disk)| {
            let id = (index + 1).to_string();
            let name = format!("aged-{id}").into_bytes();
            let date = (1_700_000_000 + u32::try_from(index)? * 86_400, 0);
            Ok(SnapshotEntry {
                l1_offset: disk.l1 as u64 * CLUSTER_BYTES,
                l1_entries: u32::try_from(disk.tables.len())?,
                ..SnapshotEntry::disk_only(id.into_bytes(), name, date, size)
            })
        };
        self.snapshots.iter().enumerate().map(entry).collect()
    }
}

fn cluster_bytes() -> usize {
    usize::try_from(CLUSTER_BYTES).expect("64 KiB")
}

/// `SplitMix64`: the same image on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// A length whose average is `mean`: after each cluster the run ends with the same chance.
    fn length(&mut self, mean: usize) -> usize {
        let mut length = 1;
        while self.below(mean) > 0 {
            length += 1;
        }
        length
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
