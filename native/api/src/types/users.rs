//! Who uses images.

use serde::{Deserialize, Serialize};

use super::Failure;

/// Asks who uses each of the images.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct ImageUsersRequest {
    /// The images.
    pub paths: Vec<String>,
}

/// Who uses each of the images.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct ImageUsersReport {
    /// In the order of the paths.
    pub users: Vec<ImageUser>,
}

/// Who uses an image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct ImageUser {
    /// What kind of user; `free` where nothing could be found out.
    #[serde(rename = "use")]
    pub r#use: ImageUse,
    /// Who that is, for a sentence, where the system lets us see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Why nothing could be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// How an image is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum ImageUse {
    /// By nobody.
    Free,
    /// By another Calque, which reads or changes it.
    Calque,
    /// By a QEMU that reads it.
    Reader,
    /// By a virtual machine, or by anything else that can write to it.
    Writer,
}
