//! Conversions between raw disks, images and chains of them.

use std::path::Path;

use qcow2::clone::Used;
use qcow2::convert::{Backing, Chain, Format, Source, convert};
use qcow2::lock::Intent;
use qcow2::storage::FileStorage;
use qcow2::{Error, Kind};

use crate::pace::Pace;
use crate::session::lock;
use crate::types::{
    Bytes, ConvertProgress, ConvertReport, DiskFormat, Failure, ImageConvertRequest, Outcome,
    Stage, UsedStrategy,
};

/// Makes a new file of the content of a disk. Sources are only read; while that lasts nobody can
/// write to them.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn image_convert(
    request: ImageConvertRequest,
    progress: &mut dyn FnMut(ConvertProgress),
) -> Outcome<ConvertReport> {
    let source = Source {
        path: Path::new(&request.source),
        format: format(request.source_format),
        snapshot: request.from_snapshot.as_deref().map(str::as_bytes),
        backing: match request.flatten {
            Some(true) => Backing::Flatten,
            _ => Backing::Refuse,
        },
    };
    let failure = |stage, error: &Error| Failure::new(stage, &request.source, error);
    let mut waiting = |holder| {
        progress(ConvertProgress { waiting_for: Some(holder), ..ConvertProgress::default() });
    };
    let mut share = |file: &FileStorage| lock(file, Intent::Share, request.no_wait, &mut waiting);
    let mut chain = Chain::open(&source, &mut share).map_err(|error| {
        let stage = match error.kind() {
            Kind::SnapshotNotFound | Kind::SnapshotAmbiguous => Stage::Operation,
            _ => Stage::Open,
        };
        failure(stage, &error)
    })?;
    let opened = chain.opened().map(|path| path.to_string_lossy().into_owned()).collect();
    let mut pace = Pace::default();
    let mut tell = |done: u64, total: u64| {
        if pace.is_due(done, total) {
            let (done_bytes, total_bytes) = (Bytes(done), Bytes(total));
            progress(ConvertProgress { done_bytes, total_bytes, waiting_for: None });
        }
    };
    let target = Path::new(&request.target);
    let done = convert(&mut chain, target, format(request.target_format), &mut tell)
        .map_err(|error| failure(Stage::Operation, &error))?;
    Ok(ConvertReport {
        strategy: match done.used {
            Used::Reflink => UsedStrategy::Reflink,
            Used::Copy => UsedStrategy::Copy,
        },
        reason: done.reason,
        copied_bytes: Bytes(done.copied_bytes),
        shared_bytes: Bytes(done.shared_bytes),
        virtual_size: Bytes(done.virtual_size),
        opened,
    })
}

fn format(format: DiskFormat) -> Format {
    match format {
        DiskFormat::Qcow2 => Format::Qcow2,
        DiskFormat::Raw => Format::Raw,
    }
}
