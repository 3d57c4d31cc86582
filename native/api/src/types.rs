//! The shapes that cross to TypeScript, the same through both doors.
//!
//! Rules, without which the doors differ: sizes and counts are the newtypes of [`number`]; optional
//! fields are left out, never null; no digit stands inside a word of a field name; byte offsets of
//! hostile images, which may exceed what a JavaScript number holds, are hexadecimal strings.
//! `src/native.ts` says the same for TypeScript.

mod clone;
mod failure;
mod image;
mod number;
mod snapshot;

pub use clone::*;
pub use failure::*;
pub use image::*;
pub use number::*;
pub use snapshot::*;
