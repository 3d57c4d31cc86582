//! The shapes that cross to TypeScript, the same through both doors.
//!
//! Rules, without which the doors differ: sizes and counts are the newtypes of [`number`]; optional
//! fields are left out, never null; no digit stands inside a word of a field name; byte offsets of
//! hostile images, which may exceed what a JavaScript number holds, are hexadecimal strings.
//! `src/native.ts` says the same for TypeScript.

mod change;
mod clone;
mod convert;
mod failure;
mod file;
mod image;
mod number;
mod snapshot;
mod store;
mod users;

pub use change::*;
pub use clone::*;
pub use convert::*;
pub use failure::*;
pub use file::*;
pub use image::*;
pub use number::*;
pub use snapshot::*;
pub use store::*;
pub use users::*;
