//! Reading L2 tables: each once, in the order of the file, however often it is named.

use std::ops::Range;

use crate::error::Result;
use crate::format::mapping::{COMPRESSED, COPIED, Mapping, OFFSET_MASK};
use crate::image::Image;
use crate::refcounts::{Batch, Change, PAGE_CLUSTERS, Refcounts};

use super::proof::Counting;
use super::uses::{Names, Use, Uses};

/// Neighbouring L2 tables are read together up to this many bytes.
const READ_BYTES: u64 = 1 << 20;
/// So far ahead the storage is told what will be read: the tables of a new disk lie far apart,
/// where no system would look for them by itself.
const AHEAD_BYTES: u64 = 4 << 20;

/// What a walk over clusters in no order may take. So the clusters of a large disk are not seen all
/// at once.
const WALK_BYTES: u64 = 24 << 20;
/// And what it may take where pages are packed, so that nearly all of the memory is theirs.
const PACKED_WALK_BYTES: u64 = 12 << 20;
/// What it takes for each cluster, until all around it are seen, and next to nothing then: while
/// they wait.
const WAITING_BITS: u64 = 1;
/// And when some of a page are registered before the others.
const WALKED_BITS: u64 = 6;
/// What is known of a page beforehand, where that is packed until then: counts, and who is in use.
const UNPACKED_BITS: u64 = 4;
/// Tables that are looked at to find out how long the runs are.
const SAMPLED_TABLES: usize = 64;

/// Registers what the wanted tables map, with the `change` of each; `hear` is told which of them,
/// by their place in `uses`, have an entry with COPIED.
pub(super) fn reference_tables(
    image: &Image,
    refcounts: &mut Refcounts,
    uses: &Uses,
    wanted: impl Fn(&Use) -> bool + Copy,
    change: impl Fn(Names) -> Change,
    hear: impl FnMut(usize, bool),
) -> Result<()> {
    let most_bytes = if refcounts.packs() { PACKED_WALK_BYTES } else { WALK_BYTES };
    reference_within(most_bytes, image, refcounts, uses, wanted, change, hear)
}

fn reference_within(
    most_bytes: u64,
    image: &Image,
    refcounts: &mut Refcounts,
    uses: &Uses,
    wanted: impl Fn(&Use) -> bool + Copy,
    change: impl Fn(Names) -> Change,
    mut hear: impl FnMut(usize, bool),
) -> Result<()> {
    let unpacked_bits = if refcounts.packs() { UNPACKED_BITS } else { 0 };
    for part in parts(most_bytes, unpacked_bits, image, uses, wanted, &change)? {
        let mut references = References { part, ..References::new(image, refcounts) };
        for_tables(
            image,
            uses,
            |_, u| wanted(u),
            |index, table| {
                let Use { offset, names } = uses.get(index);
                hear(index, references.table(table, offset, change(names))?);
                Ok(())
            },
        )?;
        references.finish()?;
    }
    Ok(())
}

/// Whether all that the tables map is looked at by one walk over them, if no count changes.
pub(super) fn is_at_once(image: &Image, uses: &Uses) -> Result<bool> {
    for u in uses.iter() {
        image.ensure_inside(u.offset, image.header.cluster_bytes(), "L2 table")?;
    }
    let change = |names| Counting::Nothing.change(names);
    Ok(parts(WALK_BYTES, 0, image, uses, |_| true, change)?.len() == 1)
}

/// How data are counted: the clusters of each part of the file by a walk of their own. One part,
/// where that takes no more than `most_bytes`, those `unpacked_bits` of each cluster included that
/// are known before: nearly always.
fn parts(
    most_bytes: u64,
    unpacked_bits: u64,
    image: &Image,
    uses: &Uses,
    wanted: impl Fn(&Use) -> bool,
    change: impl Fn(Names) -> Change,
) -> Result<Vec<Range<u64>>> {
    let whole = vec![0..u64::MAX];
    let clusters = image.file_bytes >> image.header.cluster_bits;
    if clusters * (WALKED_BITS + unpacked_bits) / 8 <= most_bytes {
        return Ok(whole);
    }
    let tables = || uses.iter().filter(|u| wanted(u));
    let mut changes = tables().map(|u| change(u.names));
    let first = changes.next();
    let mut wait = changes.all(|change| Some(change) == first);
    let every = tables().count().div_ceil(SAMPLED_TABLES).max(1);
    let mut bytes = vec![0; usize::try_from(image.header.cluster_bytes()).expect("2 MiB")];
    let mut runs = 0;
    for u in tables().step_by(every) {
        image.storage.read_at(&mut bytes, u.offset)?;
        let mut next = 0;
        for (_, entry) in image.header.l2_words(&bytes).filter(|&(_, entry)| entry != 0) {
            runs += u64::from(entry & OFFSET_MASK != next);
            next = (entry & OFFSET_MASK) + image.header.cluster_bytes();
            // Some of them share clusters, which cannot wait twice.
            wait &= entry & COMPRESSED == 0;
        }
    }
    let bits = unpacked_bits + if wait { WAITING_BITS } else { WALKED_BITS };
    let unlike = runs * every as u64 * (PAGE_CLUSTERS * bits / 8);
    let count = (clusters * bits / 8).min(unlike).div_ceil(most_bytes);
    if count <= 1 {
        return Ok(whole);
    }
    let part = clusters.div_ceil(count).next_multiple_of(PAGE_CLUSTERS);
    let mut parts: Vec<_> = (0..count).map(|nth| nth * part..(nth + 1) * part).collect();
    parts.last_mut().expect("more than one").end = u64::MAX;
    Ok(parts)
}

/// Reads the wanted tables in the order of the file, neighbours together, and shows each to
/// `visit`.
pub(super) fn for_tables(
    image: &Image,
    uses: &Uses,
    wanted: impl Fn(usize, &Use) -> bool,
    mut visit: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let cluster_bytes = image.header.cluster_bytes();
    let size = usize::try_from(cluster_bytes).expect("at most 2 MiB");
    let most = (READ_BYTES / cluster_bytes).max(1);
    let ahead = usize::try_from(AHEAD_BYTES / cluster_bytes).expect("few").max(2);
    let mut buffer = Vec::new();
    let reads = Neighbours { uses, wanted: &wanted, cluster_bytes, most, next: 0 };
    let mut expected = Neighbours { most: ahead as u64, ..reads };
    for tables in reads {
        while expected.next < (tables.end + ahead).min(uses.len()) {
            let Some(soon) = expected.next() else { break };
            let start = uses.get(soon.start).offset;
            image.storage.expect(start..start + soon.len() as u64 * cluster_bytes);
        }
        buffer.resize(tables.len() * size, 0);
        image.storage.read_at(&mut buffer, uses.get(tables.start).offset)?;
        for (index, table) in tables.zip(buffer.chunks_exact(size)) {
            visit(index, table)?;
        }
    }
    Ok(())
}

/// The wanted tables as runs of neighbours in the file, by their indices.
struct Neighbours<'a, W> {
    uses: &'a Uses,
    wanted: &'a W,
    cluster_bytes: u64,
    /// A run has so many tables at most.
    most: u64,
    /// The first that was not looked at.
    next: usize,
}

impl<W: Fn(usize, &Use) -> bool> Iterator for Neighbours<'_, W> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_wanted =
            |index| index < self.uses.len() && (self.wanted)(index, &self.uses.get(index));
        let start = (self.next..self.uses.len()).find(|&index| is_wanted(index));
        let Some(start) = start else {
            self.next = self.uses.len();
            return None;
        };
        let mut end = start + 1;
        while ((end - start) as u64) < self.most
            && is_wanted(end)
            && self.uses.get(end).offset == self.uses.get(end - 1).offset + self.cluster_bytes
        {
            end += 1;
        }
        self.next = end;
        Some(start..end)
    }
}

/// Registers what L2 tables own.
pub(super) struct References<'a> {
    image: &'a Image,
    refcounts: &'a mut Refcounts,
    /// The part of the file of which clusters are registered.
    part: Range<u64>,
    waiting: Batch<Change>,
}

impl<'a> References<'a> {
    pub fn new(image: &'a Image, refcounts: &'a mut Refcounts) -> Self {
        let waiting = Batch::new(image.file_bytes >> image.header.cluster_bits);
        Self { image, refcounts, part: 0..u64::MAX, waiting }
    }

    /// Registers everything that the entries of one L2 table own, consecutive clusters as one run,
    /// now or later. Returns whether any entry carries COPIED.
    pub fn table(&mut self, table: &[u8], table_offset: u64, change: Change) -> Result<bool> {
        let header = &self.image.header;
        let bits = header.cluster_bits;
        let cluster_mask = header.cluster_bytes() - 1;
        let mut any_copied = false;
        let mut run = 0..0;
        for (position, entry) in header.l2_words(table) {
            if entry == 0 {
                continue;
            }
            any_copied |= entry & COPIED != 0;
            let odd = entry & !(COPIED | OFFSET_MASK) | entry & cluster_mask;
            if odd == 0 && entry & OFFSET_MASK != 0 {
                // Nearly all are a whole cluster and nothing else.
                let cluster = (entry & OFFSET_MASK) >> bits;
                if cluster == run.end && !run.is_empty() {
                    run.end += 1;
                } else {
                    self.push(run, change)?;
                    run = cluster..cluster + 1;
                }
                continue;
            }
            let mapping = header.mapping(entry, table_offset + position)?;
            let Some((offset, length)) = mapping.owned(bits) else { continue };
            let clusters = offset >> bits..(offset + length).div_ceil(1 << bits);
            if clusters.start == run.end && matches!(mapping, Mapping::Standard { .. }) {
                run.end = clusters.end;
            } else {
                self.push(run, change)?;
                run = clusters;
            }
        }
        self.push(run, change)?;
        Ok(any_copied)
    }

    fn push(&mut self, run: Range<u64>, change: Change) -> Result<()> {
        let Self { image, refcounts, part, waiting } = self;
        let run = run.start.max(part.start)..run.end.min(part.end);
        waiting.push(run, change, &mut |clusters, change| {
            refcounts.reference_data(image.storage(), clusters, change)
        })
    }

    /// Registers what still waits.
    pub fn finish(mut self) -> Result<()> {
        let Self { image, refcounts, waiting, .. } = &mut self;
        waiting.drain(&mut |clusters, change| {
            refcounts.reference_data(image.storage(), clusters, change)
        })?;
        refcounts.settle()
    }
}

#[cfg(test)]
mod tests {
    use super::super::goal::Goal;
    use super::super::uses;
    use super::*;
    use crate::storage::{RecordingStorage, Storage};
    use crate::{NewImage, create};

    const CLUSTERS: u64 = 8192;

    /// A disk whose guest wrote every second cluster, the last one first.
    fn backwards() -> Image {
        let storage = RecordingStorage::new();
        let new = NewImage { size: CLUSTERS * 512, cluster_bytes: 512, ..NewImage::default() };
        create(&storage, &new).unwrap();
        let mut image = Image::open(Box::new(storage.clone())).unwrap();
        let disk = RecordingStorage::new();
        disk.write_at(&vec![7; usize::try_from(CLUSTERS * 512).unwrap()], 0).unwrap();
        image.write_content(&disk, &mut crate::CommitOptions::default()).unwrap();
        for offset in image.active_l1().unwrap().into_iter().map(|entry| entry & OFFSET_MASK) {
            let mut table = [0; 512];
            storage.read_at(&mut table, offset).unwrap();
            let words = table.as_chunks::<8>().0.iter().rev().enumerate();
            let odd = words.map(|(nth, word)| if nth % 2 == 1 { *word } else { [0; 8] });
            storage.write_at(&odd.collect::<Vec<_>>().concat(), offset).unwrap();
        }
        Image::open(Box::new(storage)).unwrap()
    }

    /// What is registered does not depend on how often the tables are read for it, nor on how it is
    /// kept.
    #[test]
    fn data_that_are_counted_part_by_part_are_counted_as_those_that_are_counted_at_once() {
        let image = backwards();
        let uses = uses::count(&image, &[], &Goal::same(&image.header)).unwrap();
        let change = |_| Change { delta: 1, after: 2, fresh: false };
        let parts = |most_bytes| parts(most_bytes, 0, &image, &uses, |_| true, change).unwrap();
        assert_eq!(parts(WALK_BYTES), [0..u64::MAX]);
        let parts = parts(300);
        assert!((3..9).contains(&parts.len()), "{parts:?}");
        assert_eq!((parts[0].start, parts.last().unwrap().end), (0, u64::MAX));
        assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        let storage = image.storage();
        let count = |most_bytes, mut refcounts: Refcounts| {
            let hear = |_, _| ();
            reference_within(most_bytes, &image, &mut refcounts, &uses, |_| true, change, hear)
                .unwrap();
            let mut unseen = Vec::new();
            let push = |run| {
                unseen.push(run);
                Ok(())
            };
            refcounts.for_unseen(storage, push).unwrap();
            let clusters = 0..image.file_bytes / 512;
            let counts: Vec<_> = clusters.map(|c| refcounts.count(storage, c).unwrap()).collect();
            (unseen, counts)
        };
        let load = || Refcounts::load(&image).unwrap();
        let at_once = count(WALK_BYTES, load());
        assert_eq!(at_once.1.iter().filter(|&&count| count == 2).count() as u64, CLUSTERS / 2);
        assert_eq!(count(300, load().packed(false)), at_once);
        assert_eq!(count(300, load().packed(true)), at_once);
    }
}
