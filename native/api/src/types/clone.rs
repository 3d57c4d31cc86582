//! Request, report and progress of a clone.

use serde::{Deserialize, Serialize};

use super::Bytes;

/// Asks for copies of an image: all targets, or none and nothing left behind.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct ImageCloneRequest {
    /// The image to copy.
    pub source: String,
    /// The copies to be; none may exist.
    pub targets: Vec<String>,
    /// How.
    pub strategy: CloneStrategy,
    /// The snapshot, by id or name, whose content the copies hold.
    pub from_snapshot: Option<String>,
    /// Carries the snapshots over; otherwise the copies have none.
    pub keep_snapshots: Option<bool>,
    /// Makes copies of a version 2 image images of version 3.
    pub upgrade: Option<bool>,
    /// Refuses instead of waiting for another Calque that changes the source.
    pub no_wait: Option<bool>,
}

/// How a clone may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum CloneStrategy {
    /// Shared blocks where the file system can, else a copy, which says why.
    Auto,
    /// Shared blocks, or a failure.
    Reflink,
    /// A copy of its own.
    Copy,
}

/// How a clone was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum UsedStrategy {
    /// Its blocks are the source's until either changes them.
    Reflink,
    /// Its content was copied. Where `auto` left that to the kernel, it may have shared blocks for
    /// its part, as `sharedBytes` tells.
    Copy,
}

/// The copies that were made.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct CloneReport {
    /// The image that was copied.
    pub source: String,
    /// In the order of the targets.
    pub clones: Vec<CloneInfo>,
}

/// One copy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct CloneInfo {
    /// The copy, as asked for.
    pub target: String,
    /// How it was made.
    pub strategy: UsedStrategy,
    /// Why blocks are not shared, where that was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes that were written for it.
    pub copied_bytes: Bytes,
    /// Bytes of this file that it shares with other files, as the file system said when it was
    /// durable; none where it cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_bytes: Option<Bytes>,
    /// The name of its backing file, where the source's own would not have led there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Whether it is of a newer version than the source; left out where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgraded: Option<bool>,
}

/// How far a long copy is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct CloneProgress {
    /// Bytes written, over all targets.
    pub copied_bytes: Bytes,
    /// Bytes to write, over all targets.
    pub total_bytes: Bytes,
    /// Who has the source, once, after a second of waiting for another Calque; nothing is copied
    /// yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}
