//! Reads and changes qcow2 images: crash-safe internal snapshots, clones, conversions, checks.
//!
//! Knows nothing of instances, JSON or JavaScript. Every change of an existing image is a *plan*
//! handed to one transaction, which commits it by writing one 512-byte sector; whatever happens
//! before that leaves the image as it was. See the documentation of `transaction` for the argument.

pub mod check;
pub mod clone;
mod content;
pub mod convert;
mod create;
pub mod error;
pub mod format;
mod full_disk;
mod image;
pub mod lock;
mod os;
mod plan;
mod refcounts;
mod resize;
mod snapshot;
pub mod storage;
mod transaction;

pub use check::repair::{self, Repair, Repaired};
pub use content::{Content, Disk};
pub use create::{NewFile, NewImage, create};
pub use error::{Error, Kind, Result};
pub use image::{Image, lookup};
pub use os::signal::report_file_size_limit;
pub use snapshot::{Bitmaps, NewSnapshot};
pub use transaction::{CommitFields, CommitOptions, Committed, PlannedCommit};
