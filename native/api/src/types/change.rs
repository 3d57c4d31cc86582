//! What a change tells on its way.

use serde::Serialize;

/// A call back from a change: exactly one of the two is there.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct ChangeEvent {
    /// Who has the image, once, after a second of waiting for another Calque.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// What the commit will do, once everything but the header is durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned: Option<PlannedCommit>,
}

impl ChangeEvent {
    /// Somebody has the image.
    pub fn waiting_for(holder: &str) -> Self {
        Self { waiting_for: Some(holder.to_owned()), planned: None }
    }

    /// The commit is about to happen.
    pub fn planned(planned: PlannedCommit) -> Self {
        Self { waiting_for: None, planned: Some(planned) }
    }
}

/// The commit that is about to happen.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct PlannedCommit {
    /// Bytes 24 to 71 of the header now, in hexadecimal.
    pub before: String,
    /// The same bytes after the commit.
    pub after: String,
    /// The snapshot that the change is about, as its report will name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<PlannedSnapshot>,
}

/// What tells one snapshot of an image from all others.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct PlannedSnapshot {
    /// Its id.
    pub id: String,
    /// Its name, after the change.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
}
