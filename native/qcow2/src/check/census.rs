//! Counts every reference in the image, once per byte that makes it.
//!
//! A snapshot shares its tables with others; an image may name one table a billion times. So the
//! bytes of all L1 tables are swept once, each with the number of tables that contain it, and each
//! L2 table is read once, with the number of entries that name it. Both passes go through the file
//! in ascending order, a MiB at a time.
//!
//! That is one walk, and nearly always one is enough. Where what it would have to keep is more than
//! there may be, it keeps what belongs to the first clusters of the file, and another walk goes on
//! from there: time grows, and memory does not.
//!
//! The work of a walk is bounded by the file's length, that of all together by its square. Nothing
//! is told here: where a problem was counted, the narration goes over the same ground in
//! `qemu-img`'s order.

use std::ops::Range;

use super::beyond::Beyond;
use super::entries::{self, Geometry, L2Entry, Sink};
use super::mending::{Mended, Mending};
use super::names::{Named, Names};
use super::ones::Ones;
use super::problem::Problem;
use super::references::References;
use super::report::Teller;
use super::steps::{L1, Step};
use super::stored::{Counts, Stored};
use super::suspects::Suspects;
use crate::error::Result;
use crate::format::mapping::{COMPRESSED, COPIED, OFFSET_MASK, ZERO};
use crate::image::Reader;

/// Most that is read at once.
const READ_BYTES: usize = 1 << 20;
/// So far ahead the storage is told what will be read.
const AHEAD_BYTES: usize = 4 << 20;

/// What one walk may keep, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Counts of references, together with the refcount table and the list of steps, whose lengths
    /// the image decides.
    pub counts: usize,
    /// Counts of references, whatever those take.
    pub least_counts: usize,
    /// Which counts of the image are one.
    pub ones: usize,
}

impl Room {
    pub const CHECK: Self = Self { counts: 20 << 20, least_counts: 8 << 20, ones: 8 << 20 };
    /// Whatever all counts take.
    pub const ALL_COUNTS: Self =
        Self { counts: usize::MAX, least_counts: usize::MAX, ..Self::CHECK };
}

/// What the guest's clusters look like in the active state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    pub allocated: u64,
    pub fragmented: u64,
    pub compressed: u64,
}

/// What was found, but for the references.
#[derive(Default)]
pub(super) struct Findings {
    /// Problems of tables and entries, overflows included, each as often as it would be told.
    pub corruptions: u64,
    /// Of these, references beyond what a refcount can hold.
    pub overflows: u64,
    /// COPIED flags in the active state that contradict the refcount.
    pub copied: u64,
    /// Those of them that were found cluster by cluster: a walk knows only of some.
    copied_runs: u64,
    pub layout: Layout,
    /// What is named past the end of the file.
    pub beyond: Beyond,
    /// What a repair mends: its problems are counted, and no references of it.
    pub mended: Mended,
    /// What that named past the end of the file.
    pub dropped_beyond: Beyond,
    /// L2 tables with problems.
    pub bad_tables: Suspects,
    /// L2 tables with wrong COPIED flags.
    pub miscopied_tables: Suspects,
}

/// What is looked at.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub geometry: Geometry,
    pub reader: Reader<'a>,
    pub stored: &'a Stored<'a>,
    pub steps: &'a [Step],
    /// Clusters of the file.
    pub clusters: u64,
    /// What is being mended.
    pub mending: Mending,
}

/// Counts all references, whatever memory that takes. A table that cannot be read is told, and ends
/// it.
pub(super) fn take(ground: Ground<'_>, teller: &mut Teller<'_>) -> Result<(References, Findings)> {
    let mut all = References::new(0);
    let findings = take_by_windows(ground, Room::ALL_COUNTS, |window| all = window, teller)?;
    Ok((all, findings))
}

/// The same within bounds: shows references to `visit` window by window, ascending, none of them
/// empty. The first begins with the first cluster, and all together are all.
pub(super) fn take_by_windows(
    ground: Ground<'_>,
    room: Room,
    mut visit: impl FnMut(References),
    teller: &mut Teller<'_>,
) -> Result<Findings> {
    let mut findings: Option<Findings> = None;
    let (mut counted, mut compared, mut known) = (0, 0, ground.clusters);
    while counted < known || compared < ground.clusters {
        let ones = Ones::within(room.ones, ground.stored, compared, ground.clusters);
        let others = ground.stored.table_bytes() + size_of_val(ground.steps);
        let most = room.counts.saturating_sub(others).max(room.least_counts);
        let references = References::within(most, counted, known);
        let mut walk = Walk { ground, references, ones: &ones, findings: Findings::default() };
        walk.run(teller)?;
        compared = ones.window().end;
        known = walk.references.len();
        let window = walk.references.window();
        counted = window.end;
        match &mut findings {
            None => findings = Some(walk.findings),
            Some(findings) => findings.add(walk.findings),
        }
        if !window.is_empty() {
            visit(walk.references);
        }
    }
    let mut findings = findings.unwrap_or_default();
    findings.finish();
    Ok(findings)
}

impl Findings {
    /// What another walk found that this one could not.
    fn add(&mut self, again: Self) {
        self.overflows = self.overflows.saturating_add(again.overflows);
        self.copied_runs += again.copied_runs;
        self.miscopied_tables.append(again.miscopied_tables);
    }

    fn finish(&mut self) {
        self.corruptions = self.corruptions.saturating_add(self.overflows);
        self.copied += self.copied_runs;
        self.bad_tables.sort();
        self.miscopied_tables.sort();
    }
}

/// One walk over everything that refers to clusters.
struct Walk<'a> {
    ground: Ground<'a>,
    references: References,
    ones: &'a Ones,
    findings: Findings,
}

impl Walk<'_> {
    fn run(&mut self, teller: &mut Teller<'_>) -> Result<()> {
        let mut failed = |level, error| {
            teller.tell(&Problem::ReadFailed { level });
            error
        };
        let ground = self.ground;
        let mut tables = Vec::new();
        let mut counter = self.counter(1);
        for step in ground.steps {
            match step {
                Step::Region { offset, bytes } => counter.reference(*offset, *bytes),
                Step::Table(l1) => {
                    counter.reference(l1.offset, l1.bytes());
                    tables.push(*l1);
                }
                Step::BitmapData(table) => bitmap_data(ground, *table, &mut counter)?,
                Step::IncompleteRow { .. }
                | Step::ExternalSnapshots { .. }
                | Step::MisplacedL1 { .. } => counter.corruption(),
            }
        }
        let mut names = Names::from(0);
        self.judge_l1(&tables, &mut names).map_err(|error| failed(1, error))?;
        loop {
            let (tables_named, next) = names.finish();
            self.read_tables(&tables_named).map_err(|error| failed(2, error))?;
            let Some(next) = next else { break };
            drop(tables_named);
            names = Names::from(next);
            gather(ground.reader, &tables, &mut names).map_err(|error| failed(1, error))?;
        }
        self.references.settle();
        // They are counted last, when it is settled where another walk goes on.
        self.references.expect(ground.stored.places());
        self.findings.overflows = self.references.excess_over(ground.geometry.max_refcount);
        Ok(())
    }

    fn counter(&mut self, times: u64) -> Counter<'_> {
        let Self { ground: Ground { geometry, .. }, references, findings, .. } = self;
        Counter { geometry: *geometry, times, references, findings }
    }

    /// Judges all L1 entries and gathers which L2 tables they name.
    fn judge_l1(&mut self, tables: &[L1], names: &mut Names) -> Result<()> {
        let Ground { geometry, reader, stored, clusters, .. } = self.ground;
        sweep(reader, tables, |_, entry, times, is_active| {
            let offset = entries::l1_entry(&geometry, entry, &mut self.counter(times));
            let cluster = offset >> geometry.cluster_bits;
            if is_active && cluster >= clusters {
                let is_wrong = l1_contradiction(&geometry, entry, stored).is_some();
                self.findings.copied += u64::from(is_wrong);
            } else if is_active && offset != 0 {
                let copied = entry & COPIED != 0;
                let wrong = self.ones.contradictions(stored, cluster..cluster + 1, copied);
                self.findings.copied_runs += wrong;
            }
            names.push(Named { offset, times, active_times: u64::from(is_active) });
            Ok(())
        })
    }

    /// Reads every named L2 table once. Neighbours are read together.
    fn read_tables(&mut self, names: &[Named]) -> Result<()> {
        let Ground { geometry, reader, .. } = self.ground;
        // Beyond the end there is nothing but zeros, and zeros refer to nothing.
        let inside = names.partition_point(|named| named.offset < geometry.file_bytes);
        let cluster = 1_usize << geometry.cluster_bits;
        let at_once = (READ_BYTES / cluster).max(1);
        let mut buffer = vec![0; at_once * cluster];
        let tables = &names[..inside];
        let ahead = (AHEAD_BYTES / cluster).max(2);
        let (mut at, mut expected) = (0, 0);
        let mut data = 0..0;
        while at < tables.len() {
            let rest = &tables[at..];
            // An L1 table may name millions that are holes, and zeros refer to nothing.
            let first = rest[0].offset;
            if data.end <= first {
                // Who cannot say where data are has data everywhere.
                let next = reader.storage.next_data(first).unwrap_or(Some(first..u64::MAX));
                data = next.unwrap_or(u64::MAX..u64::MAX);
            }
            at +=
                rest.partition_point(|named| named.offset + geometry.cluster_bytes() <= data.start);
            let Some(rest) = tables.get(at..).filter(|rest| !rest.is_empty()) else { break };
            if rest[0].offset >= data.end {
                continue;
            }
            expected = expected.max(at);
            let follows = |pair: &[Named]| pair[1].offset - pair[0].offset == cluster as u64;
            let run =
                1 + rest.windows(2).take(at_once - 1).take_while(|pair| follows(pair)).count();
            let soon = (at + run + ahead).min(tables.len());
            for table in tables[expected..soon].iter().filter(|table| table.offset < data.end) {
                reader.storage.expect(table.offset..table.offset + geometry.cluster_bytes());
            }
            expected = expected.max(soon);
            let bytes = &mut buffer[..run * cluster];
            reader.fill(bytes, rest[0].offset)?;
            for (named, table) in rest.iter().zip(bytes.chunks_exact(cluster)) {
                TableCount::new(self, *named).count(table);
            }
            at += run;
        }
        Ok(())
    }
}

/// Says which clusters of bits the table of a bitmap names.
pub(super) fn bitmap_data(ground: Ground<'_>, table: L1, sink: &mut impl Sink) -> Result<()> {
    sweep(ground.reader, &[table], |_, entry, _, _| {
        let offset = entry & OFFSET_MASK;
        if offset != 0 {
            sink.reference(offset, ground.geometry.cluster_bytes());
        }
        Ok(())
    })
}

/// Gathers the names of L2 tables in L1 entries that are judged already.
fn gather(reader: Reader<'_>, tables: &[L1], names: &mut Names) -> Result<()> {
    sweep(reader, tables, |_, entry, times, is_active| {
        let offset = entry & OFFSET_MASK;
        names.push(Named { offset, times, active_times: u64::from(is_active) });
        Ok(())
    })
}

/// Counts what an entry says, `times` over.
struct Counter<'a> {
    geometry: Geometry,
    times: u64,
    references: &'a mut References,
    findings: &'a mut Findings,
}

impl Counter<'_> {
    fn corruption(&mut self) {
        self.findings.corruptions = self.findings.corruptions.saturating_add(self.times);
    }
}

impl Sink for Counter<'_> {
    fn problem(&mut self, _: Problem) {
        self.corruption();
    }

    fn reference(&mut self, offset: u64, bytes: u64) {
        if bytes == 0 {
        } else if self.geometry.is_beyond_end(offset, bytes) {
            self.findings.beyond.name_bytes(&self.geometry, offset, bytes);
            self.corruption();
        } else {
            self.references.add(self.geometry.clusters(offset, bytes), self.times);
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
    mut visit: impl FnMut(u64, u64, u64, bool) -> Result<()>,
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
                    visit(at + index * 8, entry, times, active.contains(&at))?;
                }
            }
            at += wanted as u64;
        }
    }
    Ok(())
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

/// Counts one L2 table.
struct TableCount<'a, 'b> {
    walk: &'a mut Walk<'b>,
    geometry: Geometry,
    named: Named,
    /// COPIED matters: the table is active and its own refcount can be read.
    copied_matters: bool,
    /// Entries that can be mended are, and how many were.
    is_mended: bool,
    mended: u64,
    /// Host bytes of entries that follow each other and agree about COPIED.
    run: Range<u64>,
    run_copied: bool,
    /// Where the next cluster would be if nothing were fragmented; 0 before the first.
    contiguous: u64,
}

impl<'a, 'b> TableCount<'a, 'b> {
    fn new(walk: &'a mut Walk<'b>, named: Named) -> Self {
        let Ground { geometry, stored, mending, .. } = walk.ground;
        let is_mended = mending.covers(&geometry, &named);
        let copied_matters = named.active_times > 0
            && named.offset != 0
            && stored.is_readable(named.offset >> geometry.cluster_bits);
        let (run, run_copied) = (0..0, false);
        Self {
            walk,
            geometry,
            named,
            copied_matters,
            is_mended,
            mended: 0,
            run,
            run_copied,
            contiguous: 0,
        }
    }

    fn count(mut self, table: &[u8]) {
        let copied = |findings: &Findings| findings.copied + findings.copied_runs;
        let before = (self.walk.findings.corruptions, copied(&self.walk.findings));
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
        let findings = &mut self.walk.findings;
        if findings.corruptions != before.0 {
            findings.bad_tables.push(self.named.offset);
        }
        if copied(findings) != before.1 {
            findings.miscopied_tables.push(self.named.offset);
        }
        if self.mended > 0 {
            findings.mended.tables.push(self.named);
            findings.mended.entries += self.mended;
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
            let Walk { ground: Ground { stored, .. }, ones, findings, .. } = &mut *self.walk;
            let wrong = ones.contradictions(stored, clusters.clone(), self.run_copied);
            findings.copied_runs += wrong * self.named.active_times;
        }
        self.walk.references.add_later(clusters, self.named.times);
    }

    fn note_allocated(&mut self, offset: u64, clusters: u64) {
        let layout = &mut self.walk.findings.layout;
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
        if self.is_mended && entries::can_be_mended(&geometry, whole) {
            self.mended_entry(entry);
            return;
        }
        if self.copied_matters
            && entry & COMPRESSED == 0
            && entries::copied_contradiction(&geometry, entry, self.walk.ground.stored).is_some()
        {
            self.walk.findings.copied += self.named.active_times;
        }
        entries::l2_entry(&geometry, index, whole, self);
    }

    /// Told once, whoever names the table: then it is mended.
    fn mended_entry(&mut self, entry: u64) {
        let before = self.walk.findings.corruptions;
        let offset = entries::mended_entry(entry, &mut self.walk.counter(1));
        let findings = &mut self.walk.findings;
        findings.mended.lines += findings.corruptions - before;
        self.mended += 1;
        let bytes = self.geometry.cluster_bytes();
        if self.geometry.is_beyond_end(offset, bytes) {
            findings.dropped_beyond.name_bytes(&self.geometry, offset, bytes);
        }
    }
}

impl Sink for TableCount<'_, '_> {
    fn problem(&mut self, problem: Problem) {
        self.walk.counter(self.named.times).problem(problem);
    }

    fn reference(&mut self, offset: u64, bytes: u64) {
        self.walk.counter(self.named.times).reference(offset, bytes);
    }

    fn allocated(&mut self, offset: u64) {
        self.note_allocated(offset, 1);
    }

    fn compressed(&mut self) {
        let layout = &mut self.walk.findings.layout;
        layout.allocated += self.named.active_times;
        layout.compressed += self.named.active_times;
        layout.fragmented += self.named.active_times;
    }
}
