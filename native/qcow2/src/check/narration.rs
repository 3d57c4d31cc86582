//! Tells the problems that the census counted, in the order in which `qemu-img check` meets them.
//!
//! Runs only where there is something to tell, goes only where the problems are, and stops when
//! nobody listens any more. Its work is bounded by what it tells, and by a budget of its own.

use std::mem;

use super::census::{self, Findings, Ground};
use super::entries::{self, Geometry, L2Entry, Sink};
use super::mending::Mended;
use super::problem::Problem;
use super::references::References;
use super::report::Teller;
use super::steps::{self, L1, Step};
use super::stored::Counts;
use crate::error::{Error, Kind, Result};
use crate::format::header::{Header, MAX_FILE_BYTES};
use crate::format::mapping::OFFSET_MASK;
use crate::image::Reader;

/// L1 entries that are kept for telling; with more, the list of problems is not complete.
const MAX_ENTRIES: usize = 1 << 19;
/// L2 entries that are gone through again and have nothing to tell: where references overflow, which
/// cannot be told without counting along, and where too many tables are suspect to list them.
const MAX_STEPS: u64 = 1 << 26;
/// What may be kept to count along, in bytes: overflows of what is beyond are counted and not told.
const COUNTING_BYTES: usize = 16 << 20;

/// What was told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Nothing.
    First,
    /// All of it: what can be mended has been.
    Again,
}

/// Tells what is wrong with tables and entries.
pub(super) fn tell_mapping(
    header: &Header,
    ground: Ground<'_>,
    findings: &Findings,
    round: Round,
    teller: &mut Teller<'_>,
) -> Result<()> {
    let Ground { geometry, reader, steps, clusters, .. } = ground;
    let counts_along = findings.overflows > 0;
    let counted = counts_along.then(|| References::within(COUNTING_BYTES, 0, clusters));
    let bad = bad_entries(ground, findings)?;
    let mut narrator = Narrator { geometry, counted, teller };
    let mended = &findings.mended;
    let mut are_mended = vec![round == Round::Again; mended.tables.len()];
    let mut table = L2Reader::new(geometry, reader);
    for step in steps {
        match step {
            Step::IncompleteRow { index } => {
                narrator.problem(Problem::SnapshotIncomplete { index: *index });
            }
            Step::ExternalSnapshots { count } => {
                narrator.problem(Problem::ExternalSnapshots { count: *count });
            }
            Step::MisplacedL1 { row } => {
                if !narrator.teller.is_full()
                    && let Some(problem) = steps::misplaced_l1_at(header, reader, *row)?
                {
                    narrator.problem(problem);
                }
            }
            Step::Region { offset, bytes } => narrator.reference(*offset, *bytes),
            Step::BitmapData(data) => census::bitmap_data(ground, *data, &mut narrator)?,
            Step::Table(l1) => {
                narrator.reference(l1.offset, l1.bytes());
                if l1.entries > 0 && l1.offset.saturating_add(l1.bytes()) > MAX_FILE_BYTES {
                    // No file reaches that far: where QEMU gives up.
                    narrator.teller.tell(&Problem::ReadFailed { level: 1 });
                    return Err(Error::new(Kind::Io, "Input/output error").at(l1.offset));
                }
                let first = bad.partition_point(|&(at, _)| at < l1.offset);
                let mine = bad[first..].iter().take_while(|(at, _)| at - l1.offset < l1.bytes());
                for &(_, entry) in mine {
                    if narrator.teller.is_full() || table.steps > MAX_STEPS {
                        return Ok(());
                    }
                    let offset = entries::l1_entry(&geometry, entry, &mut narrator);
                    if !findings.bad_tables.contains(offset) && !counts_along {
                        continue;
                    }
                    let position = mended.position(offset);
                    let is_mended =
                        position.map(|position| mem::replace(&mut are_mended[position], true));
                    for &(index, entry) in table.entries(offset)? {
                        if is_mended.is_none() || !entries::can_be_mended(&geometry, entry) {
                            entries::l2_entry(&geometry, index, entry, &mut narrator);
                        } else if is_mended == Some(false) {
                            entries::mended_entry(entry.word, &mut narrator);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// L1 entries that are wrong, or lead to a table that has problems, by their place in the file; all
/// of them where references have to be counted along.
fn bad_entries(ground: Ground<'_>, findings: &Findings) -> Result<Vec<(u64, u64)>> {
    let geometry = ground.geometry;
    let mut tables: Vec<L1> = Vec::new();
    for step in ground.steps {
        if let Step::Table(l1) = step {
            tables.push(*l1);
        }
    }
    let mut bad = Vec::new();
    census::sweep(ground.reader, &tables, |at, entry, _, _| {
        let mut judge = Judge { geometry, is_bad: findings.overflows > 0 };
        let offset = entries::l1_entry(&geometry, entry, &mut judge);
        let is_bad = judge.is_bad || findings.bad_tables.contains(offset);
        if is_bad && bad.len() < MAX_ENTRIES {
            bad.push((at, entry));
        }
        Ok(())
    })?;
    Ok(bad)
}

/// Tells which COPIED flags of the active state contradict the refcounts. `is_told` says of the L2
/// table at an offset whether its flags are told, each time that an L1 entry names it.
pub(super) fn tell_copied(
    geometry: Geometry,
    reader: Reader<'_>,
    counts: &impl Counts,
    active: L1,
    mended: &Mended,
    mut is_told: impl FnMut(u64) -> bool,
    teller: &mut Teller<'_>,
) -> Result<()> {
    let mut table = L2Reader::new(geometry, reader);
    let mut vain_steps = 0;
    census::sweep(reader, &[active], |at, entry, _, _| {
        if teller.is_full() || vain_steps > MAX_STEPS {
            return Ok(());
        }
        let offset = entry & OFFSET_MASK;
        let refcount = census::l1_contradiction(&geometry, entry, counts);
        if let Some(refcount) = refcount {
            let l1_index = (at - active.offset) / 8;
            teller.tell(&Problem::CopiedL2 { l1_index, entry, refcount });
        }
        // What is no table's place, or cannot be counted, is not looked into.
        let is_counted = counts.count(offset >> geometry.cluster_bits).is_some();
        if offset == 0 || !is_counted || !is_told(offset) {
            return Ok(());
        }
        let (told, steps) = (teller.told, table.steps);
        let is_mended = mended.table(offset).is_some();
        for &(_, entry) in table.entries(offset)? {
            if is_mended && entries::can_be_mended(&geometry, entry) {
                continue;
            }
            let entry = entry.word;
            if let Some(refcount) = entries::copied_contradiction(&geometry, entry, counts) {
                teller.tell(&Problem::CopiedData { entry, refcount });
            }
        }
        if teller.told == told {
            vain_steps += table.steps - steps;
        }
        Ok(())
    })
}

/// Reads L2 tables, and the same one only once in a row.
struct L2Reader<'a> {
    geometry: Geometry,
    reader: Reader<'a>,
    bytes: Vec<u8>,
    offset: Option<u64>,
    /// Those that are not 0, with their indices.
    entries: Vec<(u64, L2Entry)>,
    /// Entries that were decoded or handed out.
    steps: u64,
}

impl<'a> L2Reader<'a> {
    fn new(geometry: Geometry, reader: Reader<'a>) -> Self {
        let bytes = vec![0; 1 << geometry.cluster_bits];
        Self { geometry, reader, bytes, offset: None, entries: Vec::new(), steps: 0 }
    }

    /// The entries of the table at `offset` that are not 0, with their indices.
    fn entries(&mut self, offset: u64) -> Result<&[(u64, L2Entry)]> {
        if self.offset != Some(offset) {
            self.offset = None;
            self.reader.fill(&mut self.bytes, offset)?;
            let empty = L2Entry { word: 0, subclusters: 0 };
            let numbered = (0..).zip(L2Entry::all(&self.geometry, &self.bytes));
            self.entries.clear();
            self.entries.extend(numbered.filter(|&(_, entry)| entry != empty));
            self.offset = Some(offset);
            self.steps += self.bytes.len() as u64 / 8;
        }
        self.steps += 1 + self.entries.len() as u64;
        Ok(&self.entries)
    }
}

/// Only wants to know whether there is a problem.
struct Judge {
    geometry: Geometry,
    is_bad: bool,
}

impl Sink for Judge {
    fn problem(&mut self, _: Problem) {
        self.is_bad = true;
    }

    fn reference(&mut self, offset: u64, bytes: u64) {
        self.is_bad |= self.geometry.is_beyond_end(offset, bytes);
    }

    fn allocated(&mut self, _: u64) {}

    fn compressed(&mut self) {}
}

/// Tells every problem at once.
struct Narrator<'a, 'b> {
    geometry: Geometry,
    /// References so far, where some overflow.
    counted: Option<References>,
    teller: &'a mut Teller<'b>,
}

impl Sink for Narrator<'_, '_> {
    fn problem(&mut self, problem: Problem) {
        self.teller.tell(&problem);
    }

    fn reference(&mut self, offset: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        if self.geometry.is_beyond_end(offset, bytes) {
            self.teller.tell(&Problem::BeyondEnd { offset, bytes });
            return;
        }
        let Some(counted) = &mut self.counted else { return };
        for cluster in self.geometry.clusters(offset, bytes) {
            counted.add(cluster..cluster + 1, 1);
            if counted.anywhere(cluster) > self.geometry.max_refcount {
                let offset = cluster << self.geometry.cluster_bits;
                self.teller.tell(&Problem::Overflow { offset });
            }
        }
    }

    fn allocated(&mut self, _: u64) {}

    fn compressed(&mut self) {}
}
