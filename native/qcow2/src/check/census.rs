//! Counts every reference in the image, once per byte that makes it.
//!
//! A snapshot shares its tables with others; an image may name one table a billion times. So the
//! bytes of all L1 tables are swept once, each with the number of tables that contain it, and each
//! L2 table is read once, with the number of entries that name it. Both passes go through the file
//! in ascending order, a MiB at a time.
//!
//! The work is bounded by the file's length. Nothing is told here: where a problem was counted, the
//! narration goes over the same ground in `qemu-img`'s order.

use std::ops::Range;

use super::entries::{self, Geometry, L2Entry, Sink};
use super::problem::Problem;
use super::references::References;
use super::report::Teller;
use super::steps::{L1, Step};
use super::stored::{Counts, Stored};
use crate::error::Result;
use crate::format::mapping::{COMPRESSED, COPIED, OFFSET_MASK, ZERO};
use crate::image::Reader;

/// Most that is read at once.
const READ_BYTES: usize = 1 << 20;
/// So far ahead the storage is told what will be read.
const AHEAD_BYTES: usize = 4 << 20;
/// Named tables that are gathered before names of the same table are merged.
const MERGE_AT: usize = 1 << 16;

/// What the guest's clusters look like in the active state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    pub allocated: u64,
    pub fragmented: u64,
    pub compressed: u64,
}

/// The result.
pub(super) struct Census {
    pub references: References,
    /// Problems of tables and entries, overflows included, each as often as it would be told.
    pub corruptions: u64,
    /// Of these, references beyond what a refcount can hold.
    pub overflows: u64,
    /// COPIED flags in the active state that contradict the refcount.
    pub copied: u64,
    pub layout: Layout,
    /// Offsets of L2 tables with problems, ascending.
    pub bad_tables: Vec<u64>,
    /// Offsets of L2 tables with wrong COPIED flags, ascending.
    pub miscopied_tables: Vec<u64>,
}

/// An L2 table and how often it is named.
#[derive(Clone, Copy)]
struct Named {
    offset: u64,
    times: u64,
    /// By the active L1 table.
    active_times: u64,
}

/// Takes the census. A table that cannot be read is told, and ends it.
pub(super) fn take(
    geometry: Geometry,
    reader: Reader<'_>,
    stored: &Stored<'_>,
    steps: &[Step],
    clusters: u64,
    teller: &mut Teller<'_>,
) -> Result<Census> {
    let mut failed = |level, error| {
        teller.tell(&Problem::ReadFailed { level });
        error
    };
    let mut census = Census {
        references: References::new(clusters),
        corruptions: 0,
        overflows: 0,
        copied: 0,
        layout: Layout::default(),
        bad_tables: Vec::new(),
        miscopied_tables: Vec::new(),
    };
    let mut tables = Vec::new();
    let mut counter = Counter { geometry, times: 1, census: &mut census };
    for step in steps {
        match step {
            Step::Problem(problem) => counter.problem(problem.clone()),
            Step::Region { offset, bytes } => counter.reference(*offset, *bytes),
            Step::Table(l1) => {
                counter.reference(l1.offset, l1.bytes());
                tables.push(*l1);
            }
        }
    }
    let names = count_names(geometry, reader, stored, &tables, &mut census)
        .map_err(|error| failed(1, error))?;
    read_tables(geometry, reader, stored, &names, &mut census).map_err(|error| failed(2, error))?;
    census.references.settle();
    census.overflows = census.references.excess_over(geometry.max_refcount);
    census.corruptions += census.overflows;
    Ok(census)
}

/// Counts what an entry says, `times` over.
struct Counter<'a> {
    geometry: Geometry,
    times: u64,
    census: &'a mut Census,
}

impl Sink for Counter<'_> {
    fn problem(&mut self, _: Problem) {
        self.census.corruptions = self.census.corruptions.saturating_add(self.times);
    }

    fn reference(&mut self, offset: u64, bytes: u64) {
        if bytes == 0 {
        } else if self.geometry.is_beyond_end(offset, bytes) {
            self.problem(Problem::BeyondEnd { offset, bytes });
        } else {
            self.census.references.add(self.geometry.clusters(offset, bytes), self.times);
        }
    }

    fn allocated(&mut self, _: u64) {}

    fn compressed(&mut self) {}
}

/// Sweeps the bytes of all L1 tables once, in ascending order, and tells `visit` every entry that
/// is not 0: where it is, what it is, how many tables contain it, and whether the active one does.
pub(super) fn sweep(
    reader: Reader<'_>,
    tables: &[L1],
    mut visit: impl FnMut(u64, u64, u64, bool),
) -> Result<()> {
    let end = reader.file_bytes.next_multiple_of(8);
    let mut bounds = Vec::with_capacity(tables.len() * 2);
    for table in tables.iter().filter(|table| table.entries > 0 && table.offset < end) {
        bounds.push((table.offset, 1));
        bounds.push((table.offset.saturating_add(table.bytes()).min(end), -1));
    }
    bounds.sort_unstable();
    let active = tables.first().map_or(0..0, |l1| l1.offset..l1.offset.saturating_add(l1.bytes()));
    let mut buffer = Vec::new();
    let mut depth = 0_i64;
    for (index, &(start, change)) in bounds.iter().enumerate() {
        depth += change;
        let end = bounds.get(index + 1).map_or(start, |next| next.0);
        let times = u64::try_from(depth).unwrap_or(0);
        let mut at = start;
        while times > 0 && at < end {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(READ_BYTES);
            buffer.resize(wanted, 0);
            reader.fill(&mut buffer, at)?;
            for (index, bytes) in (0..).zip(buffer.as_chunks::<8>().0) {
                let entry = u64::from_be_bytes(*bytes);
                if entry != 0 {
                    visit(at + index * 8, entry, times, active.contains(&at));
                }
            }
            at += wanted as u64;
        }
    }
    Ok(())
}

/// Judges all L1 entries and finds out which L2 tables they name, ascending by offset.
fn count_names(
    geometry: Geometry,
    reader: Reader<'_>,
    stored: &Stored<'_>,
    tables: &[L1],
    census: &mut Census,
) -> Result<Vec<Named>> {
    let mut names: Vec<Named> = Vec::new();
    let mut merge_at = MERGE_AT;
    sweep(reader, tables, |_, entry, times, is_active| {
        let mut counter = Counter { geometry, times, census };
        let offset = entries::l1_entry(&geometry, entry, &mut counter);
        let active_times = u64::from(is_active);
        if is_active && l1_contradiction(&geometry, entry, stored).is_some() {
            census.copied += 1;
        }
        match names.last_mut() {
            Some(last) if last.offset == offset => {
                last.times += times;
                last.active_times += active_times;
            }
            _ => names.push(Named { offset, times, active_times }),
        }
        if names.len() >= merge_at {
            merge(&mut names);
            merge_at = MERGE_AT.max(names.len() * 2);
        }
    })?;
    merge(&mut names);
    Ok(names)
}

/// The refcount that contradicts COPIED of an active L1 entry, if it does.
pub(super) fn l1_contradiction(
    geometry: &Geometry,
    entry: u64,
    counts: &impl Counts,
) -> Option<u64> {
    let offset = entry & OFFSET_MASK;
    if offset == 0 {
        return None;
    }
    let refcount = counts.count(offset >> geometry.cluster_bits)?;
    ((refcount == 1) != (entry & COPIED != 0)).then_some(refcount)
}

fn merge(names: &mut Vec<Named>) {
    names.sort_unstable_by_key(|named| named.offset);
    names.dedup_by(|next, kept| {
        let same = next.offset == kept.offset;
        if same {
            kept.times += next.times;
            kept.active_times += next.active_times;
        }
        same
    });
}

/// Reads every named L2 table once. Neighbours are read together.
fn read_tables(
    geometry: Geometry,
    reader: Reader<'_>,
    stored: &Stored<'_>,
    names: &[Named],
    census: &mut Census,
) -> Result<()> {
    // Beyond the end there is nothing but zeros, and zeros refer to nothing.
    let inside = names.partition_point(|named| named.offset < geometry.file_bytes);
    let cluster = 1_usize << geometry.cluster_bits;
    let at_once = (READ_BYTES / cluster).max(1);
    let mut buffer = vec![0; at_once * cluster];
    let tables = &names[..inside];
    let ahead = (AHEAD_BYTES / cluster).max(2);
    let (mut at, mut expected) = (0, 0);
    while at < tables.len() {
        let rest = &tables[at..];
        let follows = |pair: &[Named]| pair[1].offset - pair[0].offset == geometry.cluster_bytes();
        let run = 1 + rest.windows(2).take(at_once - 1).take_while(|pair| follows(pair)).count();
        let soon = (at + run + ahead).min(tables.len());
        for table in &tables[expected..soon] {
            reader.storage.expect(table.offset..table.offset + geometry.cluster_bytes());
        }
        expected = soon;
        let bytes = &mut buffer[..run * cluster];
        reader.fill(bytes, rest[0].offset)?;
        for (named, table) in rest.iter().zip(bytes.chunks_exact(cluster)) {
            TableCount::new(geometry, stored, *named, census).count(table);
        }
        at += run;
    }
    Ok(())
}

/// Counts one L2 table.
struct TableCount<'a> {
    geometry: Geometry,
    stored: &'a Stored<'a>,
    named: Named,
    census: &'a mut Census,
    /// COPIED matters: the table is active and its own refcount can be read.
    copied_matters: bool,
    /// Host bytes of entries that follow each other and agree about COPIED.
    run: Range<u64>,
    run_copied: bool,
    /// Where the next cluster would be if nothing were fragmented; 0 before the first.
    contiguous: u64,
}

impl<'a> TableCount<'a> {
    fn new(
        geometry: Geometry,
        stored: &'a Stored<'a>,
        named: Named,
        census: &'a mut Census,
    ) -> Self {
        let copied_matters = named.active_times > 0
            && named.offset != 0
            && stored.get(named.offset >> geometry.cluster_bits).is_some();
        Self {
            geometry,
            stored,
            named,
            census,
            copied_matters,
            run: 0..0,
            run_copied: false,
            contiguous: 0,
        }
    }

    fn count(mut self, table: &[u8]) {
        let (problems, copied) = (self.census.corruptions, self.census.copied);
        let geometry = self.geometry;
        let per_group = if geometry.extended { 4 } else { 8 };
        for (index, group) in (0..).zip(table.as_chunks::<64>().0) {
            if *group == [0; 64] {
                continue;
            }
            for (within, entry) in (0..).zip(L2Entry::all(&geometry, group)) {
                self.entry(index * per_group + within, entry);
            }
        }
        self.end_run();
        if self.census.corruptions != problems {
            self.census.bad_tables.push(self.named.offset);
        }
        if self.census.copied != copied {
            self.census.miscopied_tables.push(self.named.offset);
        }
    }

    /// Nearly every entry is empty or names a whole cluster inside the file; those are gathered
    /// into runs. All others are judged one by one.
    #[inline]
    fn entry(&mut self, index: u64, whole: L2Entry) {
        let entry = whole.word;
        let offset = entry & OFFSET_MASK;
        let is_sound = !whole.is_contradictory() && (offset != 0 || whole.allocated() == 0);
        let is_plain = is_sound
            && entry & !(COPIED | OFFSET_MASK | ZERO) == 0
            && self.geometry.is_aligned(offset)
            && offset < self.geometry.file_bytes
            && !self.geometry.external_data;
        if !is_plain {
            self.odd_entry(index, whole);
        } else if offset != 0 {
            let copied = self.copied_matters && entry & COPIED != 0;
            if offset != self.run.end || copied != self.run_copied {
                self.end_run();
                self.run = offset..offset;
                self.run_copied = copied;
            }
            self.run.end += self.geometry.cluster_bytes();
        }
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() {
            return;
        }
        let bits = self.geometry.cluster_bits;
        let clusters = run.start >> bits..run.end >> bits;
        self.note_allocated(run.start, clusters.end - clusters.start);
        if self.copied_matters {
            let wrong = self.stored.contradictions(clusters.clone(), self.run_copied);
            self.census.copied += wrong * self.named.active_times;
        }
        self.census.references.add_later(clusters, self.named.times);
    }

    fn note_allocated(&mut self, offset: u64, clusters: u64) {
        let layout = &mut self.census.layout;
        layout.allocated += clusters * self.named.active_times;
        if self.contiguous != 0 && self.contiguous != offset {
            layout.fragmented += self.named.active_times;
        }
        self.contiguous = offset + (clusters << self.geometry.cluster_bits);
    }

    fn odd_entry(&mut self, index: u64, whole: L2Entry) {
        let entry = whole.word;
        self.end_run();
        let geometry = self.geometry;
        if self.copied_matters
            && entry & COMPRESSED == 0
            && entries::copied_contradiction(&geometry, entry, self.stored).is_some()
        {
            self.census.copied += self.named.active_times;
        }
        entries::l2_entry(&geometry, index, whole, self);
    }
}

impl Sink for TableCount<'_> {
    fn problem(&mut self, problem: Problem) {
        let (geometry, times) = (self.geometry, self.named.times);
        Counter { geometry, times, census: self.census }.problem(problem);
    }

    fn reference(&mut self, offset: u64, bytes: u64) {
        let (geometry, times) = (self.geometry, self.named.times);
        Counter { geometry, times, census: self.census }.reference(offset, bytes);
    }

    fn allocated(&mut self, offset: u64) {
        self.note_allocated(offset, 1);
    }

    fn compressed(&mut self) {
        let layout = &mut self.census.layout;
        layout.allocated += self.named.active_times;
        layout.compressed += self.named.active_times;
        layout.fragmented += self.named.active_times;
    }
}
