//! The store's files, as the TypeScript that manages them may touch them.
//!
//! Knows nothing of instances: a root directory, paths beneath it, texts. What must stay true:
//!
//! - Nothing outside of the root is reached. A path is walked name by name, each opened in the
//!   directory before it and never through a symbolic link; a root that is not the caller's alone is
//!   refused, so nobody else can plant anything below it.
//! - Opening never hangs: a FIFO or a device where a file should be is refused.
//! - What is called durable was flushed in this order: content, then name, then directory. Where
//!   flushing a name fails after it was given, the answer is `unsettled`.

mod entry;
mod file;
mod link;
mod lock;
mod open;
mod path;
mod remove;
mod sync;
#[cfg(test)]
mod tests;

pub use entry::{store_list, store_make_directory, store_rename, store_stat};
pub use file::{store_append, store_create, store_read, store_replace};
pub use link::store_link;
pub use lock::{store_lock, store_unlock};
pub use open::store_open;
pub use remove::store_remove;
pub use sync::{store_protect, store_sync};
