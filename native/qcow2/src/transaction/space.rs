//! Which clusters may be written without harm, and where among them something fits.

use std::io;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::refcounts::Refcounts;
use crate::storage::Storage;

/// A sector that a disk writes at once may be this large; nothing of ours shares one with others.
const PAGE_BYTES: u64 = 4096;

/// Where new clusters may be placed.
pub(crate) struct Space {
    /// Cluster ranges that may be used, ascending.
    candidates: Vec<Range<u64>>,
    /// Clusters that share a page with each other.
    align: u64,
}

impl Space {
    /// With a proof, whatever is free; without, holes of the file and what lies past its end.
    pub fn of(image: &Image, proven: bool) -> Result<Self> {
        let header = &image.header;
        let bits = header.cluster_bits;
        let align = (PAGE_BYTES >> bits).max(1);
        let file_clusters = image.file_bytes.div_ceil(header.cluster_bytes());
        let end =
            if image.storage.has_fixed_len() { image.file_bytes >> bits } else { 1 << (56 - bits) };
        let candidates = if proven {
            std::iter::once(align..end).collect()
        } else {
            let mut holes = Vec::new();
            let mut at = align;
            for data in image.storage.data_ranges(0..image.file_bytes)? {
                let hole = at..data.start >> bits;
                if !hole.is_empty() {
                    holes.push(hole);
                }
                at = data.end.div_ceil(header.cluster_bytes()).max(align);
            }
            // A hole at the end of the file and what lies beyond are one.
            let tail = if image.storage.has_fixed_len() { at } else { at.min(file_clusters) };
            holes.push(tail..end);
            holes
        };
        Ok(Self { candidates, align })
    }

    /// The same space without `avoided`.
    pub(super) fn without(mut self, avoided: &[Range<u64>]) -> Self {
        self.candidates = self.gaps(avoided);
        self
    }

    /// First of `count` neighbouring clusters that may be written now.
    pub fn find(
        &self,
        storage: &dyn Storage,
        refcounts: &mut Refcounts,
        count: u64,
    ) -> Result<u64> {
        self.find_beside(storage, refcounts, &[], count)?.ok_or_else(no_space)
    }

    /// The same, beside what is `chosen` already; none where there is no such place.
    pub(super) fn find_beside(
        &self,
        storage: &dyn Storage,
        refcounts: &mut Refcounts,
        chosen: &[Range<u64>],
        count: u64,
    ) -> Result<Option<u64>> {
        for gap in self.gaps(chosen) {
            let free = refcounts.find_free(storage, gap, self.padded(count), self.align)?;
            if let Some(start) = free {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }

    /// `count` clusters wherever they are, beside what is `chosen` already, as ascending runs.
    pub(super) fn find_scattered(
        &self,
        storage: &dyn Storage,
        refcounts: &mut Refcounts,
        chosen: &[Range<u64>],
        count: u64,
    ) -> Result<Vec<Range<u64>>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut missing = count;
        for mut gap in self.gaps(chosen) {
            while missing > 0 {
                let free = refcounts.find_free(storage, gap.clone(), self.align, self.align)?;
                let Some(start) = free else { break };
                let page = start..start + self.align.min(missing);
                missing -= page.end - page.start;
                gap.start = start + self.align;
                match runs.last_mut() {
                    Some(run) if run.end == page.start => run.end = page.end,
                    _ => runs.push(page),
                }
            }
        }
        if missing == 0 { Ok(runs) } else { Err(no_space()) }
    }

    /// `count` clusters with the rest of their last page.
    pub(super) fn padded(&self, count: u64) -> u64 {
        count.next_multiple_of(self.align)
    }

    /// The candidates without what is `chosen`, ascending.
    fn gaps(&self, chosen: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut chosen = chosen.to_vec();
        chosen.sort_unstable_by_key(|run| run.start);
        let mut gaps = Vec::new();
        for candidate in &self.candidates {
            let mut at = candidate.start;
            for run in &chosen {
                if run.end > at && run.start < candidate.end {
                    gaps.push(at..run.start.max(at));
                    at = run.end;
                }
            }
            gaps.push(at..candidate.end);
        }
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }
}

pub(super) fn no_space() -> Error {
    Error::from(io::Error::from_raw_os_error(libc::ENOSPC))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::storage::RecordingStorage;
    use crate::{NewImage, create};

    /// A device of 128 clusters of 512 bytes, of which only these are free.
    pub fn device(free: &[Range<u64>]) -> (Image, Refcounts) {
        let storage = RecordingStorage::new();
        create(&storage, &NewImage { cluster_bytes: 512, ..NewImage::default() }).unwrap();
        storage.set_len(128 * 512).unwrap();
        storage.fix_len();
        let image = Image::open(Box::new(storage)).unwrap();
        let mut refcounts = Refcounts::load(&image).unwrap();
        let mut used = 0;
        for run in free.iter().cloned().chain([128..128]) {
            refcounts.take(image.storage(), used..run.start).unwrap();
            used = run.end;
        }
        (image, refcounts)
    }

    #[test]
    fn scattered_clusters_come_in_whole_free_pages_beside_what_is_chosen() {
        let (image, mut refcounts) = device(&[17..31, 40..56, 71..81, 95..104, 120..128]);
        let space = Space::of(&image, true).unwrap();
        let storage = image.storage();
        let found = space.find_scattered(storage, &mut refcounts, &[], 27).unwrap();
        assert_eq!(found, [40..56, 72..80, 96..99]);
        let chosen = [96..104, 40..48];
        let found = space.find_scattered(storage, &mut refcounts, &chosen, 18).unwrap();
        assert_eq!(found, [48..56, 72..80, 120..122]);
        let error = space.find_scattered(storage, &mut refcounts, &chosen, 25).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::NoSpace);
    }

    #[test]
    fn a_run_begins_on_a_page_that_nobody_else_uses_and_ends_on_one() {
        let (image, mut refcounts) = device(&[17..31, 39..57, 80..103]);
        let space = Space::of(&image, true).unwrap();
        let mut find = |chosen: &[Range<u64>], count| {
            space.find_beside(image.storage(), &mut refcounts, chosen, count).unwrap()
        };
        assert_eq!(find(&[], 9), Some(40));
        assert_eq!(find(&[40..48], 8), Some(48));
        assert_eq!(find(&[40..48], 9), Some(80));
        assert_eq!(find(&[], 17), None);
    }
}
