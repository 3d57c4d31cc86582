//! Images in memory whose bookkeeping is wrong and whose content is not, for repairs that a power cut
//! or a fault interrupts.

use qcow2::storage::{RecordingStorage, SparseImage};
use qcow2::{Committed, Image, Repair, check, repair};

use super::Random;
use super::fixtures::Fixture;
use super::layout::{COMPRESSED, COPIED, Entry, Layout, OFFSET, ZERO, be64, put64, table};
use super::plant::rows;

/// Header field of features without which an image must not be opened.
const INCOMPATIBLE_AT: u64 = 72;
/// Its bits that a repair takes away: counts may be stale; something is corrupt.
const MARKS: u64 = 3;

/// A damaged image.
pub struct Damaged {
    pub name: String,
    pub image: SparseImage,
    pub what: Repair,
    /// It can neither grow nor have holes.
    pub is_device: bool,
}

impl Damaged {
    /// What it lies on, with a log that begins now.
    pub fn storage(&self) -> RecordingStorage {
        let storage = RecordingStorage::from_image(self.image.clone());
        if self.is_device {
            storage.fix_len();
        }
        storage
    }
}

/// Mistakes in counts, flags, and the places of refcount blocks and of zero clusters; and now and then
/// the marks of who found them, or did not come to the end.
pub fn damaged(fixture: &Fixture, random: &mut Random) -> Damaged {
    let layout = Layout::read(&fixture.image).unwrap();
    let mut image = fixture.image.clone();
    let leaks_only = random.chance(30);
    let mut story = vec![fixture.name.clone()];
    for _ in 0..=random.below(4) {
        let cluster = a_cluster(&fixture.image, &layout, random);
        let count = layout.refcount(&fixture.image, cluster);
        // An earlier mistake may have sent the block anywhere.
        let is_counted =
            layout.block_of(&image, cluster) == layout.block_of(&fixture.image, cluster);
        let mistake = if leaks_only { 0 } else { random.below(8) };
        match mistake {
            0 if is_counted => {
                let too_high = (count + 1).min(layout.max_refcount());
                if layout.set_refcount(&mut image, cluster, too_high).is_ok() {
                    story.push(format!("cluster {cluster:#x} counted {too_high} times"));
                }
            }
            1 | 2 if is_counted => {
                let too_low = random.below(count.max(1));
                if layout.set_refcount(&mut image, cluster, too_low).is_ok() {
                    story.push(format!("cluster {cluster:#x} counted {too_low} times"));
                }
            }
            3 | 4 => {
                if let Some(at) = an_entry(&fixture.image, &layout, random) {
                    put64(&mut image, at, be64(&fixture.image, at) ^ COPIED);
                    story.push(format!("COPIED at {at:#x}"));
                }
            }
            5 | 6 => {
                if let Some((at, word)) = misplace(&mut image, &layout, random) {
                    story.push(format!("a zero cluster at {at:#x} keeps {word:#x}"));
                }
            }
            _ => {
                let at = layout.refcount_table_offset + random.below(2) * 8;
                let places = [0, image.len() + (layout.cluster() << 5), layout.l1_offset | 1];
                put64(&mut image, at, *random.pick(&places));
                story.push(format!("refcount table at {at:#x}"));
            }
        }
    }
    if layout.version == 3 && random.chance(20) {
        let marks = 1 + random.below(MARKS);
        let features = be64(&image, INCOMPATIBLE_AT);
        put64(&mut image, INCOMPATIBLE_AT, features | marks);
        story.push(format!("marks {marks}"));
    }
    let what = if leaks_only { Repair::Leaks } else { Repair::All };
    Damaged { name: story.join(", "), image, what, is_device: false }
}

/// Whether somebody says that the image has to be repaired.
pub fn is_marked(image: &SparseImage) -> bool {
    let layout = Layout::read(image).unwrap();
    layout.version == 3 && be64(image, INCOMPATIBLE_AT) & MARKS != 0
}

/// Any cluster; now and then one of a table, which a repair replaces and which is in use until then.
fn a_cluster(image: &SparseImage, layout: &Layout, random: &mut Random) -> u64 {
    let tables = [layout.l1_offset, layout.refcount_table_offset, layout.snapshots_offset];
    let block = layout.block_of(image, 0);
    match random.below(10) {
        0 | 1 => random.pick(&tables) >> layout.cluster_bits,
        2 => block >> layout.cluster_bits,
        _ => random.below(image.len() / layout.cluster()),
    }
}

/// Where an active L1 or L2 entry is that has a COPIED flag.
fn an_entry(image: &SparseImage, layout: &Layout, random: &mut Random) -> Option<u64> {
    let l1 = table(image, layout.l1_offset, layout.l1_entries);
    let used: Vec<u64> = (0..).zip(&l1).filter(|it| it.1 & OFFSET != 0).map(|it| it.0).collect();
    if used.is_empty() {
        return None;
    }
    let slot = *random.pick(&used);
    if random.chance(30) {
        return Some(layout.l1_offset + slot * 8);
    }
    let l2 = l1[usize::try_from(slot).unwrap()] & OFFSET;
    let entries = layout.l2_table(image, l2);
    let owns = |entry: &Entry| entry.word & COMPRESSED == 0 && entry.word & OFFSET != 0;
    let owned: Vec<u64> = (0..).zip(&entries).filter(|it| owns(it.1)).map(|it| it.0).collect();
    (!owned.is_empty()).then(|| l2 + random.pick(&owned) * layout.entry_bytes())
}

/// Makes some L2 entry, of the disk or of a snapshot, a zero cluster that keeps an unaligned place.
/// Returns where, and what it says.
pub fn misplace(
    image: &mut SparseImage,
    layout: &Layout,
    random: &mut Random,
) -> Option<(u64, u64)> {
    let cluster = layout.cluster();
    // In a small cluster nothing is unaligned, and version 2 has no zero clusters.
    if cluster == 512 || layout.version < 3 {
        return None;
    }
    let mut tables = vec![(layout.l1_offset, layout.l1_entries)];
    let l1 = |row: u64| (be64(image, row), be64(image, row + 8) >> 32);
    tables.extend(rows(image).into_iter().map(l1));
    let &(l1, entries) = random.pick(&tables);
    let used = table(image, l1, entries).into_iter().map(|entry| entry & OFFSET);
    let used: Vec<u64> = used.filter(|&l2| l2 != 0).collect();
    if used.is_empty() {
        return None;
    }
    let at = random.pick(&used) + random.below(layout.l2_entries()) * layout.entry_bytes();
    let old = be64(image, at) & if be64(image, at) & COMPRESSED == 0 { OFFSET } else { 0 };
    // Where it was, inside the file, or past its end.
    let place = match random.below(4) {
        0 | 1 => old & !(cluster - 1),
        2 => random.below(image.len() / cluster) * cluster,
        _ => (image.len() / cluster + random.below(4)) * cluster,
    };
    let place = place + 512 * (1 + random.below(cluster / 512 - 1));
    let flags = random.next() & (COPIED | 1 << 60);
    let bits = if layout.is_extended { random.next() << 32 } else { 0 };
    let zero = if layout.is_extended { 0 } else { ZERO };
    let entry = Entry { word: place | flags | zero, bits };
    layout.put_l2_entry(image, at, entry);
    Some((at, entry.word))
}

/// Repairs what `storage` holds.
pub fn repair_on(storage: &RecordingStorage, what: Repair) -> qcow2::Result<Option<Committed>> {
    let mut image = check::open(Box::new(storage.clone()))?;
    let options = &mut qcow2::CommitOptions::default();
    repair::repair(&mut image, what, options, &mut |_| {}).map(|repaired| repaired.committed)
}

/// Corruptions, leaks and lines of a check.
pub fn verdict(image: &SparseImage) -> (u64, u64, Vec<String>) {
    let storage = RecordingStorage::from_image(image.clone());
    let mut lines = Vec::new();
    let tell = &mut |problem: &check::Problem| lines.push(problem.to_string());
    let image: Image = check::open(Box::new(storage)).unwrap();
    let report = check::check(&image, tell).unwrap();
    (report.corruptions + report.check_errors, report.leaks, lines)
}
