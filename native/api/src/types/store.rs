//! Requests and reports of the operations on a store's files. A `path` in them leads from the
//! store's root down; `src/native.ts` says what each operation promises.

use serde::{Deserialize, Serialize};

use super::{Bytes, Failure, Whole};

/// Nothing to report: it was done.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct Done {}

/// Asks for the store at an absolute path.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreOpenRequest {
    /// Where it is, or will be.
    pub root: String,
    /// Makes what is missing of it.
    pub create: Option<bool>,
}

/// A store.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreOpenReport {
    /// Its real path, for the other operations.
    pub root: String,
    /// Whether there is one.
    pub exists: bool,
}

/// Asks for a lock on a file of a store.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreLockRequest {
    /// The store.
    pub root: String,
    /// The file.
    pub path: String,
    /// Beside whom.
    pub mode: LockMode,
    /// Waits until the lock is free.
    pub wait: Option<bool>,
    /// Makes the file if there is none.
    pub create: Option<bool>,
}

/// Beside whom a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum LockMode {
    /// Alone.
    Exclusive,
    /// Beside other shared ones.
    Shared,
}

/// A lock that was taken, or was not free.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreLockReport {
    /// Stands for the lock; none where somebody else has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u32>,
}

/// Gives a lock back.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreUnlockRequest {
    /// What stands for the lock.
    pub handle: Whole,
}

/// Asks for the text of files, what they are, or that they become the owner's alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreReadRequest {
    /// The store.
    pub root: String,
    /// The files.
    pub paths: Vec<String>,
}

/// The text of files.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreReadReport {
    /// In the order of the paths.
    pub files: Vec<StoreText>,
}

/// The text of a file, or why there is none.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreText {
    /// All of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Asks something about one file or directory, or that something be done with it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StorePathRequest {
    /// The store.
    pub root: String,
    /// The file or directory.
    pub path: String,
}

/// What a directory contains.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreListReport {
    /// In the order of the names' bytes.
    pub entries: Vec<StoreEntry>,
}

/// A name in a directory.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreEntry {
    /// What is not UTF-8 in it is replaced; the kind is then `other`, for nobody can ask for it.
    pub name: String,
    /// What it names.
    pub kind: EntryKind,
    /// Which one of these, as the listing says; decimal.
    pub inode: String,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else: a FIFO, a socket, a device.
    Other,
}

/// What files are.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreStatReport {
    /// In the order of the paths.
    pub files: Vec<StoreStat>,
}

/// What a file is, or why that could not be found out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreStat {
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<StoreFile>,
    /// Why that could not be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// One file or directory.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct StoreFile {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Which one of these; decimal.
    pub inode: String,
    /// Its length.
    pub size_bytes: Bytes,
    /// How many names it has.
    pub link_count: u32,
}

/// Asks for a new file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreCreateRequest {
    /// The store.
    pub root: String,
    /// The file to be.
    pub path: String,
    /// What it will hold.
    pub text: String,
    /// It survives a power cut.
    pub durable: Option<bool>,
}

/// Asks for other content of a file, or for more of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreWriteRequest {
    /// The store.
    pub root: String,
    /// The file.
    pub path: String,
    /// What it will hold, or hold in addition.
    pub text: String,
}

/// Asks for another name of a file or directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreRenameRequest {
    /// The store.
    pub root: String,
    /// The present name.
    pub source: String,
    /// The new one, which nothing may have.
    pub target: String,
    /// It survives a power cut.
    pub durable: Option<bool>,
}

/// Asks for a second name of a file from outside.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreLinkRequest {
    /// The store.
    pub root: String,
    /// The file, wherever it is.
    pub source: String,
    /// Its name in the store, which nothing may have.
    pub target: String,
}

/// Asks that files and directories survive a power cut as they are.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_to_js = false))]
pub struct StoreSyncRequest {
    /// The store.
    pub root: String,
    /// Which ones; without a list everything on the file system.
    pub paths: Option<Vec<String>>,
}
