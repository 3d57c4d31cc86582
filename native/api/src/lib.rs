//! What crosses between the core and TypeScript, written once for both doors: the shapes, and the
//! operations on images, each of which opens the file, takes its locks, lets the core do the whole
//! job and reports.

pub mod callback;
mod clone;
mod convert;
mod file;
mod image;
mod pace;
mod pieces;
mod report;
mod session;
mod snapshot;
mod store;
mod system;
pub mod types;

pub use clone::image_clone;
pub use convert::image_convert;
pub use file::{file_remove, file_stamp};
pub use image::{image_check, image_create, image_grow, image_info, image_repair, image_users};
pub use snapshot::{
    snapshot_apply, snapshot_create, snapshot_delete, snapshot_list, snapshot_rename,
};
pub use store::{
    store_append, store_create, store_link, store_list, store_lock, store_make_directory,
    store_open, store_protect, store_read, store_remove, store_rename, store_replace, store_stat,
    store_sync, store_unlock,
};

pub use qcow2::report_file_size_limit;

/// The version of the core, which is the version of Calque.
pub fn core_version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
