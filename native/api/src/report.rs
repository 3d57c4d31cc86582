//! What the core found and did, as it crosses.

use std::borrow::Cow;

use qcow2::format::snapshot::SnapshotEntry;
use qcow2::{Committed, Error, PlannedCommit};

use crate::pieces::{PIECE_ROWS, Pieces};
use crate::session::Reading;
use crate::types::{self, Bytes, CommitReport, Failure, PlannedSnapshot, SnapshotInfo, Stage};

/// What a commit cost, as it crosses.
pub(crate) fn commit_report(done: Committed) -> CommitReport {
    CommitReport {
        written_bytes: Bytes(done.written_bytes),
        flushes: done.flushes,
        punched_bytes: Bytes(done.punched_bytes),
        punch_failure: done.punch_failure.map(|error| Error::from(error).reason().to_owned()),
        recount_failure: done.recount_failure.map(|error| error.reason().to_owned()),
    }
}

/// What a commit will do, as it crosses.
pub(crate) fn planned_commit(planned: &PlannedCommit<'_>) -> types::PlannedCommit {
    types::PlannedCommit {
        before: hex(&planned.before),
        after: hex(&planned.after),
        snapshot: planned.snapshot.map(|entry| PlannedSnapshot {
            id: String::from_utf8_lossy(&entry.id).into_owned(),
            name: String::from_utf8_lossy(&entry.name).into_owned(),
            date_sec: entry.date_sec,
            date_nsec: entry.date_nsec,
        }),
    }
}

/// What the header and its tables refuse, qemu-img refuses when it opens the image.
pub(crate) fn opening(mut failure: Failure) -> Failure {
    failure.stage = Stage::Open;
    failure
}

/// The snapshots of an image, as they cross: what makes rows long is not shown, and not kept. `tell`
/// gets all but the last piece. What is wrong with the table is found before that.
pub(crate) fn describe_snapshots(
    reading: &Reading<'_>,
    tell: &mut dyn FnMut(Vec<SnapshotInfo>) -> qcow2::Result<()>,
) -> qcow2::Result<Vec<SnapshotInfo>> {
    let image = reading.image;
    if image.header().snapshot_count as usize > PIECE_ROWS {
        image.for_listed_snapshots(|_| Ok(()))?;
    }
    let mut pieces = Pieces::new(reading, tell);
    image.for_listed_snapshots(|entry| {
        let text_bytes = entry.shown_id().len() + entry.shown_name().len();
        pieces.push(describe_snapshot(&entry), text_bytes)
    })?;
    Ok(pieces.finish())
}

/// A table entry, as it crosses.
fn describe_snapshot(entry: &SnapshotEntry) -> SnapshotInfo {
    let (id, id_bytes) = text(entry.shown_id());
    let (name, name_bytes) = text(entry.shown_name());
    SnapshotInfo {
        id,
        id_bytes,
        name,
        name_bytes,
        vm_state_size: Bytes(entry.vm_state_bytes()),
        date_sec: entry.date_sec,
        date_nsec: entry.date_nsec,
        vm_clock_sec: Bytes(entry.vm_clock_nsec / 1_000_000_000),
        vm_clock_nsec: u32::try_from(entry.vm_clock_nsec % 1_000_000_000).expect("below 10^9"),
        icount: entry.icount().map(|count| count.to_string()),
        disk_size: entry.disk_size().map(Bytes),
    }
}

/// A text that should be UTF-8, and its bytes where it is not.
fn text(bytes: &[u8]) -> (String, Option<String>) {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => (text.to_owned(), None),
        Cow::Owned(replaced) => (replaced, Some(hex(bytes))),
    }
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}
