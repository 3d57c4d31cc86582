//! What a hostile review found, and what must not come back. Each test opens with its story.
//!
//! Where QEMU has an opinion, the image is of its making and the verdict is its own; the damage is
//! poked in with plain writes.

mod clones;
mod costs;
mod counts;
mod devices;
mod encryption;
mod extended;
mod full_disk;
mod geometry;
mod sizes;
#[path = "../support/mod.rs"]
mod support;
mod tools;
