//! The operations on internal snapshots. Each change is one commit on an image that is ours alone.

use qcow2::format::snapshot::SnapshotEntry;
use qcow2::{Bitmaps, Committed, NewSnapshot};

use crate::image::{commit_report, opening};
use crate::session::{change, read};
use crate::types::{
    Bytes, Outcome, SnapshotApplyRequest, SnapshotCreateRequest, SnapshotDeleteRequest,
    SnapshotInfo, SnapshotListReport, SnapshotListRequest, SnapshotRenameRequest, SnapshotReport,
};

/// Lists the snapshots. Takes no lock and writes nothing.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_list(request: SnapshotListRequest) -> Outcome<SnapshotListReport> {
    read(&request.path, request.force_share, |image, _| {
        let snapshots = image.snapshots()?.iter().map(describe_snapshot).collect();
        Ok(SnapshotListReport { snapshots })
    })
    .map_err(opening)
}

/// Takes a snapshot of the active disk.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_create(
    request: SnapshotCreateRequest,
    waiting: &mut dyn FnMut(String),
) -> Outcome<SnapshotReport> {
    change(&request.path, request.no_wait, waiting, |image, options| {
        let new = NewSnapshot {
            name: request.name.as_bytes(),
            least_id: request.least_id.map_or(0, |id| u64::from(id.0)),
            date_sec: request.date_sec.0,
            date_nsec: request.date_nsec.0,
        };
        image.create_snapshot(&new, options)
    })
    .map(report)
}

/// Makes the active disk what a snapshot holds.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_apply(
    request: SnapshotApplyRequest,
    waiting: &mut dyn FnMut(String),
) -> Outcome<SnapshotReport> {
    let bitmaps = if request.drop_bitmaps == Some(true) { Bitmaps::Drop } else { Bitmaps::Refuse };
    change(&request.path, request.no_wait, waiting, |image, options| {
        image.apply_snapshot(request.selector.as_bytes(), bitmaps, options)
    })
    .map(report)
}

/// Deletes a snapshot, and frees what only it used.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_delete(
    request: SnapshotDeleteRequest,
    waiting: &mut dyn FnMut(String),
) -> Outcome<SnapshotReport> {
    change(&request.path, request.no_wait, waiting, |image, options| {
        image.delete_snapshot(request.selector.as_bytes(), options)
    })
    .map(report)
}

/// Gives a snapshot another name.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_rename(
    request: SnapshotRenameRequest,
    waiting: &mut dyn FnMut(String),
) -> Outcome<SnapshotReport> {
    change(&request.path, request.no_wait, waiting, |image, options| {
        image.rename_snapshot(request.selector.as_bytes(), request.name.as_bytes(), options)
    })
    .map(report)
}

fn report(mut done: Committed) -> SnapshotReport {
    let entry = done.snapshot.take().expect("a snapshot operation names its snapshot");
    SnapshotReport {
        id: String::from_utf8_lossy(&entry.id).into_owned(),
        name: String::from_utf8_lossy(&entry.name).into_owned(),
        commit: commit_report(done),
    }
}

/// A table entry, as it crosses.
pub(crate) fn describe_snapshot(entry: &SnapshotEntry) -> SnapshotInfo {
    SnapshotInfo {
        id: String::from_utf8_lossy(&entry.id).into_owned(),
        name: String::from_utf8_lossy(&entry.name).into_owned(),
        name_bytes: std::str::from_utf8(&entry.name).is_err().then(|| hex(&entry.name)),
        vm_state_size: Bytes(entry.vm_state_bytes()),
        date_sec: entry.date_sec,
        date_nsec: entry.date_nsec,
        vm_clock_sec: Bytes(entry.vm_clock_nsec / 1_000_000_000),
        vm_clock_nsec: u32::try_from(entry.vm_clock_nsec % 1_000_000_000).expect("below 10^9"),
        icount: entry.icount().map(|count| count.to_string()),
        disk_size: entry.disk_size().map(Bytes),
    }
}

/// Two lower-case digits a byte.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}
