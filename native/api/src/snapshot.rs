//! The operations on internal snapshots. Each change is one commit on an image that is ours alone.

use qcow2::{Bitmaps, Committed, NewSnapshot};

use crate::report::{commit_report, describe_snapshot, opening};
use crate::session::{change, read};
use crate::types::{
    Outcome, SnapshotApplyRequest, SnapshotCreateRequest, SnapshotDeleteRequest,
    SnapshotListReport, SnapshotListRequest, SnapshotRenameRequest, SnapshotReport,
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
