//! The operations on a whole image: describe, check, repair, create, grow, look who uses it.

use std::mem;
use std::path::Path;

use qcow2::check::{self, repair::repair};
use qcow2::format::bitmap;
use qcow2::format::header::{self, Compression, Encryption as Crypt, extension, incompatible};
use qcow2::lock::{Holder, users};
use qcow2::storage::{Access, FileStorage, Storage};
use qcow2::{Error, Image, Kind, NewFile, NewImage, Repair};

use crate::callback::Callback;
use crate::pieces::Pieces;
use crate::report::{commit_report, describe_snapshots, opening};
use crate::session::{change, change_with, lock_to_change, read, read_with};
use crate::types::{
    BitmapInfo, Bytes, ChangeEvent, CheckReport, CommitReport, Compat, CompressionType, Encryption,
    Failure, FailureCode, ImageCheckRequest, ImageCreateReport, ImageCreateRequest,
    ImageGrowRequest, ImageInfo, ImageInfoRequest, ImageRepairRequest, ImageUse, ImageUser,
    ImageUsersReport, ImageUsersRequest, Outcome, RepairKind, RepairReport, Stage,
};

/// Describes an image. Takes no lock and writes nothing. `piece` hears the same with parts of the
/// lists where these are long: first of the snapshots, then of the bitmaps.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn image_info(
    request: ImageInfoRequest,
    piece: &mut Callback<'_, ImageInfo>,
) -> Outcome<ImageInfo> {
    read(&request.path, request.force_share, |reading| {
        let mut info = describe(&request.path, reading.image, reading.file)?;
        let rest = describe_snapshots(reading, &mut |snapshots| {
            Ok(piece(ImageInfo { snapshots, ..info.clone() })?)
        })?;
        info.snapshots = rest;
        let mut tell = |bitmaps| {
            let snapshots = mem::take(&mut info.snapshots);
            Ok(piece(ImageInfo { bitmaps, snapshots, ..info.clone() })?)
        };
        let mut bitmaps = Pieces::new(reading, &mut tell);
        reading.image.for_bitmaps(|it| bitmaps.push(describe_bitmap(&it), it.name.len()))?;
        let rest = bitmaps.finish();
        Ok(ImageInfo { bitmaps: rest, ..info })
    })
    .map_err(opening)
}

/// Counts the references of an image anew. Takes no lock and writes nothing. `piece` hears lines
/// about problems where there are many.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn image_check(
    request: ImageCheckRequest,
    piece: &mut Callback<'_, Vec<String>>,
) -> Outcome<CheckReport> {
    read_with(check::open, &request.path, request.force_share, |reading| {
        let mut tell = |lines| Ok(piece(lines)?);
        let mut lines = Pieces::new(reading, &mut tell);
        let mut told = Ok(());
        let report = check::check(reading.image, &mut |problem| {
            for line in problem.lines() {
                let bytes = line.len();
                told = mem::replace(&mut told, Ok(())).and_then(|()| lines.push(line, bytes));
            }
        })?;
        told.map(|()| check_report(report, lines.finish()))
    })
    .map_err(staged)
}

/// The stage of a failed check.
fn staged(failure: Failure) -> Failure {
    match failure.code {
        // Bitmaps or LUKS header: qemu-img does not get as far as a check.
        FailureCode::InvalidHeader => opening(failure),
        // The snapshot table is read by the check, in its own words.
        FailureCode::InvalidSnapshotTable => Failure { stage: Stage::Operation, ..failure },
        _ => failure,
    }
}

fn checked(image: &Image) -> qcow2::Result<CheckReport> {
    let mut problems = Vec::new();
    let report = check::check(image, &mut |problem| problems.extend(problem.lines()))?;
    Ok(check_report(report, problems))
}

/// The check after a repair, which no longer sees that clusters were lost.
fn checked_again(image: &Image, lost_clusters: u64) -> qcow2::Result<CheckReport> {
    let mut report = checked(image)?;
    if lost_clusters > 0 {
        report.problems.extend(check::Problem::Lost { clusters: lost_clusters }.lines());
        report.corruptions = Bytes(report.corruptions.0.saturating_add(lost_clusters));
    }
    Ok(report)
}

fn check_report(report: check::CheckReport, problems: Vec<String>) -> CheckReport {
    CheckReport {
        image_end_offset: Bytes(report.image_end_offset),
        total_clusters: Bytes(report.total_clusters),
        allocated_clusters: Bytes(report.allocated_clusters),
        fragmented_clusters: Bytes(report.fragmented_clusters),
        compressed_clusters: Bytes(report.compressed_clusters),
        corruptions: Bytes(report.corruptions),
        leaks: Bytes(report.leaks),
        check_errors: Bytes(report.check_errors),
        problems,
        problems_omitted: Bytes(report.problems_omitted),
    }
}

/// Counts the references of an image anew and puts right what does not agree, in one commit; then
/// checks it once more.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn image_repair(
    request: ImageRepairRequest,
    event: &mut Callback<'_, ChangeEvent>,
) -> Outcome<RepairReport> {
    let what = match request.repair {
        RepairKind::Leaks => Repair::Leaks,
        RepairKind::All => Repair::All,
    };
    change_with(check::open, &request.path, request.no_wait, event, |image, options| {
        let mut lines = Vec::new();
        let done = repair(image, what, options, &mut |line| lines.extend(line.lines()))?;
        let has_repaired = done.leaks_fixed + done.corruptions_fixed > 0;
        let checked = has_repaired.then(|| {
            checked_again(image, done.lost_clusters)
                .map_err(|error| error.with_hint("what could be repaired is repaired"))
        });
        Ok(RepairReport {
            found: check_report(done.found, lines),
            leaks_fixed: Bytes(done.leaks_fixed),
            corruptions_fixed: Bytes(done.corruptions_fixed),
            must_rebuild: done.must_rebuild,
            checked: checked.transpose()?,
            commit: done.committed.map(commit_report),
        })
    })
    .map_err(staged)
}

/// Makes an empty image, durably: a new file appears whole or not at all. A file that exists is
/// overwritten, as `qemu-img create` does, but not while somebody uses it.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn image_create(
    request: ImageCreateRequest,
    event: &mut Callback<'_, ChangeEvent>,
) -> Outcome<ImageCreateReport> {
    let new = NewImage {
        size: request.size.0,
        cluster_bytes: u64::from(request.cluster_size.0),
        version: match request.compat {
            Compat::Old => 2,
            Compat::New => 3,
        },
        refcount_bits: request.refcount_bits.0,
        lazy_refcounts: request.lazy_refcounts,
        extended_l2: request.extended_entries,
        compression: match request.compression_type {
            CompressionType::Zlib => Compression::Zlib,
            CompressionType::Zstd => Compression::Zstd,
        },
    };
    let path = Path::new(&request.path);
    let at = |stage| {
        let path = &request.path;
        move |error: Error| Failure::new(stage, path, &error)
    };
    new.validate().map_err(at(Stage::Operation))?;
    // The file may be there, or come while the new one is made: then it is the one to overwrite.
    let made = match NewFile::stage(path, 0o644) {
        Ok(file) => file.create(&new).map_err(|error| (Stage::Operation, error)),
        Err(error) => Err((Stage::Open, error)),
    };
    let file_length = match made {
        Ok(length) => length,
        Err((_, error)) if error.kind() == Kind::TargetExists => {
            let file = FileStorage::open(path, Access::Write).map_err(at(Stage::Open))?;
            let _lock = lock_to_change(&file, request.no_wait, event).map_err(at(Stage::Open))?;
            overwrite(&file, &new).map_err(at(Stage::Operation))?
        }
        Err((stage, error)) => return Err(at(stage)(error)),
    };
    Ok(ImageCreateReport {
        path: request.path.clone(),
        virtual_size: Bytes(new.size.next_multiple_of(512)),
        file_length: Bytes(file_length),
    })
}

/// Makes the image in a file that is ours alone; what it held is gone.
fn overwrite(file: &FileStorage, new: &NewImage) -> qcow2::Result<u64> {
    let emptied = (|| {
        file.set_len(0)?;
        qcow2::create(file, new)?;
        file.flush()?;
        Ok(file.len()?)
    })();
    emptied.map_err(|error: Error| error.with_hint("what the file held is gone"))
}

/// Makes the virtual disk larger. One commit.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn image_grow(
    request: ImageGrowRequest,
    event: &mut Callback<'_, ChangeEvent>,
) -> Outcome<CommitReport> {
    change(&request.path, request.no_wait, event, |image, options| {
        image.grow(request.size.0, options)
    })
    .map(commit_report)
}

/// Looks who uses each of the images. Takes no lock and writes nothing.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn image_users(request: ImageUsersRequest) -> Outcome<ImageUsersReport> {
    let usages = users(&request.paths);
    let users = request.paths.iter().zip(usages).map(|(path, usage)| match usage {
        Ok(usage) => ImageUser {
            r#use: match usage.holder {
                Holder::Nobody => ImageUse::Free,
                Holder::Calque => ImageUse::Calque,
                Holder::Reader => ImageUse::Reader,
                Holder::Writer | Holder::Other | Holder::Unlocked => ImageUse::Writer,
            },
            holder: usage.name,
            failure: None,
        },
        Err(error) => ImageUser {
            r#use: ImageUse::Free,
            holder: None,
            failure: Some(Failure::new(Stage::Open, path, &error)),
        },
    });
    Ok(ImageUsersReport { users: users.collect() })
}

/// All but the lists.
fn describe(path: &str, image: &Image, file: &FileStorage) -> qcow2::Result<ImageInfo> {
    let header = image.header();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(ImageInfo {
        path: path.to_owned(),
        virtual_size: Bytes(header.disk_bytes()),
        actual_size: Bytes(file.actual_bytes()?),
        file_length: Bytes(file.len()?),
        cluster_size: u32::try_from(header.cluster_bytes()).expect("at most 2 MiB"),
        compat: if header.version < 3 { Compat::Old } else { Compat::New },
        compression_type: match header.compression {
            Compression::Zlib => CompressionType::Zlib,
            Compression::Zstd => CompressionType::Zstd,
        },
        lazy_refcounts: header.compatible & header::compatible::LAZY_REFCOUNTS != 0,
        refcount_bits: header.refcount_bits(),
        corrupt: header.has(incompatible::CORRUPT),
        dirty: header.has(incompatible::DIRTY),
        extended_entries: header.extended_l2(),
        encryption: match header.encryption {
            Crypt::None => None,
            Crypt::Aes => Some(Encryption::Aes),
            Crypt::Luks => Some(Encryption::Luks),
        },
        backing_file: header.backing_file.as_deref().map(text),
        backing_format: header.backing_format().map(text),
        data_file: header.extension(extension::DATA_FILE).map(text),
        data_file_raw: header
            .has(incompatible::DATA_FILE)
            .then_some(header.autoclear & header::autoclear::RAW_DATA_FILE != 0),
        bitmap_count: image.bitmap_count()?,
        bitmaps: Vec::new(),
        snapshot_count: image.listed_snapshot_count(),
        snapshots: Vec::new(),
    })
}

fn describe_bitmap(info: &bitmap::BitmapInfo) -> BitmapInfo {
    BitmapInfo {
        name: String::from_utf8_lossy(&info.name).into_owned(),
        granularity: Bytes(1 << info.granularity_bits),
        flags: [(bitmap::IN_USE, "in-use"), (bitmap::AUTO, "auto")]
            .into_iter()
            .filter(|(flag, _)| info.flags & flag != 0)
            .map(|(_, name)| name.to_owned())
            .collect(),
    }
}
