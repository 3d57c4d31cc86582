//! Making an empty image, and the metadata of one whose data is there already.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::format::header::{Compression, Header, MAX_L1_BYTES, NewHeader, encode_new};
use crate::format::mapping;
use crate::format::refcount::RefcountOrder;
use crate::os::tmpfile::{Durability, Staged};
use crate::storage::{FileStorage, Storage};

/// What a new image is made with.
#[derive(Clone, Copy, Debug)]
pub struct NewImage {
    /// Virtual size in bytes; rounded up to 512.
    pub size: u64,
    /// Cluster size in bytes: a power of two, 512 to 2 MiB.
    pub cluster_bytes: u64,
    /// 2 or 3.
    pub version: u32,
    /// 1, 2, 4, 8, 16, 32 or 64; version 2 has 16.
    pub refcount_bits: u32,
    /// Sets the lazy-refcounts bit (version 3).
    pub lazy_refcounts: bool,
    /// How compressed clusters will be compressed; zstd needs version 3.
    pub compression: Compression,
    /// L2 entries of 16 bytes, with 32 subclusters each (version 3, clusters of 16 KiB or more).
    pub extended_l2: bool,
}

impl Default for NewImage {
    /// qemu-img's defaults: version 3, 64 KiB clusters, 16-bit reference counts, zlib.
    fn default() -> Self {
        Self {
            size: 0,
            cluster_bytes: 65_536,
            version: 3,
            refcount_bits: 16,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            extended_l2: false,
        }
    }
}

impl NewImage {
    /// Guest bytes that one L1 entry maps.
    fn l1_entry_span(&self) -> u64 {
        self.cluster_bytes / if self.extended_l2 { 16 } else { 8 } * self.cluster_bytes
    }

    /// Checks the options against each other, in qemu-img's words.
    pub fn validate(&self) -> Result<()> {
        let refuse = |kind, reason: &str| Err(Error::new(kind, reason));
        if !self.cluster_bytes.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_bytes) {
            return refuse(
                Kind::InvalidArgument,
                "Cluster size must be a power of two between 512 and 2048k",
            );
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return refuse(
                Kind::InvalidArgument,
                "Refcount width must be a power of two and may not exceed 64 bits",
            );
        }
        if self.version < 3 && self.refcount_bits != 16 {
            return refuse(
                Kind::InvalidArgument,
                "Different refcount widths than 16 bits require compatibility level 1.1 or above \
                 (use version=v3 or greater)",
            );
        }
        if self.version < 3 && self.lazy_refcounts {
            return refuse(
                Kind::InvalidArgument,
                "Lazy refcounts only supported with compatibility level 1.1 and above \
                 (use version=v3 or greater)",
            );
        }
        if self.version < 3 && self.compression != Compression::Zlib {
            return refuse(
                Kind::InvalidArgument,
                "Non-zlib compression type is only supported with compatibility level 1.1 and \
                 above (use version=v3 or greater)",
            );
        }
        if self.version < 3 && self.extended_l2 {
            return refuse(
                Kind::InvalidArgument,
                "Extended L2 entries are only supported with compatibility level 1.1 and above \
                 (use version=v3 or greater)",
            );
        }
        if self.extended_l2 && self.cluster_bytes < MIN_EXTENDED_CLUSTER_BYTES {
            return refuse(
                Kind::InvalidArgument,
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            );
        }
        if self.size.div_ceil(self.l1_entry_span()).saturating_mul(8) > MAX_L1_BYTES {
            return refuse(
                Kind::TooLarge,
                "The image size is too large for file format 'qcow2' (try using a larger cluster \
                 size)",
            );
        }
        Ok(())
    }
}

/// Subclusters have 512 bytes or more.
const MIN_EXTENDED_CLUSTER_BYTES: u64 = 16_384;

/// A new file on its way to its name: it appears whole, durably, or not at all.
#[derive(Debug)]
pub struct NewFile(Staged);

impl NewFile {
    /// A file for the path `path`, where nothing may be; `mode` as in `open(2)`.
    ///
    /// Fails with [`Kind::TargetExists`] if the name is taken.
    pub fn stage(path: &Path, mode: u32) -> Result<Self> {
        Ok(Self(Staged::new(path, mode)?))
    }

    /// Makes it an empty image and gives it its name. Returns its length in bytes.
    pub fn create(self, new: &NewImage) -> Result<u64> {
        let storage = FileStorage::from_file(self.0.file().try_clone()?)?;
        create(&storage, new)?;
        let length = storage.len()?;
        self.0.publish(Durability::Now)?;
        Ok(length)
    }
}

/// Writes an empty image into `storage`, which is empty. Nothing is flushed: an image in the making
/// is its maker's to publish.
///
/// Layout: header, refcount table, refcount blocks, L1 table.
pub fn create(storage: &dyn Storage, new: &NewImage) -> Result<()> {
    new.validate()?;
    write_metadata(storage, new, 1, &[]).map(drop)
}

/// Writes everything but data and L2 tables: from cluster `first` on the refcount table and blocks,
/// which count every cluster once, and the L1 table, which begins with `l1` and is empty behind
/// that; then the header. What lies between the header and `first` is the caller's. Returns the
/// bytes written.
///
/// `new` is valid, and `storage` ends at `first` or before.
pub(crate) fn write_metadata(
    storage: &dyn Storage,
    new: &NewImage,
    first: u64,
    l1: &[u64],
) -> Result<u64> {
    let size = new
        .size
        .checked_next_multiple_of(512)
        .ok_or_else(|| Error::new(Kind::TooLarge, "Image is too big"))?;
    let cluster_bits = new.cluster_bytes.trailing_zeros();
    let order = RefcountOrder::new(new.refcount_bits.trailing_zeros());
    let l1_entries = size.div_ceil(new.l1_entry_span());
    let l1_clusters = (l1_entries * 8).div_ceil(new.cluster_bytes);

    // As many refcount blocks as the clusters before and the metadata itself need, and a table that
    // names them.
    let block_entries = 1_u64 << order.block_bits(cluster_bits);
    let (mut blocks, mut table_clusters) = (1, 1);
    while first + table_clusters + blocks + l1_clusters > blocks * block_entries {
        blocks = (first + table_clusters + blocks + l1_clusters).div_ceil(block_entries);
        table_clusters = (blocks * 8).div_ceil(new.cluster_bytes);
    }
    let blocks_at = first + table_clusters;
    let l1_at = blocks_at + blocks;
    let used = l1_at + l1_clusters;

    let cluster = usize::try_from(new.cluster_bytes).expect("at most 2 MiB");
    let mut table = Vec::new();
    for index in 0..blocks {
        table.extend(((blocks_at + index) << cluster_bits).to_be_bytes());
        let mut block = vec![0; cluster];
        for entry in 0..block_entries.min(used.saturating_sub(index * block_entries)) {
            order.set_count(&mut block, usize::try_from(entry).expect("in a cluster"), 1);
        }
        storage.write_at(&block, (blocks_at + index) << cluster_bits)?;
    }
    table.resize(usize::try_from(table_clusters).expect("small") * cluster, 0);
    storage.write_at(&table, first << cluster_bits)?;
    // As qemu-img, the file ends with the last entry and not with its cluster.
    let end = (l1_at << cluster_bits) + l1_entries * 8;
    storage.set_len(end)?;
    if storage.has_fixed_len() {
        // What a file has as a hole, a device has to be given.
        let zeros = vec![0; usize::try_from(l1_entries * 8).expect("at most 32 MiB")];
        storage.write_at(&zeros, l1_at << cluster_bits)?;
    }
    let mut written = (blocks + table_clusters + 1) << cluster_bits;
    for (index, entries) in l1.chunks(cluster / 8).enumerate() {
        if entries.iter().any(|&entry| entry != 0) {
            let bytes = mapping::encode_table(entries, 0);
            storage.write_at(&bytes, (l1_at + index as u64) << cluster_bits)?;
            written += bytes.len() as u64;
        }
    }

    let head = encode_new(&NewHeader {
        version: new.version,
        cluster_bits,
        size,
        refcount_order: order.get(),
        lazy_refcounts: new.lazy_refcounts,
        compression: new.compression,
        extended_l2: new.extended_l2,
        l1_entries: u32::try_from(l1_entries).expect("limited"),
        l1_offset: if l1_entries == 0 { 0 } else { l1_at << cluster_bits },
        refcount_table_offset: first << cluster_bits,
        refcount_table_clusters: u32::try_from(table_clusters)
            .map_err(|_| Error::new(Kind::TooLarge, "Image is too big"))?,
    });
    let mut header = vec![0; cluster];
    header[..head.len()].copy_from_slice(&head);
    Header::parse(&header, end)?;
    storage.write_at(&header, 0)?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;
    use crate::image::Image;
    use crate::storage::RecordingStorage;

    #[test]
    fn metadata_behind_any_number_of_clusters_counts_each_of_them_once() {
        for (cluster_bytes, refcount_bits) in [(512, 16), (512, 64), (4096, 1), (65_536, 16)] {
            let block_entries = cluster_bytes * 8 / u64::from(refcount_bits);
            let around = [block_entries - 2, block_entries - 1, block_entries];
            for first in [1, 2, 5000, 100_000].into_iter().chain(around) {
                let storage = RecordingStorage::new();
                let new =
                    NewImage { size: 1 << 20, cluster_bytes, refcount_bits, ..NewImage::default() };
                write_metadata(&storage, &new, first, &[]).unwrap();
                let image = Image::open(Box::new(storage)).unwrap();
                let report = check(&image, &mut |_| {}).unwrap();
                let what = format!("{cluster_bytes}, {refcount_bits}, {first}");
                assert_eq!((report.corruptions, report.check_errors), (0, 0), "{what}");
                // Nothing names what lies between; it is the caller's.
                assert_eq!(report.leaks, first - 1, "{what}");
            }
        }
    }
}
