//! Requests and reports of the operations on internal snapshots.

use serde::{Deserialize, Serialize};

use super::{Bytes, CommitReport, Whole};

/// An internal snapshot, as its table entry says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct SnapshotInfo {
    /// The id: a decimal number, unless a foreign tool chose otherwise; what is not UTF-8 in it is
    /// replaced.
    pub id: String,
    /// The id as JSON, where it is not UTF-8: with a lone surrogate for each byte that is not, U+DC80
    /// for 0x80 and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_json: Option<String>,
    /// The name; what is not UTF-8 in it is replaced.
    pub name: String,
    /// The name, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_json: Option<String>,
    /// The size of the saved machine state.
    pub vm_state_size: Bytes,
    /// When it was taken, in seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// How long the guest had run, in seconds.
    pub vm_clock_sec: Bytes,
    /// And nanoseconds.
    pub vm_clock_nsec: u32,
    /// Instructions that the guest had executed, decimal, where they were recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<String>,
    /// The size of the disk when it was taken, where it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<Bytes>,
}

/// Asks for the snapshots of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct SnapshotListRequest {
    /// The image.
    pub path: String,
    /// Reads also while somebody writes (`-U`).
    pub force_share: Option<bool>,
    /// Answers only with what a power cut would not take back: flushes first, and is `unsettled`
    /// where the medium has another header than the cache.
    pub settled: Option<bool>,
}

/// The snapshots of an image, in the order of their table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct SnapshotListReport {
    /// In the order of their table, or a part of them.
    pub snapshots: Vec<SnapshotInfo>,
    /// The size of the disk.
    pub virtual_size: Bytes,
    /// Bytes 24 to 71 of the header that names this table, in hexadecimal.
    pub commit_fields: String,
}

/// Asks for a snapshot of what the disk holds now.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct SnapshotCreateRequest {
    /// The image.
    pub path: String,
    /// The name, which no other snapshot may have.
    pub name: String,
    /// The id is at least this, whatever the image holds.
    pub least_id: Option<Bytes>,
    /// When it is taken, in seconds since 1970.
    pub date_sec: Whole,
    /// And nanoseconds.
    pub date_nsec: Whole,
    /// Refuses instead of waiting for another Calque.
    pub no_wait: Option<bool>,
}

/// Asks that the disk hold what it held at a snapshot.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct SnapshotApplyRequest {
    /// The image.
    pub path: String,
    /// An id or, if there is none such, a name.
    pub selector: String,
    /// Removes persistent bitmaps, which would no longer be true.
    pub drop_bitmaps: Option<bool>,
    /// Refuses instead of waiting for another Calque.
    pub no_wait: Option<bool>,
}

/// Asks that a snapshot be removed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct SnapshotDeleteRequest {
    /// The image.
    pub path: String,
    /// The name, which no other snapshot has.
    pub selector: Option<String>,
    /// The id, instead of the name.
    pub id: Option<String>,
    /// Refuses instead of waiting for another Calque.
    pub no_wait: Option<bool>,
}

/// Asks for another name of a snapshot.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct SnapshotRenameRequest {
    /// The image.
    pub path: String,
    /// The present name.
    pub selector: String,
    /// The new one, which no other snapshot may have.
    pub name: String,
    /// Refuses instead of waiting for another Calque.
    pub no_wait: Option<bool>,
}

/// The snapshot that an operation was about, and what the change cost.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct SnapshotReport {
    /// Its id.
    pub id: String,
    /// Its name, after the operation.
    pub name: String,
    /// What the change cost.
    pub commit: CommitReport,
}
