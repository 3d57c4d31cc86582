//! What crosses between the core and TypeScript, written once for both doors: the shapes, and the
//! operations on images, each of which opens the file, takes its locks, lets the core do the whole
//! job and reports.

pub mod callback;
mod clone;
mod image;
mod report;
mod session;
mod snapshot;
pub mod types;

pub use clone::image_clone;
pub use image::{image_check, image_create, image_grow, image_info};
pub use snapshot::{
    snapshot_apply, snapshot_create, snapshot_delete, snapshot_list, snapshot_rename,
};

pub use qcow2::report_file_size_limit;

/// The version of the core, which is the version of Calque.
pub fn core_version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
