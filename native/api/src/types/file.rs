//! Requests and reports about files outside of the store.

use serde::{Deserialize, Serialize};

/// Asks something about a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct FilePathRequest {
    /// The file.
    pub path: String,
}

/// A file as it is now.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct FileStampReport {
    /// Where it really is: absolute, without symbolic links.
    pub path: String,
    /// Differs where it is another file or was written to; otherwise without a meaning.
    pub stamp: String,
}

/// Asks that a file lose its name.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct FileRemoveRequest {
    /// The name.
    pub path: String,
    /// What the file is, if it is still the one that is meant.
    pub stamp: String,
}
