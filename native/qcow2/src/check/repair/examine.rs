//! The check of a repair: what a check finds, in the same order, with what is done about it.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::counts::{Intended, structure, take_off};
use super::flags::{Flags, Times};
use super::l1;
use super::line::Line;
use super::plan::{Wanted, plan};
use super::rows::Rows;
use super::{CheckReport, Repair};
use crate::check::beyond::Beyond;
use crate::check::census::{self, Findings, Ground};
use crate::check::comparison;
use crate::check::countable_clusters;
use crate::check::entries::Geometry;
use crate::check::mending::Mending;
use crate::check::narration::{self, Round};
use crate::check::problem::Problem;
use crate::check::references::References;
use crate::check::report::Teller;
use crate::check::steps::{self, L1, Step};
use crate::check::stored::Stored;
use crate::error::Result;
use crate::format::header::incompatible;
use crate::image::{Image, Reader};
use crate::plan::{MovedL1, Plan};

/// What was found, and what is to be written.
pub(super) struct Verdict {
    /// What stays.
    pub found: CheckReport,
    pub leaks_fixed: u64,
    pub corruptions_fixed: u64,
    pub must_rebuild: bool,
    /// Clusters past the end of the file that something names, ascending, as far as that is known.
    pub beyond_end: Vec<Range<u64>>,
    /// None: there is nothing to write, or it must not be.
    pub plan: Option<Plan>,
}

impl Verdict {
    /// Nothing is written.
    fn refused(found: CheckReport, must_rebuild: bool, beyond_end: Vec<Range<u64>>) -> Self {
        let (leaks_fixed, corruptions_fixed) = (0, 0);
        Self { found, leaks_fixed, corruptions_fixed, must_rebuild, beyond_end, plan: None }
    }
}

/// Where the check is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// All tables; and the first comparison of counts, which only tells.
    Finding,
    /// The second comparison, which repairs.
    Counts,
    /// COPIED flags that are put right.
    Flags,
}

/// What was told, by what is done about it.
#[derive(Default)]
struct Tally {
    /// Tables and entries.
    mapping: u64,
    /// Of these, rows of snapshots without sizes.
    incomplete_rows: u64,
    /// Snapshots, or parts of their rows, that are left out.
    discarded: u64,
    /// Of `mapping`, the refcount table, where it lies past the end of the file and is made anew.
    lost_table: u64,
    /// Of `mapping`, entries that are mended, and the lines about them.
    mended: u64,
    mended_lines: u64,
    /// The refcount table.
    blocks: u64,
    leaks: u64,
    too_low: u64,
    unread: u64,
    /// Counts that were told a second time, being repaired or not.
    again: u64,
    flags: u64,
    /// The refcount structures cannot be kept.
    anew: bool,
    repairs_flags: bool,
    /// Some counts cannot be read, and are not made anew.
    is_blocked: bool,
}

impl Tally {
    fn all_lines(&self) -> u64 {
        let counts = self.leaks + self.too_low + self.unread + self.again;
        self.mapping.saturating_add(self.blocks + counts + self.flags)
    }

    /// What stays wrong, COPIED aside.
    fn remaining(&self, what: Repair) -> u64 {
        match what {
            Repair::All => {
                self.mapping - self.incomplete_rows - self.lost_table - self.mended_lines
            }
            Repair::Leaks => self.mapping.saturating_add(self.blocks + self.too_low),
        }
    }

    fn corruptions_fixed(&self, what: Repair) -> u64 {
        let flags = if self.repairs_flags { self.flags } else { 0 };
        match what {
            Repair::All => {
                let rows = self.incomplete_rows + self.discarded;
                // Where everything is counted again, QEMU takes what is told no more for repaired.
                let mended = if self.anew { self.mended_lines } else { self.mended };
                rows + self.lost_table + mended + self.blocks + self.too_low + flags
            }
            Repair::Leaks => flags,
        }
    }
}

pub(super) struct Examination<'a> {
    image: &'a Image,
    what: Repair,
    geometry: Geometry,
    /// Of tables: what the commit changes in the header is no entry of one.
    reader: Reader<'a>,
    stored: Stored<'a>,
    steps: Vec<Step>,
    clusters: u64,
    /// The snapshots as they will be read; none: as a check reads them.
    rows: Option<Rows>,
    mending: Mending,
    /// The L1 tables of snapshots that may have to be written anew.
    snapshot_l1: Vec<MovedL1>,
}

impl<'a> Examination<'a> {
    /// Reads the refcounts, and what names tables.
    pub fn new(image: &'a Image, what: Repair) -> Result<Self> {
        let clusters = countable_clusters(image)?;
        let geometry = Geometry::new(image.header(), image.file_bytes());
        let reader = image.reader();
        let stored = Stored::load(image.header(), reader)?;
        let rows = Rows::read(image, what);
        let steps = match &rows {
            Some(rows) => steps::steps_of(image, reader, |_, visit| {
                rows.offsets.iter().zip(&rows.entries).for_each(|(&row, entry)| visit(row, entry));
                Ok(rows.bytes)
            })?,
            None => steps::steps(image, reader)?,
        };
        let snapshot_l1 = rows.as_ref().and_then(|_| l1::of_snapshots(image, geometry, &steps));
        let all = what == Repair::All;
        let mending =
            Mending { active: all && can_move_l1(image), snapshots: all && snapshot_l1.is_some() };
        let reader = reader.without_fields();
        let snapshot_l1 = snapshot_l1.unwrap_or_default();
        Ok(Self {
            image,
            what,
            geometry,
            reader,
            stored,
            steps,
            clusters,
            rows,
            mending,
            snapshot_l1,
        })
    }

    /// Says what is wrong and what is done about it, and plans that.
    pub fn run(&self, tell: &mut dyn FnMut(&Line)) -> Result<Verdict> {
        let Self { image, what, geometry, .. } = *self;
        let tell = RefCell::new(tell);
        let say = |line: Line| (tell.borrow_mut())(&line);
        let pass = Cell::new(Pass::Finding);
        let beyond_end = RefCell::new(Vec::new());
        let mut hear = |problem: &Problem| {
            if let Problem::BeyondEnd { offset, bytes } = *problem {
                beyond_end.borrow_mut().push(offset..offset.saturating_add(bytes));
            }
            let line =
                if repairs(what, pass.get(), problem) { Line::Repairing } else { Line::Found };
            say(line(problem.clone()));
        };
        let mut teller = Teller::new(&mut hear);

        for line in self.rows.iter().flat_map(|rows| &rows.discarded) {
            say(line.clone());
        }
        let (mut references, findings, mut report) = self.count(&mut teller)?;
        let knows_all_places = teller.told == findings.corruptions;
        let mut tally = self.compare(&mut references, &findings, &mut report, &mut teller);
        let beyond_end = places(geometry, &beyond_end.borrow());
        let must_rebuild = tally.anew && what == Repair::Leaks;
        if must_rebuild || tally.is_blocked {
            if must_rebuild {
                say(Line::MustRebuild);
            }
            report.corruptions += tally.mapping + tally.blocks;
            return Ok(Verdict::refused(report, must_rebuild, beyond_end));
        }
        if !tally.anew && tally.leaks + tally.too_low > 0 {
            pass.set(Pass::Counts);
            tally.again = tally.leaks + tally.too_low;
            let again = &mut CheckReport::default();
            comparison::compare(geometry, &self.stored, &references, again, &mut teller);
        }
        let header = image.header();
        let structure = structure(geometry, &self.stored, &references, header, tally.anew);
        let given_up = take_off(&mut references, &structure, geometry.max_refcount);
        if tally.anew {
            say(Line::Rebuilding);
            self.tell_again(&findings, &mut teller)?;
            for problem in given_up {
                say(Line::Repairing(problem));
            }
        }

        let remaining = tally.remaining(what);
        // Rows without sizes say nothing about counts.
        let counts_remain = remaining > tally.incomplete_rows;
        tally.repairs_flags = (what == Repair::All || !counts_remain) && can_move_l1(image);
        if tally.repairs_flags {
            pass.set(Pass::Flags);
        } else {
            pass.set(Pass::Finding);
        }
        let flags = self.flags(&references, &findings, &tally, &beyond_end, &mut teller)?;
        tally.flags = flags.count;

        let corruptions_fixed = tally.corruptions_fixed(what);
        report.corruptions = remaining;
        if !tally.repairs_flags {
            report.corruptions = report.corruptions.saturating_add(flags.count);
        }
        (report.leaks, report.check_errors) = (0, 0);
        report.problems_omitted = tally.all_lines().saturating_sub(teller.told - teller.remarks);

        let marks = incompatible::DIRTY | incompatible::CORRUPT;
        let lost =
            if knows_all_places { beyond_end.clone() } else { self.avoided(&findings.beyond) };
        let mut avoided = lost.clone();
        if !findings.dropped_beyond.is_empty() {
            avoided.append(&mut self.avoided(&findings.dropped_beyond));
        }
        let wanted = Wanted {
            moved_l1: l1::that_move(self.reader, &self.snapshot_l1, &findings.mended)?,
            mended: findings.mended.tables,
            mends_rows: self.rows.is_some() && tally.incomplete_rows + tally.discarded > 0,
            counts: tally.leaks > 0 || what == Repair::All && tally.too_low > 0,
            anew: tally.anew,
            flags: (tally.repairs_flags && flags.count > 0).then_some(flags),
            rows: self.rows.as_ref(),
            unmarks: report.corruptions == 0 && header.incompatible & marks != 0,
            is_sound: tally.mapping == tally.incomplete_rows,
            is_followed: tally.mapping == tally.incomplete_rows + tally.mended_lines,
            only_leaks: !tally.anew
                && tally.too_low + tally.discarded == 0
                && !header.has(incompatible::CORRUPT),
            given_up: structure,
            beyond_end,
            avoided,
        };
        let plan = if wanted.is_anything() {
            Some(plan(image, what, geometry, &self.stored, &mut references, wanted)?)
        } else {
            None
        };
        Ok(Verdict {
            found: report,
            leaks_fixed: tally.leaks,
            corruptions_fixed,
            must_rebuild: false,
            beyond_end: lost,
            plan,
        })
    }

    /// Where nothing may be placed because it was named past the end of the file, told or not.
    fn avoided(&self, beyond: &Beyond) -> Vec<Range<u64>> {
        beyond.avoided(self.image.file_bytes().div_ceil(self.geometry.cluster_bytes()))
    }

    fn ground(&self) -> Ground<'_> {
        let Self { geometry, reader, ref stored, ref steps, clusters, mending, .. } = *self;
        Ground { geometry, reader, stored, steps, clusters, mending }
    }

    /// Counts all references, and tells what is wrong with tables and entries.
    fn count(&self, teller: &mut Teller<'_>) -> Result<(References, Findings, CheckReport)> {
        let (references, findings) = census::take(self.ground(), teller)?;
        let header = self.image.header();
        let report = CheckReport {
            total_clusters: header.disk_bytes().div_ceil(header.cluster_bytes()),
            allocated_clusters: findings.layout.allocated,
            fragmented_clusters: findings.layout.fragmented,
            compressed_clusters: findings.layout.compressed,
            ..CheckReport::default()
        };
        if findings.corruptions > 0 {
            narration::tell_mapping(header, self.ground(), &findings, Round::First, teller)?;
        }
        Ok((references, findings, report))
    }

    /// Compares the counts with the references, and decides whether they can be kept.
    fn compare(
        &self,
        references: &mut References,
        findings: &Findings,
        report: &mut CheckReport,
        teller: &mut Teller<'_>,
    ) -> Tally {
        let Self { geometry, ref stored, .. } = *self;
        let damage =
            comparison::count_blocks(geometry, stored, references, report, |_, problem| {
                teller.tell(&problem);
            });
        let blocks = std::mem::take(&mut report.corruptions);
        let counted_free = comparison::compare(geometry, stored, references, report, teller);
        let unread = report.check_errors;
        let all = self.what == Repair::All;
        let anew = damage.unusable + counted_free > 0 || all && damage.outside + unread > 0;
        let header = self.image.header();
        let (offset, bytes) = (header.refcount_table_offset, header.refcount_table_bytes());
        Tally {
            mapping: findings.corruptions,
            mended: findings.mended.entries,
            mended_lines: findings.mended.lines,
            incomplete_rows: self.steps.iter().filter(|step| is_incomplete_row(step)).count()
                as u64,
            discarded: self.rows.as_ref().map_or(0, Rows::discarded_count),
            lost_table: u64::from(anew && bytes > 0 && self.geometry.is_beyond_end(offset, bytes)),
            blocks,
            leaks: report.leaks,
            too_low: report.corruptions,
            unread,
            anew,
            is_blocked: !anew && unread > 0,
            ..Tally::default()
        }
    }

    /// Tells what stays wrong with tables and entries: `qemu-img` counts everything again before it
    /// makes the refcount structures anew.
    fn tell_again(&self, findings: &Findings, teller: &mut Teller<'_>) -> Result<()> {
        if findings.corruptions == 0 {
            return Ok(());
        }
        let header = self.image.header();
        let mut steps = self.steps.clone();
        steps.retain(|step| match step {
            Step::IncompleteRow { .. } => false,
            Step::Region { offset, .. } => *offset != header.refcount_table_offset,
            _ => true,
        });
        let ground = Ground { steps: &steps, ..self.ground() };
        narration::tell_mapping(header, ground, findings, Round::Again, teller)
    }

    /// Finds and tells the flags that do not go with the counts to be.
    fn flags(
        &self,
        references: &References,
        findings: &Findings,
        tally: &Tally,
        beyond_end: &[Range<u64>],
        teller: &mut Teller<'_>,
    ) -> Result<Flags> {
        let Self { image, geometry, reader, .. } = *self;
        if !tally.anew && tally.leaks + tally.too_low + findings.copied == 0 {
            return Ok(Flags::default());
        }
        let stored = &self.stored;
        // Where no count is too low, it becomes the references either way, and need not be read.
        let what = if tally.too_low == 0 { Repair::All } else { self.what };
        let intended = Intended { what, geometry, stored, references, beyond_end };
        let header = image.header();
        let active = L1 { offset: header.l1_offset, entries: header.l1_entries };
        let times = if tally.repairs_flags { Times::Once } else { Times::EachTime };
        let mended = &findings.mended;
        let flags = Flags::find(geometry, reader, &intended, active, mended, times)?;
        if flags.count > 0 {
            let offsets = flags.offsets();
            let mut told = vec![false; offsets.len()];
            let is_told = |offset| {
                let Ok(table) = offsets.binary_search(&offset) else { return false };
                let was_told = std::mem::replace(&mut told[table], true);
                times == Times::EachTime || !was_told
            };
            narration::tell_copied(geometry, reader, &intended, active, mended, is_told, teller)?;
        }
        Ok(flags)
    }
}

/// Whether the active L1 table is where it can be read from and given up.
fn can_move_l1(image: &Image) -> bool {
    let header = image.header();
    image.ensure_inside(header.l1_offset, header.l1_bytes(), "L1 table").is_ok()
}

fn is_incomplete_row(step: &Step) -> bool {
    matches!(step, Step::IncompleteRow { .. })
}

/// Whether `problem`, told in `pass`, is repaired.
fn repairs(what: Repair, pass: Pass, problem: &Problem) -> bool {
    let all = what == Repair::All;
    match (pass, problem) {
        (Pass::Finding, Problem::BlockOutside { .. } | Problem::SnapshotIncomplete { .. }) => all,
        (_, Problem::PreallocatedDropped { .. }) | (Pass::Flags, _) => true,
        (Pass::Finding, _) => false,
        (Pass::Counts, problem) => all || matches!(problem, Problem::Leaked { .. }),
    }
}

/// Clusters that regions past the end of the file touch, ascending.
fn places(geometry: Geometry, regions: &[Range<u64>]) -> Vec<Range<u64>> {
    let bits = geometry.cluster_bits;
    let mut places: Vec<_> =
        regions.iter().map(|region| region.start >> bits..region.end.div_ceil(1 << bits)).collect();
    places.sort_unstable_by_key(|place| place.start);
    places.dedup_by(|next, kept| {
        let touches = next.start <= kept.end;
        if touches {
            kept.end = kept.end.max(next.end);
        }
        touches
    });
    places
}
