//! What one image has at each guest offset, from its L1 and L2 tables.
//!
//! Reads windows of the tables, in the order of the disk, and trusts none of them: an entry is
//! checked when it is read, and an image that names more L2 tables than it has clusters, which
//! would make a small file endless work, is refused.

use super::piece::{CompressedCluster, Piece, What};
use super::words::Words;
use crate::content::Disk;
use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{Encryption, incompatible};
use crate::format::mapping::{self, Mapping, SUBCLUSTERS, Subcluster};
use crate::image::Image;

#[derive(Debug)]
pub(super) struct GuestMap {
    image: Image,
    /// Virtual size.
    size: u64,
    l1: Words,
    /// The L2 table read last, and its position in the L1 table.
    l2: Option<(u64, Words)>,
    /// L2 tables read so far.
    table_count: u64,
    /// The piece found last, and its guest offset.
    known: Option<(u64, Piece)>,
}

impl GuestMap {
    /// The map of `disk` of `image`. Refuses, by name, what cannot be read: encryption, an external
    /// data file, and what is marked corrupt or dirty.
    pub(super) fn new(image: Image, disk: Disk) -> Result<Self> {
        ensure_readable(&image)?;
        let header = &image.header;
        let (size, l1_offset, l1_entries) = match disk {
            Disk::Active => (header.size, header.l1_offset, header.l1_entries),
            Disk::Snapshot(index) => {
                let entry = image.snapshot(index)?;
                let (size, _) = image.snapshot_disk(&entry)?;
                (size, entry.l1_offset, entry.l1_entries)
            }
        };
        if l1_entries > 0 {
            image.ensure_inside(l1_offset, u64::from(l1_entries) * 8, "L1 table")?;
        }
        let l1 = Words::new(l1_offset, l1_entries.into());
        Ok(Self { image, size, l1, l2: None, table_count: 0, known: None })
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Virtual size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What is at guest offset `at`, which lies inside the disk. Ends where the disk ends.
    pub(super) fn piece(&mut self, at: u64) -> Result<Piece> {
        // A long piece is asked for in small parts where the files above it have small clusters.
        if let Some((start, piece)) = self.known
            && (start..start + piece.bytes).contains(&at)
        {
            return Ok(piece.behind(at - start));
        }
        let piece = self.find(at)?;
        self.known = Some((at, piece));
        Ok(piece)
    }

    fn find(&mut self, at: u64) -> Result<Piece> {
        let span = self.image.header.l1_entry_span();
        let slot = at / span;
        let Some(table) = self.table_offset(slot)? else {
            let mut end = (slot + 1) * span;
            while end < self.size && self.table_offset(end / span)?.is_none() {
                end += span;
            }
            return Ok(Piece { bytes: end.min(self.size) - at, what: What::Hole });
        };
        self.enter_table(slot, table)?;
        let end = self.size.min((slot + 1) * span);
        let what = self.what(at)?;
        let unit = self.unit_bytes();
        let first = if let What::Compressed { .. } = what {
            self.image.header.cluster_bytes()
        } else {
            unit
        };
        let mut reached = (at / first + 1) * first;
        while !matches!(what, What::Compressed { .. })
            && reached < end
            && self.what(reached)? == what.behind(reached - at)
        {
            reached += unit;
        }
        Ok(Piece { bytes: reached.min(end) - at, what })
    }

    /// What an L2 entry, or a part of an extended one, speaks of.
    fn unit_bytes(&self) -> u64 {
        let header = &self.image.header;
        header.cluster_bytes() / if header.extended_l2() { SUBCLUSTERS } else { 1 }
    }

    /// Host offset of the L2 table in position `slot` of the L1 table, where there is one.
    fn table_offset(&mut self, slot: u64) -> Result<Option<u64>> {
        if slot >= self.l1.count {
            return Ok(None);
        }
        let entry = self.l1.get(self.image.storage(), slot)?;
        mapping::l2_offset(entry, self.image.header.cluster_bits, self.l1.offset + slot * 8)
    }

    fn enter_table(&mut self, slot: u64, offset: u64) -> Result<()> {
        if self.l2.as_ref().is_some_and(|(known, _)| *known == slot) {
            return Ok(());
        }
        let cluster_bytes = self.image.header.cluster_bytes();
        self.image.ensure_inside(offset, cluster_bytes, "L2 table")?;
        self.table_count += 1;
        if self.table_count > self.image.file_bytes.div_ceil(cluster_bytes) {
            let at = self.l1.offset + slot * 8;
            return Err(corrupt("More L2 tables are named than the image has clusters", at));
        }
        self.l2 = Some((slot, Words::new(offset, cluster_bytes / 8)));
        Ok(())
    }

    /// What is at guest offset `at`, for which the L2 table was entered.
    fn what(&mut self, at: u64) -> Result<What> {
        let (image, storage) = (&self.image, self.image.storage());
        let header = &image.header;
        let (_, l2) = self.l2.as_mut().expect("a table was entered");
        let index = (at >> header.cluster_bits) % header.l2_entries();
        let inside = at % header.cluster_bytes();
        let place = l2.offset + index * header.l2_entry_bytes();
        let word = index * header.l2_entry_words() as u64;
        let entry = l2.get(storage, word)?;
        let mapping = match header.mapping(entry, place)? {
            Mapping::Compressed { offset, length } => {
                let cluster = CompressedCluster { offset, bytes: length };
                return Ok(What::Compressed { cluster, skip: inside });
            }
            mapping if header.extended_l2() => {
                let bitmap = l2.get(storage, word + 1)?;
                let index = inside / (header.cluster_bytes() / SUBCLUSTERS);
                match (Subcluster::decode(bitmap, index, place)?, mapping) {
                    (Subcluster::Unallocated, _) => Mapping::Unallocated,
                    (Subcluster::Zero, _) => Mapping::Zero { offset: None },
                    (Subcluster::Allocated, Mapping::Standard { .. }) => mapping,
                    _ => return Err(corrupt("A subcluster is allocated in no cluster", place)),
                }
            }
            mapping => mapping,
        };
        match mapping {
            Mapping::Standard { offset } if offset < image.file_bytes => {
                Ok(What::Stored { offset: offset + inside })
            }
            Mapping::Standard { offset } => {
                Err(corrupt(format!("Cluster at {offset:#x} is outside the image"), place))
            }
            Mapping::Zero { .. } => Ok(What::Zero),
            _ => Ok(What::Hole),
        }
    }
}

fn ensure_readable(image: &Image) -> Result<()> {
    let header = &image.header;
    let refuse = |kind, reason: &str| Err(Error::new(kind, reason));
    if header.has(incompatible::CORRUPT) {
        return refuse(Kind::MarkedCorrupt, "the image is marked corrupt")
            .map_err(|error| error.with_hint(REPAIR));
    }
    if header.has(incompatible::DIRTY) {
        let reason = "the image is marked dirty: its reference counts may be stale";
        return refuse(Kind::MarkedDirty, reason).map_err(|error| error.with_hint(REPAIR));
    }
    if header.has(incompatible::DATA_FILE) {
        let reason = "the image keeps its data in an external data file";
        return refuse(Kind::UnsupportedFeature, reason);
    }
    if header.encryption != Encryption::None {
        return refuse(Kind::UnsupportedFeature, "the image is encrypted");
    }
    Ok(())
}

const REPAIR: &str = "repair it first, for example with `calque image check -r all`";
