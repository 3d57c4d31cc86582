//! `check` against `qemu-img check`: every number, every line, the exit status. Images are built by
//! qemu-img and qemu-io, then damaged byte by byte. Both programs must be installed.

mod bench;
mod bitmaps;
mod damage;
mod damages;
mod extended;
mod many;
mod medium;
mod names;
mod overflow;
mod owners;
mod random;
mod sound;
#[path = "../support/mod.rs"]
mod support;
mod verdict;
