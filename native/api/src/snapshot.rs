//! The operations on internal snapshots. Each change is one commit on an image that is ours alone.

use qcow2::{Bitmaps, Committed, Error, Kind, NewSnapshot};

use crate::callback::Callback;
use crate::report::{commit_report, describe_snapshots, hex, opening};
use crate::session::{change, read};
use crate::types::{
    Bytes, ChangeEvent, Outcome, SnapshotApplyRequest, SnapshotCreateRequest,
    SnapshotDeleteRequest, SnapshotListReport, SnapshotListRequest, SnapshotRenameRequest,
    SnapshotReport,
};

/// Lists the snapshots. Takes no lock and writes nothing; on request it flushes what others wrote.
/// `piece` hears all but the last of a long list.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_list(
    request: SnapshotListRequest,
    piece: &mut Callback<'_, SnapshotListReport>,
) -> Outcome<SnapshotListReport> {
    read(&request.path, request.force_share, |reading| {
        let image = reading.image;
        if request.settled == Some(true) {
            image.ensure_settled()?;
        }
        let report = |snapshots| SnapshotListReport {
            snapshots,
            virtual_size: Bytes(image.header().size),
            commit_fields: hex(&image.header().commit_fields()),
        };
        let rest = describe_snapshots(reading, &mut |rows| Ok(piece(report(rows))?))?;
        Ok(report(rest))
    })
    .map_err(opening)
}

/// Takes a snapshot of the active disk.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_create(
    request: SnapshotCreateRequest,
    event: &mut Callback<'_, ChangeEvent>,
) -> Outcome<SnapshotReport> {
    change(&request.path, request.no_wait, event, |image, options| {
        let new = NewSnapshot {
            name: request.name.as_bytes(),
            least_id: request.least_id.map_or(0, |id| id.0),
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
    event: &mut Callback<'_, ChangeEvent>,
) -> Outcome<SnapshotReport> {
    let bitmaps = if request.drop_bitmaps == Some(true) { Bitmaps::Drop } else { Bitmaps::Refuse };
    change(&request.path, request.no_wait, event, |image, options| {
        image.apply_snapshot(request.selector.as_bytes(), bitmaps, options)
    })
    .map(report)
}

/// Deletes a snapshot, and frees what only it used.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_delete(
    request: SnapshotDeleteRequest,
    event: &mut Callback<'_, ChangeEvent>,
) -> Outcome<SnapshotReport> {
    change(&request.path, request.no_wait, event, |image, options| {
        match (&request.selector, &request.id) {
            (Some(name), None) => image.delete_snapshot(name.as_bytes(), options),
            (None, Some(id)) => image.delete_snapshot_by_id(id.as_bytes(), options),
            _ => Err(Error::new(Kind::InvalidArgument, "either a name or an ID is needed")),
        }
    })
    .map(report)
}

/// Gives a snapshot another name.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn snapshot_rename(
    request: SnapshotRenameRequest,
    event: &mut Callback<'_, ChangeEvent>,
) -> Outcome<SnapshotReport> {
    change(&request.path, request.no_wait, event, |image, options| {
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
