//! `check`: are the refcounts what the tables say, and are the tables sound?
//!
//! The verdict, the numbers and the lines are `qemu-img check`'s. The way is another one: every
//! table is read once, in ascending order, however often it is named (`census`); the refcounts are
//! compared block by block (`comparison`); and only where something is wrong, the same ground is
//! gone over again in `qemu-img`'s order to say it (`narration`). Nothing is written, no other file
//! is opened, and no key is needed: mapping is never encrypted.
//!
//! Memory is two bytes and a bit for each cluster that the *file* has, work is bounded by the
//! file's length, whatever its tables claim.

mod census;
mod comparison;
mod entries;
mod narration;
mod problem;
mod reader;
mod references;
mod report;
mod steps;
mod stored;

pub use problem::Problem;
pub use report::{CheckReport, MAX_PROBLEMS};

use crate::error::{Error, Kind, Result};
use crate::format::be32;
use crate::format::header::MAX_SNAPSHOTS;
use crate::image::Image;
use crate::storage::Storage;
use entries::Geometry;
use reader::Reader;
use report::Teller;
use steps::L1;
use stored::Stored;

/// Where the header has the number of snapshots.
const SNAPSHOT_COUNT_AT: u64 = 60;

/// Opens an image for [`check`]: as [`Image::open`], but what is wrong with the place or the length
/// of the snapshot table is said in `qemu-img check`'s way. Such an error has
/// [`Kind::InvalidSnapshotTable`] and belongs to the check, not to the opening.
pub fn open(storage: Box<dyn Storage>) -> Result<Image> {
    let mut count = [0; 4];
    storage.read_at(&mut count, SNAPSHOT_COUNT_AT)?;
    let count = be32(&count, 0);
    Image::open(storage).map_err(|error| match error.kind() {
        Kind::InvalidSnapshotTable if count > MAX_SNAPSHOTS => {
            Error::new(error.kind(), "File too large").with_preface(format!(
                "ERROR snapshot table too large\nYou can force-remove all {} overhanging snapshots \
                 with qemu-img check -r all",
                count - MAX_SNAPSHOTS
            ))
        }
        Kind::InvalidSnapshotTable => Error::new(error.kind(), "Invalid argument")
            .with_preface("ERROR snapshot table offset invalid"),
        _ => error,
    })
}

/// Checks the image. Each problem goes to `tell` in `qemu-img check`'s order, at most
/// [`MAX_PROBLEMS`] of them; the report counts all.
///
/// Fails where the check cannot go on; the reason is what `qemu-img` puts after `Check failed: `,
/// the preface what it prints before. [`Kind::InvalidHeader`] means that the image cannot even be
/// opened (its bitmaps or its LUKS header break the format's rules), and
/// [`Kind::UnsupportedFeature`] that its entries are not understood yet (extended L2).
pub fn check(image: &Image, tell: &mut dyn FnMut(&Problem)) -> Result<CheckReport> {
    let header = image.header();
    if header.extended_l2() {
        return Err(Error::new(
            Kind::UnsupportedFeature,
            "Images with extended L2 entries are not supported yet",
        ));
    }
    let geometry = Geometry::new(header, image.file_bytes());
    let clusters = image.file_bytes().div_ceil(header.cluster_bytes());
    // QEMU's limit. It bounds memory too: cluster numbers fit everywhere.
    if clusters > i32::MAX as u64 {
        return Err(Error::new(Kind::TooLarge, "File too large"));
    }
    let reader = Reader { storage: image.storage(), file_bytes: image.file_bytes() };
    let stored = Stored::load(header, reader, clusters)?;
    let steps = steps::steps(image, reader)?;
    let mut teller = Teller::new(tell);
    let mut census = census::take(geometry, reader, &stored, &steps, clusters, &mut teller)?;
    let mut report = CheckReport {
        total_clusters: (header.size & !0x1ff).div_ceil(header.cluster_bytes()),
        allocated_clusters: census.layout.allocated,
        fragmented_clusters: census.layout.fragmented,
        compressed_clusters: census.layout.compressed,
        corruptions: census.corruptions,
        ..CheckReport::default()
    };
    if census.corruptions > 0 {
        narration::tell_mapping(geometry, reader, &steps, &census, clusters, &mut teller)?;
    }
    let references = &mut census.references;
    comparison::count_blocks(geometry, &stored, references, &mut report, &mut teller);
    comparison::compare(geometry, &stored, references, &mut report, &mut teller);
    if census.copied > 0 {
        report.corruptions += census.copied;
        let active = L1 { offset: header.l1_offset, entries: header.l1_entries };
        narration::tell_copied(geometry, reader, &stored, active, &census, &mut teller)?;
    }
    let counted = report.corruptions.saturating_add(report.leaks + report.check_errors);
    report.problems_omitted = counted.saturating_sub(teller.told - teller.remarks);
    Ok(report)
}
