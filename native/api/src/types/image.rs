//! Requests and reports of the operations on an image as a whole.

use serde::{Deserialize, Serialize};

use super::{Bytes, SnapshotInfo, Whole};

/// Asks what an image says about itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct ImageInfoRequest {
    /// The image.
    pub path: String,
    /// Reads also while somebody writes (`-U`).
    pub force_share: Option<bool>,
}

/// What an image says about itself.
#[derive(Clone, Debug, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "these are bits of a header, not a state")]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct ImageInfo {
    /// The image, as asked for.
    pub path: String,
    /// The size of the disk that a guest sees.
    pub virtual_size: Bytes,
    /// What the file occupies in its file system.
    pub actual_size: Bytes,
    /// The length of the file.
    pub file_length: Bytes,
    /// Bytes per cluster.
    pub cluster_size: u32,
    /// The format level.
    pub compat: Compat,
    /// What compressed clusters are compressed with.
    pub compression_type: CompressionType,
    /// Whether refcounts are written late, under the dirty bit.
    pub lazy_refcounts: bool,
    /// Bits per reference count.
    pub refcount_bits: u32,
    /// The corrupt bit.
    pub corrupt: bool,
    /// The dirty bit.
    pub dirty: bool,
    /// Whether L2 entries have subclusters.
    pub extended_entries: bool,
    /// How the guest data is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// The backing file as the image names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// The format of the backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_format: Option<String>,
    /// The external data file as the image names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether the external data file is a raw image of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// How many persistent bitmaps there are.
    pub bitmap_count: u32,
    /// The bitmaps, or a part of them.
    pub bitmaps: Vec<BitmapInfo>,
    /// How many internal snapshots there are.
    pub snapshot_count: u32,
    /// The snapshots in the order of their table, or a part of them.
    pub snapshots: Vec<SnapshotInfo>,
}

/// A persistent bitmap.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes of the disk per bit.
    pub granularity: Bytes,
    /// qemu-img's names of the set flags.
    pub flags: Vec<String>,
}

macro_rules! compat {
    ($($attribute:meta, $old:meta, $new:meta)?) => {
        /// The format level, as qemu-img writes it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        $(#[$attribute])?
        pub enum Compat {
            /// Version 2.
            #[serde(rename = "0.10")]
            $(#[$old])?
            Old,
            /// Version 3.
            #[serde(rename = "1.1")]
            $(#[$new])?
            New,
        }
    };
}

// `napi` cannot see through `cfg_attr` on a variant, hence the macro.
#[cfg(feature = "napi")]
compat!(napi_derive::napi(string_enum), napi(value = "0.10"), napi(value = "1.1"));
#[cfg(not(feature = "napi"))]
compat!();

/// What compressed clusters are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum CompressionType {
    /// Deflate, without zlib's header.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// How the guest data is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum Encryption {
    /// The deprecated whole-image AES.
    Aes,
    /// LUKS inside qcow2.
    Luks,
}

/// Asks whether the tables of an image agree.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct ImageCheckRequest {
    /// The image.
    pub path: String,
    /// Reads also while somebody writes (`-U`).
    pub force_share: Option<bool>,
}

/// What a check found, counted as `qemu-img check` counts.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct CheckReport {
    /// Where the last used cluster ends.
    pub image_end_offset: Bytes,
    /// Clusters of the disk.
    pub total_clusters: Bytes,
    /// Those that have data.
    pub allocated_clusters: Bytes,
    /// Those that do not follow their predecessor.
    pub fragmented_clusters: Bytes,
    /// Those that are compressed.
    pub compressed_clusters: Bytes,
    /// Errors that endanger data.
    pub corruptions: Bytes,
    /// Clusters that nobody references, but that are counted as used.
    pub leaks: Bytes,
    /// Errors that kept parts of the image from being checked.
    pub check_errors: Bytes,
    /// qemu-img's lines for the problems, at most 65 536, or the last of them.
    pub problems: Vec<String>,
    /// Problems beyond those.
    pub problems_omitted: Bytes,
}

/// What a repair may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum RepairKind {
    /// Frees what is counted and unused.
    Leaks,
    /// Puts right everything that can be.
    All,
}

/// Asks for a check that repairs what it finds.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct ImageRepairRequest {
    /// The image.
    pub path: String,
    /// What may be repaired.
    pub repair: RepairKind,
    /// Refuses instead of waiting for another Calque.
    pub no_wait: Option<bool>,
}

/// What a repair found and did, counted as `qemu-img check -r` counts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct RepairReport {
    /// What was found and not repaired; its lines also tell what was.
    pub found: CheckReport,
    /// Clusters that leaked.
    pub leaks_fixed: Bytes,
    /// Everything else that was put right.
    pub corruptions_fixed: Bytes,
    /// The refcount structures have to be made anew, which was not asked for; nothing was written.
    pub must_rebuild: bool,
    /// The check afterwards, where something was repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked: Option<CheckReport>,
    /// What it cost, where something was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitReport>,
}

/// Asks for an empty image. An existing file is overwritten, as qemu-img does, once nobody else
/// uses it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct ImageCreateRequest {
    /// The image to be.
    pub path: String,
    /// The size of the disk.
    pub size: Bytes,
    /// Bytes per cluster.
    pub cluster_size: Whole,
    /// The format level.
    pub compat: Compat,
    /// Bits per reference count.
    pub refcount_bits: Whole,
    /// Whether refcounts may be written late.
    pub lazy_refcounts: bool,
    /// Whether L2 entries have subclusters.
    pub extended_entries: bool,
    /// What compressed clusters will be compressed with.
    pub compression_type: CompressionType,
    /// Refuses instead of waiting for another Calque.
    pub no_wait: Option<bool>,
}

/// The image that was made.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct ImageCreateReport {
    /// The image, as asked for.
    pub path: String,
    /// The size of the disk, which may be rounded up to a sector.
    pub virtual_size: Bytes,
    /// The length of the file.
    pub file_length: Bytes,
}

/// Asks for a larger disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct ImageGrowRequest {
    /// The image.
    pub path: String,
    /// The new size of the disk.
    pub size: Bytes,
    /// Refuses instead of waiting for another Calque.
    pub no_wait: Option<bool>,
}

/// What a change to an image cost.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct CommitReport {
    /// Bytes written to the file.
    pub written_bytes: Bytes,
    /// Times the change waited for the disk.
    pub flushes: u32,
    /// Freed bytes given back to the file system.
    pub punched_bytes: Bytes,
    /// Why some were not; the change itself is committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub punch_failure: Option<String>,
    /// Why what a deleted snapshot used leaks until the next change; the snapshot is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recount_failure: Option<String>,
}
