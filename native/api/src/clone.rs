//! Clones of an image.

use std::path::{Path, PathBuf};

use qcow2::clone::{Selection, Strategy, Used, Version, Wanted, clone_image};
use qcow2::lock::Intent;
use qcow2::storage::{Access, FileStorage};
use qcow2::{Error, Kind};

use crate::pace::Pace;
use crate::session::lock;
use crate::types::{
    Bytes, CloneInfo, CloneProgress, CloneReport, CloneStrategy, Failure, ImageCloneRequest,
    Outcome, Stage, UsedStrategy,
};

/// Clones an image to every target: all, or none. The source is only read; while that lasts nobody
/// can write to it.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn image_clone(
    request: ImageCloneRequest,
    progress: &mut dyn FnMut(CloneProgress),
) -> Outcome<CloneReport> {
    let at = |stage| {
        let source = &request.source;
        move |error: Error| Failure::new(stage, source, &error)
    };
    let keep = request.keep_snapshots == Some(true);
    let selection = match (&request.from_snapshot, keep) {
        (Some(_), true) => {
            let both = Error::new(
                Kind::InvalidArgument,
                "the content of one snapshot comes without the other snapshots",
            );
            return Err(at(Stage::Operation)(both));
        }
        (Some(selector), false) => Selection::Snapshot(selector.as_bytes()),
        (None, true) => Selection::Everything,
        (None, false) => Selection::ActiveDisk,
    };
    let strategy = match request.strategy {
        CloneStrategy::Auto => Strategy::Auto,
        CloneStrategy::Reflink => Strategy::Reflink,
        CloneStrategy::Copy => Strategy::Copy,
    };
    let source =
        FileStorage::open(Path::new(&request.source), Access::Read).map_err(at(Stage::Open))?;
    let mut waiting = |holder| {
        progress(CloneProgress { waiting_for: Some(holder), ..CloneProgress::default() });
    };
    let _lock =
        lock(&source, Intent::Share, request.no_wait, &mut waiting).map_err(at(Stage::Open))?;
    let targets: Vec<_> = request.targets.iter().map(PathBuf::from).collect();
    let mut pace = Pace::default();
    let mut tell = |copied: u64, total: u64| {
        if pace.is_due(copied, total) {
            let (copied_bytes, total_bytes) = (Bytes(copied), Bytes(total));
            progress(CloneProgress { copied_bytes, total_bytes, waiting_for: None });
        }
    };
    let version = if request.upgrade == Some(true) { Version::Upgraded } else { Version::Kept };
    let wanted = Wanted { selection, strategy, version };
    let clones = clone_image(&source, &targets, wanted, &mut tell).map_err(at(Stage::Operation))?;
    let clones = clones
        .into_iter()
        .zip(&request.targets)
        .map(|(clone, target)| CloneInfo {
            target: target.clone(),
            strategy: match clone.used {
                Used::Reflink => UsedStrategy::Reflink,
                Used::Copy => UsedStrategy::Copy,
            },
            reason: clone.reason,
            copied_bytes: Bytes(clone.copied_bytes),
            shared_bytes: clone.shared_bytes.map(Bytes),
            upgraded: clone.upgraded.then_some(true),
            backing_file: clone
                .backing_file
                .map(|name| String::from_utf8_lossy(&name).into_owned()),
        })
        .collect();
    Ok(CloneReport { source: request.source, clones })
}
