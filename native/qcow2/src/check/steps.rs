//! Everything that refers to clusters, in the order in which `qemu-img check` looks at it.
//!
//! One list for both passes: the census, which counts, and the narration, which tells. It is as long
//! as there are snapshots and bitmaps; what is long about these is read again where it is wanted.

use super::problem::Problem;
use crate::error::{Error, Kind, Result};
use crate::format::header::{
    Header, MAX_L1_BYTES, MAX_SNAPSHOTS, SnapshotTableDefect, incompatible,
};
use crate::format::snapshot::{SnapshotEntry, read_row};
use crate::format::{bitmap, encryption};
use crate::image::{Image, Reader};

/// Extra data that makes a version 3 snapshot entry complete: VM state size and disk size.
const COMPLETE_EXTRA_BYTES: usize = 16;

/// An L1 table, or another of words of eight bytes, as somebody names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct L1 {
    pub offset: u64,
    pub entries: u32,
}

impl L1 {
    pub fn bytes(self) -> u64 {
        u64::from(self.entries) * 8
    }
}

/// One thing to look at.
#[derive(Clone)]
pub(super) enum Step {
    /// Bytes that something owns.
    Region { offset: u64, bytes: u64 },
    /// An L1 table and all below it. The first is the active one.
    Table(L1),
    /// The clusters of bits that this table of a bitmap names.
    BitmapData(L1),
    /// A version 3 snapshot entry that lacks sizes, by its position.
    IncompleteRow { index: u32 },
    /// Snapshots, as many, in an image whose data lives elsewhere.
    ExternalSnapshots { count: u32 },
    /// A snapshot whose L1 table cannot be where it is said to be, or as long. Its row begins at
    /// this host offset: names may have 64 KiB.
    MisplacedL1 { row: u64 },
}

/// Reads what names tables: snapshots, the LUKS header's place, bitmaps.
///
/// Fails with [`Kind::InvalidHeader`] where the image could not even be opened, and with
/// [`Kind::InvalidSnapshotTable`] in `check`'s own words.
pub(super) fn steps(image: &Image, reader: Reader<'_>) -> Result<Vec<Step>> {
    steps_of(image, reader, for_snapshots)
}

/// The same with snapshots as `for_snapshots` shows them: each with the host offset of its row.
/// It returns the length of their table in bytes.
pub(super) fn steps_of(
    image: &Image,
    reader: Reader<'_>,
    for_snapshots: impl FnOnce(&Image, &mut dyn FnMut(u64, &SnapshotEntry)) -> Result<u64>,
) -> Result<Vec<Step>> {
    let header = image.header();
    let mut owned = Vec::new();
    if let Some(luks) = encryption::luks_header(header)? {
        owned.push(Step::Region { offset: luks.offset, bytes: luks.bytes });
    }
    bitmap_steps(header, reader, &mut owned)?;
    let (mut steps, mut snapshots, mut index) = (Vec::new(), Vec::new(), 0);
    let table_bytes = for_snapshots(image, &mut |row, entry| {
        if header.version >= 3 && entry.extra.len() < COMPLETE_EXTRA_BYTES {
            steps.push(Step::IncompleteRow { index });
        }
        index += 1;
        let is_misplaced = misplaced_l1(header, entry).is_some();
        snapshots.push(if is_misplaced {
            Step::MisplacedL1 { row }
        } else {
            Step::Table(l1(entry))
        });
    })?;

    steps.push(Step::Region { offset: 0, bytes: header.cluster_bytes() });
    steps.push(Step::Table(L1 { offset: header.l1_offset, entries: header.l1_entries }));
    if header.has(incompatible::DATA_FILE) && header.snapshot_count > 0 {
        steps.push(Step::ExternalSnapshots { count: header.snapshot_count });
    }
    steps.append(&mut snapshots);
    steps.push(Step::Region { offset: header.snapshots_offset, bytes: table_bytes });
    steps.push(Step::Region {
        offset: header.refcount_table_offset,
        bytes: header.refcount_table_bytes(),
    });
    steps.append(&mut owned);
    Ok(steps)
}

fn l1(entry: &SnapshotEntry) -> L1 {
    L1 { offset: entry.l1_offset, entries: entry.l1_entries }
}

/// What is wrong with the place of a snapshot's L1 table, if anything is.
fn misplaced_l1(header: &Header, entry: &SnapshotEntry) -> Option<Problem> {
    let L1 { offset, entries } = l1(entry);
    let names = || (entry.id.clone(), entry.name.clone());
    if !offset.is_multiple_of(header.cluster_bytes()) {
        let (id, name) = names();
        return Some(Problem::SnapshotL1Unaligned { id, name, offset });
    }
    if l1(entry).bytes() > MAX_L1_BYTES {
        let (id, name) = names();
        return Some(Problem::SnapshotL1TooLarge { id, name, entries });
    }
    None
}

/// The same of the row at a host offset, read again.
pub(super) fn misplaced_l1_at(
    header: &Header,
    reader: Reader<'_>,
    row: u64,
) -> Result<Option<Problem>> {
    let entry = read_row(row, |buf, at| reader.fill(buf, at))?;
    Ok(misplaced_l1(header, &entry))
}

/// The work is bounded: tables of bitmaps that are longer than the file, taken together, are
/// refused.
fn bitmap_steps(header: &Header, reader: Reader<'_>, steps: &mut Vec<Step>) -> Result<()> {
    let Some(directory) = bitmap::directory(header)? else { return Ok(()) };
    let cluster_bytes = header.cluster_bytes();
    let mut bitmaps = Vec::new();
    let mut budget = reader.file_bytes.saturating_add(cluster_bytes);
    let read = &mut |buf: &mut [u8], at: u64| reader.fill(buf, at);
    bitmap::for_all(header, reader.file_bytes, read, &mut |read, bitmap| {
        let table = L1 { offset: bitmap.table_offset, entries: bitmap.table_entries };
        bitmaps.push(Step::Region { offset: table.offset, bytes: table.bytes() });
        if table.offset >= reader.file_bytes {
            return Ok(());
        }
        budget = budget
            .checked_sub(table.bytes())
            .ok_or_else(|| Error::new(Kind::Corrupt, "Bitmap tables overlap").at(table.offset))?;
        // Finds what is wrong with it.
        bitmap.for_data(header, read, &mut |_| Ok(()))?;
        bitmaps.push(Step::BitmapData(table));
        Ok(())
    })?;
    steps.push(Step::Region { offset: directory.offset, bytes: directory.bytes });
    steps.append(&mut bitmaps);
    Ok(())
}

/// Shows the snapshots; returns the length of their table in bytes. What is wrong with the table is
/// said in `check`'s own words.
fn for_snapshots(image: &Image, visit: &mut dyn FnMut(u64, &SnapshotEntry)) -> Result<u64> {
    let defect = |reason: &str, preface: String| {
        Err(Error::new(Kind::InvalidSnapshotTable, reason).with_preface(preface))
    };
    match image.header().snapshot_table_defect() {
        None => {}
        Some(SnapshotTableDefect::TooLarge) => {
            let overhanging = image.header().snapshot_count - MAX_SNAPSHOTS;
            let preface = format!(
                "ERROR snapshot table too large\nYou can force-remove all {overhanging} \
                 overhanging snapshots with qemu-img check -r all"
            );
            return defect("File too large", preface);
        }
        Some(SnapshotTableDefect::Misplaced) => {
            return defect("Invalid argument", "ERROR snapshot table offset invalid".to_owned());
        }
    }
    let visit = |row, entry: SnapshotEntry| {
        visit(row, &entry);
        Ok(())
    };
    image.for_listed_rows(visit).map_err(|error| {
        let (said, reason) = match error.kind() {
            Kind::InvalidSnapshotTable => (error.reason().to_owned(), "File too large".to_owned()),
            _ => (
                format!("Failed to read snapshot table: {}", error.reason()),
                error.reason().to_owned(),
            ),
        };
        let mut preface = format!("ERROR failed to read the snapshot table: {said}");
        if let Some(hint) = &error.hint {
            preface = format!("{preface}\n{hint}");
        }
        Error::new(error.kind(), reason).with_preface(preface)
    })
}
