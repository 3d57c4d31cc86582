//! The targets: what is done with the bytes, and what must not come of it.

mod check;
mod content;
mod entries;
mod files;
mod generated;
mod header;
mod operations;
mod snapshots;

pub use operations::SCRIPT_BYTES;

use crate::allocation::peak_bytes;

/// What a target is called, and what it does with bytes. It panics where the library is wrong.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("header", header::header),
    ("snapshots", snapshots::snapshots),
    ("entries", entries::entries),
    ("content", content::content),
    ("check", check::check),
    ("operations", operations::operations),
    ("generated", generated::generated),
    ("files", files::files),
];

/// The target of this name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// No input may take more memory than this, however long.
const MOST_BYTES: u64 = 64 << 20;
/// What the shortest may take: 65 536 snapshots whose rows, beyond its end, are zeros.
const BASE_BYTES: u64 = 40 << 20;
/// And more for each byte of the file.
const BYTES_A_BYTE: u64 = 48;

/// Does `work` on a file of `length` bytes within the memory that such a file may take.
fn within_memory(length: usize, work: impl FnOnce()) {
    ensure_memory(peak_bytes(work), length as u64);
}

/// Sees to it that a file of `length` bytes took no more memory than it may.
fn ensure_memory(peak: u64, length: u64) {
    let allowed = MOST_BYTES.min(BASE_BYTES + length * BYTES_A_BYTE);
    assert!(peak <= allowed, "{peak} bytes of memory for a file of {length}, more than {allowed}");
}

/// The file that an input of a target is about, where there is one.
pub fn image_of(target: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    match target {
        "header" | "check" => Some(bytes.to_vec()),
        "content" => Some(bytes.get(8..)?.to_vec()),
        "operations" => Some(bytes.get(SCRIPT_BYTES..)?.to_vec()),
        "generated" => generated::image(bytes),
        "files" => files::image(bytes),
        _ => None,
    }
}
