//! Everything that refers to clusters, in the order in which `qemu-img check` looks at it.
//!
//! One list for both passes: the census, which counts, and the narration, which tells.

use super::problem::Problem;
use crate::error::{Error, Kind, Result};
use crate::format::header::{
    Header, MAX_L1_BYTES, MAX_SNAPSHOTS, SnapshotTableDefect, incompatible,
};
use crate::format::snapshot::SnapshotEntry;
use crate::format::{bitmap, encryption};
use crate::image::{Image, Reader};

/// Extra data that makes a version 3 snapshot entry complete: VM state size and disk size.
const COMPLETE_EXTRA_BYTES: usize = 16;

/// An L1 table as somebody names it.
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
    /// Already known to be wrong.
    Problem(Problem),
    /// Bytes that something owns.
    Region { offset: u64, bytes: u64 },
    /// An L1 table and all below it. The first is the active one.
    Table(L1),
}

/// Reads what names tables: snapshots, the LUKS header's place, bitmaps.
///
/// Fails with [`Kind::InvalidHeader`] where the image could not even be opened, and with
/// [`Kind::InvalidSnapshotTable`] in `check`'s own words.
pub(super) fn steps(image: &Image, reader: Reader<'_>) -> Result<Vec<Step>> {
    steps_of(image, reader, read_snapshots)
}

/// The same with snapshots as `read_snapshots` finds them: the rows, and the length of their table in
/// bytes.
pub(super) fn steps_of(
    image: &Image,
    reader: Reader<'_>,
    read_snapshots: impl FnOnce(&Image) -> Result<(Vec<SnapshotEntry>, u64)>,
) -> Result<Vec<Step>> {
    let header = image.header();
    let mut owned = Vec::new();
    if let Some(luks) = encryption::luks_header(header)? {
        owned.push(Step::Region { offset: luks.offset, bytes: luks.bytes });
    }
    bitmap_steps(header, reader, &mut owned)?;
    let (snapshots, table_bytes) = read_snapshots(image)?;

    let mut steps = Vec::new();
    if header.version >= 3 {
        for (index, entry) in (0..).zip(&snapshots) {
            if entry.extra.len() < COMPLETE_EXTRA_BYTES {
                steps.push(Step::Problem(Problem::SnapshotIncomplete { index }));
            }
        }
    }
    steps.push(Step::Region { offset: 0, bytes: header.cluster_bytes() });
    steps.push(Step::Table(L1 { offset: header.l1_offset, entries: header.l1_entries }));
    if header.has(incompatible::DATA_FILE) && header.snapshot_count > 0 {
        let count = header.snapshot_count;
        steps.push(Step::Problem(Problem::ExternalSnapshots { count }));
    }
    steps.extend(snapshots.into_iter().map(|entry| snapshot_step(header, entry)));
    steps.push(Step::Region { offset: header.snapshots_offset, bytes: table_bytes });
    steps.push(Step::Region {
        offset: header.refcount_table_offset,
        bytes: header.refcount_table_bytes(),
    });
    steps.append(&mut owned);
    Ok(steps)
}

fn snapshot_step(header: &Header, entry: SnapshotEntry) -> Step {
    let SnapshotEntry { id, name, l1_offset: offset, l1_entries: entries, .. } = entry;
    if !offset.is_multiple_of(header.cluster_bytes()) {
        return Step::Problem(Problem::SnapshotL1Unaligned { id, name, offset });
    }
    let table = L1 { offset, entries };
    if table.bytes() > MAX_L1_BYTES {
        return Step::Problem(Problem::SnapshotL1TooLarge { id, name, entries });
    }
    Step::Table(table)
}

/// The work is bounded: tables of bitmaps that are longer than the file, taken together, are
/// refused.
fn bitmap_steps(header: &Header, reader: Reader<'_>, steps: &mut Vec<Step>) -> Result<()> {
    let read = &mut |buf: &mut [u8], at: u64| reader.fill(buf, at);
    let Some(directory) = bitmap::directory(header)? else { return Ok(()) };
    let cluster_bytes = header.cluster_bytes();
    let bitmaps = bitmap::read_all(header, reader.file_bytes, &mut *read)?;
    steps.push(Step::Region { offset: directory.offset, bytes: directory.bytes });
    let mut budget = reader.file_bytes.saturating_add(cluster_bytes);
    for bitmap in bitmaps {
        steps.push(Step::Region { offset: bitmap.table_offset, bytes: bitmap.table_bytes() });
        if bitmap.table_offset >= reader.file_bytes {
            continue;
        }
        budget = budget.checked_sub(bitmap.table_bytes()).ok_or_else(|| {
            Error::new(Kind::Corrupt, "Bitmap tables overlap").at(bitmap.table_offset)
        })?;
        bitmap.for_data(header, &mut *read, &mut |offset| {
            steps.push(Step::Region { offset, bytes: cluster_bytes });
            Ok(())
        })?;
    }
    Ok(())
}

/// The snapshots and the length of their table in bytes. What is wrong with the table is said in
/// `check`'s own words.
fn read_snapshots(image: &Image) -> Result<(Vec<SnapshotEntry>, u64)> {
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
    image.listed_snapshot_table().map_err(|error| {
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
