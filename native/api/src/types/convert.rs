//! Request, report and progress of a conversion.

use serde::{Deserialize, Serialize};

use super::{Bytes, UsedStrategy};

macro_rules! disk_format {
    ($($attribute:meta, $qcow2:meta, $raw:meta)?) => {
        /// What a file is. Never guessed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        $(#[$attribute])?
        pub enum DiskFormat {
            /// An image.
            #[serde(rename = "qcow2")]
            $(#[$qcow2])?
            Qcow2,
            /// The bytes of the disk themselves.
            #[serde(rename = "raw")]
            $(#[$raw])?
            Raw,
        }
    };
}

// `napi` cannot see through `cfg_attr` on a variant, hence the macro.
#[cfg(feature = "napi")]
disk_format!(napi_derive::napi(string_enum), napi(value = "qcow2"), napi(value = "raw"));
#[cfg(not(feature = "napi"))]
disk_format!();

/// Asks for a new file with the content of a disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct ImageConvertRequest {
    /// The file that holds the disk.
    pub source: String,
    /// What that is.
    pub source_format: DiskFormat,
    /// The snapshot, by id or name, whose content is meant.
    pub from_snapshot: Option<String>,
    /// Opens the files of the chain that backs the source, and takes the content of all. Otherwise
    /// a source with a backing file is refused.
    pub flatten: Option<bool>,
    /// The file to be; it may not exist.
    pub target: String,
    /// What that will be.
    pub target_format: DiskFormat,
    /// Refuses instead of waiting for another Calque.
    pub no_wait: Option<bool>,
}

/// The file that was made.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct ConvertReport {
    /// Whether any of its blocks are a source's.
    pub strategy: UsedStrategy,
    /// Why none are, where there was data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes that were written to it, its metadata included.
    pub copied_bytes: Bytes,
    /// Bytes of it that were made to share the blocks of a source.
    pub shared_bytes: Bytes,
    /// The size of the disk, which may be rounded up to a sector.
    pub virtual_size: Bytes,
    /// The files that were read, in the order in which each is backed by the next.
    pub opened: Vec<String>,
}

/// How far a conversion is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct ConvertProgress {
    /// Bytes of the disk that are done, holes included.
    pub done_bytes: Bytes,
    /// The size of the disk.
    pub total_bytes: Bytes,
    /// Who has a source, once for each, after a second of waiting for another Calque; nothing is
    /// converted yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}
