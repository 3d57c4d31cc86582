//! Hostile input for the `qcow2` library.
//!
//! Each target takes any bytes and panics if the library does something that it must not: panic
//! itself, take more memory or more reads than the length of the file accounts for, write where it
//! only reads, leave a refused image changed or a sound one unsound, lose content.
//!
//! The same functions run under libFuzzer (`fuzz_targets/`, driven by cargo-fuzz) and, on any
//! toolchain and as part of the tests, under [`run`], which mutates seeds without looking at
//! coverage.
//!
//! | target | the bytes are | |
//! |---|---|---|
//! | `header` | a file | header and extensions, as three kinds of users read them |
//! | `snapshots` | a count and a snapshot table | read, written, read again |
//! | `entries` | two words and a geometry | L1 and L2 entries against a second decoder |
//! | `content` | places to read, then a file | the L2 walk, decompression |
//! | `check` | a file | the whole check |
//! | `operations` | choices, then a file | operations on it, one after the other |
//! | `generated` | choices | an image is built, damaged, read, checked and worked on |
//! | `files` | choices | clones and conversions of such an image, in real files |

mod allocation;
pub mod generate;
pub mod random;
pub mod run;
pub mod seeds;
mod storage;
mod targets;
mod view;

pub use allocation::peak_bytes;
pub use targets::{SCRIPT_BYTES, TARGETS, Target, image_of, target};
