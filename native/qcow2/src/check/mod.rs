//! `check`: are the refcounts what the tables say, and are the tables sound?
//!
//! The verdict, the numbers and the lines are `qemu-img check`'s. The way is another one: every
//! table is read once, in ascending order, however often it is named (`census`); the refcounts are
//! compared block by block (`comparison`); and only where something is wrong, the same ground is
//! gone over again in `qemu-img`'s order to say it (`narration`). Nothing is written but by
//! [`repair`], no other file is opened, and no key is needed: mapping is never encrypted.
//!
//! Memory is a few bits for each cluster that the *file* has, and bounded: where that is not enough,
//! the clusters are counted window by window, and the tables read once for each. What is done for one
//! is bounded by the file's length, whatever its tables claim. A [`repair`] is not that modest: it has
//! to have all counts at once.

mod beyond;
mod census;
mod comparison;
mod counted;
mod entries;
mod mending;
mod names;
mod narration;
mod ones;
mod problem;
mod references;
pub mod repair;
mod report;
mod steps;
mod stored;
mod suspects;
#[cfg(test)]
mod tests;

pub use problem::Problem;
pub use report::{CheckReport, MAX_PROBLEMS};

use crate::error::{Error, Kind, Result};
use crate::format::header::Purpose;
use crate::image::Image;
use crate::storage::Storage;
use census::{Ground, Room};
use comparison::Compared;
use entries::Geometry;
use mending::Mending;
use narration::Round;
use report::{Later, Teller};
use steps::L1;
use stored::Stored;

/// Opens an image for [`check`], wherever `qemu-img check` gets as far as checking it.
pub fn open(storage: Box<dyn Storage>) -> Result<Image> {
    Image::open_for(Purpose::Check, storage)
}

/// Checks the image. Each problem goes to `tell` in `qemu-img check`'s order, at most
/// [`MAX_PROBLEMS`] of them; the report counts all.
///
/// Fails where the check cannot go on; the reason is what `qemu-img` puts after `Check failed: `,
/// the preface what it prints before. [`Kind::InvalidSnapshotTable`] is about the snapshot table,
/// which is read by the check and not before, and [`Kind::InvalidHeader`] means that the image
/// cannot even be opened (its bitmaps break the format's rules).
pub fn check(image: &Image, tell: &mut dyn FnMut(&Problem)) -> Result<CheckReport> {
    check_within(Room::CHECK, image, tell)
}

fn check_within(room: Room, image: &Image, tell: &mut dyn FnMut(&Problem)) -> Result<CheckReport> {
    let header = image.header();
    let clusters = countable_clusters(image)?;
    let geometry = Geometry::new(header, image.file_bytes());
    let reader = image.reader();
    let stored = &Stored::load(header, reader)?;
    let steps = &steps::steps(image, reader)?;
    let mending = Mending::default();
    let ground = Ground { geometry, reader, stored, steps, clusters, mending };
    let mut teller = Teller::new(tell);
    let mut report = CheckReport::default();
    let (mut later, mut compared) = (Later::default(), Compared::default());
    let visit = |mut references| {
        let tell = |index, problem| later.about_block(index, problem);
        comparison::count_blocks(geometry, stored, &mut references, &mut report, tell);
        later.about_counts(|teller| {
            compared.compare(geometry, stored, &references, &mut report, teller);
        });
    };
    let findings = census::take_by_windows(ground, room, visit, &mut teller)?;
    report.total_clusters = header.disk_bytes().div_ceil(header.cluster_bytes());
    report.allocated_clusters = findings.layout.allocated;
    report.fragmented_clusters = findings.layout.fragmented;
    report.compressed_clusters = findings.layout.compressed;
    report.corruptions = report.corruptions.saturating_add(findings.corruptions);
    if findings.corruptions > 0 {
        narration::tell_mapping(header, ground, &findings, Round::First, &mut teller)?;
    }
    later.tell(&mut teller);
    if findings.copied > 0 {
        report.corruptions += findings.copied;
        let active = L1 { offset: header.l1_offset, entries: header.l1_entries };
        let is_told = |offset| findings.miscopied_tables.contains(offset);
        let mended = &findings.mended;
        narration::tell_copied(geometry, reader, stored, active, mended, is_told, &mut teller)?;
    }
    let counted = report.corruptions.saturating_add(report.leaks + report.check_errors);
    report.problems_omitted = counted.saturating_sub(teller.told - teller.remarks);
    Ok(report)
}

/// Clusters of the file, where they can be counted.
fn countable_clusters(image: &Image) -> Result<u64> {
    let clusters = image.file_bytes().div_ceil(image.header().cluster_bytes());
    // QEMU's limit. It bounds memory too: cluster numbers fit everywhere.
    if clusters > i32::MAX as u64 {
        return Err(Error::new(Kind::TooLarge, "File too large"));
    }
    Ok(clusters)
}
